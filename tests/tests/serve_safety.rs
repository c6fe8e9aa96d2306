//! Who may ask, and that nobody who asks breaks anything.

#![allow(missing_docs, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use parkranger_tests::breakpoints::changed_offsets;
use parkranger_tests::daemon::{Daemon, Served, refused, serve, write_token};
use parkranger_tests::go::{Program, Variant, with_go};
use parkranger_tests::http::{get, get_with, raw};
use parkranger_tests::skip::{self, agent};
use parkranger_tests::target::Exercise;

const TOKEN: &str = "correct-horse-battery-staple";

/// What cannot be safe, or cannot be at all, does not start, and says why.
#[test]
fn refuses_to_start() {
    skip::run("serve_safety::refuses_to_start", agent(), || {
        let directory = tempfile::tempdir()?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        write_token(path("short").as_ref(), "secret\n")?;
        write_token(path("spaces").as_ref(), "correct horse battery staple\n")?;
        write_token(path("open").as_ref(), TOKEN)?;
        fs::set_permissions(path("open"), fs::Permissions::from_mode(0o644))?;
        fs::write(path("wrong.toml"), "listne = []\n")?;
        fs::write(path("pem"), "nothing\n")?;
        let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
        let taken = taken.local_addr()?.to_string();
        for (args, why) in [
            (vec!["--listen", "0.0.0.0:0"], "--token-file"),
            (vec!["--listen", ":0"], "--token-file"),
            (vec!["--listen", "0.0.0.0:0", "--token-file", &path("none")], "cannot read"),
            (vec!["--listen", "0.0.0.0:0", "--token-file", &path("short")], "anyone could guess it"),
            (vec!["--listen", "127.0.0.1:0", "--token-file", &path("spaces")], "a header cannot have"),
            (vec!["--listen", "127.0.0.1:0", "--token-file", &path("open")], "by other users"),
            (vec!["--config", &path("wrong.toml")], "listne"),
            (vec!["--config", &path("none.toml")], "cannot read"),
            (vec!["--listen", &taken], "cannot listen on"),
            (vec!["--tls-cert", &path("pem"), "--tls-key", &path("pem")], "no certificate"),
        ] {
            let output = refused(&args)?;
            ensure!(output.status.code() == Some(1) && output.stderr.contains(why), "{args:?}: {output:?}");
        }
        for args in [["--listen", "nonsense"], ["--interval", "1ms"], ["--tls-cert", "x"]] {
            let output = refused(args)?;
            ensure!(output.status.code() == Some(2), "{args:?}: {output:?}");
        }
        Ok(())
    });
}

/// With a token nothing but the health checks is answered without it; SIGHUP takes another.
#[test]
fn token() {
    with_go("serve_safety::token", 27, agent, |go| {
        let program = go.build(Program::Served, Variant::Plain)?.path;
        let served = Served::start(&program)?;
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("token");
        write_token(&file, &format!("{TOKEN}\n"))?;
        let mut daemon = Daemon::start_with(&program, &["--token-file", file.to_str().context("path")?])?;
        let pid = served.pid();
        let paths = [
            "/".to_owned(),
            "/metrics".to_owned(),
            "/openapi.json".to_owned(),
            "/api/v1/processes".to_owned(),
            format!("/api/v1/processes/{pid}/goroutines"),
            format!("/pids/{pid}/debug/pprof/goroutine"),
            "/nothing".to_owned(),
        ];
        let bearer = format!("Bearer {TOKEN}");
        for path in &paths {
            let none = daemon.get(path)?;
            ensure!(none.status == 401 && none.header("www-authenticate").is_some(), "{path}: {none:?}");
            for wrong in ["Bearer ", "Bearer wrong", "Basic Og==", "Bearer correct-horse-battery-staplf", TOKEN] {
                let answer = get_with(daemon.address(), path, &[("Authorization", wrong)])?;
                ensure!(answer.status == 401, "{path} with {wrong}: {answer:?}");
            }
            let answer = get_with(daemon.address(), path, &[("Authorization", &bearer)])?;
            let expected = if path == "/nothing" { 404 } else { 200 };
            ensure!(answer.status == expected, "{path}: {answer:?}");
        }
        ensure!(daemon.get("/healthz")?.status == 200 && daemon.get("/readyz")?.status == 200, "health");
        // As go tool pprof sends what stands in a URL.
        let url = format!("http://any:{TOKEN}@{}/pids/{pid}/debug/pprof/goroutine", daemon.address());
        ensure!(go.tool(&["pprof", "-top", &url])?.contains("main.recurse"), "pprof with the token in the URL");

        fs::write(&file, "another-horse-battery-staple\n")?;
        daemon.signal(libc::SIGHUP)?;
        daemon.wait_for_line("reloaded")?;
        ensure!(get_with(daemon.address(), "/metrics", &[("Authorization", &bearer)])?.status == 401, "the old token");
        let other = [("Authorization", "Bearer another-horse-battery-staple")];
        ensure!(get_with(daemon.address(), "/metrics", &other)?.status == 200, "the new token");
        // What is wrong changes nothing.
        fs::write(&file, "short\n")?;
        daemon.signal(libc::SIGHUP)?;
        daemon.wait_for_line("not reloaded")?;
        ensure!(get_with(daemon.address(), "/metrics", &other)?.status == 200, "still the token before");
        Ok(())
    });
}

