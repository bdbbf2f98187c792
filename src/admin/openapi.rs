//! `GET /v1/openapi.json`: the protocol for other people's programs, made from the types and handlers.

use axum::Json;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

use super::http::Document;

#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "This document")))]
pub(super) async fn document() -> Json<OpenApi> {
    Json(Document::openapi())
}

#[cfg(test)]
mod tests {
    use super::super::http::ROUTES;
    use super::*;

    #[test]
    fn the_document_knows_every_route_and_no_other() {
        let document = serde_json::to_value(Document::openapi()).unwrap();
        let mut written: Vec<(String, String)> = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                written.push((method.to_uppercase(), path.clone()));
            }
        }
        let mut served: Vec<(String, String)> = ROUTES
            .iter()
            .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
            .collect();
        written.sort();
        served.sort();
        assert_eq!(written, served);
        let problem = &document["components"]["schemas"]["Problem"]["properties"];
        assert!(problem["type"].is_object(), "{problem}");
        assert!(problem["next"].is_object(), "{problem}");
    }
}
