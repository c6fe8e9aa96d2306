//! The forms of a dump say what the runtime says of itself: its own dump, its own profile.

#![allow(missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use parkranger_tests::crowd::{Crowd, Spinning, dumped, goroutines, same_dumps, spinning};
use parkranger_tests::executable;
use parkranger_tests::go::{Program, Toolchain, Variant, with_go};
use parkranger_tests::on_every_go;
use parkranger_tests::skip::{agent, time_namespaces};
use serde_json::Value;

on_every_go!(agent: dumps_are_the_same, profiles_are_the_same, forms, a_list_without_a_name, running);

/// Goroutine by goroutine: state, every frame with its line and offset, creator and its goroutine.
fn dumps_are_the_same(go: &Toolchain) -> Result<()> {
    for variant in [Variant::Plain, Variant::Stripped, Variant::Pie, Variant::TrimPath, Variant::Unoptimized] {
        let mut crowd = Crowd::start(&go.build(Program::Crowd, variant)?.path)?;
        let count = crowd.gather()?;
        let ours = goroutines(&dumped(crowd.pid(), &[])?)?;
        let own = crowd.own_dump()?;
        ensure!(ours.len() as u64 == count, "{variant:?}: {} goroutines of {count}", ours.len());
        same_dumps(&own, &ours).with_context(|| format!("{variant:?}"))?;
    }
    Ok(())
}

