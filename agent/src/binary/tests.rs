//! Facts of real binaries, held against the Go tools; and what becomes of damaged ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Architecture, Binary, BinaryError, Function, GoVersion,
    testing::{Program, VARIANTS, Variant, one_at_a_time, toolchains},
};
use crate::{
    address::VirtAddr,
    runtime::{Layout, WaitReasons},
    symbols::{SymbolSource, Symbolizer},
};

#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn facts_of_every_variant() {
    for toolchain in toolchains() {
        for variant in VARIANTS {
            let binary = toolchain.program(variant).binary();
            let at = format!("1.{} {variant:?}", toolchain.minor);
            let arm64 = variant == Variant::Arm64;
            assert_eq!(binary.architecture(), if arm64 { Architecture::Arm64 } else { Architecture::Amd64 }, "{at}");
            assert_eq!((binary.go_version().major, binary.go_version().minor), (1, toolchain.minor), "{at}");
            let info = binary.build_info().expect("build info");
            assert_eq!((info.path.as_str(), info.setting("GOOS")), ("example.com/probe", Some("linux")), "{at}");
            assert!(binary.go_build_id().is_some_and(|id| id.contains('/')), "{at}");
            assert_eq!(binary.gnu_build_id().is_some(), toolchain.minor >= 24, "{at}");
            let stripped = matches!(variant, Variant::Stripped | Variant::StrippedPie | Variant::Arm64);
            assert_eq!(binary.has_dwarf(), !stripped, "{at}");
            assert_eq!(binary.has_symbol_table(), !stripped, "{at}");
            assert_eq!(binary.is_position_independent(), variant == Variant::StrippedPie, "{at}");
            assert!(binary.program_headers_address().is_some(), "{at}");
        }
    }
}

#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn a_version_without_build_info_comes_from_the_code() {
    for toolchain in toolchains() {
        for variant in VARIANTS {
            let mut bytes = toolchain.program(variant).bytes.clone();
            let magic = super::bytes::find(&bytes, b"\xff Go buildinf:\x08").expect("a blob");
            bytes[magic + 2] = b'X';
            let binary = Binary::parse(Arc::new(bytes)).expect("a Go binary");
            assert!(binary.build_info().is_none());
            assert_eq!(binary.go_version().minor, toolchain.minor, "{variant:?}");
        }
    }
}

#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn a_body_and_its_wrapper_share_a_name() {
    for toolchain in toolchains() {
        for variant in VARIANTS {
            let binary = toolchain.program(variant).binary();
            for name in ["runtime.newproc", "runtime.goexit1"] {
                let found = binary.functions_named(name).expect("readable");
                let wrappers: Vec<bool> = found.iter().map(|function| function.wrapper).collect();
                assert_eq!(wrappers, [false, true], "{name} 1.{} {variant:?}", toolchain.minor);
            }
            let main = binary.functions_named("main.main").expect("readable");
            let [main] = main.as_slice() else { panic!("one main.main: {main:?}") };
            assert_eq!(binary.function_at(VirtAddr(main.end.0 - 1)).expect("readable").as_ref(), Some(main));
            assert!(binary.functions_named("runtime.no_such").expect("readable").is_empty());
            assert!(binary.functions_named("no.such").expect("readable").is_empty());
            assert_eq!(binary.function_at(VirtAddr(0)).expect("readable"), None);
            assert_eq!(binary.function_at(VirtAddr(u64::MAX)).expect("readable"), None);
        }
    }
}

#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn inlined_copies_are_found() {
    for toolchain in toolchains() {
        for variant in VARIANTS {
            let binary = toolchain.program(variant).binary();
            let into = |name: &str| binary.inlined_into(name).expect("readable");
            assert_eq!(into("main.outer"), ["main.main"]);
            assert!(into("runtime.gopark").is_empty(), "1.{} {variant:?}", toolchain.minor);
            assert!(into("runtime.goparkunlock").len() > 3, "1.{} {variant:?}", toolchain.minor);
        }
    }
}

