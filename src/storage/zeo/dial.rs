//! Making a connection: socket, TLS where it is wanted, and the choice of an encoding.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::options::{ZeoAddress, ZeoOptions};
use super::pulse::{Noting, Traffic};
use super::tls;
use crate::storage::Fault;
use crate::wire::connection::{ReadError, Reader, Writer};
use crate::wire::handshake::{self, HandshakeError};

pub(super) type ReadHalf = Noting<Box<dyn AsyncRead + Send + Unpin>>;
pub(super) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection on which both sides have chosen an encoding.
pub(super) struct Dialled {
    pub(super) reader: Reader<ReadHalf>,
    pub(super) writer: WriteHalf,
    pub(super) traffic: Traffic,
}

/// Connects, and speaks what the server announces.
///
/// # Errors
/// [`Fault::Unreachable`] where nobody is there, [`Fault::Damaged`] where who is there is no ZEO server
/// that can be talked to, [`Fault::Timeout`] where it does not answer.
pub(super) async fn dial(options: &ZeoOptions) -> Result<Dialled, Fault> {
    let connected = async {
        let (read, write) = connect(options).await?;
        choose(read, write, options).await
    };
    let after = options.call_timeout;
    match tokio::time::timeout(after, connected).await {
        Ok(dialled) => dialled,
        Err(_) => Err(Fault::Timeout {
            what: "being connected",
            after,
        }),
    }
}

type Halves = (Box<dyn AsyncRead + Send + Unpin>, WriteHalf);

async fn connect(options: &ZeoOptions) -> Result<Halves, Fault> {
    let address = &options.address;
    let unreachable =
        |error: std::io::Error| Fault::Unreachable(format!("cannot connect to {address}: {error}"));
    #[cfg(test)]
    if crate::simulation::is_on() {
        let connected = crate::simulation::connect(&address.to_string()).await;
        let (read, write) = connected.map_err(unreachable)?;
        return Ok((Box::new(read), Box::new(write)));
    }
    match address {
        ZeoAddress::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port))
                .await
                .map_err(unreachable)?;
            // Calls are small and are waited for.
            stream.set_nodelay(true).map_err(unreachable)?;
            if let Some(wanted) = &options.tls {
                return Ok(halves(tls::secure(stream, wanted, address).await?));
            }
            let (read, write) = stream.into_split();
            Ok((Box::new(read), Box::new(write)))
        }
        ZeoAddress::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(unreachable)?;
            if let Some(wanted) = &options.tls {
                return Ok(halves(tls::secure(stream, wanted, address).await?));
            }
            let (read, write) = stream.into_split();
            Ok((Box::new(read), Box::new(write)))
        }
    }
}

fn halves<S>(stream: S) -> Halves
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (read, write) = tokio::io::split(stream);
    (Box::new(read), Box::new(write))
}

/// The first two frames.
async fn choose(
    read: Box<dyn AsyncRead + Send + Unpin>,
    write: WriteHalf,
    options: &ZeoOptions,
) -> Result<Dialled, Fault> {
    let traffic = Traffic::new();
    let read = Noting {
        io: read,
        traffic: traffic.clone(),
    };
    let mut reader = Reader::new(read, options.max_frame_bytes);
    let mut writer = Writer::new(write);
    let address = &options.address;
    match handshake::connect(&mut reader, &mut writer, None).await {
        Ok(_) => Ok(Dialled {
            reader,
            writer: writer.into_inner(),
            traffic,
        }),
        Err(HandshakeError::Unknown(said)) => Err(Fault::Damaged(format!(
            "{address} speaks {said:?}, which is not protocol 5 of ZEO (releases 5 and 6); is it a \
             ZEO server?"
        ))),
        Err(
            HandshakeError::Tls
            | HandshakeError::Http
            | HandshakeError::Read(ReadError::TooLarge(_)),
        ) => Err(Fault::Damaged(format!(
            "what answers at {address} is no ZEO server{}",
            match options.tls {
                Some(_) => "",
                None => ", or one that wants TLS",
            }
        ))),
        Err(
            error @ (HandshakeError::Closed | HandshakeError::Read(_) | HandshakeError::Write(_)),
        ) => Err(Fault::Unreachable(format!(
            "cannot connect to {address}: {error}{}",
            match options.tls {
                Some(_) => " (does the server trust our certificate?)",
                None => "",
            }
        ))),
    }
}
