//! The admin protocol from the client's side: an [`AdminApi`] that asks a daemon.
//!
//! Over the instance's Unix socket, or over `http://host:port` or `https://host:port` with a bearer token. It knows nothing
//! of configurations or instances: whoever makes it says where the daemon is.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use eventsource_stream::Eventsource as _;
use futures_util::StreamExt as _;
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::tls;
use crate::tls::servers::ClientTls;

use super::api::{
    AdminApi, Analysis, ArrayDetails, BackupRequest, Configuration, Event, EventStream, Events,
    Job, MemberDetails, NOT_RUNNING, PackRequest, Problem, RateLimit, RecoverRequest, Recovery,
    Reloaded, ScrubRequest, Status,
};

/// Where the daemon is.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    Socket(PathBuf),
    Http {
        /// `http://127.0.0.1:8101`, `https://zodb.example.org:8101`.
        url: String,
        token: Option<String>,
        /// For `https`: a file with the daemon's certificate or its authority's, or a folder of such files;
        /// none: what the system trusts.
        trusted: Option<PathBuf>,
    },
}

/// Asks a daemon. Clones share connections.
#[derive(Debug, Clone)]
pub struct AdminClient {
    target: Target,
    client: reqwest::Client,
    base: String,
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing is there: no socket, or nobody behind it.
    #[error("no daemon runs: {at}: {why}")]
    NotRunning { at: Target, why: String },
    #[error("{at} cannot be used: {why}")]
    Unreachable { at: Target, why: String },
    /// Somebody is there who does not speak TLS.
    #[error("no TLS is spoken at {at}")]
    NoTls { at: Target },
    #[error("no answer from {at} within {}s", .after.as_secs_f64())]
    Timeout { at: Target, after: Duration },
    /// What answered is not this program, or not this version of it.
    #[error("the answer of {at} to {path} makes no sense: {why}")]
    Nonsense {
        at: Target,
        path: String,
        why: String,
    },
    /// The daemon's own words.
    #[error(transparent)]
    Problem(#[from] Problem),
}

impl AdminClient {
    /// No request takes longer, unless [`with_timeout`](Self::with_timeout) says otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(30);

    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] where the address cannot be used at all.
    pub fn new(target: Target) -> Result<Self, ClientError> {
        let unusable = |why: String| ClientError::Unreachable {
            at: target.clone(),
            why,
        };
        let builder = reqwest::Client::builder().no_proxy();
        let (builder, base) = match &target {
            Target::Socket(path) => (
                builder.unix_socket(path.as_path()),
                "http://zeoraid".to_owned(),
            ),
            Target::Http { url, .. } => (builder, url.trim_end_matches('/').to_owned()),
        };
        // The library wants to know how TLS is spoken, also where it is not; what it would take by
        // itself are the system's certificates, and those take longer to be read than an answer.
        let config = match &target {
            Target::Http { url, trusted, .. } if url.starts_with("https://") => {
                tls::servers::config(&ClientTls {
                    authenticate: trusted.clone(),
                    check_hostname: true,
                    ..ClientTls::default()
                })
            }
            _ => tls::servers::nobody(),
        };
        let config = config.map_err(|error| unusable(error.to_string()))?;
        let builder = builder.tls_backend_preconfigured(config);
        let builder = builder.connect_timeout(Duration::from_secs(5));
        let client = builder.build().map_err(|error| unusable(causes(&error)))?;
        Ok(AdminClient {
            target,
            client,
            base,
            timeout: Self::TIMEOUT,
        })
    }

