//! Profiles over HTTP: the tools that people have open them, and they say what the program's own say.

#![allow(missing_docs, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use parkranger_tests::crowd::goroutines;
use parkranger_tests::daemon::serve;
use parkranger_tests::go::{Toolchain, Variant, with_go};
use parkranger_tests::http::get_ok;
use parkranger_tests::on_every_go;
use parkranger_tests::skip::agent;

on_every_go!(agent: own_profiles_agree);

/// Goroutines that serve a request: there are more of them while the program's own profile is asked for.
const SERVING: [&str; 3] = ["net/http.(*conn)", "net/http.(*connReader)", "main.main"];

/// Both at rest: the same stacks, line by line, the same number of times, with the same labels, as text and as
/// `go tool pprof` sees them; and the same dump.
fn own_profiles_agree(go: &Toolchain) -> Result<()> {
    for variant in [Variant::Plain, Variant::Stripped, Variant::Pie] {
        let (served, daemon) = serve(go, variant, &[])?;
        let profiles = format!("/pids/{}/debug/pprof", served.pid());
        let stacks = agree(|| {
            let ours = stacks(daemon.ok(&format!("{profiles}/goroutine?debug=1"))?.text()?)?;
            Ok((ours, stacks(get_ok(&served.address, "/debug/pprof/goroutine?debug=1")?.text()?)?))
        });
        let stacks = stacks.with_context(|| format!("{variant:?}"))?;
        ensure!(stacks.values().sum::<u64>() >= 11, "{stacks:#?}");

        let traces = agree(|| {
            let ours = traces(go, &daemon.profile(served.pid(), "goroutine"))?;
            Ok((ours, traces(go, &format!("http://{}/debug/pprof/goroutine", served.address))?))
        });
        let traces = traces.with_context(|| format!("{variant:?}"))?;
        ensure!(traces.len() >= 9, "{traces:#?}");

        let dump = agree(|| {
            let ours = dump(daemon.ok(&format!("{profiles}/goroutine?debug=2"))?.text()?)?;
            Ok((ours, dump(get_ok(&served.address, "/debug/pprof/goroutine?debug=2")?.text()?)?))
        });
        let dump = dump.with_context(|| format!("{variant:?}"))?;
        ensure!(dump.len() >= 11, "{dump:#?}");
    }
    Ok(())
}

/// What we say, and then the program: the same, at the latest once the goroutine is back that took its connection.
fn agree<T: PartialEq + Debug>(read: impl Fn() -> Result<(T, T)>) -> Result<T> {
    let mut tries = 10;
    loop {
        let (ours, own) = read()?;
        if ours == own {
            return Ok(own);
        }
        tries -= 1;
        ensure!(tries > 0, "it says\n{own:#?}\nand we\n{ours:#?}");
    }
}

/// How often each stack is there: its functions and lines, with its labels. Addresses are left out: the runtime makes up
/// some for inlined calls.
fn stacks(text: &str) -> Result<BTreeMap<String, u64>> {
    let mut stacks = BTreeMap::new();
    let (head, blocks) = text.split_once('\n').context("an empty profile")?;
    ensure!(head.starts_with("goroutine profile: total "), "{head}");
    for block in blocks.split("\n\n").filter(|block| !SERVING.iter().any(|serving| block.contains(serving))) {
        let mut lines = block.lines().filter(|line| !line.is_empty() && !line.starts_with("# stacks: "));
        let Some((count, _)) = lines.next().and_then(|line| line.split_once(" @ ")) else { continue };
        let words = lines.map(|line| match line.split('\t').filter(|word| !word.is_empty()).collect::<Vec<_>>()[..] {
            ["#", _, function, place] => format!("{} {place}", function.split('+').next().unwrap_or_default()),
            _ => line.to_owned(),
        });
        let words = words.collect::<Vec<_>>().join("\n");
        // The one that watches the connection of the request may not have begun yet: it has no function then.
        if !words.is_empty() {
            *stacks.entry(words).or_default() += count.parse::<u64>()?;
        }
    }
    Ok(stacks)
}

/// Every sample as `go tool pprof -traces` prints it: labels, count, functions with their lines.
fn traces(go: &Toolchain, url: &str) -> Result<BTreeSet<String>> {
    let text = go.tool(&["pprof", "-traces", "-lines", "-sample_index=goroutine", url])?;
    let blocks = text.split("-----------+").skip(1).map(|block| block.trim_start_matches('-').trim().to_owned());
    let quiet = blocks.filter(|block| block.contains('.') && !SERVING.iter().any(|serving| block.contains(serving)));
    Ok(quiet.collect())
}

