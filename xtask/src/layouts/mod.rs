//! `cargo xtask layouts`: the table of the runtime's structs, out of the DWARF of real toolchains.
//!
//! Each toolchain of the matrix builds a small program for amd64 and for arm64; Go's own `debug/dwarf`, which has nothing
//! in common with the agent's reader, says where the fields are. The two architectures must agree in everything but the
//! sizes that depend on a cache line. `--check` fails where the committed table says anything else.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    go::{MATRIX, NEWEST, Release},
    paths::Paths,
    step::{fresh, quietly, step},
};

const TABLE: &str = "agent/src/runtime/table.rs";
const READER: &str = include_str!("fields.go");
/// Uses what has the structs: channels, timers, goroutines.
const PROGRAM: &str = "package main

import \"time\"

func main() {
	c := make(chan int)
	go func() { c <- 1 }()
	select {
	case <-c:
	case <-time.After(time.Second):
	}
}
";
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
const SIZE: &str = ".";

/// A column of the table: its name, the struct, and the fields in their order. Of `a|b` the first that there is, of
/// `a?` 0 where there is none.
type Column = (&'static str, &'static str, &'static [&'static str]);

/// As in `agent/src/runtime/layouts.rs`, where the fields of `Row` are.
const COLUMNS: [Column; 9] = [
    (
        "g",
        "runtime.g",
        &[
            "stack.lo",
            "stack.hi",
            "m",
            "sched.sp",
            "sched.pc",
            "sched.g",
            "sched.bp",
            "syscallsp",
            "syscallpc",
            "atomicstatus",
            "goid",
            "waitsince",
            "waitreason",
            "lockedm",
            "parentGoid?",
            "gopc",
            "startpc",
            "waiting",
            "labels",
            SIZE,
        ],
    ),
    // From 1.26 on a pointer and the same as a number; the leak detector clears the pointer.
    ("sudog", "runtime.sudog", &["g", "elem.vu|elem", "waitlink", "c.vu|c.maybeTraceablePtr.vu|c", SIZE]),
    ("hchan", "runtime.hchan", &["qcount", "dataqsiz", "closed"]),
    ("goid_stock", "runtime.m", &["p"]),
    ("mstats", "runtime.mstats", &["pause_total_ns", "numgc", SIZE]),
    ("gc_controller", "runtime.gcControllerState", &["gcPercentHeapGoal", "heapLive", SIZE]),
    ("sched", "runtime.schedt", &["mnext", "nmfreed", "npidle", "runq.size|runqsize", SIZE]),
    // From 1.25 on the free goroutines are two lists that count themselves.
    ("goroutine_counts", "runtime.schedt", &["goidgen", "ngsys", "gFree.n|gFree.stack.size", "gFree.noStack.size?"]),
    ("moduledata", "runtime.moduledata", &["minpc", "maxpc", "text", "gofunc"]),
];
/// The oldest minor version with a function table of the kind that is read.
const OLDEST: u32 = 18;
/// Fields of `runtime.p` at the end of columns.
const OF_P: [(&str, &str); 2] = [("goid_stock", "goidcache"), ("goroutine_counts", "gFree.n|gFree.size")];
const P: &str = "runtime.p";
/// The size of this one depends on the architecture's cache line: the column has one for each.
const BY_ARCHITECTURE: &str = "gc_controller";

/// Offsets by file, struct and field.
type Fields = HashMap<(String, String, String), u32>;

pub(crate) fn run(paths: &Paths, check: bool) -> Result<ExitCode> {
    let mut files = Vec::new();
    for release in &MATRIX {
        let [amd64, arm64] = ARCHITECTURES.map(|architecture| program(paths, release, architecture));
        files.push((release, [amd64?, arm64?]));
    }
    let fields = read(paths, files.iter().flat_map(|(_, files)| files))?;
    let table = formatted(&table(&files, &fields)?)?;
    let committed = paths.root.join(TABLE);
    if !check {
        fs::write(&committed, table).with_context(|| format!("cannot write {}", committed.display()))?;
        println!("wrote {TABLE}: {} versions of Go, amd64 and arm64", files.len());
        return Ok(ExitCode::SUCCESS);
    }
    let found = fs::read_to_string(&committed).with_context(|| format!("cannot read {}", committed.display()))?;
    if found == table {
        println!("{TABLE} is what {} versions of Go say, for amd64 and arm64", files.len());
        return Ok(ExitCode::SUCCESS);
    }
    for (number, (found, said)) in (1..).zip(found.lines().zip(table.lines())) {
        if found != said {
            println!("{TABLE}:{number}: {}, but the toolchains say {}", found.trim(), said.trim());
        }
    }
    bail!("{TABLE} is not what the toolchains say: run `cargo xtask layouts` and commit it");
}

/// The small program, built once by each toolchain.
fn program(paths: &Paths, release: &Release, architecture: &str) -> Result<PathBuf> {
    let name = format!("fields-{}-{architecture}", release.version());
    build(paths, release, architecture, &name, PROGRAM)
}

