//! Layouts and wait reasons of real binaries.

use std::sync::Arc;

use super::{
    Layout, LayoutSource, NumberPlaces, WaitReasons,
    dwarf_layout::{Struct, read_struct},
    table::ROWS,
    waiting::channel,
};
use crate::binary::{
    Binary, GoVersion,
    testing::{Toolchain, VARIANTS, Variant, toolchains},
};

/// The table is generated from DWARF; every toolchain at hand must still say the same.
#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn the_table_is_what_dwarf_says() {
    for toolchain in toolchains() {
        let plain = toolchain.program(Variant::Plain).binary();
        let by_dwarf = Layout::of(&plain).expect("a layout");
        assert_eq!(by_dwarf.source, LayoutSource::Dwarf);
        let version = format!("1.{}", toolchain.minor);
        for variant in [Variant::Stripped, Variant::Arm64] {
            let by_table = Layout::of(&toolchain.program(variant).binary()).expect("a layout");
            assert_eq!(by_table.source, LayoutSource::Table { version: version.clone() });
            assert_eq!(by_table, Layout { source: by_table.source.clone(), ..by_dwarf.clone() });
        }
    }
}

/// The short form of `cargo xtask layouts --check`, by the agent's own reader of DWARF.
#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn the_other_columns_are_what_dwarf_says() {
    for toolchain in toolchains() {
        let binary = toolchain.program(Variant::Plain).binary();
        let row = ROWS.iter().find(|row| row.go == (1, toolchain.minor)).expect("a row");
        let is = |name: &str, wanted: &[&str], expected: &[u32]| {
            let read = |found: &Struct| {
                let field = |field: &&str| match *field {
                    "size" => Some(found.size),
                    field => field.split('|').find_map(|field| found.fields.get(field).copied()),
                };
                wanted.iter().map(field).collect::<Option<Vec<u32>>>()
            };
            let found = read_struct(&binary, name.as_bytes(), read).expect("readable");
            assert_eq!(found.as_deref(), Some(expected), "{name} of 1.{}", toolchain.minor);
        };
        is("runtime.sudog", &["g", "elem.vu|elem", "waitlink", "c.maybeTraceablePtr.vu|c", "size"], &row.sudog);
        is("runtime.hchan", &["qcount", "dataqsiz", "closed"], &row.hchan);
        is("runtime.m", &["p"], &row.goid_stock[..1]);
        is("runtime.p", &["goidcache"], &row.goid_stock[1..]);
        is("runtime.mstats", &["pause_total_ns", "numgc", "size"], &row.mstats);
        is("runtime.gcControllerState", &["gcPercentHeapGoal", "heapLive", "size"], &row.gc_controller[..3]);
        is("runtime.schedt", &["mnext", "nmfreed", "npidle", "runq.size|runqsize", "size"], &row.sched);
        is("runtime.moduledata", &["minpc", "maxpc", "text", "gofunc"], &row.moduledata);
    }
}

/// The stages that have numbers of their own have the table's.
#[test]
fn what_does_not_change_is_the_same_in_every_row() {
    for row in &ROWS {
        let [minpc, maxpc, text, gofunc] = row.moduledata.map(|at| at as usize);
        assert_eq!([minpc, maxpc, text], crate::binary::PLACES_IN_MODULEDATA, "{row:?}");
        let version = GoVersion::parse(&format!("go{}", row.name())).expect("a version");
        assert!(row.toolchain.is_none() || gofunc == crate::binary::gofunc_place(&version), "{row:?}");
        assert_eq!(row.hchan.map(|at| at as usize), [channel::QCOUNT, channel::DATAQSIZ, channel::CLOSED], "{row:?}");
    }
    assert!(ROWS.is_sorted_by(|a, b| a.go < b.go));
}

#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn a_newer_go_gets_the_newest_layout_and_an_older_none() {
    for toolchain in toolchains() {
        let bytes = &toolchain.program(Variant::Stripped).bytes;
        let with_version = |version: &str| {
            let old = format!("go1.{}", toolchain.minor);
            assert_eq!(old.len(), version.len());
            let mut bytes = bytes.clone();
            let blob = crate::binary::bytes::find(&bytes, b"\xff Go buildinf:\x08").expect("a blob");
            let at = blob + crate::binary::bytes::find(&bytes[blob..], old.as_bytes()).expect("a version");
            bytes[at..at + version.len()].copy_from_slice(version.as_bytes());
            Binary::parse(Arc::new(bytes)).expect("a Go binary")
        };
        let newer = Layout::of(&with_version("go1.99")).expect("a layout");
        assert!(matches!(newer.source, LayoutSource::NewestKnown { .. }), "{:?}", newer.source);
        assert!(Layout::of(&with_version("go1.17")).is_err());
    }
}

/// Where variables are used is where their names are.
#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn variables_are_found_without_names() {
    let places = |toolchain: &Toolchain, variant| {
        let binary = toolchain.program(variant).binary();
        let found = NumberPlaces::of(&binary).expect("readable");
        assert_eq!(NumberPlaces::by_use(&binary).expect("readable"), found, "1.{} {variant:?}", toolchain.minor);
        let all = [found.memstats.is_some(), found.controller.is_some(), found.sched.is_some()];
        let is_complete = all == [true; 3] && found.gomaxprocs.is_some() && found.allp.is_some();
        assert!(is_complete, "1.{} {variant:?}: {found:?}", toolchain.minor);
    };
    for toolchain in toolchains() {
        for variant in [Variant::Plain, Variant::Stripped, Variant::StrippedPie] {
            places(&toolchain, variant);
        }
        // Not all of arm64's ways to form an address are understood: what is found must be right.
        let binary = toolchain.program(Variant::Arm64Plain).binary();
        let named = NumberPlaces::of(&binary).expect("readable");
        let used = NumberPlaces::by_use(&binary).expect("readable");
        let right = [
            used.memstats.is_none() || used.memstats == named.memstats,
            used.controller.is_none() || used.controller == named.controller,
            used.sched.is_none() || used.sched == named.sched,
            used.gomaxprocs.is_none() || used.gomaxprocs == named.gomaxprocs,
            used.allp.is_none() || used.allp == named.allp,
        ];
        assert_eq!(right, [true; 5], "1.{}: {used:?} instead of {named:?}", toolchain.minor);
    }
}

#[test]
#[ignore = "reads real Go programs: `cargo xtask test` builds them"]
fn wait_reasons_of_every_variant() {
    for toolchain in toolchains() {
        let of = |variant| WaitReasons::of(&toolchain.program(variant).binary()).expect("wait reasons");
        let plain = of(Variant::Plain);
        for variant in VARIANTS {
            assert_eq!(of(variant), plain, "1.{} {variant:?}", toolchain.minor);
        }
        assert_eq!(plain.name(0), Some(""));
        let number = |name: &str| (0..=u8::MAX).find(|&reason| plain.name(reason) == Some(name));
        let (select, receive, sleep) = if toolchain.minor >= 26 { (18, 19, 14) } else { (9, 14, 19) };
        let sleep = if toolchain.minor == 25 { 20 } else { sleep };
        assert_eq!(number("select"), Some(select));
        assert_eq!(number("chan receive"), Some(receive));
        assert_eq!(number("sleep"), Some(sleep));
        let last = match toolchain.minor {
            ..=20 => "debug call",
            21 => "stopping the world",
            22 => "coroutine",
            23 => return,
            24 => "synctest.Wait",
            _ => plain.name(plain.len() as u8 - 1).expect("the last"),
        };
        assert!(number(last).is_some(), "{last}");
        assert_eq!(plain.name(plain.len() as u8), None);
    }
}