/// The fast search must find exactly what decoding every tree finds.
#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn the_fast_search_for_inlined_copies_misses_nothing() {
    for toolchain in toolchains() {
        let binary = toolchain.program(Variant::Stripped).binary();
        let (image, table) = (binary.image(), binary.table());
        let mut into: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let visit = |_, record: &super::Record| {
            if let (Some(tree), Some(last)) = (table.inline_tree(record), table.last_inlined(image, record)?) {
                for index in 0..=last {
                    let call = table.tree_entry(image, tree, index)?;
                    let callee = table.name(image, call.name_offset)?;
                    into.entry(callee).or_default().insert(table.name(image, record.name_offset)?);
                }
            }
            Ok(None::<()>)
        };
        table.each(image, visit).expect("readable");
        assert!(into.len() > 500, "only {} inlined functions", into.len());
        for (callee, callers) in into.iter().step_by(into.len() / 40) {
            let found: BTreeSet<String> = binary.inlined_into(callee).expect("readable").into_iter().collect();
            assert_eq!(&found, callers, "{callee}");
        }
    }
}

/// Addresses of text symbols, by address.
fn nm(toolchain: &super::testing::Toolchain, program: &Program) -> BTreeMap<u64, BTreeSet<String>> {
    let mut symbols: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for line in toolchain.tool("nm", &program.path, "").lines() {
        let mut words = line.split_whitespace();
        if let (Some(address), Some("T" | "t"), Some(name)) = (words.next(), words.next(), words.next()) {
            let address = u64::from_str_radix(address, 16).expect("an address");
            symbols.entry(address).or_default().insert(name.to_owned());
        }
    }
    symbols
}

#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn functions_are_where_nm_says() {
    for toolchain in toolchains() {
        for variant in [Variant::Plain, Variant::Trimmed] {
            let program = toolchain.program(variant);
            let binary = program.binary();
            let symbols = nm(&toolchain, &program);
            let mut checked = 0;
            for (address, names) in &symbols {
                let Some(Function { name, entry, .. }) = binary.function_at(VirtAddr(*address)).expect("readable")
                else {
                    continue;
                };
                // Markers such as runtime.text and runtime.etext stand inside or between functions.
                if names.iter().all(|name| ["runtime.text", "runtime.etext"].contains(&name.as_str())) {
                    continue;
                }
                assert_eq!(entry.0, *address, "{name} is not at {names:?}");
                // nm spells ABI0 out and writes "·" as "."; before 1.21 gopclntab shortens type arguments; a space ends
                // nm's name here.
                let same = |symbol: &String| {
                    let symbol = symbol.strip_suffix(".abi0").unwrap_or(symbol);
                    let name = name.replace('·', ".");
                    symbol == name || name.split(['[', ' ']).next() == symbol.split(['[', ' ']).next()
                };
                assert!(names.iter().any(same), "{name} is called {names:?}");
                checked += 1;
            }
            assert!(checked > 3000, "only {checked} functions");
        }
    }
}

#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn lines_are_what_addr2line_says() {
    for toolchain in toolchains() {
        for variant in [Variant::Plain, Variant::Stripped, Variant::Trimmed] {
            let program = toolchain.program(variant);
            let binary = program.binary();
            let symbolizer = Symbolizer::new(Arc::clone(&binary), SymbolSource::Gopclntab).expect("a symbolizer");
            let mut pcs = Vec::new();
            let visit = |_, record: &super::Record| {
                let size = record.end - record.entry;
                pcs.extend([record.entry, record.entry + size / 3, record.entry + size / 2]);
                Ok(None::<()>)
            };
            binary.table().each(binary.image(), visit).expect("readable");
            let input: String = pcs.iter().map(|pc| format!("{pc:#x}\n")).collect();
            let output = toolchain.tool("addr2line", &program.path, &input);
            let mut lines = output.lines();
            for pc in pcs {
                let (name, place) = (lines.next().expect("a name"), lines.next().expect("a place"));
                let frames = symbolizer.frames(VirtAddr(pc + 1)).expect("readable");
                let (Some(inner), Some(physical)) = (frames.first(), frames.last()) else { continue };
                if inner.file == "?" {
                    continue;
                }
                // addr2line gives the physical function with the innermost place.
                assert_eq!(
                    place,
                    format!("{}:{}", inner.file, inner.line),
                    "{pc:#x} 1.{} {variant:?}",
                    toolchain.minor
                );
                assert_eq!(physical.function.split('[').next(), name.split('[').next(), "{pc:#x}");
            }
        }
    }
}

