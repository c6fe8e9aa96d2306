//! Answers that say why there is none.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{census::CensusError, host::HostError};

/// Why a request is not answered.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    kind: &'static str,
    message: String,
    retry_after_s: Option<u32>,
    /// As `go tool pprof` prints it, not as JSON.
    for_pprof: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    error: &'a str,
}

impl Problem {
    /// `kind` is a word for the metrics, `message` a sentence for whoever asked.
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), retry_after_s: None, for_pprof: false }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "parameter", message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "token", "a token is needed: Authorization: Bearer TOKEN")
    }

    /// Not now.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message);
        Self { retry_after_s: Some(1), ..problem }
    }

    /// Nothing was published yet.
    pub(super) fn starting() -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "starting", "parkranger is still starting");
        Self { retry_after_s: Some(1), ..problem }
    }

    pub(super) fn no_process(pid: u32) -> Self {
        Self::new(StatusCode::NOT_FOUND, "process", format!("process {pid} is not watched"))
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// The same in plain text, marked as `go tool pprof` wants it to print it.
    pub(super) fn for_pprof(self) -> Self {
        Self { for_pprof: true, ..self }
    }

    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }
}

impl From<CensusError> for Problem {
    fn from(error: CensusError) -> Self {
        let message = error.to_string();
        match error {
            CensusError::Host(HostError::NoSuchProcess { .. } | HostError::NoExecutable { .. }) => {
                Self::new(StatusCode::NOT_FOUND, "process", message)
            }
            CensusError::GoBinary(why) if why.is_not_go() => Self::new(StatusCode::NOT_FOUND, "process", message),
            CensusError::Starting | CensusError::Unsteady => {
                let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "census", message);
                Self { retry_after_s: Some(1), ..problem }
            }
            CensusError::HeldBack { .. } => Self::new(StatusCode::GATEWAY_TIMEOUT, "census", message),
            // What the process is, not what went wrong here.
            _ => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "census", message),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (kind, text) = if self.for_pprof {
            ("text/plain; charset=utf-8", format!("{}\n", self.message))
        } else {
            let json = serde_json::to_string(&Document { error: &self.message }).unwrap_or_default();
            ("application/json", format!("{json}\n"))
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if self.for_pprof {
            headers.insert("x-go-pprof", HeaderValue::from_static("1"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"parkranger\""));
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"parkranger\""));
        }
        response
    }
}
