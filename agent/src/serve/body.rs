//! An answer of any length, written by a thread, no faster than the client reads it and for no longer than a limit.
//!
//! An answer that could not be written to its end does not look like a whole one: the connection breaks.

use std::{
    io::{self, Write},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_stream::Stream;

/// Bytes given on at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that wait for the client.
const CHUNKS: usize = 8;

/// The writing end. Belongs to a thread that may wait.
pub(super) struct BodyWriter {
    chunks: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
    finished: Arc<AtomicBool>,
    until: Instant,
    runtime: Handle,
}

/// The reading end.
struct Chunks {
    chunks: mpsc::Receiver<Bytes>,
    finished: Arc<AtomicBool>,
    ended: bool,
}

/// A body, and what writes it until then.
pub(super) fn body(runtime: Handle, until: Instant) -> (BodyWriter, Body) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let finished = Arc::new(AtomicBool::new(false));
    let buffer = Vec::with_capacity(CHUNK_BYTES);
    let writer = BodyWriter { chunks: sender, buffer, finished: Arc::clone(&finished), until, runtime };
    (writer, Body::from_stream(Chunks { chunks: receiver, finished, ended: false }))
}

impl BodyWriter {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES)));
        let sent = self.runtime.block_on(async { timeout_at(self.until, self.chunks.send(chunk)).await });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly")),
        }
    }

    /// Ends the body: without this it is a broken one.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.send()?;
        self.finished.store(true, Ordering::Release);
        Ok(())
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.buffer.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    /// Chunks go when they are full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Chunks {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(chunk) = ready!(self.chunks.poll_recv(context)) {
            return Poll::Ready(Some(Ok(chunk)));
        }
        self.ended = true;
        let whole = self.finished.load(Ordering::Acquire);
        Poll::Ready(if whole { None } else { Some(Err(io::Error::other("the answer was not finished"))) })
    }
}
