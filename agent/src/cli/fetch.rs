//! One answer of an HTTP server, as `/debug/pprof/goroutine` of a Go program gives it.

use std::{io, time::Duration};

use axum::http::{Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// The body of the answer, if it is no longer than `limit` and comes within `within`. Only http:// is spoken.
pub(super) fn get(url: &str, within: Duration, limit: u64) -> io::Result<Vec<u8>> {
    let uri: Uri = url.parse().map_err(io::Error::other)?;
    if uri.scheme_str() != Some("http") {
        return Err(io::Error::other("only http:// is spoken here: save it with curl and give the file"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        timeout(within, ask(&uri, limit)).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
    })
}

async fn ask(uri: &Uri, limit: u64) -> io::Result<Vec<u8>> {
    let host = uri.host().ok_or_else(|| io::Error::other("no host in the URL"))?;
    let port = uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(header::HOST, format!("{host}:{port}")).body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
    if answer.status() != StatusCode::OK {
        return Err(io::Error::other(format!("it answers {}", answer.status())));
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let body = Limited::new(answer.into_body(), limit).collect().await.map_err(io::Error::other)?;
    connection.abort();
    Ok(body.to_bytes().to_vec())
}
