//! Every endpoint against a fake, through real sockets and the real client.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;

use super::*;
use crate::admin::api::{Event, Events, Level, RecoveryState, ScrubRequest, Strategy};
use crate::admin::client::{AdminClient, ClientError, Target};
use crate::admin::fake::Fake;
use crate::admin::listen::{Room, TurnedAway};
use crate::tls::testing::{Flaw, Made, put};
use crate::tls::{Authenticate, ServerTls, Spoken};

struct Running {
    fake: Fake,
    tasks: Tasks,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

async fn run() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("zeoraid.sock");
    let fake = Fake::default();
    let tasks = Tasks::new("admin tasks");
    start(&tasks, &socket, admin(&fake)).await.unwrap();
    Running {
        fake,
        tasks,
        socket,
        _folder: folder,
    }
}

fn admin(fake: &Fake) -> Admin {
    Admin {
        api: Arc::new(fake.clone()),
        metrics: Metrics::default(),
    }
}

impl Running {
    fn client(&self) -> AdminClient {
        AdminClient::new(Target::Socket(self.socket.clone())).unwrap()
    }

    /// Asks as anybody could: the status, the content type and the body.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String, String) {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(crate::tls::servers::nobody().unwrap())
            .unix_socket(self.socket.as_path())
            .build()
            .unwrap();
        let method = method.parse::<reqwest::Method>().unwrap();
        let request = client.request(method, format!("http://x{path}"));
        let response = request.body(body.to_owned()).send().await.unwrap();
        let kind = response.headers().get("content-type");
        let kind = kind.map_or(String::new(), |kind| kind.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        (status, kind, response.text().await.unwrap())
    }
}

#[tokio::test]
async fn the_client_gets_what_the_daemon_says() {
    let running = run().await;
    let client = running.client();
    let fake = &running.fake;
    assert_eq!(client.status().await, fake.status().await);
    assert_eq!(client.arrays().await, fake.arrays().await);
    assert_eq!(client.array("main").await, fake.array("main").await);
    assert_eq!(client.recovery("main").await, fake.recovery("main").await);
    assert_eq!(
        client.analyse("main", "b").await,
        fake.analyse("main", "b").await
    );
    assert_eq!(
        client.disable("main", "b").await,
        fake.disable("main", "b").await
    );
    assert_eq!(client.configuration().await, fake.configuration().await);
    assert_eq!(client.reload(true).await, fake.reload(true).await);
    assert_eq!(client.reload(false).await, fake.reload(false).await);
    assert_eq!(client.jobs().await, fake.jobs().await);
    assert_eq!(
        client.job("pack-main-1").await,
        fake.job("pack-main-1").await
    );
    assert_eq!(client.job("a/b").await, fake.job("a/b").await);
    assert_eq!(
        client.cancel_job("pack-main-1").await,
        fake.cancel_job("pack-main-1").await
    );
    let to = PackRequest {
        to: Some(jiff::Timestamp::UNIX_EPOCH),
    };
    assert_eq!(client.pack("main", to).await, fake.pack("main", to).await);
    let backup = BackupRequest {
        folder: "/backup/monday".into(),
        replace: true,
        rate: RateLimit {
            transactions_per_second: None,
            bytes_per_second: Some(5),
            paused: false,
        },
    };
    assert_eq!(
        client.back_up("main", backup.clone()).await,
        fake.back_up("main", backup).await
    );
    let scrub = ScrubRequest::default();
    assert_eq!(
        client.scrub("main", scrub).await,
        fake.scrub("main", scrub).await
    );
    assert_eq!(client.shutdown().await, Ok(()));
    assert_eq!(client.reopen_logs().await, Ok(()));
    let rate = RateLimit {
        transactions_per_second: Some(7),
        bytes_per_second: None,
        paused: true,
    };
    let request = RecoverRequest {
        strategy: Strategy::Rebuild,
        rate,
    };
    let recovery = client.recover("main", "b", request).await.unwrap();
    assert_eq!(
        (recovery.strategy, recovery.rate),
        (Strategy::Rebuild, rate)
    );
    assert_eq!(
        client.change_recovery("main", rate).await.unwrap().rate,
        rate
    );
    let cancelled = client.cancel_recovery("main").await.unwrap();
    assert_eq!(cancelled.state, RecoveryState::Cancelled);
    assert!(fake.asked.lock().contains(&"shutdown".to_owned()));
}