/// TLS: the tools take it, and plain HTTP is not answered there.
#[test]
fn tls() {
    with_go("serve_safety::tls", 27, agent, |go| {
        let program = go.build(Program::Served, Variant::Plain)?.path;
        let served = Served::start(&program)?;
        let directory = tempfile::tempdir()?;
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        fs::write(&certificate, certified.cert.pem())?;
        fs::write(&key, certified.signing_key.serialize_pem())?;
        let files = [certificate.to_str().context("path")?, key.to_str().context("path")?];
        let daemon = Daemon::start_with(&program, &["--tls-cert", files[0], "--tls-key", files[1]])?;
        let url = format!("https+insecure://{}/pids/{}/debug/pprof/goroutine", daemon.address(), served.pid());
        ensure!(go.tool(&["pprof", "-top", &url])?.contains("main.recurse"), "pprof over TLS");
        let plain = daemon.get("/metrics");
        ensure!(plain.as_ref().map_or(true, |answer| answer.status != 200), "plain HTTP: {plain:?}");
        Ok(())
    });
}

/// A page that had its own name point here is turned away.
#[test]
fn host_header() {
    with_go("serve_safety::host_header", 27, agent, |go| {
        let (served, daemon) = serve(go, Variant::Plain, &["--allow-host", "proxy.example"])?;
        let ask = |host: &str| -> Result<u16> {
            let path = format!("/api/v1/processes/{}/sites", served.pid());
            Ok(get_with(daemon.address(), &path, &[("Host", host)])?.status)
        };
        for own in ["localhost", "localhost:1", "127.0.0.1", "[::1]:7117", "proxy.example", "PROXY.example:80"] {
            ensure!(ask(own)? == 200, "{own}");
        }
        for other in
            ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "evil.example:7117", "localhost@evil.example"]
        {
            let status = ask(other)?;
            ensure!(status == 403, "{other}: {status}");
        }
        for request in [
            "GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n",
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        ] {
            let answer = raw(daemon.address(), request.as_bytes())?;
            ensure!(matches!(answer.status, 400 | 403), "{request}: {answer:?}");
        }
        Ok(())
    });
}

