//! The admin protocol over HTTP: routes, handlers and problem documents.
//!
//! A handler reads the request, asks the [`AdminApi`] and writes the answer; it decides nothing. Who
//! may ask is `guard`'s, where to listen is `listen`'s. Whatever goes wrong, also in paths, bodies and
//! methods, is answered with a problem document (RFC 9457).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequestParts, RawQuery, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use axum::{Extension, Json, Router};
use futures_util::{Stream, StreamExt as _, future};
use serde::de::DeserializeOwned;

use super::api::{
    AdminApi, Analysis, ArrayDetails, BackupRequest, Configuration, Event, Events, Job,
    MemberDetails, PackRequest, Problem, RateLimit, RecoverRequest, Recovery, Reloaded,
    ScrubRequest, Status,
};
use super::guard::{Known, Rules, Token, guard};
use super::listen::{ListenError, Socket, Tcp};
use super::metrics::Metrics;
use super::serve::serve;
use super::{openapi, page};
use crate::task::{Stop, Tasks};

/// No request of this protocol is larger.
pub(super) const LARGEST_BODY: usize = 64 * 1024;

/// Every route: the answer to an unknown path, and what the `OpenAPI` document is checked against.
pub(crate) const ROUTES: &[(&str, &str)] = &[
    ("GET", "/v1/status"),
    ("GET", "/v1/arrays"),
    ("GET", "/v1/arrays/{array}"),
    ("POST", "/v1/arrays/{array}/members/{member}/recover"),
    ("GET", "/v1/arrays/{array}/members/{member}/analysis"),
    ("POST", "/v1/arrays/{array}/members/{member}/disable"),
    ("GET", "/v1/arrays/{array}/recovery"),
    ("PATCH", "/v1/arrays/{array}/recovery"),
    ("DELETE", "/v1/arrays/{array}/recovery"),
    ("POST", "/v1/arrays/{array}/pack"),
    ("POST", "/v1/arrays/{array}/backup"),
    ("POST", "/v1/arrays/{array}/scrub"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/{id}"),
    ("DELETE", "/v1/jobs/{id}"),
    ("GET", "/v1/configuration"),
    ("GET", "/v1/events"),
    ("POST", "/v1/reload"),
    ("POST", "/v1/shutdown"),
    ("POST", "/v1/reopen-logs"),
    ("GET", "/v1/openapi.json"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/"),
];

/// What is served.
#[derive(Clone)]
pub struct Admin {
    pub api: Arc<dyn AdminApi>,
    pub metrics: Metrics,
}

#[derive(Clone)]
struct Shared {
    admin: Admin,
    stop: Stop,
}

/// Serves on the Unix socket until the tasks are told to stop.
pub fn serve_socket(tasks: &Tasks, socket: Socket, admin: Admin) {
    let router = router(admin, Rules::default(), tasks.stop().clone());
    let serving = serve(socket, router, "admin socket", tasks.clone());
    tasks.spawn("admin socket", serving);
}

/// Serves on a Unix socket as if it were an address of a network, where a token is asked for.
#[cfg(any(test, fuzzing))]
pub(crate) fn serve_socket_as_network(tasks: &Tasks, socket: Socket, token: Token, admin: Admin) {
    let rules = Rules {
        token: Some(Arc::new(token)),
        network: true,
        ..Rules::default()
    };
    let router = router(admin, rules, tasks.stop().clone());
    let serving = serve(socket, router, "admin socket", tasks.clone());
    tasks.spawn("admin socket", serving);
}

/// Serves on a TCP address until the tasks are told to stop.
pub fn serve_tcp(tasks: &Tasks, tcp: Tcp, token: Option<Token>, admin: Admin) {
    let rules = Rules {
        token: token.map(Arc::new),
        network: true,
        ..Rules::default()
    };
    let router = router(admin, rules, tasks.stop().clone());
    let serving = serve(tcp, router, "admin address", tasks.clone());
    tasks.spawn("admin address", serving);
}

/// Binds and serves in one step, for those who need no port.
///
/// # Errors
/// Where the socket cannot be used.
pub async fn start(tasks: &Tasks, path: &std::path::Path, admin: Admin) -> Result<(), ListenError> {
    let socket = Socket::bind(path).await?;
    serve_socket(tasks, socket, admin);
    Ok(())
}

fn router(admin: Admin, rules: Rules, stop: Stop) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/arrays", get(arrays))
        .route("/v1/arrays/{array}", get(array))
        .route("/v1/arrays/{array}/members/{member}/recover", post(recover))
        .route(
            "/v1/arrays/{array}/members/{member}/analysis",
            get(analysis),
        )
        .route("/v1/arrays/{array}/members/{member}/disable", post(disable))
        .route(
            "/v1/arrays/{array}/recovery",
            patch(change_recovery).get(recovery).delete(cancel_recovery),
        )
        .route("/v1/arrays/{array}/pack", post(pack))
        .route("/v1/arrays/{array}/backup", post(backup))
        .route("/v1/arrays/{array}/scrub", post(scrub))
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{id}", get(job).delete(cancel_job))
        .route("/v1/configuration", get(configuration))
        .route("/v1/events", get(events))
        .route("/v1/reload", post(reload))
        .route("/v1/shutdown", post(shutdown))
        .route("/v1/reopen-logs", post(reopen_logs))
        .route("/v1/openapi.json", get(openapi::document))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/", get(page::page))
        .route("/page.js", get(page::script))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn_with_state(rules, guard))
        .with_state(Shared { admin, stop })
}

