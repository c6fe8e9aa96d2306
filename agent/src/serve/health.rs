//! Whether the daemon lives, and whether it has counts to show.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{extract::State as Extracted, http::StatusCode, response::Response};

use super::{problem::Problem, reading::whole, state::State};

/// A watch that published nothing for so long does not live.
const SILENCE: Duration = Duration::from_secs(120);

/// `/healthz`
pub(super) async fn alive(Extracted(state): Extracted<Arc<State>>) -> Result<Response, Problem> {
    let silent = state.latest().and_then(|snapshot| SystemTime::now().duration_since(snapshot.time).ok());
    match silent.filter(|silent| *silent > SILENCE) {
        Some(silent) => {
            let message = format!("nothing was counted for {} s", silent.as_secs());
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "watch", message))
        }
        None => Ok(whole("text/plain; charset=utf-8", "alive\n")),
    }
}

/// `/readyz`
pub(super) async fn ready(Extracted(state): Extracted<Arc<State>>) -> Result<Response, Problem> {
    state.snapshot()?;
    Ok(whole("text/plain; charset=utf-8", "ready\n"))
}
