//! Commands of the documents and the help texts, typed: accepted, and working.

#![allow(missing_docs, reason = "tests")]

use std::{
    net::TcpListener,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use parkranger_tests::{
    agent::{binary, run_once},
    documents::{self, Documented},
    executable,
    go::{Program, Toolchain, Variant, with_go},
    skip,
};

/// Commands that end by themselves after longer are told to end, as with Ctrl-C.
const ENOUGH: Duration = Duration::from_secs(3);

/// And then must, within this.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn every_command_in_the_text_is_accepted() {
    skip::run("documents::every_command_in_the_text_is_accepted", skip::agent(), || {
        let mut seen = 0;
        for documented in of_the_agent()?.iter().filter(|documented| !documented.prompt) {
            let words =
                documented.command.split_whitespace().skip(1).map(|word| if stands_for(word) { "1" } else { word });
            // What comes before it is parsed first, and not done.
            let output = run_once(words.chain(["--help"]))?;
            ensure!(output.status.success(), "{}: `{}`: {}", documented.place, documented.command, output.stderr);
            seen += 1;
        }
        ensure!(seen > 10, "only {seen} commands found");
        Ok(())
    });
}

#[test]
fn every_command_at_a_prompt_works() {
    let name = "documents::every_command_at_a_prompt_works";
    with_go(name, 27, skip::agent, every_command_works);
}

fn every_command_works(go: &Toolchain) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // The documents' program is called shop.
    let shop = folder.path().join("shop");
    executable::copy(&go.build(Program::Leaky, Variant::Plain)?.path, &shop)?;
    let service = Running(Command::new(&shop).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
    sleep(Duration::from_secs(1));
    let pid = service.0.id().to_string();
    prepare(folder.path(), &pid)?;

    let mut commands: Vec<Documented> = of_the_agent()?.into_iter().filter(|documented| documented.prompt).collect();
    commands.extend(of_the_help()?);
    ensure!(commands.len() > 20, "only {} commands found", commands.len());
    let mut failures = Vec::new();
    for documented in &commands {
        let command = as_typed(&documented.command, &pid, folder.path())?;
        let begun = Instant::now();
        let (status, complaint) = typed(&command, folder.path())?;
        println!("{}: {command}: {status}, {:.1} s", documented.place, begun.elapsed().as_secs_f32());
        // 4: leaks were found. 3: nothing here is of that user or name.
        let nothing_there = status.code() == Some(3) && !command.contains(&pid);
        if !(matches!(status.code(), Some(0 | 4)) || nothing_there || status.signal() == Some(libc::SIGINT)) {
            failures.push(format!("{}: `{command}`: {status}: {complaint}", documented.place));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// The files that the commands read.
fn prepare(folder: &Path, pid: &str) -> Result<()> {
    std::os::unix::fs::symlink(std::path::absolute(binary()?)?, folder.join("parkranger"))?;
    let dump = run_once(["dump", "--pid", pid])?;
    ensure!(dump.status.success(), "{}", dump.stderr);
    std::fs::write(folder.join("old.txt"), dump.stdout)?;
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(folder.join("cert.pem"), certified.cert.pem())?;
    std::fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem())?;
    std::fs::write(folder.join("token"), "0123456789abcdef0123456789abcdef\n")?;
    for secret in ["key.pem", "token"] {
        std::fs::set_permissions(folder.join(secret), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    Ok(())
}

/// The command with this machine's pid, port and folders in place of the documents'.
fn as_typed(command: &str, pid: &str, folder: &Path) -> Result<String> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let words = command.split(' ').map(|word| match word {
        "4242" | "3053" | "899" => pid.to_owned(),
        word => word
            .replace("7117", &port)
            .replace("/run/parkranger.sock", &folder.join("sock").display().to_string())
            .replace("/etc/bash_completion.d/", &folder.join("completion-").display().to_string()),
    });
    Ok(words.collect::<Vec<_>>().join(" "))
}

/// Has a shell run `command` in `folder`, and gives how it ended and what it said on standard error.
fn typed(command: &str, folder: &Path) -> Result<(ExitStatus, String)> {
    let path = std::env::var("PATH").unwrap_or_default();
    let complaints = folder.join("complaints");
    let child = Command::new("sh")
        .args(["-c", &format!("exec {command}")])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", folder.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&complaints)?)
        .spawn()?;
    let mut running = Running(child);
    // Those that say how long they take are let do so, if it is not long.
    let enough = if command.contains("--since-start") { PATIENCE } else { ENOUGH };
    if running.ended_within(enough)?.is_none() {
        let pid = libc::pid_t::try_from(running.0.id())?;
        // SAFETY: kill has no memory preconditions; the child is not yet waited for, so the pid is its own.
        #[allow(unsafe_code, reason = "std sends only SIGKILL")]
        unsafe {
            libc::kill(pid, libc::SIGINT);
        }
    }
    let Some(status) = running.ended_within(PATIENCE)? else { bail!("`{command}` does not end on SIGINT") };
    Ok((status, std::fs::read_to_string(complaints)?))
}

/// A child that does not outlive its test.
struct Running(Child);

impl Running {
    fn ended_within(&mut self, time: Duration) -> Result<Option<ExitStatus>> {
        let begun = Instant::now();
        loop {
            match self.0.try_wait()? {
                None if begun.elapsed() < time => sleep(Duration::from_millis(20)),
                status => return Ok(status),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A word in capitals is for the reader to replace.
fn stands_for(word: &str) -> bool {
    matches!(word, "TARGET" | "PID")
}

/// The agent's commands in the documents.
fn of_the_agent() -> Result<Vec<Documented>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
    let mut commands = documents::commands(root)?;
    commands.retain(|documented| documented.command.starts_with("parkranger "));
    Ok(commands)
}

/// The agent's commands in the examples of its own help texts: what is in the first column of an indented line.
fn of_the_help() -> Result<Vec<Documented>> {
    let help = run_once(["--help"])?.stdout;
    let subcommands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut found = Vec::new();
    for name in
        subcommands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|name| !name.is_empty())
    {
        let help = run_once([name, "--help"])?.stdout;
        for line in
            help.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| line.starts_with("parkranger "))
        {
            let command = line.split("   ").next().unwrap_or(line).trim().to_owned();
            found.push(Documented { place: format!("parkranger {name} --help"), command, prompt: true });
        }
    }
    ensure!(!found.is_empty(), "no examples in the help texts: {help}");
    Ok(found)
}
