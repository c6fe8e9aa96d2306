//! As much of HTTP as a test needs, over a plain socket: so that it can also ask what no library would.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// For the longest answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// 200
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Whole.
    pub body: Vec<u8>,
}

impl Response {
    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Errors
    /// When it is none.
    pub fn text(&self) -> Result<&str> {
        Ok(std::str::from_utf8(&self.body)?)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| String::from_utf8_lossy(&self.body).into_owned())
    }
}

/// Asks for a path.
///
/// # Errors
/// When there is no whole answer.
pub fn get(address: &str, path: &str) -> Result<Response> {
    get_with(address, path, &[])
}

/// Asks for a path and expects it.
///
/// # Errors
/// When the answer is another than 200.
pub fn get_ok(address: &str, path: &str) -> Result<Response> {
    let response = get(address, path)?;
    ensure!(response.status == 200, "{path}: {} {:?}", response.status, response.text());
    Ok(response)
}

/// Asks with more headers; a `Host` among them is the only one.
///
/// # Errors
/// When there is no whole answer.
pub fn get_with(address: &str, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
    send(address, "GET", path, headers)
}

/// Asks by another method than GET.
///
/// # Errors
/// When there is no whole answer.
pub fn send(address: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if headers.iter().all(|(name, _)| *name != "Host") {
        request.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    raw(address, request.as_bytes())
}

/// Sends bytes, and reads an answer to its end.
///
/// # Errors
/// When there is none, or not a whole one.
pub fn raw(address: &str, request: &[u8]) -> Result<Response> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // A request that is turned away early may find nobody reading.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    // What came before a reset is still an answer.
    let _ = stream.read_to_end(&mut answer);
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Response> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let end = end.with_context(|| format!("no answer but {:?}", String::from_utf8_lossy(answer)))?;
    let head = std::str::from_utf8(&answer[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("status line")?.parse()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let body = answer[end + 4..].to_vec();
    let mut response = Response { status, headers, body };
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = dechunk(&response.body)?;
    } else if let Some(length) = response.header("content-length") {
        ensure!(length.parse() == Ok(response.body.len()), "a body of {}, not {length}", response.body.len());
    }
    Ok(response)
}

fn dechunk(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n").context("a body that breaks off")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end])?, 16)?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        let Some(chunk) = bytes.get(..size) else { bail!("a body that breaks off") };
        body.extend_from_slice(chunk);
        bytes = bytes.get(size + 2..).context("a body that breaks off")?;
    }
}