    /// The same, but no request takes longer than this.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Asks for the status, with the errors of this side told apart.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ping(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, ClientError> {
        let mut request = self.request(method, path).timeout(self.timeout);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await;
        let response = response.map_err(|error| self.error(path, &error))?;
        let status = response.status();
        let body = response.bytes().await;
        let body = body.map_err(|error| self.error(path, &error))?;
        if !status.is_success() {
            return Err(self.problem(path, status, &body));
        }
        // What is only accepted has no body.
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body).map_err(|error| self.nonsense(path, error.to_string()))
    }

    async fn stream(&self, which: Events) -> Result<EventStream, ClientError> {
        let (path, after) = match which {
            Events::Follow { after } => ("/v1/events", after),
            Events::Kept { after } => ("/v1/events?follow=false", Some(after)),
        };
        let mut request = self.request(Method::GET, path);
        if let Some(after) = after {
            request = request.header("last-event-id", after.to_string());
        }
        let response = tokio::time::timeout(self.timeout, request.send()).await;
        let response = response.map_err(|_| ClientError::Timeout {
            at: self.target.clone(),
            after: self.timeout,
        })?;
        let response = response.map_err(|error| self.error(path, &error))?;
        if !response.status().is_success() {
            let status = response.status();
            let body = response.bytes().await;
            let body = body.map_err(|error| self.error(path, &error))?;
            return Err(self.problem(path, status, &body));
        }
        let this = self.clone();
        let events = response.bytes_stream().eventsource().map(move |event| {
            let event = event.map_err(|error| this.nonsense(path, error.to_string()))?;
            serde_json::from_str::<Event>(&event.data)
                .map_err(|error| this.nonsense(path, error.to_string()))
        });
        Ok(events.map(|event| event.map_err(Problem::from)).boxed())
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.target {
            Target::Http {
                token: Some(token), ..
            } => request.bearer_auth(token),
            _ => request,
        }
    }

    fn error(&self, path: &str, error: &reqwest::Error) -> ClientError {
        let at = self.target.clone();
        if error.is_timeout() {
            return ClientError::Timeout {
                at,
                after: self.timeout,
            };
        }
        if tls::servers::is_not_spoken(error) {
            return ClientError::NoTls { at };
        }
        if error.is_connect() {
            let kind = io_kind(error);
            return match kind {
                Some(std::io::ErrorKind::NotFound) => ClientError::NotRunning {
                    at,
                    why: "there is no such socket".into(),
                },
                Some(std::io::ErrorKind::ConnectionRefused) => ClientError::NotRunning {
                    at,
                    why: "connection refused".into(),
                },
                Some(std::io::ErrorKind::PermissionDenied) => ClientError::Unreachable {
                    at,
                    why: "permission denied; ask as root, or as the user that the daemon runs as"
                        .into(),
                },
                _ => ClientError::Unreachable {
                    at,
                    why: causes(error),
                },
            };
        }
        // It was there and closed the connection: it is ending, or was killed.
        if matches!(
            io_kind(error),
            Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
        ) || error.is_request()
        {
            return ClientError::Unreachable {
                at,
                why: causes(error),
            };
        }
        self.nonsense(path, causes(error))
    }

    fn problem(&self, path: &str, status: reqwest::StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => ClientError::Problem(problem),
            Err(_) => self.nonsense(path, format!("HTTP status {status}")),
        }
    }

    fn nonsense(&self, path: &str, why: String) -> ClientError {
        ClientError::Nonsense {
            at: self.target.clone(),
            path: path.to_owned(),
            why,
        }
    }
}

#[async_trait]
impl AdminApi for AdminClient {
    async fn status(&self) -> Result<Status, Problem> {
        Ok(self.get("/v1/status").await?)
    }

    async fn arrays(&self) -> Result<Vec<ArrayDetails>, Problem> {
        Ok(self.get("/v1/arrays").await?)
    }

    async fn array(&self, array: &str) -> Result<ArrayDetails, Problem> {
        Ok(self.get(&array_path(array, "")).await?)
    }

    async fn recover(
        &self,
        array: &str,
        member: &str,
        request: RecoverRequest,
    ) -> Result<Recovery, Problem> {
        let path = member_path(array, member, "recover");
        Ok(self.call(Method::POST, &path, Some(&request)).await?)
    }

    async fn recovery(&self, array: &str) -> Result<Recovery, Problem> {
        Ok(self.get(&array_path(array, "/recovery")).await?)
    }

    async fn change_recovery(&self, array: &str, rate: RateLimit) -> Result<Recovery, Problem> {
        let path = array_path(array, "/recovery");
        Ok(self.call(Method::PATCH, &path, Some(&rate)).await?)
    }

    async fn cancel_recovery(&self, array: &str) -> Result<Recovery, Problem> {
        let path = array_path(array, "/recovery");
        Ok(self.call(Method::DELETE, &path, None::<&()>).await?)
    }

    async fn analyse(&self, array: &str, member: &str) -> Result<Analysis, Problem> {
        Ok(self.get(&member_path(array, member, "analysis")).await?)
    }

    async fn disable(&self, array: &str, member: &str) -> Result<MemberDetails, Problem> {
        let path = member_path(array, member, "disable");
        Ok(self.call(Method::POST, &path, None::<&()>).await?)
    }

    async fn pack(&self, array: &str, request: PackRequest) -> Result<Job, Problem> {
        let path = array_path(array, "/pack");
        Ok(self.call(Method::POST, &path, Some(&request)).await?)
    }