#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn file_offsets_follow_the_segments() {
    for toolchain in toolchains() {
        for variant in VARIANTS {
            let program = toolchain.program(variant);
            let binary = program.binary();
            for function in binary.functions_named("runtime.newproc1").expect("readable") {
                let offset = binary.file_offset(function.entry).expect("in the file").0 as usize;
                let mut code = [0; 16];
                binary.read(function.entry, &mut code).expect("readable");
                assert_eq!(program.bytes[offset..offset + 16], code);
            }
            assert_eq!(binary.file_offset(VirtAddr(u64::MAX)), None);
            assert!(binary.read(VirtAddr(u64::MAX - 4), &mut [0; 16]).is_err());
        }
    }
}

/// lld leaves the words of RELATIVE relocations 0 in the file; Go's linker does not. Doing it to a Go binary must
/// change nothing.
#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn zeroed_relocated_words_are_read_from_the_relocations() {
    for toolchain in toolchains() {
        let program = toolchain.program(Variant::StrippedPie);
        let binary = program.binary();
        let mut bytes = program.bytes.clone();
        let mut zeroed = 0;
        let fill = |address: u64, _| {
            if let Some(offset) = binary.file_offset(VirtAddr(address)) {
                let at = offset.0 as usize;
                bytes[at..at + 8].fill(0);
                zeroed += 1;
            }
            None::<()>
        };
        super::relocations::scan(binary.image(), fill).expect("readable");
        assert!(zeroed > 1000, "{zeroed} words");
        let without = Binary::parse(Arc::new(bytes)).expect("still a Go binary");
        assert_eq!(WaitReasons::of(&without).expect("reasons"), WaitReasons::of(&binary).expect("reasons"));
        assert_eq!(without.inlined_into("main.outer").expect("readable"), ["main.main"]);
    }
}

/// Without section headers everything must be found through the segments.
#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn a_binary_without_sections_reads_the_same() {
    for toolchain in toolchains() {
        for variant in VARIANTS {
            let program = toolchain.program(variant);
            let whole = program.binary();
            let mut bytes = program.bytes.clone();
            bytes[40..48].fill(0);
            bytes[58..64].fill(0);
            let bare = Binary::parse(Arc::new(bytes)).expect("still a Go binary");
            let at = format!("1.{} {variant:?}", toolchain.minor);
            assert_eq!(bare.table().address, whole.table().address, "{at}");
            assert_eq!(bare.table().gofunc, whole.table().gofunc, "{at}");
            assert_eq!(bare.build_info(), whole.build_info(), "{at}");
            assert_eq!(bare.go_build_id(), whole.go_build_id(), "{at}");
            assert_eq!(WaitReasons::of(&bare).expect("reasons"), WaitReasons::of(&whole).expect("reasons"), "{at}");
            assert!(!bare.has_dwarf() && !bare.has_symbol_table(), "{at}");
        }
    }
}

/// Asks everything there is to ask. Answers may be anything; panics, hangs and huge allocations are what it looks for.
fn exercise(bytes: Vec<u8>) -> Result<(), BinaryError> {
    let started = std::time::Instant::now();
    let result = exercise_timed(bytes);
    assert!(started.elapsed() < LONGEST, "took {:?}", started.elapsed());
    result
}

/// Far more than any damage costs in a debug build on a busy machine.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(30);