#[tokio::test]
async fn problems_arrive_with_what_can_be_done() {
    let running = run().await;
    let client = running.client();
    let problem = client.disable("main", "a").await.unwrap_err();
    assert_eq!(problem.status, 409);
    assert_eq!(
        problem.next.as_deref(),
        Some("zeoraidctl recover --interactive")
    );
    let problem = client.reload(false).await.unwrap_err();
    assert_eq!(problem.mistakes, ["etc/zeoraid.yaml:1:1: wrong"]);
    for odd in ["no such", "../status", "a/b", "?", "ü"] {
        let problem = client.array(odd).await.unwrap_err();
        assert_eq!(problem.status, 404, "{odd}: {problem:?}");
    }
    let problem = client.analyse("main", "c").await.unwrap_err();
    assert_eq!(problem.detail, "array main has no member c; it has a, b");
}

#[tokio::test]
async fn whatever_is_wrong_with_a_request_is_a_problem_document() {
    let running = run().await;
    let recover = "/v1/arrays/main/members/b/recover";
    let big = format!("{{\"strategy\": \"{}\"}}", "x".repeat(LARGEST_BODY));
    for (method, path, body, status) in [
        ("GET", "/v2/status", "", 404),
        ("GET", "/v1/arrays/%ff", "", 404),
        ("DELETE", "/v1/status", "", 405),
        ("POST", recover, "{", 400),
        ("POST", recover, "{\"strategy\": \"magic\"}", 400),
        ("POST", recover, "{\"stratgy\": \"missing\"}", 400),
        ("POST", recover, "{\"bytes_per_second\": -1}", 400),
        ("POST", recover, big.as_str(), 413),
        ("PATCH", "/v1/arrays/main/recovery", "[]", 400),
        ("POST", "/v1/arrays/main/pack", "{\"to\": \"never\"}", 400),
        ("POST", "/v1/jobs", "", 405),
        ("PATCH", "/v1/arrays/main/recovery", "", 400),
        (
            "PATCH",
            "/v1/arrays/main/recovery",
            "{\"bytes_per_hour\": 1}",
            400,
        ),
        ("POST", "/v1/reload?dry=1", "", 400),
        ("GET", "/v1/events?follow=no", "", 400),
    ] {
        let (got, kind, text) = running.ask(method, path, body).await;
        assert_eq!(got, status, "{method} {path}: {text}");
        assert_eq!(kind, "application/problem+json", "{method} {path}: {text}");
        let problem: Problem = serde_json::from_str(&text).unwrap();
        assert_eq!(problem.status, status);
        assert!(!problem.detail.is_empty());
    }
    let (_, _, text) = running.ask("GET", "/nothing", "").await;
    assert!(
        text.contains("GET /v1/status"),
        "unknown paths list the known: {text}"
    );
    let (status, ..) = running.ask("POST", recover, "").await;
    assert_eq!(status, 200, "a body may be left out");
}

#[tokio::test]
async fn every_route_is_served() {
    let running = run().await;
    running.fake.serving.store(true, Ordering::Relaxed);
    for (method, path) in ROUTES {
        let path = path
            .replace("{array}", "main")
            .replace("{member}", "b")
            .replace("{id}", "pack-main-1");
        let path = path
            .replace("/reload", "/reload?dry_run")
            .replace("/events", "/events?follow=false");
        let body = match *method {
            "PATCH" => "{}",
            _ if path.ends_with("/backup") => r#"{"folder": "/backup/monday"}"#,
            _ => "",
        };
        let (status, _, text) = running.ask(method, &path, body).await;
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {text}"
        );
    }
}

