//! The one request that changes something: how much is recorded of a process. It needs a token, also where others do not.

use std::sync::Arc;

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
use crate::governor::Fidelity;

/// What gives a binary back to the budget.
const BUDGET: &str = "budget";

/// `PUT /api/v1/processes/{pid}/fidelity?to=…`, for all processes of the binary.
pub(super) async fn fidelity(
    Extracted(state): Extracted<Arc<State>>,
    Path(of): Path<String>,
    uri: Uri,
) -> Result<StatusCode, Problem> {
    if state.live().token.is_none() {
        let message = "what is recorded can only be changed where there is a token: serve --token-file";
        return Err(Problem::new(StatusCode::FORBIDDEN, "token", message));
    }
    let params = Params::of(&uri, Some(&["to"]))?;
    let of = pid(&of)?;
    let wrong =
        || Problem::bad("to: full, sampled, lifecycle, sparse, census, or budget for as much as the budget allows");
    let fidelity = match params.one("to")?.ok_or_else(wrong)? {
        BUDGET => None,
        text => Some(Fidelity::from_str(text, false).map_err(|_| wrong())?),
    };
    match state.control.pin(of, fidelity).await {
        Some(true) => Ok(StatusCode::NO_CONTENT),
        Some(false) => Err(Problem::no_process(of)),
        None => Err(Problem::starting()),
    }
}
