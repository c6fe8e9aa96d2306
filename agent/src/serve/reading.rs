//! Reads the goroutines of a process for a request, in a thread that may wait, within the limits.

use std::{io, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, oneshot},
    task::spawn_blocking,
    time::Instant,
};
use tracing::debug;

use super::{
    body::{BodyWriter, body},
    guard::Client,
    limits::Pass,
    problem::Problem,
    state::{State, process},
};
use crate::{
    census::{Census, Detail},
    dump::{Dump, GoProcess},
    host::Identity,
};

/// A process and its goroutines.
pub(super) struct Read {
    pub(super) subject: GoProcess,
    pub(super) census: Census,
    /// Held while they are being written.
    turn: Option<OwnedSemaphorePermit>,
}

/// What is written before a body.
pub(super) struct Reply {
    answer: oneshot::Sender<Response>,
    until: Instant,
    runtime: Handle,
}

impl Read {
    /// Lets others have their turn, and keeps what was read.
    pub(super) fn leave(mut self) -> Self {
        self.turn = None;
        self
    }

    /// Calls `write` with the goroutines in words.
    pub(super) fn dump<T>(&self, write: impl FnOnce(Dump<'_>) -> T) -> T {
        let names = self.subject.names();
        write(self.subject.dump(&self.census, &names))
    }
}

impl Reply {
    /// Begins an answer.
    pub(super) fn begin(self, headers: HeaderMap) -> BodyWriter {
        let (writer, body) = body(self.runtime, self.until);
        let mut response = Response::new(body);
        *response.headers_mut() = headers;
        // If the client is gone the writer will notice.
        let _ = self.answer.send(response);
        writer
    }
}

/// Lets a client ask for goroutines.
pub(super) fn pass(state: &State, client: Client) -> Result<Pass, Problem> {
    state.censuses.pass(client, state.live().limits.censuses_per_client)
}

/// Takes a census of a process that is watched, when it is its turn. Others do not exist, whatever they are: rules bind here
/// as they do for counts.
pub(super) async fn read(state: &Arc<State>, pid: u32, detail: Detail) -> Result<Read, Problem> {
    let limits = state.live().limits;
    let start_time = process(&*state.snapshot()?, pid)?.start_time;
    let identity = Identity { pid, start_time };
    let reading = state.censuses.process(identity, limits.turn).await?;
    let turn = state.censuses.turn(limits.turn).await?;
    let state = Arc::clone(state);
    let take = move || {
        let begin = std::time::Instant::now();
        let subject = state.subjects.subject(pid)?;
        // The pid may be another's by now, one that is not watched.
        if subject.identity() != identity {
            return Err(Problem::no_process(pid));
        }
        let census = subject.census(detail, limits.census, reading)?;
        state.metrics.census(begin.elapsed());
        Ok::<_, Problem>(Read { subject, census, turn: Some(turn) })
    };
    spawn_blocking(take).await.map_err(|error| Problem::internal(format!("the census failed: {error}")))?
}

/// Has an answer written from what was read. A client that reads it too slowly is left.
pub(super) async fn answer(
    state: &State,
    pass: Pass,
    write: impl FnOnce(Reply) -> io::Result<()> + Send + 'static,
) -> Result<Response, Problem> {
    let (answer, begun) = oneshot::channel();
    let until = Instant::now() + state.live().limits.answer;
    let reply = Reply { answer, until, runtime: Handle::current() };
    spawn_blocking(move || {
        if let Err(error) = write(reply) {
            debug!("an answer was not written to its end: {error}");
        }
        drop(pass);
    });
    begun.await.map_err(|_| Problem::internal("no answer was made"))
}

/// An answer whose bytes are there.
pub(super) fn whole(content_type: &'static str, bytes: impl Into<Body>) -> Response {
    let mut response = Response::new(bytes.into());
    response.headers_mut().insert(axum::http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Makes bytes in a thread that may take its time.
pub(super) async fn made<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    spawn_blocking(make).await.map_err(|error| Problem::internal(format!("the answer failed: {error}")))
}
