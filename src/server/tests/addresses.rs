//! Listening on real sockets, and TLS there.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::server::{Listen, ListenAddress, ListenError, Listening, Server};
use crate::storage::memory::MemoryStorage;
use crate::storage::suite::commit;
use crate::tls::testing::{Flaw, Made, client as tls_client, put};
use crate::tls::{Authenticate, ServerTls};

async fn serve(addresses: Vec<Listen>) -> Result<Server, ListenError> {
    serve_with(ServerOptions::default(), addresses).await
}

async fn serve_with(options: ServerOptions, addresses: Vec<Listen>) -> Result<Server, ListenError> {
    // The sender may go: nobody says anything but yes.
    let (serving, watched) = watch::channel(Serving::Yes);
    std::mem::forget(serving);
    let served = Served::new("main", Arc::new(MemoryStorage::new("test")), watched);
    Server::start(options, addresses, vec![served]).await
}

fn tcp(host: &str, port: u16) -> Listen {
    let host = host.to_owned();
    ListenAddress::Tcp { host, port }.into()
}

fn unix(path: &Path) -> Listen {
    ListenAddress::Unix {
        path: path.to_owned(),
        mode: Some(0o600),
    }
    .into()
}

#[tokio::test]
async fn any_port_is_a_real_port_and_the_same_for_each_address() {
    let server = serve(vec![tcp("localhost", 0)]).await.unwrap();
    let mut ports = Vec::new();
    for listening in server.listening() {
        let Listening::Tcp(address) = listening else {
            panic!("{listening}");
        };
        ports.push(address.port());
        let stream = TcpStream::connect(address).await.unwrap();
        let (read, write) = stream.into_split();
        let (mut reader, mut writer) = (Reader::new(read, 1 << 20), Writer::new(write));
        handshake::connect(&mut reader, &mut writer, None)
            .await
            .unwrap();
    }
    ports.dedup();
    assert_eq!(ports.len(), 1);
    assert_ne!(ports[0], 0);
    server.shutdown(PATIENCE).await.unwrap();
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = other.local_addr().unwrap().port();
    let Err(error) = serve(vec![tcp("127.0.0.1", port)]).await else {
        panic!("two on one port");
    };
    assert_eq!(
        error.to_string(),
        format!("127.0.0.1:{port} is in use by another process")
    );
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_named() {
    let Err(error) = serve(vec![tcp("no-such-host.invalid", 1)]).await else {
        panic!("it exists");
    };
    let text = error.to_string();
    assert!(
        text.starts_with("could not find the host of no-such-host.invalid:1: "),
        "{text}"
    );
}

#[tokio::test]
async fn a_socket_is_replaced_only_if_nobody_listens_and_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zeo.sock");
    // Left behind by one who died.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = serve(vec![unix(&path)]).await.unwrap();
    UnixStream::connect(&path).await.unwrap();
    let second = serve(vec![unix(&path)]).await;
    assert!(matches!(second, Err(ListenError::InUse { .. })));
    UnixStream::connect(&path).await.unwrap();
    server.shutdown(PATIENCE).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Data.fs");
    std::fs::write(&path, b"FS21").unwrap();
    let served = serve(vec![unix(&path)]).await;
    assert!(matches!(served, Err(ListenError::NoSocket { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"FS21");
}

#[tokio::test]
async fn a_unix_socket_gets_the_mode_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [0o600, 0o660, 0o777] {
        let path = folder.path().join("zeo.sock");
        let address = ListenAddress::Unix {
            path: path.clone(),
            mode: Some(mode),
        };
        let server = serve(vec![address.into()]).await.unwrap();
        let found = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode);
        UnixStream::connect(&path).await.unwrap();
        server.shutdown(PATIENCE).await.unwrap();
    }
}

/// A server with TLS, and a client that it knows.
struct Secure {
    folder: tempfile::TempDir,
    shows: Made,
    client: Made,
    server: Server,
}

impl Secure {
    async fn start(options: ServerOptions) -> Secure {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let (shows, client) = (
            Made::plain("zeo.example", Flaw::None),
            Made::by_openssl("client", Flaw::None),
        );
        put(at, "server.pem", &shows.certificate);
        put(at, "server.key", &shows.key);
        put(at, "clients.pem", &client.certificate);
        let tls = Some(ServerTls {
            certificate: at.join("server.pem"),
            key: Some(at.join("server.key")),
            authenticate: Authenticate::Listed(at.join("clients.pem")),
        });
        let unix = ListenAddress::Unix {
            path: at.join("zeo.sock"),
            mode: Some(0o600),
        };
        let listen = |address, tls: &Option<ServerTls>| Listen {
            address,
            tls: tls.clone(),
        };
        let any = || ListenAddress::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 0,
        };
        let addresses = vec![listen(any(), &tls), listen(unix, &tls), any().into()];
        let server = serve_with(options, addresses).await.unwrap();
        Secure {
            folder,
            shows,
            client,
            server,
        }
    }

    /// The address with TLS, and the one without.
    fn addresses(&self) -> [SocketAddr; 2] {
        let listening = self.server.listening();
        [0, 2].map(|number| match listening[number] {
            Listening::Tcp(address) => address,
            Listening::Unix(_) => panic!("not TCP"),
        })
    }

    async fn tcp(&self, tls: bool) -> TcpStream {
        let address = self.addresses()[usize::from(!tls)];
        TcpStream::connect(address).await.unwrap()
    }

    /// Whether who shows this gets as far as an encoding.
    async fn lets_in(&self, shows: Option<&Made>) -> bool {
        self.lets_in_by(self.tcp(true).await, &self.shows, shows)
            .await
    }

    async fn lets_in_by<S>(&self, stream: S, trusts: &Made, shows: Option<&Made>) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(tls_client(trusts, shows));
        let name = ServerName::try_from("zeo.example").unwrap();
        let Ok(stream) = connector.connect(name, stream).await else {
            return false;
        };
        let (read, write) = tokio::io::split(stream);
        let (mut reader, mut writer) = (Reader::new(read, 1 << 20), Writer::new(write));
        let choosing = handshake::connect(&mut reader, &mut writer, None);
        let chosen = timeout(PATIENCE, choosing).await.expect("an answer");
        chosen.is_ok()
    }
}