fn exercise_timed(bytes: Vec<u8>) -> Result<(), BinaryError> {
    let binary = Arc::new(Binary::parse(Arc::new(bytes))?);
    let functions = binary.functions_named("runtime.newproc1").unwrap_or_default();
    let _ = binary.functions_named("main.main");
    let _ = binary.inlined_into("runtime.gopark");
    let _ = binary.inlined_into("runtime.goparkunlock");
    let _ = WaitReasons::of(&binary);
    let _ = Layout::of(&binary);
    let entry = functions.first().map_or(VirtAddr(0x48_0000), |function| function.entry);
    for source in [SymbolSource::Gopclntab, SymbolSource::Dwarf] {
        if let Ok(symbolizer) = Symbolizer::new(Arc::clone(&binary), source) {
            for step in 0..8 {
                let _ = symbolizer.frames(VirtAddr(entry.0 + step * 4099));
                let _ = symbolizer.entry(VirtAddr(entry.0 + step * 4096));
            }
        }
    }
    Ok(())
}

/// The oldest and the newest toolchain at hand.
fn ends_of_the_range() -> Vec<super::testing::Toolchain> {
    let mut all = toolchains();
    if all.len() > 2 {
        all.drain(1..all.len() - 1);
    }
    all
}

/// Every page boundary in a release build; a debug build, ten times slower, looks at some.
const PAGES: usize = if cfg!(debug_assertions) { 101 } else { 1 };

#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn truncated_anywhere_is_an_error_or_an_answer() {
    let _turn = one_at_a_time();
    for toolchain in ends_of_the_range() {
        for variant in [Variant::Plain, Variant::StrippedPie] {
            let bytes = &toolchain.program(variant).bytes;
            for end in (0..bytes.len()).step_by(4096 * PAGES) {
                let _ = exercise(bytes[..end].to_vec());
            }
            for end in 0..300 {
                assert!(exercise(bytes[..end].to_vec()).is_err());
            }
        }
    }
}

/// A reproducible sequence (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

const ROUNDS: u64 = if cfg!(debug_assertions) { 20 } else { 200 };

#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn flipped_bytes_are_errors_or_answers() {
    let _turn = one_at_a_time();
    for toolchain in ends_of_the_range() {
        for variant in [Variant::Plain, Variant::StrippedPie] {
            let program = toolchain.program(variant);
            let binary = program.binary();
            let table = binary.table();
            let place = |address: u64| binary.file_offset(VirtAddr(address)).map_or(0, |offset| offset.0);
            // Where damage does most: headers, the table's header, its names and records, inline trees, debug sections.
            let mut targets = vec![(0, 4096), (place(table.address), 128), (place(table.records), 1 << 20)];
            targets.push((place(table.names), 1 << 16));
            targets.push((place(table.gofunc.unwrap_or_default()), 1 << 16));
            let debug = binary.image().sections.iter().filter(|section| section.name.starts_with(".debug"));
            targets.extend(debug.map(|section| (section.offset, section.bytes)));
            targets.push((0, program.bytes.len() as u64));
            let mut random = Random(0x5eed + u64::from(toolchain.minor));
            for round in 0..ROUNDS {
                let mut bytes = program.bytes.clone();
                let (start, size) = targets[round as usize % targets.len()];
                for _ in 0..=random.below(64) {
                    let at = (start + random.below(size)) as usize;
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = match random.below(3) {
                            0 => 0xff,
                            1 => 0,
                            _ => random.next() as u8,
                        };
                    }
                }
                let _ = exercise(bytes);
            }
        }
    }
}

#[test]
fn other_files_are_told_apart() {
    let parse = |bytes: &[u8]| Binary::parse(Arc::new(bytes.to_vec())).err().expect("refused");
    assert!(matches!(parse(b""), BinaryError::NotElf));
    assert!(matches!(parse(&[b'#'; 4096]), BinaryError::NotElf));
    let own = std::fs::read(std::env::current_exe().expect("a path")).expect("readable");
    let error = Binary::parse(Arc::new(own)).err().expect("a Rust program is no Go binary");
    assert!(matches!(error, BinaryError::NotGo), "{error}");
    // As UPX leaves a program: no sections, its mark near the start, the rest unreadable.
    let mut packed = std::fs::read("/bin/true").expect("readable");
    packed[40..48].fill(0);
    packed[58..64].fill(0);
    assert!(matches!(parse(&packed), BinaryError::NotGo));
    packed[1000..1004].copy_from_slice(b"UPX!");
    assert!(parse(&packed).to_string().contains("upx -d"));
}