/// Summary, profile, folded stacks and JSON agree with each other, and `go tool pprof` reads the profile.
fn forms(go: &Toolchain) -> Result<()> {
    let mut crowd = Crowd::start(&go.build(Program::Crowd, Variant::Stripped)?.path)?;
    let count = crowd.gather()?;
    let summary = dumped(crowd.pid(), &["--format", "summary"])?;
    ensure!(summary.starts_with(&format!("goroutine profile: total {count}\n")), "{summary}");
    ensure!(summary.contains(r#"# labels: {"endpoint":"/api", "tenant":"a b"}"#), "{summary}");
    let folded = dumped(crowd.pid(), &["--format", "folded"])?;
    let counts = folded.lines().map(|line| Ok(line.rsplit_once(' ').context("a line")?.1.parse::<u64>()?));
    ensure!(counts.sum::<Result<u64>>()? == count, "{folded}");

    let json: Value = serde_json::from_str(&dumped(crowd.pid(), &["--format", "json"])?)?;
    ensure!(json["user"] == count, "{json}");
    let all = json["goroutines"].as_array().context("goroutines")?;
    ensure!(all.len() as u64 == count, "{} goroutines", all.len());
    let of = |state: &str| all.iter().filter(|one| one["state"] == state).collect::<Vec<_>>();
    let select = of("select");
    ensure!(select.len() == 1 && select[0]["waits_on"].as_array().is_some_and(|on| on.len() == 3), "{select:?}");
    let sender = of("chan send");
    ensure!(sender[0]["waits_on"][0]["len"] == 3 && sender[0]["waits_on"][0]["cap"] == 3, "{sender:?}");
    let labeled = all.iter().filter(|one| one["labels"]["k9"] == "9").count();
    ensure!(labeled == 1, "{labeled} goroutines with ten labels");

    let directory = tempfile::tempdir()?;
    let profile = directory.path().join("profile");
    let path = profile.to_str().context("path")?;
    dumped(crowd.pid(), &["--format", "pprof", "-o", path])?;
    let mode = std::fs::metadata(&profile)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "others can read it: {mode:o}");
    let top = go.tool(&["pprof", "-top", path])?;
    ensure!(top.contains(&format!("Total samples = {count} ")) && top.contains("main.inlinedOuter"), "{top}");
    let raw = go.tool(&["pprof", "-raw", path])?;
    ensure!(raw.contains("endpoint:[/api]") && raw.contains("[FN][FL][LN][IN]"), "{raw}");

    let only = ["--label", "endpoint=/api", "--state", "chan receive", "--site", "main.gather*"];
    ensure!(goroutines(&dumped(crowd.pid(), &only)?)?.len() == 2, "two goroutines have that label");
    Ok(())
}

/// What `go tool pprof` makes of the profile is what it makes of the runtime's own, sample by sample and line by line:
/// labels, inlined calls, counts.
fn profiles_are_the_same(go: &Toolchain) -> Result<()> {
    // The goroutine that writes the program's own profile is in nobody else's.
    const WRITER: &str = "main.writer";
    let mut crowd = Crowd::start(&go.build(Program::Crowd, Variant::Stripped)?.path)?;
    let count = crowd.gather()?;
    let directory = tempfile::tempdir()?;
    let ours = directory.path().join("profile");
    let ours = ours.to_str().context("path")?;
    dumped(crowd.pid(), &["--format", "pprof", "-o", ours])?;
    let own = crowd.own_proto()?;
    let own = own.path().to_str().context("path")?;

    let samples = |profile: &str| -> Result<BTreeMap<String, u64>> {
        // Before Go 1.23 the runtime's profile ends a stack after 32 calls.
        let calls = if go.minor < 23 { 32 } else { usize::MAX };
        let mut samples = raw_samples(&go.tool(&["pprof", "-raw", profile])?, calls)?;
        samples.retain(|sample, _| !sample.contains(WRITER));
        Ok(samples)
    };
    let (ours_raw, own_raw) = (samples(ours)?, samples(own)?);
    ensure!(own_raw.values().sum::<u64>() == count, "{own_raw:#?} of {count} goroutines");
    ensure!(own_raw.keys().any(|sample| sample.starts_with("endpoint:[/api]")), "no labels: {own_raw:#?}");
    let inlined = |sample: &String| sample.contains("main.inlinedInner") && sample.contains("main.inlinedOuter");
    ensure!(own_raw.keys().any(inlined), "no inlined calls: {own_raw:#?}");
    ensure!(ours_raw == own_raw, "the runtime says\n{own_raw:#?}\nand we\n{ours_raw:#?}");

    let top = |profile: &str| -> Result<BTreeMap<String, (u64, u64)>> {
        let index = ["-sample_index=goroutine", "-nodecount=10000"];
        let args = [&["pprof", "-top", "-lines", "-ignore", WRITER], &index[..], &[profile]].concat();
        rows(&go.tool(&args)?)
    };
    let (ours_top, own_top) = (top(ours)?, top(own)?);
    ensure!(own_top.len() > 20 && ours_top == own_top, "the runtime says\n{own_top:#?}\nand we\n{ours_top:#?}");
    Ok(())
}

/// The table that `go tool pprof -top -lines` prints: how many goroutines are in a line, and below it.
fn rows(top: &str) -> Result<BTreeMap<String, (u64, u64)>> {
    let (_, table) = top.split_once("cum%\n").with_context(|| format!("no table: {top}"))?;
    let mut rows: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for row in table.lines() {
        let mut words = row.split_whitespace();
        let (flat, cum) = (words.next().context("flat")?.parse::<u64>()?, words.nth(2).context("cum")?.parse::<u64>()?);
        let place: Vec<&str> = words.skip(1).collect();
        let row = rows.entry(place.join(" ")).or_default();
        *row = (row.0 + flat, row.1 + cum);
    }
    Ok(rows)
}

/// The samples that `go tool pprof -raw` prints, as labels and lines of code instead of numbers of locations, each with
/// how often it is there. Stacks are cut after so many `calls`.
fn raw_samples(raw: &str, calls: usize) -> Result<BTreeMap<String, u64>> {
    let (_, rest) = raw.split_once("\nSamples:\n").with_context(|| format!("no samples: {raw}"))?;
    let (samples, rest) = rest.split_once("\nLocations\n").with_context(|| format!("no locations: {raw}"))?;
    let (locations, _) = rest.split_once("\nMappings\n").with_context(|| format!("no mappings: {raw}"))?;
    // "  1: 0x47 M=1 main.f /f.go:7:0 s=5", then one line for each call it is inlined in.
    let mut lines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut id = "";
    for line in locations.lines() {
        let mut place = line.trim();
        if let Some((number, rest)) = place.split_once(": 0x") {
            id = number;
            place = rest.split_once(' ').map_or("", |(_, rest)| rest);
            place = place.strip_prefix("M=").and_then(|rest| rest.split_once(' ')).map_or(place, |(_, rest)| rest);
        }
        let (function, line) =
            place.split(" s=").next().and_then(|place| place.split_once(" /")).unwrap_or((place, ""));
        lines.entry(id).or_default().push(format!("{function} /{line}"));
    }
    // "  2 4096: 1 2 3", then the labels if there are any.
    let mut found: Vec<(u64, String, String)> = Vec::new();
    for line in samples.lines().skip(1) {
        let numbers = line.split_once(':').filter(|(values, _)| values.chars().all(|c| c == ' ' || c.is_ascii_digit()));
        match (numbers, found.last_mut()) {
            (Some((values, ids)), _) => {
                let count = values.split_whitespace().next().context("a value")?.parse()?;
                let ids = ids.split_whitespace().take(calls);
                let calls = ids.map(|id| lines.get(id).map(|lines| lines.join("\n")).context("a location"));
                found.push((count, String::new(), calls.collect::<Result<Vec<_>>>()?.join("\n")));
            }
            (None, Some(last)) => last.1.push_str(line.trim()),
            (None, None) => anyhow::bail!("labels of nothing: {line}"),
        }
    }
    let mut samples = BTreeMap::new();
    for (count, labels, calls) in found {
        *samples.entry(format!("{labels}\n{calls}")).or_default() += count;
    }
    Ok(samples)
}

/// The list of goroutines is found by searching .bss where the function that appends to it has no name.
fn a_list_without_a_name(go: &Toolchain) -> Result<()> {
    let (_directory, program) = go.build(Program::Crowd, Variant::Stripped)?.private_copy()?;
    rename_function(&program, b"runtime.allgadd\0", b"runtime.qllgadd\0")?;
    let mut crowd = Crowd::start(&program)?;
    let count = crowd.gather()?;
    let ours = goroutines(&dumped(crowd.pid(), &[])?)?;
    ensure!(ours.len() as u64 == count, "{} goroutines of {count}", ours.len());
    same_dumps(&crowd.own_dump()?, &ours)
}

/// Replaces a name in gopclntab.
fn rename_function(program: &Path, name: &[u8], by: &[u8]) -> Result<()> {
    let mut bytes = std::fs::read(program)?;
    let places: Vec<usize> =
        bytes.windows(name.len()).enumerate().filter(|(_, at)| *at == name).map(|(at, _)| at).collect();
    ensure!(!places.is_empty(), "the program has no such name");
    for place in places {
        bytes[place..place + name.len()].copy_from_slice(by);
    }
    executable::write(&bytes, program)
}

/// A goroutine that runs has the stack that its thread was seen with, from the function it began with on.
fn running(go: &Toolchain) -> Result<()> {
    let mut crowd = Crowd::start(&go.build(Program::Crowd, Variant::Stripped)?.path)?;
    crowd.gather()?;
    crowd.spin(true)?;
    let (mut seen, mut found) = (0, 0);
    for _ in 0..20 {
        let dump = goroutines(&dumped(crowd.pid(), &[])?)?;
        match spinning(&dump)? {
            Spinning::Elsewhere => {}
            Spinning::Unseen => seen += 1,
            Spinning::Seen => (seen, found) = (seen + 1, found + 1),
        }
    }
    ensure!(found > 0 && found * 2 > seen, "{found} stacks in {seen} dumps");
    Ok(())
}

/// In a time namespace the runtime's clock is another one: a goroutine waits since when it waits, not since a day ago or
/// from tomorrow on.
#[test]
fn another_clock() {
    with_go("dump::another_clock", 27, time_namespaces, |go| {
        const DAY_S: &str = "86400";
        let program = go.build(Program::Crowd, Variant::Plain)?.path;
        let mut command = Command::new("unshare");
        command.args(["--time", "--monotonic", DAY_S]).arg(&program);
        let mut crowd = Crowd::start_command(&mut command)?;
        crowd.gather()?;
        // The second collection sees that they waited at the first.
        crowd.collect()?;
        crowd.collect()?;
        let json: Value =
            serde_json::from_str(&dumped(crowd.pid(), &["--format", "json", "--state", "chan receive"])?)?;
        let waiting = json["goroutines"].as_array().context("goroutines")?;
        ensure!(waiting.len() > 10, "{json}");
        for goroutine in waiting {
            let waited = goroutine["waited_ns"].as_u64();
            ensure!(waited.is_some_and(|ns| ns < 600_000_000_000), "{goroutine}");
        }
        Ok(())
    });
}