#[tokio::test]
async fn tls_is_spoken_over_tcp_and_unix_with_who_is_known() {
    let secure = Secure::start(ServerOptions::default()).await;
    assert!(secure.lets_in(Some(&secure.client)).await);
    assert!(!secure.lets_in(None).await);
    let stranger = Made::by_openssl("client", Flaw::None);
    assert!(!secure.lets_in(Some(&stranger)).await);
    let path = secure.folder.path().join("zeo.sock");
    for (shows, expected) in [(Some(&secure.client), true), (None, false)] {
        let stream = UnixStream::connect(&path).await.unwrap();
        let came = secure.lets_in_by(stream, &secure.shows, shows).await;
        assert_eq!(came, expected);
    }
    secure.server.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn who_does_not_speak_tls_is_let_go_in_time_and_holds_nobody_up() {
    let options = ServerOptions {
        handshake_timeout: Duration::from_millis(300),
        ..ServerOptions::default()
    };
    let secure = Secure::start(options).await;
    let mut silent = secure.tcp(true).await;
    let mut half = secure.tcp(true).await;
    half.write_all(b"\x16\x03\x01\x02\x00\x01\x00")
        .await
        .unwrap();
    let mut plain = secure.tcp(true).await;
    plain.write_all(b"\0\0\0\x02Z5").await.unwrap();
    let mut web = secure.tcp(true).await;
    web.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // And who speaks it where there is none.
    let mut lost = secure.tcp(false).await;
    lost.write_all(b"\x16\x03\x01\x02\x00\x01\x00")
        .await
        .unwrap();
    assert!(secure.lets_in(Some(&secure.client)).await);
    for stream in [&mut silent, &mut half, &mut plain, &mut web, &mut lost] {
        let mut all = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut all)).await;
        // Whether orderly or by a reset: the server is through with it.
        drop(ended.expect("the server hangs up"));
    }
    until("connections end", || secure.server.connections() == 0).await;
    assert!(secure.lets_in(Some(&secure.client)).await);
    secure.server.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_who_says_nothing() {
    let secure = Secure::start(ServerOptions::default()).await;
    let _silent = secure.tcp(true).await;
    until("it is accepted", || secure.server.connections() == 1).await;
    let begun = tokio::time::Instant::now();
    secure.server.shutdown(PATIENCE).await.unwrap();
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn certificates_are_read_again_and_bad_ones_change_nothing() {
    let secure = Secure::start(ServerOptions::default()).await;
    let at = secure.folder.path();
    let read = secure.server.read_certificates().await.unwrap();
    assert_eq!(read.put_in_force(), Vec::<String>::new(), "nothing is new");

    // Another client, and a certificate of the server's that it does not come with.
    let (other, shows) = (
        Made::by_openssl("other", Flaw::None),
        Made::plain("zeo.example", Flaw::None),
    );
    put(at, "clients.pem", &other.certificate);
    put(at, "server.pem", &shows.certificate);
    let Err(error) = secure.server.read_certificates().await else {
        panic!("the key is that of the old one");
    };
    assert!(error.to_string().contains("does not go with"), "{error}");
    assert!(secure.lets_in(Some(&secure.client)).await);
    put(at, "server.key", &shows.key);
    // Read, and not in force yet.
    let read = secure.server.read_certificates().await.unwrap();
    assert!(secure.lets_in(Some(&secure.client)).await);
    assert_eq!(read.put_in_force().len(), 2);
    assert!(!secure.lets_in(Some(&secure.client)).await);
    for (shown, expected) in [(&other, true), (&secure.client, false)] {
        let stream = secure.tcp(true).await;
        assert_eq!(
            secure.lets_in_by(stream, &shows, Some(shown)).await,
            expected
        );
    }
    secure.server.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_address_whose_certificates_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let tls = ServerTls {
        certificate: folder.path().join("gone.pem"),
        key: None,
        authenticate: Authenticate::System,
    };
    let mut listen = tcp("127.0.0.1", 8100);
    listen.tls = Some(tls);
    let Err(error) = serve(vec![listen]).await else {
        panic!("without a certificate");
    };
    let text = error.to_string();
    assert!(
        text.starts_with("no TLS on 127.0.0.1:8100: could not read "),
        "{text}"
    );
}

/// A session that flushes is woken by something that needs no answer, while the end of a reply is TLS's.
#[tokio::test]
async fn the_end_of_a_reply_does_not_stay_in_tls() {
    let storage = MemoryStorage::new("test");
    // More than the pipe takes, and less than TLS does.
    let data = vec![7; 30_000];
    commit(&storage, &[(1, Tid::ZERO, &data)]).await;
    let house = House::of(storage);
    let folder = tempfile::tempdir().unwrap();
    let (shows, known) = (
        Made::plain("zeo.example", Flaw::None),
        Made::plain("client", Flaw::None),
    );
    let files = ServerTls {
        certificate: put(folder.path(), "server.pem", &shows.certificate),
        key: Some(put(folder.path(), "server.key", &shows.key)),
        authenticate: Authenticate::Listed(put(folder.path(), "one.pem", &known.certificate)),
    };
    let acceptor = TlsAcceptor::from(files.read().unwrap().config);
    let connector = TlsConnector::from(tls_client(&shows, Some(&known)));
    let name = ServerName::try_from("zeo.example").unwrap();
    let (ours, theirs) = tokio::io::duplex(4096);
    let (server, client) = tokio::join!(acceptor.accept(theirs), connector.connect(name, ours));
    let (read, write) = tokio::io::split(server.unwrap());
    let session = session::run(
        read,
        write,
        "test".to_owned(),
        tokio::time::Instant::now(),
        Arc::clone(&house.shared),
    );
    house.shared.sessions.spawn("test", session);

    let (read, write) = tokio::io::split(client.unwrap());
    let (mut reader, mut writer) = (Reader::new(read, 1 << 20), Writer::new(write));
    handshake::connect(&mut reader, &mut writer, None)
        .await
        .unwrap();
    let register = Call::Register {
        storage: "main".to_owned(),
        read_only: false,
    };
    for (id, call) in [(1, register), (2, load(1))] {
        if id == 2 {
            let heard = timeout(PATIENCE, reader.next_from_server()).await;
            assert!(matches!(heard, Ok(Ok(Some(_)))), "registered");
        }
        let id = MessageId::Int(id);
        let one_way = false;
        writer.request(&Request { id, one_way, call }).unwrap();
        writer.flush().await.unwrap();
    }
    until("it is loaded", || house.counters().loads == 1).await;
    for _ in 0..3 {
        writer.heartbeat();
        writer.flush().await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    let heard = timeout(PATIENCE, reader.next_from_server()).await;
    assert!(
        matches!(heard, Ok(Ok(Some(FromServer::Reply(_))))),
        "the whole reply"
    );
}
