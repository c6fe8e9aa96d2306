//! The description of everything that is answered.

use axum::response::Response;

use super::reading::whole;

/// OpenAPI 3.0, kept by hand; a test holds it to the routes, another to the answers.
const DOCUMENT: &str = include_str!("openapi.json");

/// `/openapi.json`
pub(super) async fn document() -> Response {
    whole("application/json", DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        let described: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let routes = super::super::routes::routes();
        let answered: BTreeSet<&str> = routes.iter().map(|(path, _)| *path).collect();
        assert_eq!(described, answered);
    }
}