    async fn back_up(&self, array: &str, request: BackupRequest) -> Result<Job, Problem> {
        let path = array_path(array, "/backup");
        Ok(self.call(Method::POST, &path, Some(&request)).await?)
    }

    async fn scrub(&self, array: &str, request: ScrubRequest) -> Result<Job, Problem> {
        let path = array_path(array, "/scrub");
        Ok(self.call(Method::POST, &path, Some(&request)).await?)
    }

    async fn jobs(&self) -> Result<Vec<Job>, Problem> {
        Ok(self.get("/v1/jobs").await?)
    }

    async fn job(&self, id: &str) -> Result<Job, Problem> {
        Ok(self.get(&job_path(id)).await?)
    }

    async fn cancel_job(&self, id: &str) -> Result<Job, Problem> {
        let path = job_path(id);
        Ok(self.call(Method::DELETE, &path, None::<&()>).await?)
    }

    async fn reload(&self, dry_run: bool) -> Result<Reloaded, Problem> {
        let path = format!("/v1/reload?dry_run={dry_run}");
        Ok(self.call(Method::POST, &path, None::<&()>).await?)
    }

    async fn shutdown(&self) -> Result<(), Problem> {
        Ok(self.call(Method::POST, "/v1/shutdown", None::<&()>).await?)
    }

    async fn reopen_logs(&self) -> Result<(), Problem> {
        Ok(self
            .call(Method::POST, "/v1/reopen-logs", None::<&()>)
            .await?)
    }

    async fn configuration(&self) -> Result<Configuration, Problem> {
        Ok(self.get("/v1/configuration").await?)
    }

    async fn events(&self, which: Events) -> Result<EventStream, Problem> {
        Ok(self.stream(which).await?)
    }
}

/// For those who only know [`AdminApi`], an error of this side is a problem with a word of its own.
impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        let detail = error.to_string();
        match error {
            ClientError::Problem(problem) => problem,
            ClientError::NotRunning { at, .. } => {
                let next = match at {
                    Target::Socket(_) => "zeoraidctl start",
                    // Nobody is started from elsewhere.
                    Target::Http { .. } => {
                        "look on that machine: zeoraidctl start, and `admin.address` of `zeoraidctl show`"
                    }
                };
                Problem::unavailable(NOT_RUNNING, "No daemon runs", detail).with_next(next)
            }
            ClientError::Unreachable { .. } => {
                Problem::unavailable("unreachable", "The daemon cannot be reached", detail)
            }
            ClientError::NoTls { at } => {
                let plain = at.to_string().replacen("https://", "http://", 1);
                let next = format!("try --admin {plain}, or give the daemon `admin.tls`");
                Problem::unavailable("unreachable", "The daemon cannot be reached", detail)
                    .with_next(next)
            }
            ClientError::Timeout { .. } => Problem::timeout(detail).with_next("zeoraidctl logtail"),
            ClientError::Nonsense { .. } => {
                Problem::unavailable("nonsense", "Not a zeoraid daemon", detail)
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Socket(path) => write!(f, "unix:{}", path.display()),
            Target::Http { url, .. } => f.write_str(url),
        }
    }
}

/// Says whether there is a token, never which.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Socket(path) => write!(f, "Socket({})", path.display()),
            Target::Http { url, token, .. } => write!(f, "Http({url}, token: {})", token.is_some()),
        }
    }
}

fn array_path(array: &str, rest: &str) -> String {
    format!("/v1/arrays/{}{rest}", encoded(array))
}

fn job_path(id: &str) -> String {
    format!("/v1/jobs/{}", encoded(id))
}

fn member_path(array: &str, member: &str, what: &str) -> String {
    array_path(array, &format!("/members/{}/{what}", encoded(member)))
}

/// A name as a segment of a path.
fn encoded(name: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(byte as char);
            }
            _ => write!(text, "%{byte:02X}").expect("writing into a string does not fail"),
        }
    }
    text
}

/// The innermost error of the operating system.
fn io_kind(error: &reqwest::Error) -> Option<std::io::ErrorKind> {
    let mut cause = std::error::Error::source(error);
    let mut kind = None;
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            kind = Some(error.kind());
        }
        cause = error.source();
    }
    kind
}

/// The causes below reqwest's own words, which name the URL that nobody typed.
fn causes(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    if texts.is_empty() {
        return error.to_string();
    }
    texts.join(": ")
}
