//! Who may ask, and what is noted of it.
//!
//! On the Unix socket the file's mode decides who may connect. On TCP a bearer token is asked for
//! where there is one, except for the two health checks and the empty page, which say nothing
//! ([`Known`]). A browser on the same machine must not become somebody's tool: a request that a page of
//! another origin sends, or that reaches a loopback address under a foreign name, is refused. That a
//! page sends it is said by browsers in `Origin`, but for plain links and pictures, and in `Sec-Fetch-Site`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::api::Problem;
use super::http::LARGEST_BODY;
use super::listen::Peer;
use crate::refused::Refused;
use crate::tls::files::SHORTEST_TOKEN;

/// No answer takes longer, but the stream of events.
const LONGEST: Duration = Duration::from_mins(10);

/// Where browsers say which page sends a request.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// So long a request's body may take to come.
const BODY: Duration = Duration::from_secs(30);

/// A bearer token, kept as its hash.
#[derive(Clone)]
pub struct Token([u8; 32]);

/// The token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("could not read the token file {}: {source}", .path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the token file {} can be read by others; chmod 600 {}", .0.display(), .0.display())]
    Open(PathBuf),
    #[error("the token in {} is too short: at least {SHORTEST_TOKEN} characters", .0.display())]
    TooShort(PathBuf),
}

impl Token {
    /// Reads it from a file that nobody but its owner can read.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn read(path: &Path) -> Result<Token, TokenError> {
        let unreadable = |source| TokenError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let mode = std::fs::metadata(path)
            .map_err(unreadable)?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(TokenError::Open(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let text = text.trim();
        if text.len() < SHORTEST_TOKEN {
            return Err(TokenError::TooShort(path.to_owned()));
        }
        Ok(Token::new(text))
    }

    #[must_use]
    pub fn new(text: &str) -> Token {
        Token(Sha256::digest(text).into())
    }

    /// Compares hashes, all of their bytes: the time says nothing about the token.
    fn is(&self, text: &str) -> bool {
        let other: [u8; 32] = Sha256::digest(text).into();
        let pairs = self.0.iter().zip(other);
        std::hint::black_box(pairs.fold(0, |sum, (a, b)| sum | (a ^ b))) == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Whether who asks may hear names and reasons: not whoever asks for the health without the token that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known(pub(super) bool);

/// What one listener asks of its requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    pub(super) token: Option<Arc<Token>>,
    /// It is reached over TCP: browsers can.
    pub(super) network: bool,
    /// Whoever has no token can ask as often as he likes, and fills no log.
    pub(super) refused: Arc<Refused>,
}

impl Rules {
    fn tell(&self, peer: &Peer, method: &Method, path: &str, problem: &Problem) {
        const SHOWN: usize = 200;
        // Not the reason, in which words of the request may be.
        let kind = problem.status.to_string();
        let now = tokio::time::Instant::now();
        let (who, why) = (peer, &problem.detail);
        let path: String = path.chars().take(SHOWN).collect();
        if let Some(unsaid) = self.refused.tell(&peer.to_string(), &kind, now) {
            tracing::warn!(%who, %method, path, why, unsaid, "admin request refused");
        } else {
            tracing::debug!(%who, %method, path, why, "admin request refused");
        }
    }
}

/// Lets a request through or not, and logs what changes something.
pub(super) async fn guard(State(rules): State<Rules>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    let peer = peer.map_or(Peer::Unknown, |info| info.0.clone());
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let known = match rules.check(&method, &path, request.headers()) {
        Ok(known) => known,
        Err(problem) => {
            rules.tell(&peer, &method, &path, &problem);
            return problem.into_response();
        }
    };
    let mut request = match whole(request).await {
        Ok(request) => request,
        Err(problem) => {
            rules.tell(&peer, &method, &path, &problem);
            return problem.into_response();
        }
    };
    request.extensions_mut().insert(known);
    let changes = !matches!(method, Method::GET | Method::HEAD);
    let response = if path == "/v1/events" {
        next.run(request).await
    } else {
        match tokio::time::timeout(LONGEST, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::timeout("the daemon was too slow").into_response(),
        }
    };
    let status = response.status().as_u16();
    if changes {
        tracing::info!(who = %peer, %method, path, status, "admin request");
    } else {
        tracing::trace!(who = %peer, %method, path, status, "admin request");
    }
    response
}

/// The request with its body, which was read: at most so much, for at most so long.
async fn whole(request: Request) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let read = axum::body::to_bytes(body, LARGEST_BODY);
    match tokio::time::timeout(BODY, read).await {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, body.into())),
        Ok(Err(error)) if is_too_large(&error) => Err(Problem::too_large(format!(
            "at most {LARGEST_BODY} bytes are read"
        ))),
        Ok(Err(error)) => Err(Problem::invalid(format!("the body did not come: {error}"))),
        Err(_) => Err(Problem::timeout(format!(
            "the body did not come within {} s",
            BODY.as_secs()
        ))),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit exceeded") {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Rules {
    fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Known, Problem> {
        if !self.network {
            return Ok(Known(true));
        }
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        if let Some(origin) = text(header::ORIGIN)
            && origin.split_once("://").map(|(_, of)| of) != Some(host)
        {
            return Err(Problem::forbidden(format!(
                "a page of {origin} may not ask"
            )));
        }
        // Whoever follows a link to the page comes from elsewhere, too.
        if let Some(site @ ("cross-site" | "same-site")) = text(SITE)
            && path != "/"
        {
            return Err(Problem::forbidden(format!("a {site} page may not ask")));
        }
        let known = self.knows(host, headers);
        if method == Method::GET && matches!(path, "/healthz" | "/readyz" | "/" | "/page.js") {
            return Ok(Known(known.is_ok()));
        }
        known.map(|()| Known(true))
    }

