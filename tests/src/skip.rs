//! A test that cannot run here says so: on standard error, and in the file that `PARKRANGER_SKIPS` names.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use crate::kernel_log::KernelLog;

/// Why a test cannot run here.
#[derive(Debug)]
pub struct Missing(pub String);

/// Records that `test` was skipped. Never silent: a list that cannot be written fails the test.
pub fn skip(test: &str, missing: &Missing) {
    let line = format!("{test}: {}\n", missing.0);
    eprint!("skipped {line}");
    let Some(list) = std::env::var_os("PARKRANGER_SKIPS") else { return };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&list)
        // One write: lines of tests that run at the same time do not mix.
        .and_then(|mut file| file.write_all(line.as_bytes()));
    assert!(written.is_ok(), "cannot write {}: {written:?}", list.display());
}

/// Probing needs root.
///
/// # Errors
/// What is missing.
pub fn root() -> Result<(), Missing> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    #[allow(unsafe_code, reason = "std has no geteuid")]
    let uid = unsafe { libc::geteuid() };
    if uid == 0 { Ok(()) } else { Err(Missing(format!("needs root, this is user {uid}"))) }
}

/// Uprobes through perf, which the independent counter uses.
///
/// # Errors
/// What is missing.
pub fn perf_uprobes() -> Result<(), Missing> {
    root()?;
    let path = crate::kernel_count::PMU_TYPE;
    if PathBuf::from(path).exists() { Ok(()) } else { Err(Missing(format!("the kernel has no {path}"))) }
}

/// The agent under test.
///
/// # Errors
/// What is missing.
pub fn agent() -> Result<(), Missing> {
    root()?;
    if std::env::var_os("PARKRANGER_BIN").is_some() {
        Ok(())
    } else {
        Err(Missing("PARKRANGER_BIN does not name the agent".into()))
    }
}

/// The agent, and programs with a clock of their own.
///
/// # Errors
/// What is missing.
pub fn time_namespaces() -> Result<(), Missing> {
    agent()?;
    let there = PathBuf::from("/proc/self/ns/time").exists();
    if there { Ok(()) } else { Err(Missing("the kernel has no time namespaces".into())) }
}

/// The agent, and the tester of API descriptions.
///
/// # Errors
/// What is missing.
pub fn schemathesis() -> Result<(), Missing> {
    agent()?;
    if std::env::var_os("PARKRANGER_SCHEMATHESIS").is_some() {
        Ok(())
    } else {
        Err(Missing("PARKRANGER_SCHEMATHESIS does not name schemathesis".into()))
    }
}

/// The agent, and Prometheus to scrape it.
///
/// # Errors
/// What is missing.
pub fn prometheus() -> Result<(), Missing> {
    agent()?;
    for program in ["prometheus", "promtool"] {
        let there = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
        if !there {
            return Err(Missing(format!("there is no {program}")));
        }
    }
    Ok(())
}

/// Runs a test if its needs are met; fails with the whole chain of causes.
#[allow(clippy::panic, reason = "this is how a test fails")]
pub fn run(test: &str, needs: Result<(), Missing>, body: impl FnOnce() -> anyhow::Result<()>) {
    match needs {
        Err(missing) => skip(test, &missing),
        Ok(()) => {
            let mut kernel = KernelLog::from_now_on();
            if let Err(error) = body().and_then(|()| kernel.has_no_complaint()) {
                panic!("{test}: {error:#}");
            }
        }
    }
}