fn build(paths: &Paths, release: &Release, architecture: &str, name: &str, source: &str) -> Result<PathBuf> {
    let folder = paths.fixtures().join("layouts").join(name);
    let (file, main) = (folder.join("program"), folder.join("main.go"));
    if file.is_file() && fs::read_to_string(&main).is_ok_and(|built| built == source) {
        return Ok(file);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(&main, source).with_context(|| format!("cannot write {}", main.display()))?;
    let log = paths.log(&format!("layouts-{name}"));
    step("build", &format!("{name}, by Go {}", release.version()), || {
        fresh(&log)?;
        let mut command = release.command(paths)?;
        command.current_dir(&folder).env("GOARCH", architecture).env("GO111MODULE", "off");
        quietly(command.args(["build", "-o", "program", "main.go"]), &log)
    })?;
    Ok(file)
}

/// Where the fields are, in every file.
fn read<'f>(paths: &Paths, files: impl Iterator<Item = &'f PathBuf>) -> Result<Fields> {
    let reader = build(paths, &NEWEST, native()?, "reader", READER)?;
    let structs = COLUMNS.iter().map(|column| column.1).chain([P]).collect::<Vec<_>>().join(",");
    let output = Command::new(reader).arg(structs).args(files).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the reader of DWARF failed");
    let mut fields = Fields::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let mut words = line.split(' ').map(str::to_owned);
        let (Some(file), Some(name), Some(field), Some(at)) = (words.next(), words.next(), words.next(), words.next())
        else {
            bail!("not understood: {line}");
        };
        fields.insert((file, name, field), at.parse().with_context(|| format!("not understood: {line}"))?);
    }
    Ok(fields)
}

fn native() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no Go for {other} here"),
    }
}

/// What one file has of one struct.
fn column(fields: &Fields, file: &Path, name: &str, wanted: &[&str]) -> Result<Vec<u32>> {
    let of = |field: &str| fields.get(&(file.display().to_string(), name.to_owned(), field.to_owned())).copied();
    let one = |field: &&str| match field.strip_suffix('?') {
        Some(field) => Ok(of(field).unwrap_or(0)),
        None => field.split('|').find_map(of).with_context(|| format!("{}: no {field} in {name}", file.display())),
    };
    wanted.iter().map(one).collect()
}

fn table(files: &[(&Release, [PathBuf; 2])], fields: &Fields) -> Result<String> {
    let mut text = String::from(
        "//! Where the fields of the runtime's structs are. Written by `cargo xtask layouts`; not edited by hand.\n\n\
         use super::layouts::Row;\n\n/// Oldest first.\npub(super) static ROWS: [Row; COUNT] = [\n",
    );
    let mut rows = 0;
    let mut before: Option<(u32, String)> = None;
    for (release, [amd64, arm64]) in files {
        let mut columns = String::new();
        for (name, of, wanted) in COLUMNS {
            let [mut numbers, other] = [amd64, arm64].map(|file| column(fields, file, of, wanted));
            let (numbers, other) = (numbers.as_mut().map_err(|error| anyhow::anyhow!("{error:#}"))?, other?);
            let sized = if name == BY_ARCHITECTURE { numbers.len() - 1 } else { numbers.len() };
            ensure!(numbers[..sized] == other[..sized], "{of} of Go {} differs on arm64", release.version());
            if name == BY_ARCHITECTURE {
                numbers.extend(&other[sized..]);
            }
            for (_, field) in OF_P.iter().filter(|(column, _)| *column == name) {
                let [here, there] = [amd64, arm64].map(|file| column(fields, file, P, &[field]));
                let (here, there) = (here?, there?);
                ensure!(here == there, "{P} of Go {} differs on arm64", release.version());
                numbers.extend(here);
            }
            writeln!(columns, "{name}: {numbers:?},")?;
        }
        let minor = release.minor_number();
        let (missing, neighbour) = before.take().unwrap_or((OLDEST, columns.clone()));
        for missing in missing..minor {
            rows += 1;
            writeln!(
                text,
                "// No toolchain to be had: its neighbour's, proved by the memory of programs built by it."
            )?;
            writeln!(text, "Row {{ go: (1, {missing}), toolchain: None,\n{neighbour}}},")?;
        }
        rows += 1;
        writeln!(text, "Row {{ go: (1, {minor}), toolchain: Some(\"{}\"),\n{columns}}},", release.version())?;
        before = Some((minor + 1, columns));
    }
    text.push_str("];\n");
    Ok(text.replacen("COUNT", &rows.to_string(), 1))
}

fn formatted(source: &str) -> Result<String> {
    let mut command = Command::new("rustfmt");
    command.args(["--edition", "2024", "--config", "max_width=120,use_small_heuristics=Max"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start rustfmt")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(source.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "rustfmt refused the table");
    Ok(String::from_utf8(output.stdout)?)
}