/// Garbage has clear answers; nothing changes anything.
#[test]
fn garbage() {
    with_go("serve_safety::garbage", 27, agent, |go| {
        let (served, daemon) = serve(go, Variant::Plain, &[])?;
        let pid = served.pid();
        let sites = format!("/api/v1/processes/{pid}/sites");
        let goroutines = format!("/api/v1/processes/{pid}/goroutines");
        let profile = format!("/pids/{pid}/debug/pprof/goroutine");
        for (path, status) in [
            ("/api/v1/processes/0/sites".to_owned(), 400),
            ("/api/v1/processes/-1/sites".to_owned(), 400),
            ("/api/v1/processes/99999999999999999999/sites".to_owned(), 400),
            ("/api/v1/processes/..%2f..%2fetc/sites".to_owned(), 400),
            ("/api/v1/processes/1/sites".to_owned(), 404),
            (format!("{sites}?limit=0"), 400),
            (format!("{sites}?limit=10001"), 400),
            (format!("{sites}?limit=1&limit=2"), 400),
            (format!("{sites}?sort=x"), 400),
            (format!("{sites}?nothing=1"), 400),
            (format!("{sites}?site=%5b"), 400),
            (format!("{sites}?offset=18446744073709551615"), 200),
            (format!("{goroutines}?label=x"), 400),
            (format!("{goroutines}?from=-1"), 400),
            (format!("{goroutines}?system=yes"), 400),
            (format!("{goroutines}?state=%00%ff%0d%0a"), 404),
            (format!("{profile}?debug=x"), 400),
            (format!("{profile}?seconds=301"), 400),
            (format!("{profile}?seconds=-1"), 400),
            (format!("/pids/{}/debug/pprof/goroutine", std::process::id()), 404),
            ("/pids/4194304/debug/pprof/goroutine".to_owned(), 404),
            ("/pids/4194304/debug/pprof/births".to_owned(), 404),
            ("/../../etc/passwd".to_owned(), 404),
            (format!("/{}", "x".repeat(20_000)), 404),
        ] {
            let answer = daemon.get(&path)?;
            ensure!(answer.status == status, "{path}: {} {:?}", answer.status, answer.text());
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "NONSENSE"] {
            for path in ["/", "/metrics", &sites, &profile] {
                let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
                let answer = raw(daemon.address(), request.as_bytes())?;
                ensure!(answer.status == 405 && answer.header("allow").is_some(), "{method} {path}: {answer:?}");
            }
        }
        let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
        for request in [
            format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000)),
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000)),
            format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
            "\u{16}\u{3}\u{1}nonsense\r\n\r\n".to_owned(),
            "GET / HTTP/9.9\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n".to_owned(),
        ] {
            let answer = raw(daemon.address(), request.as_bytes())?;
            let start: String = request.chars().take(60).collect();
            ensure!((400..500).contains(&answer.status), "{start:?}: {answer:?}");
        }
        ensure!(daemon.get("/metrics")?.status == 200, "it lives");
        Ok(())
    });
}

/// More connections than there may be are turned away with the reason, and there is place again when others leave.
#[test]
fn too_many_connections() {
    with_go("serve_safety::too_many_connections", 27, agent, |go| {
        let program = go.build(Program::Served, Variant::Plain)?.path;
        let daemon = Daemon::start_with(&program, &["--max-connections", "2"])?;
        let others = [TcpStream::connect(daemon.address())?, TcpStream::connect(daemon.address())?];
        let deadline = Instant::now() + Duration::from_secs(10);
        let refused = loop {
            let answer = daemon.get("/healthz")?;
            if answer.status != 200 || Instant::now() > deadline {
                break answer;
            }
        };
        ensure!(refused.status == 503 && refused.header("retry-after").is_some(), "{refused:?}");
        ensure!(refused.text()? == "too many connections\n", "{refused:?}");
        drop(others);
        let deadline = Instant::now() + Duration::from_secs(10);
        while daemon.get("/healthz")?.status != 200 {
            ensure!(Instant::now() < deadline, "no place although the others are gone");
        }
        Ok(())
    });
}