#[test]
fn versions_parse() {
    let parse = |raw: &str| GoVersion::parse(raw).map(|version| (version.major, version.minor, version.patch));
    assert_eq!(parse("go1.27.3"), Some((1, 27, Some(3))));
    assert_eq!(parse("go1.20"), Some((1, 20, None)));
    assert_eq!(parse("go1.22.10 X:staticlockranking"), Some((1, 22, Some(10))));
    assert_eq!(parse("go1.27.3-X:runtimesecret"), Some((1, 27, Some(3))));
    assert_eq!(parse("go1.21rc2"), Some((1, 21, None)));
    assert_eq!(parse("devel go1.28-3f2a1b4 Mon Jan 2 15:04:05 2026 +0000"), Some((1, 28, None)));
    assert_eq!(parse("devel +3f2a1b4 Mon Jan 2"), None);
    assert_eq!(parse("go1"), None);
    assert_eq!(parse("go99999999999.1"), None);
    assert!(GoVersion::parse("go1.9.7") < GoVersion::parse("go1.27.3"));
}

/// Prints what the questions of a start cost on the binary in `PARKRANGER_MEASURE`. For release builds:
/// `cargo test --release -- --ignored --nocapture what_a_start_costs`.
#[test]
#[ignore = "prints numbers, checks nothing"]
fn what_a_start_costs() {
    struct Opened(std::fs::File, u64);
    impl super::Source for Opened {
        fn len(&self) -> u64 {
            self.1
        }
        fn read_at(&self, offset: super::FileOffset, buf: &mut [u8]) -> std::io::Result<()> {
            std::os::unix::fs::FileExt::read_exact_at(&self.0, buf, offset.0)
        }
    }
    fn resident_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("readable");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }
    let Some(path) = std::env::var_os("PARKRANGER_MEASURE") else {
        println!("skipped: no binary in PARKRANGER_MEASURE");
        return;
    };
    let file = std::fs::File::open(&path).expect("the file opens");
    let size = file.metadata().expect("a size").len();
    println!("{} ({} MiB), {} KiB resident before", path.display(), size >> 20, resident_kib());
    let mut started = std::time::Instant::now();
    let mut tell = |what: &str| {
        println!("{what:42} {:>12?} {:>8} KiB resident", started.elapsed(), resident_kib());
        started = std::time::Instant::now();
    };
    let binary = Arc::new(Binary::parse(Arc::new(Opened(file, size))).expect("a Go binary"));
    tell("parse");
    let new = binary.functions_named("runtime.newproc1").expect("readable");
    tell("functions_named, first of the runtime");
    let _ = binary.functions_named("runtime.gopark");
    tell("functions_named, next");
    let main = binary.functions_named("main.main").expect("readable");
    tell("functions_named, of another package");
    assert!(binary.inlined_into("runtime.gopark").expect("readable").is_empty());
    tell("inlined_into, nowhere");
    let _ = binary.inlined_into("runtime.goparkunlock");
    tell("inlined_into, somewhere");
    let _ = WaitReasons::of(&binary).expect("wait reasons");
    tell("wait reasons");
    let layout = Layout::of(&binary).expect("a layout");
    tell(&format!("layout from {:?}", layout.source));
    let pcs = new.iter().chain(&main).map(|function| VirtAddr(function.entry.0 + 40));
    let pcs: Vec<VirtAddr> = pcs.collect();
    for source in [SymbolSource::Gopclntab, SymbolSource::Auto, SymbolSource::Dwarf] {
        let Ok(symbolizer) = Symbolizer::new(Arc::clone(&binary), source) else { continue };
        for &pc in &pcs {
            let frames = symbolizer.frames(pc);
            tell(&format!("frames, {source:?}, {} found", frames.map_or(0, |frames| frames.len())));
        }
    }
    crate::symbols::release();
    tell("release");
}