#[tokio::test]
async fn it_is_ready_when_every_array_serves() {
    let running = run().await;
    assert_eq!(running.ask("GET", "/healthz", "").await.0, 200);
    let (status, _, text) = running.ask("GET", "/readyz", "").await;
    assert_eq!(status, 503);
    assert!(text.contains("main: waits for members: b"), "{text}");
    running.fake.serving.store(true, Ordering::Relaxed);
    assert_eq!(running.ask("GET", "/readyz", "").await.0, 200);
}

#[tokio::test]
async fn whoever_has_no_token_hears_no_names() {
    let fake = Fake::default();
    let tasks = Tasks::new("admin tasks");
    let tcp = Tcp::bind("127.0.0.1", 0, None).await.unwrap();
    let address = tcp.address().unwrap();
    serve_tcp(
        &tasks,
        tcp,
        Some(Token::new("0123456789abcdef")),
        admin(&fake),
    );
    let ask = async |token: Option<&str>| {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(crate::tls::servers::nobody().unwrap())
            .build()
            .unwrap();
        let mut request = client.get(format!("http://{address}/readyz"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    for token in [None, Some("a wrong token")] {
        let (status, text) = ask(token).await;
        assert_eq!(status, 503);
        assert!(!text.contains("main") && !text.contains("waits"), "{text}");
    }
    let (status, text) = ask(Some("0123456789abcdef")).await;
    assert_eq!(status, 503);
    assert!(text.contains("main: waits for members: b"), "{text}");
    fake.serving.store(true, Ordering::Relaxed);
    assert_eq!(ask(None).await, (200, "ready\n".to_owned()));
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_scrape_tells_states_lags_and_counts() {
    let running = run().await;
    let (status, kind, text) = running.ask("GET", "/metrics", "").await;
    assert_eq!(status, 200);
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    for line in [
        "# TYPE zeoraid_array_state gauge",
        "zeoraid_array_state{array=\"main\",state=\"recovering\"} 1",
        "zeoraid_array_state{array=\"main\",state=\"optimal\"} 0",
        "zeoraid_member_state{array=\"main\",member=\"b\",state=\"recovering\"} 1",
        "zeoraid_commits_total{array=\"main\"} 12",
        "zeoraid_recovery_progress_ratio{array=\"main\",member=\"b\"} 0.25",
    ] {
        assert!(
            text.lines().any(|other| other == line),
            "no `{line}` in\n{text}"
        );
    }
}

#[tokio::test]
async fn events_are_followed_and_resumed() {
    let running = run().await;
    let add = |message: &str| {
        let log = &running.fake.log;
        log.add(Level::Warning, "test", Some("main"), Some("b"), message);
    };
    let client = running.client();
    let mut stream = client.events(Events::Follow { after: None }).await.unwrap();
    add("one\nin two lines");
    add("two");
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first.message, "one\nin two lines");
    drop(stream);
    add("three");
    let after = first.id;
    let kept = client.events(Events::Kept { after }).await.unwrap();
    let kept: Vec<Event> = kept.map(Result::unwrap).collect().await;
    let messages: Vec<&str> = kept.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(messages, ["two", "three"]);
    let after = Some(first.id);
    let mut stream = client.events(Events::Follow { after }).await.unwrap();
    for (id, message) in [(first.id + 1, "two"), (first.id + 2, "three")] {
        let event = stream.next().await.unwrap().unwrap();
        assert_eq!((event.id, event.message.as_str()), (id, message));
    }
    let shutdown = running.tasks.shutdown(Duration::from_secs(10)).await;
    shutdown.expect("a follower does not hold up the end");
    assert!(stream.next().await.is_none_or(|event| event.is_err()));
}

#[tokio::test]
async fn without_a_daemon_the_client_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zeoraid.sock");
    let client = AdminClient::new(Target::Socket(path.clone())).unwrap();
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");
    let problem = client.status().await.unwrap_err();
    assert!(problem.is_not_running());
    assert_eq!(problem.next.as_deref(), Some("zeoraidctl start"));
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_told_from_one_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zeoraid.sock");
    let silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let client = AdminClient::new(Target::Socket(path)).unwrap();
    let client = client.with_timeout(Duration::from_millis(100));
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
    drop(silent);
}

#[tokio::test]
async fn on_tcp_a_token_is_needed() {
    let fake = Fake::default();
    let tasks = Tasks::new("admin tasks");
    let tcp = Tcp::bind("127.0.0.1", 0, None).await.unwrap();
    let url = format!("http://{}", tcp.address().unwrap());
    serve_tcp(
        &tasks,
        tcp,
        Some(Token::new("a token of some length")),
        admin(&fake),
    );
    let client = |token: Option<&str>| {
        let token = token.map(str::to_owned);
        let url = url.clone();
        let trusted = None;
        AdminClient::new(Target::Http {
            url,
            token,
            trusted,
        })
        .unwrap()
    };
    assert_eq!(client(None).status().await.unwrap_err().status, 401);
    assert_eq!(
        client(Some("another")).status().await.unwrap_err().status,
        401
    );
    let good = client(Some("a token of some length"));
    assert!(good.status().await.is_ok());
    assert!(
        !format!("{good:?}").contains("a token of"),
        "no secret in debug output"
    );
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn on_tcp_tls_is_spoken_with_who_knows_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let shown = Made::plain("127.0.0.1", Flaw::None);
    let files = ServerTls {
        certificate: put(folder.path(), "admin.pem", &shown.certificate),
        key: Some(put(folder.path(), "admin.key", &shown.key)),
        authenticate: Authenticate::Anyone,
    };
    let stranger = Made::plain("127.0.0.1", Flaw::None);
    let stranger = put(folder.path(), "stranger.pem", &stranger.certificate);
    let tls = Spoken::read(&files).await.unwrap();
    let fake = Fake::default();
    let tasks = Tasks::new("admin tasks");
    let tcp = Tcp::bind("127.0.0.1", 0, Some(tls)).await.unwrap();
    let address = tcp.address().unwrap();
    serve_tcp(&tasks, tcp, None, admin(&fake));
    // Somebody who never begins keeps nobody waiting.
    let silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let client = |scheme: &str, trusted: &Path| {
        AdminClient::new(Target::Http {
            url: format!("{scheme}://{address}"),
            token: None,
            trusted: Some(trusted.to_owned()),
        })
        .unwrap()
    };
    client("https", &files.certificate).status().await.unwrap();
    let error = client("https", &stranger).ping().await.unwrap_err();
    assert!(
        matches!(error, ClientError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(client("http", &stranger).ping().await.is_err());
    let tcp = Tcp::bind("127.0.0.1", 0, None).await.unwrap();
    let plain = tcp.address().unwrap();
    serve_tcp(&tasks, tcp, None, admin(&fake));
    let asked = AdminClient::new(Target::Http {
        url: format!("https://{plain}"),
        token: None,
        trusted: Some(files.certificate.clone()),
    });
    let problem = asked.unwrap().status().await.unwrap_err();
    assert_eq!(
        problem.detail,
        format!("no TLS is spoken at https://{plain}")
    );
    let next = format!("try --admin http://{plain}, or give the daemon `admin.tls`");
    assert_eq!(problem.next, Some(next));
    drop(silent);
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();

    let missing = Target::Http {
        url: "https://127.0.0.1:1".into(),
        token: None,
        trusted: Some(folder.path().join("missing.pem")),
    };
    let error = AdminClient::new(missing).unwrap_err();
    assert!(error.to_string().contains("missing.pem"), "{error}");
}

/// Sends these bytes and gives all that comes back until the daemon closes.
async fn raw(socket: &Path, bytes: &[u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    // It may have been closed already.
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn heads_and_bodies_are_bounded() {
    let running = run().await;
    let head = |header: &str| format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n");
    let large = raw(
        &running.socket,
        head(&format!("x: {}", "y".repeat(100_000))).as_bytes(),
    )
    .await;
    assert!(large.starts_with("HTTP/1.1 431"), "{large}");
    let many = "h: x\r\n".repeat(1000);
    let many = raw(&running.socket, head(many.trim_end()).as_bytes()).await;
    assert!(many.starts_with("HTTP/1.1 431"), "{many}");
    // Bodies: that it is too large is known by its length, and in pieces as soon as it is.
    let path = "/v1/arrays/main/pack";
    let body = "x".repeat(LARGEST_BODY + 1);
    assert_eq!(running.ask("POST", path, &body).await.0, 413);
    let piece = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let chunked = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{}",
        piece.repeat(1000)
    );
    let answer = raw(&running.socket, chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(running.ask("GET", "/healthz", "").await.0, 200);
    running
        .tasks
        .shutdown(Duration::from_secs(10))
        .await
        .unwrap();
}

#[tokio::test]
async fn who_fills_the_room_is_told_and_what_does_not_come_is_not_waited_for() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zeoraid.sock");
    let fake = Fake::default();
    let tasks = Tasks::new("admin tasks");
    let turned_away = TurnedAway::default();
    let socket = Socket::bind(&path)
        .await
        .unwrap()
        .with_room(Room::new(4, &turned_away));
    serve_socket(&tasks, socket, admin(&fake));
    // Nothing, half a head, half a body, and one who asked and stays.
    let begun = [
        "",
        "GET /v1/sta",
        "POST /v1/arrays/main/pack HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    let mut held = Vec::new();
    for begun in begun {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        held.push(stream);
    }
    // Which of them was accepted is seen by that the next one is turned away.
    let full = loop {
        let answer = raw(
            &path,
            b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
        if !answer.starts_with("HTTP/1.1 200") {
            break answer;
        }
    };
    assert!(full.starts_with("HTTP/1.1 503"), "{full}");
    assert!(full.contains("limits.admin_connections"), "{full}");
    assert!(turned_away.count() >= 1);
    tokio::time::pause();
    for mut stream in held {
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_mins(2), stream.read_to_end(&mut answer));
        drop(ended.await.expect("it is closed in time"));
    }
    tokio::time::resume();
    let answer = raw(
        &path,
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn one_host_does_not_keep_the_others_out_of_the_address() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let fake = Fake::default();
    let tasks = Tasks::new("admin tasks");
    let turned_away = TurnedAway::default();
    let tcp = Tcp::bind("127.0.0.1", 0, None).await.unwrap();
    let tcp = tcp.with_room(Room::new(4, &turned_away));
    let address = tcp.address().unwrap();
    serve_tcp(&tasks, tcp, None, admin(&fake));
    let connect = async |from: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let asked = format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        (stream, String::from_utf8(answer).unwrap())
    };
    let mut held = Vec::new();
    for expected in [200, 200, 200, 503] {
        let (stream, answer) = connect("127.0.0.1").await;
        assert_eq!(answer, format!("HTTP/1.1 {expected}"));
        held.push(stream);
    }
    assert_eq!(connect("127.0.0.2").await.1, "HTTP/1.1 200");
    assert_eq!(turned_away.count(), 1);
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();
}

/// Whoever is turned away comes again at once: the log says it once.
#[tokio::test]
async fn those_who_are_turned_away_do_not_fill_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = (
        folder.path().join("zeoraid.sock"),
        folder.path().join("log"),
    );
    let file = Arc::new(std::fs::File::create(&log).unwrap());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(file)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let fake = Fake::default();
    let tasks = Tasks::new("admin tasks");
    let turned_away = TurnedAway::default();
    let room = Room::new(0, &turned_away);
    let socket = Socket::bind(&path).await.unwrap().with_room(room);
    serve_socket(&tasks, socket, admin(&fake));
    for _ in 0..20 {
        let answer = raw(&path, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
    assert_eq!(turned_away.count(), 20);
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(
        said.matches("no room for a connection").count(),
        1,
        "{said}"
    );
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();
}

/// Events go on for ever; who does not read them does not keep its place for ever.
#[tokio::test]
async fn events_that_nobody_reads_end() {
    use crate::admin::listen::Read;
    use tokio::io::AsyncWriteExt as _;

    tokio::time::pause();
    let (ours, theirs) = tokio::io::duplex(100);
    let mut written = Read::new(theirs);
    let start = tokio::time::Instant::now();
    let error = written.write_all(&[0; 1000]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(start.elapsed() < Duration::from_mins(1));
    drop(ours);
}