type Answer<T> = Result<Json<T>, Problem>;

#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
async fn status(State(shared): State<Shared>) -> Answer<Status> {
    shared.admin.api.status().await.map(Json)
}

#[utoipa::path(get, path = "/v1/arrays", responses((status = 200, body = Vec<ArrayDetails>)))]
async fn arrays(State(shared): State<Shared>) -> Answer<Vec<ArrayDetails>> {
    shared.admin.api.arrays().await.map(Json)
}

#[utoipa::path(get, path = "/v1/arrays/{array}", params(("array" = String, Path)),
    responses((status = 200, body = ArrayDetails), (status = 404, body = Problem)))]
async fn array(State(shared): State<Shared>, Named(array): Named<String>) -> Answer<ArrayDetails> {
    shared.admin.api.array(&array).await.map(Json)
}

#[utoipa::path(post, path = "/v1/arrays/{array}/members/{member}/recover",
    params(("array" = String, Path), ("member" = String, Path)), request_body = RecoverRequest,
    responses((status = 200, body = Recovery), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn recover(
    State(shared): State<Shared>,
    Named((array, member)): Named<(String, String)>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Recovery> {
    let request: RecoverRequest = read(body, Some(RecoverRequest::default()))?;
    let api = &shared.admin.api;
    api.recover(&array, &member, request).await.map(Json)
}

#[utoipa::path(get, path = "/v1/arrays/{array}/members/{member}/analysis",
    params(("array" = String, Path), ("member" = String, Path)),
    responses((status = 200, body = Analysis), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn analysis(
    State(shared): State<Shared>,
    Named((array, member)): Named<(String, String)>,
) -> Answer<Analysis> {
    shared.admin.api.analyse(&array, &member).await.map(Json)
}

#[utoipa::path(post, path = "/v1/arrays/{array}/members/{member}/disable",
    params(("array" = String, Path), ("member" = String, Path)),
    responses((status = 200, body = MemberDetails), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn disable(
    State(shared): State<Shared>,
    Named((array, member)): Named<(String, String)>,
) -> Answer<MemberDetails> {
    shared.admin.api.disable(&array, &member).await.map(Json)
}

#[utoipa::path(get, path = "/v1/arrays/{array}/recovery", params(("array" = String, Path)),
    responses((status = 200, body = Recovery), (status = 404, body = Problem)))]
async fn recovery(State(shared): State<Shared>, Named(array): Named<String>) -> Answer<Recovery> {
    shared.admin.api.recovery(&array).await.map(Json)
}

#[utoipa::path(patch, path = "/v1/arrays/{array}/recovery", params(("array" = String, Path)),
    request_body = RateLimit,
    responses((status = 200, body = Recovery), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn change_recovery(
    State(shared): State<Shared>,
    Named(array): Named<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Recovery> {
    let rate: RateLimit = read(body, None)?;
    let api = &shared.admin.api;
    api.change_recovery(&array, rate).await.map(Json)
}

#[utoipa::path(delete, path = "/v1/arrays/{array}/recovery", params(("array" = String, Path)),
    responses((status = 200, body = Recovery), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn cancel_recovery(
    State(shared): State<Shared>,
    Named(array): Named<String>,
) -> Answer<Recovery> {
    shared.admin.api.cancel_recovery(&array).await.map(Json)
}

#[utoipa::path(post, path = "/v1/arrays/{array}/pack", params(("array" = String, Path)),
    request_body = PackRequest,
    responses((status = 200, body = Job), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn pack(
    State(shared): State<Shared>,
    Named(array): Named<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Job> {
    let request: PackRequest = read(body, Some(PackRequest::default()))?;
    shared.admin.api.pack(&array, request).await.map(Json)
}

#[utoipa::path(post, path = "/v1/arrays/{array}/backup", params(("array" = String, Path)),
    request_body = BackupRequest,
    responses((status = 200, body = Job), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn backup(
    State(shared): State<Shared>,
    Named(array): Named<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Job> {
    let request: BackupRequest = read(body, None)?;
    shared.admin.api.back_up(&array, request).await.map(Json)
}

#[utoipa::path(post, path = "/v1/arrays/{array}/scrub", params(("array" = String, Path)),
    request_body = ScrubRequest,
    responses((status = 200, body = Job), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn scrub(
    State(shared): State<Shared>,
    Named(array): Named<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Job> {
    let request: ScrubRequest = read(body, Some(ScrubRequest::default()))?;
    shared.admin.api.scrub(&array, request).await.map(Json)
}

#[utoipa::path(get, path = "/v1/jobs", responses((status = 200, body = Vec<Job>)))]
async fn jobs(State(shared): State<Shared>) -> Answer<Vec<Job>> {
    shared.admin.api.jobs().await.map(Json)
}

#[utoipa::path(get, path = "/v1/jobs/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Job), (status = 404, body = Problem)))]
async fn job(State(shared): State<Shared>, Named(id): Named<String>) -> Answer<Job> {
    shared.admin.api.job(&id).await.map(Json)
}

#[utoipa::path(delete, path = "/v1/jobs/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Job), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn cancel_job(State(shared): State<Shared>, Named(id): Named<String>) -> Answer<Job> {
    shared.admin.api.cancel_job(&id).await.map(Json)
}

#[utoipa::path(get, path = "/v1/configuration", responses((status = 200, body = Configuration)))]
async fn configuration(State(shared): State<Shared>) -> Answer<Configuration> {
    shared.admin.api.configuration().await.map(Json)
}

#[utoipa::path(post, path = "/v1/reload", params(("dry_run" = Option<bool>, Query)),
    responses((status = 200, body = Reloaded), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn reload(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Answer<Reloaded> {
    let dry_run = match query.as_deref() {
        None | Some("" | "dry_run=false" | "dry_run=0") => false,
        Some("dry_run" | "dry_run=" | "dry_run=true" | "dry_run=1") => true,
        Some(other) => {
            let detail = format!("`?{other}` is not understood; known is `?dry_run`");
            return Err(Problem::invalid(detail));
        }
    };
    shared.admin.api.reload(dry_run).await.map(Json)
}

#[utoipa::path(post, path = "/v1/shutdown", responses((status = 202)))]
async fn shutdown(State(shared): State<Shared>) -> Result<StatusCode, Problem> {
    shared.admin.api.shutdown().await?;
    Ok(StatusCode::ACCEPTED)
}

#[utoipa::path(post, path = "/v1/reopen-logs", responses((status = 202), (status = 500, body = Problem)))]
async fn reopen_logs(State(shared): State<Shared>) -> Result<StatusCode, Problem> {
    shared.admin.api.reopen_logs().await?;
    Ok(StatusCode::ACCEPTED)
}

/// Server-sent events: without `Last-Event-ID` only new ones. `?follow=false` gives those that have happened, as
/// far as they are kept, and ends.
#[utoipa::path(get, path = "/v1/events",
    params(("last-event-id" = Option<u64>, Header), ("follow" = Option<bool>, Query)),
    responses((status = 200, body = Event, content_type = "text/event-stream"), (status = 400, body = Problem)))]
async fn events(
    State(shared): State<Shared>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let after = headers.get("last-event-id").map(|value| {
        let text = value.to_str().unwrap_or_default();
        text.parse::<u64>()
            .map_err(|_| Problem::invalid("Last-Event-ID is not the number of an event"))
    });
    let after = after.transpose()?;
    let which = match query.as_deref() {
        None | Some("" | "follow=true" | "follow=1") => Events::Follow { after },
        Some("follow=false" | "follow=0") => Events::Kept {
            after: after.unwrap_or(0),
        },
        Some(other) => {
            let detail = format!("`?{other}` is not understood; known is `?follow=false`");
            return Err(Problem::invalid(detail));
        }
    };
    let stream = shared.admin.api.events(which).await?;
    let stop = shared.stop.clone();
    let stream = stream.take_until(async move { stop.requested().await });
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    Ok(Sse::new(to_sse(stream))
        .keep_alive(keep_alive)
        .into_response())
}

fn to_sse(
    stream: impl Stream<Item = Result<Event, Problem>>,
) -> impl Stream<Item = Result<sse::Event, axum::Error>> {
    // A problem ends the stream: the reader comes back with its last id.
    let events = stream.take_while(|event| future::ready(event.is_ok()));
    events
        .filter_map(|event| future::ready(event.ok()))
        .map(|event| {
            sse::Event::default()
                .id(event.id.to_string())
                .json_data(&event)
        })
}

#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain", body = String)))]
async fn metrics(State(shared): State<Shared>) -> Result<Response, Problem> {
    let status = shared.admin.api.status().await?;
    let arrays = shared.admin.api.arrays().await?;
    let text = shared.admin.metrics.render(&status, &arrays);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

#[utoipa::path(get, path = "/healthz", responses((status = 200, content_type = "text/plain", body = String)))]
async fn healthz() -> &'static str {
    "alive\n"
}

/// 200 while every array serves clients; 503 otherwise, and why not for who may know (over TCP: who has the token).
#[utoipa::path(get, path = "/readyz",
    responses((status = 200, content_type = "text/plain", body = String), (status = 503, body = Problem)))]
async fn readyz(
    State(shared): State<Shared>,
    Extension(Known(is_known)): Extension<Known>,
) -> Result<&'static str, Problem> {
    let status = shared.admin.api.status().await?;
    if status.ready {
        return Ok("ready\n");
    }
    if !is_known {
        let detail = "with the token it is said which array does not serve, and why";
        return Err(not_ready(detail.to_owned()));
    }
    let waiting = status.arrays.iter().filter(|array| !array.serving);
    let lines: Vec<String> = waiting
        .map(|array| format!("{}: {}", array.name, array.line))
        .collect();
    let detail = if lines.is_empty() {
        "the daemon is starting".to_owned()
    } else {
        lines.join("; ")
    };
    Err(not_ready(detail))
}

fn not_ready(detail: String) -> Problem {
    Problem::unavailable("not-ready", "Not ready to serve clients", detail)
        .with_next("zeoraidctl details")
}

async fn unknown_route(uri: Uri) -> Problem {
    let routes: Vec<String> = ROUTES
        .iter()
        .map(|(method, path)| format!("{method} {path}"))
        .collect();
    Problem::not_found(format!(
        "there is no {}; known are {}",
        uri.path(),
        routes.join(", ")
    ))
}

async fn wrong_method(method: axum::http::Method, uri: Uri) -> Problem {
    Problem::wrong_method(format!("{} cannot be asked with {method}", uri.path()))
}

/// The names in a path. What is not text names nothing that exists.
struct Named<T>(T);

impl<T, S> FromRequestParts<S> for Named<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Named(path.0))
            .map_err(|rejection| Problem::not_found(rejection.body_text()))
    }
}

/// Reads a body. `left_out` is what no body at all means, where it means something.
fn read<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    left_out: Option<T>,
) -> Result<T, Problem> {
    let body = body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Problem::too_large(format!("at most {LARGEST_BODY} bytes are read"))
        } else {
            Problem::invalid(rejection.body_text())
        }
    })?;
    if let Some(value) = left_out
        && body.is_empty()
    {
        return Ok(value);
    }
    // First any object: serde would also take a list for a struct, by position.
    serde_json::from_slice::<serde_json::Map<_, _>>(&body)
        .and_then(|object| serde_json::from_value(object.into()))
        .map_err(|error| Problem::invalid(format!("the body is not what is expected: {error}")))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        let kind = header::HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if status == StatusCode::UNAUTHORIZED {
            let bearer = header::HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "zeoraid",
        description = "The admin protocol of zeoraidctl's daemon."
    ),
    paths(
        status,
        arrays,
        array,
        recover,
        analysis,
        disable,
        recovery,
        change_recovery,
        cancel_recovery,
        pack,
        backup,
        scrub,
        jobs,
        job,
        cancel_job,
        configuration,
        events,
        reload,
        shutdown,
        reopen_logs,
        metrics,
        healthz,
        readyz,
        openapi::document,
        page::page,
    )
)]
pub(super) struct Document;

#[cfg(test)]
mod tests;