    /// Whether who asks may know everything.
    fn knows(&self, host: &str, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(token) = &self.token else {
            // Without a token it listens on loopback only, and is asked under its names.
            return if is_loopback_name(host) {
                Ok(())
            } else {
                Err(Problem::forbidden(format!(
                    "`{host}` is not a name of this machine's loopback address"
                )))
            };
        };
        let given = headers.get(header::AUTHORIZATION);
        let given = given
            .and_then(|value| value.to_str().ok())
            .and_then(|value| {
                let (scheme, given) = value.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then(|| given.trim())
            });
        match given {
            Some(given) if token.is(given) => Ok(()),
            Some(_) => Err(Problem::unauthorized("the token is wrong")),
            None => Err(Problem::unauthorized("a bearer token is needed")
                .with_next("zeoraidctl --token-file FILE")),
        }
    }
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let address = name.parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &Rules, path: &str, headers: &[(&'static str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        match rules.check(&Method::GET, path, &map) {
            Ok(_) => 200,
            Err(problem) => problem.status,
        }
    }

    #[test]
    fn a_token_is_asked_for_on_the_network_and_health_is_not_a_secret() {
        let rules = Rules {
            token: Some(Arc::new(Token::new("0123456789abcdef"))),
            network: true,
            ..Rules::default()
        };
        let good = ("authorization", "Bearer 0123456789abcdef");
        assert_eq!(check(&rules, "/v1/status", &[]), 401);
        assert_eq!(
            check(&rules, "/v1/status", &[("authorization", "Bearer x")]),
            401
        );
        assert_eq!(
            check(
                &rules,
                "/v1/status",
                &[("authorization", "Basic 0123456789abcdef")]
            ),
            401
        );
        assert_eq!(check(&rules, "/v1/status", &[good]), 200);
        assert_eq!(check(&rules, "/metrics", &[]), 401);
        assert_eq!(check(&rules, "/readyz", &[]), 200);
        assert_eq!(
            check(&Rules::default(), "/v1/status", &[]),
            200,
            "on the socket"
        );
    }

    #[test]
    fn pages_of_others_may_not_ask() {
        let rules = Rules {
            token: None,
            network: true,
            ..Rules::default()
        };
        let host = ("host", "127.0.0.1:8101");
        assert_eq!(check(&rules, "/v1/status", &[host]), 200);
        assert_eq!(check(&rules, "/v1/status", &[("host", "[::1]:8101")]), 200);
        assert_eq!(
            check(
                &rules,
                "/v1/status",
                &[host, ("origin", "http://127.0.0.1:8101")]
            ),
            200
        );
        assert_eq!(
            check(
                &rules,
                "/v1/status",
                &[host, ("origin", "http://evil.example")]
            ),
            403
        );
        assert_eq!(
            check(&rules, "/v1/status", &[("host", "evil.example:8101")]),
            403
        );
        // A picture or a link says no origin.
        for (site, status) in [
            ("cross-site", 403),
            ("same-site", 403),
            ("same-origin", 200),
            ("none", 200),
        ] {
            let headers = [host, ("sec-fetch-site", site)];
            let analysis = "/v1/arrays/main/members/b/analysis";
            assert_eq!(check(&rules, analysis, &headers), status, "{site}");
            assert_eq!(check(&rules, "/readyz", &headers), status, "{site}");
            assert_eq!(check(&rules, "/", &headers), 200, "{site}");
        }
    }

    #[test]
    fn a_token_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        assert!(matches!(
            Token::read(&path),
            Err(TokenError::Unreadable { .. })
        ));
        write("0123456789abcdef\n", 0o644);
        assert!(matches!(Token::read(&path), Err(TokenError::Open(_))));
        write("short\n", 0o600);
        assert!(matches!(Token::read(&path), Err(TokenError::TooShort(_))));
        write("0123456789abcdef\n", 0o600);
        assert!(Token::read(&path).unwrap().is("0123456789abcdef"));
    }
}