fn dump(text: &str) -> Result<BTreeMap<u64, Vec<String>>> {
    let mut all = goroutines(text)?;
    all.retain(|_, lines| !lines.iter().any(|line| SERVING.iter().any(|serving| line.contains(serving))));
    Ok(all)
}

/// `go tool pprof` of the newest Go and of an old one opens every profile by its URL, and finds the line that leaks.
#[test]
fn pprof_opens_every_profile() {
    with_go("serve_profiles::pprof_opens_every_profile", 27, agent, |go| {
        let (mut served, daemon) = serve(go, Variant::Plain, &[])?;
        served.ask("leak 7")?;
        daemon.wait_until(served.pid(), "leaking", |process| process["births"].as_u64() >= Some(7))?;
        let old = Toolchain::find(21).map_err(|missing| anyhow::anyhow!(missing.0))?;
        let directory = tempfile::tempdir()?;
        let saved = directory.path().join("before");
        let saved = saved.to_str().context("path")?;
        for tool in [go, &old] {
            let pprof = |args: &[&str]| tool.tool(&[&["pprof"], args].concat());
            let stay = "main.leak .*/served/main.go";
            let url = daemon.profile(served.pid(), "goroutine");
            let top = pprof(&["-top", &url])?;
            ensure!(top.contains("Type: goroutine") && top.contains("main.recurse"), "{top}");
            let top = pprof(&["-top", "-sample_index=stack", &url])?;
            ensure!(top.contains("Type: stack"), "{top}");

            let births = daemon.profile(served.pid(), "births");
            let top = pprof(&["-top", "-lines", &births])?;
            ensure!(top.contains("Type: births") && has(&top, stay), "{top}");
            let parks = daemon.profile(served.pid(), "parks");
            let tags = pprof(&["-tags", &parks])?;
            ensure!(tags.contains("wait reason") && tags.contains("chan receive"), "{tags}");

            std::fs::write(saved, daemon.ok(&format!("/pids/{}/debug/pprof/births", served.pid()))?.body)?;
            let stats = served.ask("leak 50")?;
            let live = |process: &serde_json::Value| process["goroutines"]["user"].as_i64() == Some(stats.goroutines);
            daemon.wait_until(served.pid(), "at rest", live)?;
            let base = format!("-diff_base={saved}");
            let grown = pprof(&["-top", "-lines", "-sample_index=live", &base, &births])?;
            ensure!(has(&grown, "^ *50 .*main.leak .*/served/main.go:"), "{grown}");
        }
        Ok(())
    });
}

/// `seconds=N` is what came in that time, for goroutines and for sites.
#[test]
fn differences() {
    with_go("serve_profiles::differences", 27, agent, |go| {
        let (mut served, daemon) = serve(go, Variant::Plain, &[])?;
        for name in ["goroutine", "births"] {
            let url = daemon.profile(served.pid(), &format!("{name}?seconds=2"));
            let tool = go.clone();
            let fetch = std::thread::spawn(move || tool.tool(&["pprof", "-top", "-lines", &url]));
            // The first reading is done long before, the second is far off.
            std::thread::sleep(std::time::Duration::from_millis(800));
            served.ask("leak 30")?;
            let top = fetch.join().map_err(|_| anyhow::anyhow!("pprof"))??;
            let line = if name == "births" { "main.leak" } else { "main.stay" };
            ensure!(has(&top, &format!(" 30 .*{line} .*/served/main.go:")), "{top}");
            ensure!(top.contains("Total samples = 30"), "nothing else came: {top}");
        }
        let both = daemon.get(&format!("/pids/{}/debug/pprof/goroutine?debug=1&seconds=1", served.pid()))?;
        ensure!(both.status == 400 && both.header("x-go-pprof") == Some("1"), "{both:?}");
        Ok(())
    });
}

/// Whether a line matches, as grep says.
fn has(text: &str, pattern: &str) -> bool {
    let mut grep = Command::new("grep");
    grep.args(["-Eq", "-e", pattern]).stdin(std::process::Stdio::piped());
    let Ok(mut child) = grep.spawn() else { return false };
    if let Some(mut stdin) = child.stdin.take() {
        // grep may have found it and left.
        let _ = std::io::Write::write_all(&mut stdin, text.as_bytes());
    }
    child.wait().is_ok_and(|status| status.success())
}
