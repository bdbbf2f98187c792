//! The status page: one HTML document without data, and a script that fills it from the protocol.
//!
//! It shows what `details` shows. Since the page itself says nothing, it needs no token; the script
//! asks for one when the protocol does. Everything is written as text, never as HTML, so there is
//! nothing to escape and nothing that could be forgotten.

use axum::http::header;
use axum::response::IntoResponse;

/// No other origin, no inline script.
const POLICY: &str =
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'";

#[utoipa::path(get, path = "/", responses((status = 200, content_type = "text/html", body = String)))]
pub(super) async fn page() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    (headers, include_str!("page.html"))
}

pub(super) async fn script() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (headers, include_str!("page.js"))
}
