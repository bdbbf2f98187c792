//! Requests of the admin protocol, before a daemon that is none.
//!
//! The input is a request as HTTP has it. Its length is told with it, so that a body of any length is one,
//! unless it says so itself. It is asked twice: as on the Unix socket, and as over a network with a token.

use std::cell::RefCell;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::{ends, folder, runtime};
use crate::admin::api::Problem;
use crate::admin::fake::Fake;
use crate::admin::http::{Admin, serve_socket, serve_socket_as_network};
use crate::admin::listen::Socket;
use crate::admin::{Metrics, Token};
use crate::task::Tasks;

/// An answer is no larger; the page and the `OpenAPI` document are the largest.
const LARGEST_ANSWER: usize = 1 << 20;

/// A daemon that serves one thread.
struct Daemon {
    runtime: Runtime,
    fake: Fake,
    folder: tempfile::TempDir,
    _tasks: Tasks,
}

thread_local! {
    static DAEMON: RefCell<Daemon> = RefCell::new(daemon());
}

fn daemon() -> Daemon {
    let (runtime, folder) = (runtime(true), folder());
    let (fake, tasks) = (Fake::default(), Tasks::new("fuzzed admin tasks"));
    let admin = Admin {
        api: std::sync::Arc::new(fake.clone()),
        metrics: Metrics::default(),
    };
    runtime.block_on(async {
        let socket = Socket::bind(&folder.path().join("socket")).await;
        serve_socket(&tasks, socket.expect("it can be bound"), admin.clone());
        let socket = Socket::bind(&folder.path().join("network")).await;
        let token = Token::new("0123456789abcdef");
        serve_socket_as_network(&tasks, socket.expect("it can be bound"), token, admin);
    });
    Daemon {
        runtime,
        fake,
        folder,
        _tasks: tasks,
    }
}

/// Any bytes as a request. It is answered, or refused by whoever reads HTTP.
pub(super) fn admin(data: &[u8]) {
    DAEMON.with_borrow(|daemon| {
        for at in ["socket", "network"] {
            daemon
                .runtime
                .block_on(ends(ask(daemon, at, &request(data))));
        }
        daemon.fake.asked.lock().clear();
    });
}

fn request(data: &[u8]) -> Vec<u8> {
    let end = data.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end else {
        return data.to_vec();
    };
    let (head, body) = (&data[..end], &data[end + 4..]);
    let says_itself = String::from_utf8_lossy(head).to_ascii_lowercase();
    if ["content-length", "transfer-encoding", "expect"]
        .iter()
        .any(|name| says_itself.contains(name))
    {
        return data.to_vec();
    }
    let more = format!(
        "\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head, more.as_bytes(), body].concat()
}

async fn ask(daemon: &Daemon, at: &str, request: &[u8]) {
    let stream = UnixStream::connect(daemon.folder.path().join(at)).await;
    let (mut read, mut write) = stream.expect("it listens").into_split();
    let say = async {
        // It may have answered before it has read everything.
        drop(write.write_all(request).await);
        drop(write.shutdown().await);
    };
    let mut answer = Vec::new();
    let hear = async {
        let mut some = [0; 16 << 10];
        while let Ok(count @ 1..) = read.read(&mut some).await {
            answer.extend_from_slice(&some[..count]);
            // Events have no end.
            if answer.len() > LARGEST_ANSWER || is_stream(&answer) {
                return;
            }
        }
    };
    tokio::join!(say, hear);
    assert!(
        answer.len() <= LARGEST_ANSWER,
        "an answer of {} bytes",
        answer.len()
    );
    check(&answer);
}

/// Also where other requests were answered before it.
fn is_stream(answer: &[u8]) -> bool {
    let kind = b"content-type: text/event-stream";
    answer.windows(kind.len()).any(|part| part == kind)
}

/// What is refused is refused in the words of this house, unless it was no HTTP.
fn check(answer: &[u8]) {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        assert!(answer.is_empty(), "half an answer");
        return;
    };
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status: u16 = status.unwrap_or_else(|| panic!("no answer of HTTP: {head}"));
    assert!(status != 500, "{head}");
    if head.contains("content-type: application/problem+json") {
        let body = &answer[end + 4..];
        // HEAD is answered without, and then the answer to the next request follows.
        let is_without = body.is_empty() || body.starts_with(b"HTTP/");
        if !is_without && !head.contains("transfer-encoding") {
            let problem: Result<Problem, _> = serde_json::from_slice(first_body(&head, body));
            let problem = problem.unwrap_or_else(|error| panic!("{error}: {head}"));
            assert_eq!(problem.status, status);
        }
    }
}

/// Another answer may follow where another request did.
fn first_body<'a>(head: &str, body: &'a [u8]) -> &'a [u8] {
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.trim().parse().ok());
    &body[..length.unwrap_or(body.len()).min(body.len())]
}