/// The daemon keeps of root's privileges what it needs, in every thread, and watches another root's process with that.
#[test]
fn privileges() {
    with_go("serve_safety::privileges", 27, agent, |go| {
        const CHOWN: u64 = 1;
        const SYS_MODULE: u64 = 1 << 16;
        const SYS_PTRACE: u64 = 1 << 19;
        let (served, daemon) = serve(go, Variant::Plain, &[])?;
        daemon.wait_until(served.pid(), "watched", |process| process["baseline"] == true)?;
        daemon.ok(&format!("/pids/{}/debug/pprof/goroutine?debug=2", served.pid()))?;
        let mut threads = 0;
        for task in fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            for set in ["CapEff:", "CapPrm:"] {
                let set = u64::from_str_radix(field(set).context("capabilities")?, 16)?;
                ensure!(set & (CHOWN | SYS_MODULE) == 0 && set & SYS_PTRACE != 0, "{status}");
            }
            ensure!(field("NoNewPrivs:") == Some("1"), "{status}");
            threads += 1;
        }
        ensure!(threads > 2, "{threads} threads");
        Ok(())
    });
}

/// A daemon waits for programs; one that comes later is watched from soon on, one that ends stays for a while.
#[test]
fn waits_for_processes() {
    with_go("serve_safety::waits_for_processes", 27, agent, |go| {
        let (_directory, program) = go.build(Program::Served, Variant::Plain)?.private_copy()?;
        let daemon = Daemon::start_with(&program, &["--keep-ended", "1s"])?;
        let none = daemon.ok("/api/v1/processes")?.json()?;
        ensure!(none["processes"].as_array().is_some_and(Vec::is_empty), "{none}");
        ensure!(daemon.ok("/metrics")?.text()?.contains("parkranger_processes 0\n"), "metrics of no process");
        let mut served = Served::start(&program)?;
        let stats = served.ask("leak 3")?;
        let all = |process: &serde_json::Value| process["goroutines"]["user"].as_i64() == Some(stats.goroutines);
        daemon.wait_until(served.pid(), "watched", all)?;
        let path = format!("/api/v1/processes/{}/sites", served.pid());
        let pid = served.pid();
        drop(served);
        daemon.wait_until(pid, "ended", |process| process["ended"] == true)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while daemon.get(&path)?.status != 404 {
            ensure!(Instant::now() < deadline, "it is still there");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    });
}

/// The socket is for root only, and is taken away at the end; so are the probes.
#[test]
fn unix_socket_and_clean_end() {
    with_go("serve_safety::unix_socket_and_clean_end", 27, agent, |go| {
        let (_directory, program) = go.build(Program::Served, Variant::Plain)?.private_copy()?;
        let served = Served::start(&program)?;
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("socket");
        let unix = format!("unix:{}", socket.display());
        let daemon = Daemon::start_with(&program, &["--listen", &unix, "--listen", "127.0.0.1:0"])?;
        daemon.wait_until(served.pid(), "watched", |_| true)?;
        ensure!(!changed_offsets(served.pid())?.is_empty(), "probes are in place");
        ensure!(fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o600, "only root may");
        let mut stream = std::os::unix::net::UnixStream::connect(&socket)?;
        stream.write_all(b"GET /api/v1/processes HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.contains(" 200 ") && answer.contains(&format!("\"pid\":{}", served.pid())), "{answer}");
        let output = refused(["--listen", &unix])?;
        ensure!(output.status.code() == Some(1) && output.stderr.contains("cannot listen on"), "in use: {output:?}");
        let status = daemon.stop()?;
        ensure!(status.success(), "{status}");
        ensure!(changed_offsets(served.pid())?.is_empty(), "probes are gone");
        ensure!(!socket.exists(), "the socket is gone");
        Ok(())
    });
}

