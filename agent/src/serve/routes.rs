//! Which path is answered by what.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State as Extracted},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{MethodRouter, get, put},
};

use super::{
    api, control, guard::guard, health, leaks, metrics, openapi, pages, problem::Problem, profiles, state::State,
};

/// All routes.
pub(super) fn routes() -> Vec<(&'static str, MethodRouter<Arc<State>>)> {
    vec![
        ("/", get(pages::index)),
        ("/healthz", get(health::alive)),
        ("/readyz", get(health::ready)),
        ("/metrics", get(metrics::exposition)),
        ("/openapi.json", get(openapi::document)),
        ("/api/v1/processes", get(api::processes)),
        ("/api/v1/processes/{pid}/sites", get(api::sites)),
        ("/api/v1/processes/{pid}/fidelity", put(control::fidelity)),
        ("/api/v1/processes/{pid}/goroutines", get(api::goroutines)),
        ("/api/v1/processes/{pid}/leaks", get(leaks::answer)),
        ("/pids/{pid}/debug/pprof/", get(pages::profiles)),
        ("/pids/{pid}/debug/pprof/goroutine", get(profiles::goroutine)),
        ("/pids/{pid}/debug/pprof/births", get(profiles::births)),
        ("/pids/{pid}/debug/pprof/parks", get(profiles::parks)),
    ]
}

/// Everything that is answered, behind the guard.
pub(super) fn router(state: &Arc<State>) -> Router {
    let mut router = Router::new();
    for (path, answer) in routes() {
        router = router.route(path, answer);
    }
    router
        .fallback(nothing_there)
        .method_not_allowed_fallback(only_get)
        .layer(from_fn_with_state(Arc::clone(state), guard))
        .layer(from_fn_with_state(Arc::clone(state), observe))
        .with_state(Arc::clone(state))
}

async fn nothing_there() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "route", "there is nothing at this path; / lists what there is")
}

async fn only_get() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        "only GET and HEAD, and PUT for a fidelity: nothing else can be changed here",
    )
}

/// Counts requests, and gives every answer the headers that keep browsers from doing more with it than show it.
async fn observe(Extracted(state): Extracted<Arc<State>>, request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none".to_owned(), |path| path.as_str().to_owned());
    let mut response = next.run(request).await;
    state.metrics.request(&route, response.status(), begin.elapsed());
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
