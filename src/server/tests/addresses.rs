//! Listening on real sockets.

use std::path::Path;

use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::*;
use crate::server::{Listen, ListenError, Listening, Server};
use crate::storage::memory::MemoryStorage;

async fn serve(addresses: Vec<Listen>) -> Result<Server, ListenError> {
    // The sender may go: nobody says anything but yes.
    let (serving, watched) = watch::channel(Serving::Yes);
    std::mem::forget(serving);
    let served = Served::new("main", Arc::new(MemoryStorage::new("test")), watched);
    Server::start(ServerOptions::default(), addresses, vec![served]).await
}

fn tcp(host: &str, port: u16) -> Listen {
    Listen::Tcp {
        host: host.to_owned(),
        port,
    }
}

fn unix(path: &Path) -> Listen {
    Listen::Unix {
        path: path.to_owned(),
        mode: Some(0o600),
    }
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