/// Asks for everything again and again, 64 at a time, slow readers and garbage among them: what happens in the target is
/// counted to the last birth, memory stays bounded, and answers are right or say why not.
#[test]
fn many_clients() {
    /// A long run is asked for by this variable.
    const SECONDS: &str = "PARKRANGER_SERVE_SECONDS";
    const CLIENTS: usize = 64;
    const MOST_BYTES: u64 = 256 << 20;
    with_go("serve_safety::many_clients", 27, agent, |go| {
        let seconds = std::env::var(SECONDS).map_or(Ok(5), |text| text.parse())?;
        let program = go.build(Program::Exercise, Variant::Plain)?.path;
        let mut exercise = Exercise::start(&program)?;
        let daemon = Daemon::start(&program)?;
        let pid = exercise.pid();
        let before = daemon.wait_until(pid, "counted", |process| process["baseline"] == true)?;
        let (stop, wrong) = (AtomicBool::new(false), AtomicU64::new(0));
        let answers = AtomicU64::new(0);
        let (mut births, mut most_bytes) = (0, 0);
        std::thread::scope(|scope| -> Result<()> {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let (stop, wrong, answers, address) = (&stop, &wrong, &answers, daemon.address());
                    scope.spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            match one_request(address, pid, client) {
                                Ok(()) => answers.fetch_add(1, Ordering::Relaxed),
                                Err(error) => {
                                    eprintln!("client {client}: {error:#}");
                                    wrong.fetch_add(1, Ordering::Relaxed)
                                }
                            };
                        }
                    })
                })
                .collect();
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(seconds) {
                exercise.spawn("plain", 5_000)?;
                births += 5_000;
                exercise.settle()?;
                most_bytes = most_bytes.max(daemon.resident_bytes()?);
            }
            stop.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().map_err(|_| anyhow::anyhow!("a client"))?;
            }
            Ok(())
        })?;
        ensure!(wrong.load(Ordering::Relaxed) == 0, "{} wrong answers", wrong.load(Ordering::Relaxed));
        eprintln!("{} answers, {births} births, at most {} MiB", answers.load(Ordering::Relaxed), most_bytes >> 20);
        ensure!(answers.load(Ordering::Relaxed) > 64 && most_bytes < MOST_BYTES, "{answers:?}, {most_bytes} bytes");
        let earlier = before["births"].as_u64().context("births")?;
        let counted = |process: &serde_json::Value| process["births"].as_u64() >= Some(earlier + births);
        daemon.wait_until(pid, "counted to the last birth", counted)?;
        let sites = daemon.ok(&format!("/api/v1/processes/{pid}/sites?limit=1000"))?.json()?;
        let plain = sites["sites"].as_array().context("sites")?.iter();
        let plain: u64 = plain
            .filter(|site| site["system"] == false)
            .filter_map(|site| site["births"].as_u64())
            .filter(|count| *count >= births)
            .sum();
        ensure!(plain == births, "{births} births at one site, {plain} counted: {sites}");
        let process = daemon.wait_until(pid, "watched", |_| true)?;
        ensure!(process["audits"]["drift"] == 0, "{process}");
        let lost: u64 =
            process["losses"].as_object().context("losses")?.values().filter_map(serde_json::Value::as_u64).sum();
        ensure!(lost == 0, "{process}");
        Ok(())
    });
}

/// One request of one kind of client.
fn one_request(address: &str, pid: u32, client: usize) -> Result<()> {
    let path = match client % 8 {
        0 => "/metrics".to_owned(),
        1 => "/api/v1/processes".to_owned(),
        2 => format!("/api/v1/processes/{pid}/sites"),
        3 => format!("/api/v1/processes/{pid}/goroutines"),
        4 => format!("/pids/{pid}/debug/pprof/goroutine?debug=2"),
        5 => format!("/pids/{pid}/debug/pprof/births"),
        6 => return slow_reader(address),
        _ => {
            let answer = raw(address, b"GARBAGE\x00\xff\r\n\r\n")?;
            ensure!((400..500).contains(&answer.status), "garbage: {answer:?}");
            return Ok(());
        }
    };
    let answer = get(address, &path)?;
    match answer.status {
        200 => ensure!(!answer.body.is_empty(), "{path} is empty"),
        429 => {
            ensure!(answer.header("retry-after").is_some(), "{path}: {answer:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        _ => anyhow::bail!("{path}: {} {:?}", answer.status, answer.text()),
    }
    Ok(())
}

/// Takes a few bytes of an answer, waits, and leaves.
fn slow_reader(address: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut byte = [0; 1];
    for _ in 0..5 {
        stream.read_exact(&mut byte)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
