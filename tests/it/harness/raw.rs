//! A client that says whatever it likes: bytes, frames, calls in pickles written by hand.
//!
//! Written without the crate's own `wire` and `pickle`, so that a mistake there is not made here too.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::time::Duration;

/// What a well-behaved peer answers within.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Raw {
    stream: TcpStream,
    next: i64,
}

/// A value, to be sent.
pub(crate) enum Say<'a> {
    None,
    Bool(bool),
    Int(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Tuple(Vec<Say<'a>>),
    /// Opcodes as they are.
    Opcodes(&'a [u8]),
    EmptyDict,
}

impl Raw {
    pub(crate) fn connect(address: &str) -> Self {
        Self::of(TcpStream::connect(address).expect("the daemon listens"))
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
        Raw { stream, next: 1 }
    }

    /// From another address of this machine, like `127.0.0.2`.
    pub(crate) fn connect_from(source: &str, address: &str) -> Self {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

        let to: SocketAddrV4 = address.parse().expect("an IPv4 address");
        let from = SocketAddrV4::new(source.parse().expect("an IPv4 address"), 0);
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
        let socket = socket.expect("a socket");
        bind(&socket, &from).expect("an address of this machine");
        connect(&socket, &to).expect("the daemon listens");
        Self::of(TcpStream::from(socket))
    }

    /// Connected, past the handshake.
    pub(crate) fn greeted(address: &str) -> Self {
        Self::connect(address).greet()
    }

    /// Past the handshake.
    pub(crate) fn greet(self) -> Self {
        let mut raw = self;
        let hello = raw
            .frame()
            .expect("the server speaks first")
            .expect("and says something");
        assert_eq!(hello, b"Z5");
        raw.send_frame(b"Z5");
        raw
    }

    /// Connected and registered.
    pub(crate) fn registered(address: &str) -> Self {
        Self::greeted(address).register()
    }

    /// Registered.
    pub(crate) fn register(self) -> Self {
        let mut raw = self;
        let answer = raw.call("register", vec![Say::Text("1"), Say::Bool(false)]);
        assert_eq!(answer.error(), None, "{answer:?}");
        raw
    }

    /// Writes bytes; that the other end is gone already is no matter.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes));
    }

    pub(crate) fn send_frame(&mut self, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("frames of tests are small");
        self.send(&length.to_be_bytes());
        self.send(payload);
    }

    /// No more will be said.
    pub(crate) fn end(&self) {
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// The next frame; none where the other end hung up.
    pub(crate) fn frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if is_end(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut payload = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut payload)?;
        Ok(Some(payload))
    }

    /// That the daemon hangs up, without an answer.
    #[track_caller]
    pub(crate) fn must_be_hung_up_on(self) {
        let answer = self.end_or_answer();
        assert!(answer.is_none(), "an answer: {answer:?}");
    }

    /// That the daemon hangs up, or answers with an error.
    #[track_caller]
    pub(crate) fn must_be_refused(self) {
        if let Some(answer) = self.end_or_answer() {
            assert!(answer.error().is_some(), "an answer: {answer:?}");
        }
    }

    #[track_caller]
    fn end_or_answer(mut self) -> Option<Reply> {
        loop {
            match self.frame() {
                Ok(None) => return None,
                Ok(Some(frame)) if frame.windows(6).any(|window| window == b".reply") => {
                    return Some(Reply(frame));
                }
                Ok(Some(_)) => {}
                Err(error) if is_end(&error) => return None,
                Err(error) => panic!("the daemon did not hang up: {error}"),
            }
        }
    }

    /// Sends a call and waits for its reply.
    pub(crate) fn call(&mut self, name: &str, args: Vec<Say<'_>>) -> Reply {
        let id = self.next;
        self.next += 1;
        self.send_call(id, false, name, args);
        self.reply(id)
    }

    pub(crate) fn send_async(&mut self, name: &str, args: Vec<Say<'_>>) {
        self.send_call(0, true, name, args);
    }

    pub(crate) fn send_call(&mut self, id: i64, one_way: bool, name: &str, args: Vec<Say<'_>>) {
        let message = Say::Tuple(vec![
            Say::Int(id),
            Say::Bool(one_way),
            Say::Text(name),
            Say::Tuple(args),
        ]);
        self.send_frame(&pickle(&message));
    }

    /// The next reply, to whichever call; whatever else comes is passed over.
    pub(crate) fn next_reply(&mut self) -> Reply {
        loop {
            let frame = self.frame().expect("an answer in time");
            let frame = frame.expect("an answer, not an end");
            if frame.windows(6).any(|window| window == b".reply") {
                return Reply(frame);
            }
        }
    }

    /// The reply to the call with this id, which must be small; whatever else comes is passed over.
    pub(crate) fn reply(&mut self, id: i64) -> Reply {
        let id = u8::try_from(id).expect("ids of tests are small");
        loop {
            let frame = self
                .frame()
                .expect("an answer in time")
                .expect("an answer, not an end");
            // Protocol marker, perhaps a frame (protocol 4), then `(` or nothing, then the id.
            let head = &frame[..frame.len().min(24)];
            let is_reply = frame.windows(6).any(|window| window == b".reply");
            if is_reply && head.windows(2).any(|window| window == [b'K', id]) {
                return Reply(frame);
            }
        }
    }
}

/// A reply, as the bytes that it came in: enough to see which error it is.
pub(crate) struct Reply(Vec<u8>);

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl Reply {
    /// The class of the error, where it is one.
    pub(crate) fn error(&self) -> Option<String> {
        let found = [&b"builtins."[..], b"ZODB.POSException.", b"ZEO.Exceptions."]
            .iter()
            .find_map(|module| {
                self.0
                    .windows(module.len())
                    .position(|window| window == *module)
            })?;
        // Its length stands before it, in four bytes.
        let length: [u8; 4] = self.0.get(found.checked_sub(4)?..found)?.try_into().ok()?;
        let end = found + u32::from_le_bytes(length) as usize;
        let class = String::from_utf8_lossy(self.0.get(found..end)?).into_owned();
        Some(class)
    }

    pub(crate) fn contains(&self, part: &str) -> bool {
        String::from_utf8_lossy(&self.0).contains(part)
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe
    )
}

/// Protocol 3, without memo, as Python's client writes it.
pub(crate) fn pickle(value: &Say<'_>) -> Vec<u8> {
    let mut out = vec![0x80, 3];
    write(value, &mut out);
    out.push(b'.');
    out
}

fn write(value: &Say<'_>, out: &mut Vec<u8>) {
    let long = |length: usize| u32::try_from(length).expect("small").to_le_bytes();
    match value {
        Say::None => out.push(b'N'),
        Say::Bool(true) => out.push(0x88),
        Say::Bool(false) => out.push(0x89),
        Say::Int(number) => {
            if let Ok(byte) = u8::try_from(*number) {
                out.extend([b'K', byte]);
            } else {
                out.extend([0x8a, 8]);
                out.extend(number.to_le_bytes());
            }
        }
        Say::Text(text) => {
            out.push(b'X');
            out.extend(long(text.len()));
            out.extend(text.as_bytes());
        }
        Say::Bytes(bytes) => {
            out.push(b'B');
            out.extend(long(bytes.len()));
            out.extend(*bytes);
        }
        Say::Tuple(items) => {
            out.push(b'(');
            for item in items {
                write(item, out);
            }
            out.push(b't');
        }
        Say::Opcodes(opcodes) => out.extend(*opcodes),
        Say::EmptyDict => out.push(b'}'),
    }
}
