//! A connection: frames from an `AsyncRead`, messages to an `AsyncWrite`.
//!
//! Reader and writer are separate, so that two tasks may have one each, or one task both. Neither
//! decides anything: the server's order of replies and invalidations is made by whoever calls the
//! writer, and decoding is left to the caller too, who takes all frames that are there
//! ([`Reader::buffered`]) before it waits for more ([`Reader::next_frame`]).
//!
//! Nothing here bounds the queue of a peer that does not read; [`Writer::pending`] tells its size,
//! and the owner stops producing (or reading, which comes to the same) when it is too much.

use std::io::{self, IoSlice};

use bytes::{BufMut as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::dialect::{DecodeError, Dialect, FromClient, FromServer};
use super::frame::{FrameTooLarge, Frames, Judge};
use super::message::{MessageId, Push, Reply, Request};
use super::output::Output;
use super::sink::EncodeError;

/// How many pieces one system call is given.
const SLICES: usize = 64;

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("could not read: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    TooLarge(#[from] FrameTooLarge),
    #[error("the connection ended in the middle of a message")]
    Truncated,
}

/// What has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Frame(Bytes),
    /// More of a frame that is not whole.
    Part,
    /// The other side has ended the connection between two frames.
    End,
}

/// Why a message could not be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The receiving half.
#[derive(Debug)]
pub struct Reader<R> {
    io: R,
    frames: Frames,
    limit: usize,
    dialect: Dialect,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Frames of at most `limit` bytes are taken.
    pub fn new(io: R, limit: usize) -> Self {
        Reader {
            io,
            frames: Frames::new(limit),
            limit,
            dialect: Dialect::Pickle,
        }
    }

    /// The next frame; none where the other side has ended the connection between two frames.
    ///
    /// Cancel safe: what was read is kept.
    pub async fn next_frame(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            if let Some(frame) = self.frames.take()? {
                return Ok(Some(frame));
            }
            if self.read().await? == 0 {
                if self.frames.has_part() {
                    return Err(ReadError::Truncated);
                }
                return Ok(None);
            }
        }
    }

    /// The next frame, or that this much more has come of one that is not whole yet: for who counts what
    /// waits in memory.
    ///
    /// Cancel safe: what was read is kept.
    pub async fn next(&mut self, step: usize) -> Result<Next, ReadError> {
        let before = self.frames.held();
        loop {
            if let Some(frame) = self.frames.take()? {
                return Ok(Next::Frame(frame));
            }
            if self.frames.held() >= before + step {
                return Ok(Next::Part);
            }
            if self.read().await? == 0 {
                if self.frames.has_part() {
                    return Err(ReadError::Truncated);
                }
                return Ok(Next::End);
            }
        }
    }

    /// Reads some bytes; none at the end. Cancel safe.
    async fn read(&mut self) -> io::Result<usize> {
        let most = self.frames.most();
        self.io.read_buf(&mut self.frames.room().limit(most)).await
    }

    /// The next frame where it has arrived as a whole. Reads nothing.
    pub fn buffered(&mut self) -> Result<Option<Bytes>, ReadError> {
        Ok(self.frames.take()?)
    }

    /// The server's role: the next message of a client; none at the end. Cancel safe.
    pub async fn next_from_client(&mut self) -> Result<Option<FromClient>, ReceiveError> {
        match self.next_frame().await? {
            Some(frame) => Ok(Some(self.dialect.decode_from_client(frame)?)),
            None => Ok(None),
        }
    }

    /// The client's role: the next message of a server; none at the end. Cancel safe.
    pub async fn next_from_server(&mut self) -> Result<Option<FromServer>, ReceiveError> {
        match self.next_frame().await? {
            Some(frame) => Ok(Some(self.dialect.decode_from_server(frame)?)),
            None => Ok(None),
        }
    }
}

impl<R> Reader<R> {
    /// What frames are to be decoded with. The handshake sets it.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub fn set_dialect(&mut self, dialect: Dialect) {
        self.dialect = dialect;
    }

    /// The largest frame that is taken, in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Which larger frames are passed over, see [`Frames::pass_over`].
    pub fn pass_over(&mut self, judge: Judge) {
        self.frames.pass_over(judge);
    }

    /// Bytes that were read and not taken yet.
    pub fn held(&self) -> usize {
        self.frames.held()
    }

    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.frames.set_limit(limit);
    }
}

/// The sending half: encodes into a queue, and writes the queue.
#[derive(Debug)]
pub struct Writer<W> {
    io: W,
    output: Output,
    dialect: Dialect,
    /// Something was written and not flushed: what is written to may keep bytes of its own, as TLS does.
    unflushed: bool,
}

impl<W> Writer<W> {
    pub fn new(io: W) -> Self {
        Writer {
            io,
            output: Output::new(),
            dialect: Dialect::Pickle,
            unflushed: false,
        }
    }

    /// What messages are encoded with. The handshake sets it.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub fn set_dialect(&mut self, dialect: Dialect) {
        self.dialect = dialect;
    }

    /// Queues the answer to a call.
    pub fn reply(&mut self, id: &MessageId, reply: &Reply) {
        self.dialect.encode_reply(id, reply, &mut self.output);
    }

    /// Queues what a server says unasked.
    pub fn push(&mut self, push: &Push) {
        self.dialect.encode_push(push, &mut self.output);
    }

    /// Queues a call (client's role). Where it fails, nothing is queued.
    pub fn request(&mut self, request: &Request) -> Result<(), EncodeError> {
        self.dialect.encode_request(request, &mut self.output)
    }

    /// Queues a heartbeat: a message that is not answered.
    pub fn heartbeat(&mut self) {
        self.dialect.encode_heartbeat(&mut self.output);
    }

    /// Queues a frame as it is: the handshake, the answer to `ruok`. It must be below 4 GiB.
    pub fn raw(&mut self, frame: &[u8]) {
        let start = self.output.begin();
        self.output.put(frame);
        let ended = self.output.end(start);
        debug_assert!(ended.is_ok(), "raw frames are small");
    }

    /// Bytes that are queued and not written yet; one for those that [`flush`](Self::flush) has still to
    /// push on.
    pub fn pending(&self) -> usize {
        self.output.pending() + usize::from(self.unflushed)
    }

    /// What is written to, for those who write otherwise once the handshake is over. What is still
    /// queued is dropped.
    pub fn into_inner(self) -> W {
        self.io
    }

    /// The queue itself, for those who encode otherwise.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes all that is queued.
    ///
    /// Cancel safe: what was not written stays queued, messages are never torn, and [`pending`](Self::pending)
    /// says that there is something left to do.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.output.slices(&mut slices);
            let written = self.io.write_vectored(&slices[..filled]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.output.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            self.io.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Writes all that is queued and ends this direction.
    pub async fn close(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.io.shutdown().await
    }
}
