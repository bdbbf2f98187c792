//! Taking connections of the admin protocol, and serving HTTP on each.
//!
//! Nobody holds a place for nothing: a request's head must come within a time, also the first one and the one
//! after an answer, and so must its body (`guard`); what is written must be read (`listen`). Heads are bounded
//! here, bodies in `http`.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::time::Instant;

use super::api::Problem;
use super::listen::{Full, Listens, Peer, Place, Read};
use crate::refused::Refused;
use crate::task::{Backoff, Stop, Tasks};

/// So long a request's head may take to come.
const HEAD: Duration = Duration::from_secs(30);

/// How large it may be, in bytes, and in headers.
const LARGEST_HEAD: usize = 32 << 10;
const HEADERS: usize = 64;

/// So long whoever is turned away may take to be told.
const TOLD: Duration = Duration::from_secs(5);

/// So long an answer may take that is under way when the daemon ends.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// Serves until the tasks are told to stop, and what is under way then to its end.
pub(super) async fn serve<L: Listens>(
    listener: L,
    router: Router,
    name: &'static str,
    tasks: Tasks,
) {
    let stop = tasks.stop().clone();
    let refused = Refused::default();
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(2));
    loop {
        let accepted = tokio::select! {
            // A connection that is dropped while it is accepted was not served yet.
            accepted = listener.accept() => accepted,
            () = stop.requested() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let delay = backoff.delay();
                tracing::warn!(at = name, %error, wait_ms = delay.as_millis(), "could not accept");
                tokio::time::sleep(delay).await;
                continue;
            }
        };
        backoff.reset();
        let stream = TokioIo::new(Read::new(stream));
        let stop = stop.clone();
        match listener.room().place(&peer) {
            Place::Served(place) => {
                let router = router.clone();
                tasks.spawn(format!("{name}, {peer}"), async move {
                    one(stream, router, peer, &stop).await;
                    drop(place);
                });
            }
            Place::Full(why, Some(place)) => {
                tell_full(&refused, &peer, why);
                tasks.spawn(format!("{name}, {peer}"), async move {
                    let told = one(stream, full(why), peer, &stop);
                    // Whether it was heard is its own affair.
                    drop(tokio::time::timeout(TOLD, told).await);
                    drop(place);
                });
            }
            Place::Full(why, None) => tell_full(&refused, &peer, why),
        }
    }
}

/// Says that there is no room for a connection, once in a while for each host: whoever fills the room may come
/// again at once.
fn tell_full(refused: &Refused, peer: &Peer, why: Full) {
    if let Some(unsaid) = refused.tell(&peer.to_string(), "full", Instant::now()) {
        tracing::warn!(who = %peer, %why, unsaid, "no room for a connection of the admin protocol");
    } else {
        tracing::debug!(who = %peer, %why, "no room for a connection of the admin protocol");
    }
}

/// Serves one connection.
async fn one<I>(stream: I, router: Router, peer: Peer, stop: &Stop)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    let router = router.layer(axum::middleware::map_request(
        move |mut request: Request| {
            let peer = Peer::clone(&peer);
            request.extensions_mut().insert(ConnectInfo(peer));
            async move { Ok::<_, Infallible>(request) }
        },
    ));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(HEADERS);
    let mut served = pin!(http.serve_connection(stream, TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.requested() => {
            served.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_ANSWER, served).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the admin protocol ended");
    }
}

/// What there is where there is no room.
fn full(why: Full) -> Router {
    let answer = move || async move {
        let problem = Problem::unavailable("full", "Too many connections", why.to_string());
        let mut response: Response = problem.into_response();
        let close = axum::http::HeaderValue::from_static("close");
        response
            .headers_mut()
            .insert(axum::http::header::CONNECTION, close);
        response
    };
    Router::new().fallback(answer)
}
