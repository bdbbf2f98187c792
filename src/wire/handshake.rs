//! The first two frames: the server announces, the client chooses.
//!
//! The server says `Z5` or `M5`; the client answers with the letter and version that it will speak,
//! and that answer decides, not the announcement. Instead of choosing, a client may ask `ruok`: it is
//! told the status of every storage in JSON and the connection ends. Source: ZEO
//! `asyncio/server.py`, `ServerProtocol.finish_connection`; `nagios.py`.

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{ReadError, Reader, Writer};
use super::dialect::Dialect;
use super::message::ServerStatus;

/// Nobody who has not chosen yet has more to say.
const FIRST_FRAME_LIMIT: usize = 64;

/// What a client chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// To speak this dialect.
    Dialect(Dialect),
    /// To be told the status: send [`status_json`] as one frame, and close.
    Status,
}

/// Why two ends did not come together.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the connection ended before both sides had chosen an encoding")]
    Closed,
    #[error("not a protocol that is spoken here: {:?}{}", .0, whose(.0))]
    Unknown(String),
    /// Read as a frame's length, the beginning of HTTP is as far beyond them.
    #[error("the other side speaks HTTP, which is not spoken at this address")]
    Http,
    /// Read as a frame's length, the beginning of TLS is far beyond every limit.
    #[error("the other side speaks TLS, which is not spoken at this address")]
    Tls,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("could not write: {0}")]
    Write(#[source] std::io::Error),
}

/// The server's side. Afterwards reader and writer speak what the client chose.
///
/// Not cancel safe; drop the connection with it. It has no deadline of its own.
pub async fn accept<R, W>(
    reader: &mut Reader<R>,
    writer: &mut Writer<W>,
    offer: Dialect,
) -> Result<Choice, HandshakeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    writer.raw(offer.version());
    writer.flush().await.map_err(HandshakeError::Write)?;
    let answer = first_frame(reader).await?;
    if answer.as_ref() == b"ruok" {
        return Ok(Choice::Status);
    }
    let dialect = parse(&answer)?;
    reader.set_dialect(dialect);
    writer.set_dialect(dialect);
    Ok(Choice::Dialect(dialect))
}

/// The client's side: speaks `choice`, or what the server offers. Afterwards reader and writer speak
/// the dialect that is returned.
///
/// Not cancel safe; drop the connection with it. It has no deadline of its own.
pub async fn connect<R, W>(
    reader: &mut Reader<R>,
    writer: &mut Writer<W>,
    choice: Option<Dialect>,
) -> Result<Dialect, HandshakeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let offer = parse(&first_frame(reader).await?)?;
    let dialect = choice.unwrap_or(offer);
    writer.raw(dialect.version());
    writer.flush().await.map_err(HandshakeError::Write)?;
    reader.set_dialect(dialect);
    writer.set_dialect(dialect);
    Ok(dialect)
}

/// Asks a server `ruok` and gives its JSON. The connection is of no further use.
pub async fn ask_status<R, W>(
    reader: &mut Reader<R>,
    writer: &mut Writer<W>,
) -> Result<Bytes, HandshakeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    writer.raw(b"ruok");
    writer.flush().await.map_err(HandshakeError::Write)?;
    first_frame(reader).await?;
    reader.next_frame().await?.ok_or(HandshakeError::Closed)
}

/// The answer to `ruok`: a JSON object from the storages' names to their status.
#[must_use]
pub fn status_json<'a>(storages: impl IntoIterator<Item = (&'a str, &'a ServerStatus)>) -> Bytes {
    let storages: serde_json::Map<_, _> = storages
        .into_iter()
        .map(|(name, status)| (name.to_owned(), one_status(status)))
        .collect();
    // `zeo-nagios` decodes it as ASCII.
    let text = serde_json::Value::Object(storages).to_string();
    let mut ascii = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                ascii.push_str("\\u");
                for shift in [12, 8, 4, 0] {
                    ascii.extend(char::from_digit(u32::from(*unit) >> shift & 15, 16));
                }
            }
        }
    }
    ascii.into()
}

fn one_status(status: &ServerStatus) -> serde_json::Value {
    json!({
        "loads": status.loads,
        "stores": status.stores,
        "commits": status.commits,
        "aborts": status.aborts,
        "active_txns": status.active_txns,
        "lock_time": status.lock_time,
        "conflicts": status.conflicts,
        "conflicts_resolved": status.conflicts_resolved,
        "start": status.start,
        "connections": status.connections,
        "waiting": status.waiting,
        "timeout-thread-is-alive": status.timeout_thread_is_alive,
        "last-transaction": format!("{:016x}", status.last_transaction.0),
    })
}

async fn first_frame<R: AsyncRead + Unpin>(
    reader: &mut Reader<R>,
) -> Result<Bytes, HandshakeError> {
    let limit = reader.limit();
    reader.set_limit(FIRST_FRAME_LIMIT.min(limit));
    let frame = match reader.next_frame().await {
        Ok(frame) => frame.ok_or(HandshakeError::Closed)?,
        Err(ReadError::TooLarge(frame)) if is_tls(frame.announced) => {
            return Err(HandshakeError::Tls);
        }
        Err(ReadError::TooLarge(frame)) if is_http(frame.announced) => {
            return Err(HandshakeError::Http);
        }
        Err(error) => return Err(error.into()),
    };
    reader.set_limit(limit);
    Ok(frame)
}

/// Whether the first four bytes are those of TLS: a handshake (22), of version 3.x, and a length.
fn is_tls(announced: usize) -> bool {
    announced >> 16 == 0x1603
}

/// Whether the first four bytes are those of a request or an answer of HTTP.
fn is_http(announced: usize) -> bool {
    let words: [&[u8; 4]; 8] = [
        b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"CONN", b"DELE", b"HTTP",
    ];
    let is = |word: &[u8; 4]| u32::from_be_bytes(*word) as usize == announced;
    words.into_iter().any(is)
}

/// Whether a release before 5 says so: those count their protocols from `Z200` to `Z3101`.
#[must_use]
pub fn is_old(version: &str) -> bool {
    version.starts_with("Z2") || version.starts_with("Z3")
}

fn whose(version: &str) -> &'static str {
    if is_old(version) {
        ", which is that of ZEO 4 and older; ZEO 5 or 6 is needed"
    } else {
        ""
    }
}

fn parse(version: &[u8]) -> Result<Dialect, HandshakeError> {
    match version {
        b"Z5" => Ok(Dialect::Pickle),
        b"M5" => Ok(Dialect::Msgpack),
        other => Err(HandshakeError::Unknown(
            String::from_utf8_lossy(other).into_owned(),
        )),
    }
}
