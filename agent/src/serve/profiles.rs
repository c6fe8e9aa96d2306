//! `/pids/{pid}/debug/pprof/…`: what `go tool pprof` and profilers that scrape it read, as Go's own handlers answer
//! (`net/http/pprof/pprof.go`).

use std::{io, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Path, State as Extracted},
    http::{HeaderMap, HeaderValue, Uri, header},
    response::Response,
};
use parkranger_common::counts::ProcessId;
use tokio::time::sleep;

use super::{
    guard::Peer,
    params::{Params, pid},
    problem::Problem,
    reading::{Read, Reply, answer, made, pass, read},
    state::{State, process},
};
use crate::{
    census::Detail,
    dump::Dump,
    export::{
        self, Selection,
        site_profile::{self, SiteProfile},
    },
    snapshot::{ProcessSnapshot, Snapshot},
};

const PROFILE: HeaderValue = HeaderValue::from_static("application/octet-stream");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// The longest time between two readings that are compared.
const LONGEST: Duration = Duration::from_secs(300);

/// What is asked for. Parameters that Go does not know either are let pass, as Go does.
struct Asked {
    pid: u32,
    debug: u32,
    /// Time between two profiles whose difference is asked for.
    between: Option<Duration>,
}

impl Asked {
    fn of(of: &str, uri: &Uri) -> Result<Self, Problem> {
        let params = Params::of(uri, None)?;
        let debug = params.parsed("debug")?.unwrap_or(0);
        let between = params.parsed("seconds")?.filter(|seconds| *seconds > 0).map(Duration::from_secs);
        if between.is_some() && debug != 0 {
            return Err(Problem::bad("seconds and debug params are incompatible"));
        }
        if between.is_some_and(|between| between > LONGEST) {
            return Err(Problem::bad(format!("seconds: at most {}", LONGEST.as_secs())));
        }
        Ok(Self { pid: pid(of)?, debug, between })
    }
}

/// `goroutine`
pub(super) async fn goroutine(
    Extracted(state): Extracted<Arc<State>>,
    Extension(peer): Extension<Peer>,
    Path(of): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    profile_of_goroutines(&state, peer, &of, &uri).await.map_err(Problem::for_pprof)
}

async fn profile_of_goroutines(state: &Arc<State>, peer: Peer, of: &str, uri: &Uri) -> Result<Response, Problem> {
    let asked = Asked::of(of, uri)?;
    let pass = pass(state, peer.client)?;
    let detail = Detail { stacks: true, labels: true, waits: false };
    let first = read(state, asked.pid, detail).await?;
    let Some(between) = asked.between else {
        return answer(state, pass, move |reply| write(&first, asked.debug, reply)).await;
    };
    // Somebody else's turn meanwhile.
    let before = first.leave();
    sleep(between).await;
    let after = read(state, asked.pid, detail).await?;
    if before.subject.identity() != after.subject.identity() {
        return Err(Problem::no_process(asked.pid));
    }
    let difference = move |reply: Reply| {
        let mut body = reply.begin(attachment("goroutine-delta"));
        before.dump(|before| {
            after.dump(|after| export::pprof::write_difference(&user(before), &user(after), &mut body))
        })?;
        body.finish()
    };
    answer(state, pass, difference).await
}

fn write(read: &Read, debug: u32, reply: Reply) -> io::Result<()> {
    let mut text = HeaderMap::new();
    text.insert(header::CONTENT_TYPE, TEXT);
    read.dump(|dump| {
        let dump = user(dump);
        let mut body = reply.begin(if debug == 0 { attachment("goroutine") } else { text });
        match debug {
            0 => export::pprof::write(&dump, &mut body),
            1 => export::summary::write(&dump, &mut body),
            _ => export::text::write(&dump, &mut body),
        }?;
        body.finish()
    })
}

/// With the goroutines that are the user's, as the runtime's own profile has them.
fn user(mut dump: Dump<'_>) -> Dump<'_> {
    dump.selected = Selection::default().of(&dump);
    dump
}

fn attachment(name: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, PROFILE);
    if let Ok(value) = format!("attachment; filename=\"{name}\"").parse() {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    headers
}

/// `births`
pub(super) async fn births(
    Extracted(state): Extracted<Arc<State>>,
    Path(of): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    by_site(&state, SiteProfile::Births, &of, &uri).await.map_err(Problem::for_pprof)
}

/// `parks`
pub(super) async fn parks(
    Extracted(state): Extracted<Arc<State>>,
    Path(of): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    by_site(&state, SiteProfile::Parks, &of, &uri).await.map_err(Problem::for_pprof)
}

async fn by_site(state: &State, profile: SiteProfile, of: &str, uri: &Uri) -> Result<Response, Problem> {
    let asked = Asked::of(of, uri)?;
    if asked.debug != 0 {
        return Err(Problem::bad("there is no text form of this profile; /api/v1/processes/PID/sites has its numbers"));
    }
    let first = state.snapshot()?;
    let id = process(&first, asked.pid)?.id;
    let (before, now) = match asked.between {
        None => (None, first),
        Some(between) => {
            let later = later(state, &first, between).await?;
            (Some(first), later)
        }
    };
    let name = match (profile, before.is_some()) {
        (SiteProfile::Births, false) => "births",
        (SiteProfile::Births, true) => "births-delta",
        (SiteProfile::Parks, false) => "parks",
        (SiteProfile::Parks, true) => "parks-delta",
    };
    let bytes = made(move || {
        let process = same(&now, id).ok_or_else(|| Problem::no_process(asked.pid))?;
        let earlier = before
            .as_ref()
            .and_then(|before| Some((same(before, id)?, now.time.duration_since(before.time).unwrap_or_default())));
        let mut bytes = Vec::new();
        site_profile::write(profile, process, now.time, earlier, &mut bytes)
            .map_err(|error| Problem::internal(error.to_string()))?;
        Ok::<_, Problem>(bytes)
    });
    let mut response = Response::new(bytes.await??.into());
    *response.headers_mut() = attachment(name);
    Ok(response)
}

fn same(snapshot: &Snapshot, id: ProcessId) -> Option<&ProcessSnapshot> {
    snapshot.processes.iter().map(|process| &**process).find(|process| process.id == id)
}

/// The first snapshot that is `between` later than `first`.
async fn later(state: &State, first: &Snapshot, between: Duration) -> Result<Arc<Snapshot>, Problem> {
    let is_later = |snapshot: &Option<Arc<Snapshot>>| {
        let now = snapshot.as_ref().map(|snapshot| snapshot.time);
        now.is_some_and(|now| now.duration_since(first.time).is_ok_and(|elapsed| elapsed >= between))
    };
    let mut snapshots = state.snapshots();
    let later = snapshots.wait_for(is_later).await.map_err(|_| Problem::internal("the watch has ended"))?;
    later.clone().ok_or_else(Problem::starting)
}
