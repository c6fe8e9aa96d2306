//! The one request that changes something: how much is recorded of a process. It needs a token, also where others do not.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, State as Extracted},
    http::{StatusCode, Uri},
};
use clap::ValueEnum as _;

use super::{
    params::{Params, pid},
    problem::Problem,
    state::State,
};
use crate::{governor::Fidelity, watch::Pinned};

/// What gives a binary back to the budget.
const BUDGET: &str = "budget";
/// How long a story is told, where nothing is said, and how long at most.
const STORY: Duration = Duration::from_secs(60);
const LONGEST_STORY: Duration = Duration::from_secs(3600);

/// `PUT /api/v1/processes/{pid}/fidelity?to=…`, for all processes of the binary; `&for=…` says how long a story is told.
pub(super) async fn fidelity(
    Extracted(state): Extracted<Arc<State>>,
    Path(of): Path<String>,
    uri: Uri,
) -> Result<StatusCode, Problem> {
    if state.live().token.is_none() {
        let message = "what is recorded can only be changed where there is a token: serve --token-file";
        return Err(Problem::new(StatusCode::FORBIDDEN, "token", message));
    }
    let params = Params::of(&uri, Some(&["to", "for"]))?;
    let of = pid(&of)?;
    let wrong = || {
        Problem::bad("to: story, full, sampled, lifecycle, sparse, census, or budget for as much as the budget allows")
    };
    let fidelity = match params.one("to")?.ok_or_else(wrong)? {
        BUDGET => None,
        text => Some(Fidelity::from_str(text, false).map_err(|_| wrong())?),
    };
    let time = params.one("for")?.map(duration).transpose()?;
    if time.is_some() && fidelity != Some(Fidelity::Story) {
        return Err(Problem::new(StatusCode::CONFLICT, "fidelity", "for: only a story ends by itself"));
    }
    match state.control.pin(of, fidelity, time.unwrap_or(STORY)).await {
        Some(Pinned::Done) => Ok(StatusCode::NO_CONTENT),
        Some(Pinned::NotWatched) => Err(Problem::no_process(of)),
        Some(Pinned::Impossible(why)) => Err(Problem::new(StatusCode::CONFLICT, "fidelity", why)),
        None => Err(Problem::starting()),
    }
}

fn duration(text: &str) -> Result<Duration, Problem> {
    let time = humantime::parse_duration(text).map_err(|error| Problem::bad(format!("for: {error}")))?;
    let allowed = Duration::from_secs(1)..=LONGEST_STORY;
    if allowed.contains(&time) { Ok(time) } else { Err(Problem::bad("for: 1s to 1h")) }
}
