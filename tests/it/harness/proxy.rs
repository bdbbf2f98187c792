//! What lies between the daemon and a ZEO server, and what can go wrong there.
//!
//! A proxy passes whole messages on and looks at the names of the methods in them, so that something can
//! happen at one moment of the conversation and no other: when a call has come and is not passed on,
//! when it is passed on and not answered, or right after its answer. It knows both encodings, by hand,
//! as `raw` does.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::raw::{Say, pickle};
use super::until;

/// At which moment of a call something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The call has come, and is not passed on.
    Asked(&'static str),
    /// It was passed on, and is not answered yet.
    Passed(&'static str),
    /// Its answer was passed on.
    Answered(&'static str),
}

/// What happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// All connections are closed, and new ones refused until the proxy is mended.
    Cut,
    /// The same, in the middle of a message to the daemon.
    CutInMessage,
    /// Nothing is passed on any more, and nothing closed: a half-open link, a stopped process. Also
    /// what a test asks for that wants to do something itself at this moment.
    Stall,
    /// A message of bytes that are none.
    Garbage,
    /// The bytes of the next message to the daemon on this connection are changed.
    Corrupt,
    /// A message that says it is four gigabytes long.
    Oversize,
    /// The call is answered with this exception in the place of the server, which never hears of it.
    Error(Exception),
    /// This one answer is kept back for so long, or until the proxy is mended; everything else passes.
    /// Only at [`Moment::Answered`].
    Hold(Duration),
}

/// A Python exception: its class, and what it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exception {
    class: &'static str,
    number: Option<u8>,
    text: &'static str,
}

impl Exception {
    pub(crate) const UNKNOWN: Self = Exception {
        class: "made.up.Trouble",
        number: None,
        text: "nobody knows what this is",
    };
    /// What the operating system says where a disk is full.
    pub(crate) const NO_SPACE: Self = Exception {
        class: "builtins.OSError",
        number: Some(28),
        text: "No space left on device",
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Refuse,
    Stall,
    Slow(Duration),
}

#[derive(Debug)]
struct Trap {
    moment: Moment,
    deed: Deed,
    /// The connection and the id of the call whose answer is awaited, in [`Moment::Answered`].
    awaited: Option<(u64, i64)>,
    /// Shared by the traps of which only one is to spring.
    only_one: Arc<AtomicBool>,
}

struct State {
    mode: Mode,
    trap: Option<Trap>,
    sprung: bool,
    /// The connection that it is on.
    corrupt_next: Option<u64>,
    links: Vec<(TcpStream, TcpStream)>,
    linked: u64,
    /// How often it was mended.
    mended: u64,
}

struct Shared {
    upstream: String,
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
}

/// Ends with its connections when dropped.
pub(crate) struct Proxy {
    address: String,
    shared: Arc<Shared>,
    accepts: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToDaemon,
}

impl Proxy {
    pub(crate) fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let address = listener.local_addr().expect("it listens").to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            state: Mutex::new(State {
                mode: Mode::Pass,
                trap: None,
                sprung: false,
                corrupt_next: None,
                links: Vec::new(),
                linked: 0,
                mended: 0,
            }),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        let accepts = std::thread::spawn(move || accept(&listener, &accepting));
        Proxy {
            address,
            shared,
            accepts: Some(accepts),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Does this at that moment, once.
    pub(crate) fn set_trap(&self, moment: Moment, deed: Deed) {
        self.set_trap_of(moment, deed, &Arc::default());
    }

    /// The same, unless another trap with the same mark has sprung before.
    pub(crate) fn set_trap_of(&self, moment: Moment, deed: Deed, only_one: &Arc<AtomicBool>) {
        let mut state = self.shared.state.lock();
        state.sprung = false;
        state.trap = Some(Trap {
            moment,
            deed,
            awaited: None,
            only_one: Arc::clone(only_one),
        });
    }

    pub(crate) fn has_sprung(&self) -> bool {
        self.shared.state.lock().sprung
    }

    #[track_caller]
    pub(crate) fn wait_sprung(&self, patience: Duration) {
        let what = format!("the moment {:?}", self.shared.state.lock().trap);
        until(&what, patience, || self.has_sprung());
    }

    /// Closes every connection, and refuses new ones.
    pub(crate) fn cut(&self) {
        let mut state = self.shared.state.lock();
        state.mode = Mode::Refuse;
        state.close_all();
        self.shared.changed.notify_all();
    }

    /// Does this now, to every connection. For what does not need a message to happen to.
    pub(crate) fn strike(&self, deed: Deed) {
        let mut state = self.shared.state.lock();
        let State { links, .. } = &mut *state;
        for (daemon, _) in links.iter() {
            // It may be closed already.
            drop(deed.words().map(|words| (&*daemon).write_all(words)));
        }
        state.does(deed, 0);
        self.shared.changed.notify_all();
    }

    /// Makes the way longer by so much.
    pub(crate) fn slow_down(&self, by: Duration) {
        self.shared.state.lock().mode = Mode::Slow(by);
    }

    /// Passes everything on again.
    pub(crate) fn mend(&self) {
        let mut state = self.shared.state.lock();
        state.mode = Mode::Pass;
        state.trap = None;
        state.corrupt_next = None;
        state.mended += 1;
        self.shared.changed.notify_all();
    }
}

impl Deed {
    /// What is said to the daemon that no server says.
    fn words(self) -> Option<&'static [u8]> {
        match self {
            Deed::CutInMessage => Some(&[0, 0, 4, 0, 0x80, 3, b'(']),
            Deed::Garbage => Some(&[0, 0, 0, 6, 0xc1, 0xff, 0xfe, 0x00, 0x13, 0x37]),
            Deed::Oversize => Some(&[0xff, 0xff, 0xff, 0xff, 0x80, 3]),
            _ => None,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        {
            let mut state = self.shared.state.lock();
            state.mode = Mode::Refuse;
            state.close_all();
            self.shared.changed.notify_all();
        }
        // Wakes who accepts.
        drop(TcpStream::connect(&self.address));
        if let Some(thread) = self.accepts.take() {
            drop(thread.join());
        }
    }
}

impl State {
    /// What changes, where it happens on this connection.
    fn does(&mut self, deed: Deed, number: u64) {
        match deed {
            Deed::Cut | Deed::CutInMessage => {
                self.mode = Mode::Refuse;
                self.close_all();
            }
            Deed::Stall => self.mode = Mode::Stall,
            Deed::Corrupt => self.corrupt_next = Some(number),
            Deed::Garbage | Deed::Oversize | Deed::Error(_) | Deed::Hold(_) => {}
        }
    }

    fn close_all(&mut self) {
        for (one, other) in self.links.drain(..) {
            close(&one, &other);
        }
    }
}

fn close(one: &TcpStream, other: &TcpStream) {
    // Either may be closed already.
    drop(one.shutdown(Shutdown::Both));
    drop(other.shutdown(Shutdown::Both));
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(daemon) = stream else { continue };
        if shared.state.lock().mode == Mode::Refuse {
            drop(daemon.shutdown(Shutdown::Both));
            continue;
        }
        // Where the server is gone the daemon sees a connection that is closed at once.
        let Ok(server) = TcpStream::connect(&shared.upstream) else {
            drop(daemon.shutdown(Shutdown::Both));
            continue;
        };
        link(daemon, server, shared);
    }
}

/// A thread for each way; they end with the connection.
fn link(daemon: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
    for stream in [&daemon, &server] {
        drop(stream.set_nodelay(true));
    }
    let share = |stream: &TcpStream| stream.try_clone().expect("a socket can be shared");
    let number = {
        let mut state = shared.state.lock();
        state.links.push((share(&daemon), share(&server)));
        state.linked += 1;
        state.linked
    };
    let telling = Arc::new(Mutex::new(()));
    for way in [Way::ToServer, Way::ToDaemon] {
        let mut one = Link {
            shared: Arc::clone(shared),
            way,
            number,
            telling: Arc::clone(&telling),
            daemon: share(&daemon),
            server: share(&server),
        };
        std::thread::spawn(move || {
            one.pump();
            close(&one.daemon, &one.server);
        });
    }
}

const AT_ONCE: Duration = Duration::from_millis(1);

struct Link {
    shared: Arc<Shared>,
    way: Way,
    /// Which connection it is of.
    number: u64,
    /// Held by who writes to the daemon, while he does.
    telling: Arc<Mutex<()>>,
    daemon: TcpStream,
    server: TcpStream,
}

impl Link {
    /// Until either end hangs up.
    fn pump(&mut self) {
        let mut passed = Instant::now();
        while let Some(payload) = self.next() {
            // What comes at once was on its way while the one before was held up: a long way, not a
            // narrow one.
            if passed.elapsed() > AT_ONCE {
                self.hold_up();
            }
            if self.pass(&payload).is_none() {
                return;
            }
            passed = Instant::now();
        }
    }

    fn hold_up(&self) {
        let mut state = self.shared.state.lock();
        if let Mode::Slow(by) = state.mode {
            self.shared.changed.wait_for(&mut state, by);
        }
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let from = match self.way {
            Way::ToServer => &mut self.daemon,
            Way::ToDaemon => &mut self.server,
        };
        let mut length = [0; 4];
        from.read_exact(&mut length).ok()?;
        let mut payload = vec![0; u32::from_be_bytes(length) as usize];
        from.read_exact(&mut payload).ok()?;
        Some(payload)
    }

    fn send(&mut self, payload: &[u8]) -> Option<()> {
        match self.way {
            Way::ToServer => write_frame(&self.server, payload),
            Way::ToDaemon => self.tell(payload),
        }
    }

    fn tell(&self, payload: &[u8]) -> Option<()> {
        let _telling = self.telling.lock();
        write_frame(&self.daemon, payload)
    }

    /// None where the connection is over.
    fn pass(&mut self, payload: &[u8]) -> Option<()> {
        self.wait_until_open();
        match self.deed_before(payload) {
            None => {}
            Some(Deed::Error(exception)) => return self.answer(payload, exception),
            Some(Deed::Hold(time)) => {
                self.hold(payload, time);
                return Some(());
            }
            Some(deed) => {
                self.does(deed);
                // A stall ends some day, and then the message goes on.
                self.wait_until_open();
            }
        }
        let corrupt = self.way == Way::ToDaemon && {
            let mut state = self.shared.state.lock();
            state
                .corrupt_next
                .take_if(|on| *on == self.number)
                .is_some()
        };
        if corrupt {
            let flipped: Vec<u8> = payload.iter().map(|byte| byte ^ 0x55).collect();
            self.send(&flipped)?;
        } else {
            self.send(payload)?;
        }
        if let Some(deed) = self.deed_after(payload) {
            self.does(deed);
        }
        Some(())
    }

    fn wait_until_open(&self) {
        let mut state = self.shared.state.lock();
        while state.mode == Mode::Stall {
            self.shared.changed.wait(&mut state);
        }
    }

    /// What is to happen now that this has come. The trap is gone then.
    fn deed_before(&self, payload: &[u8]) -> Option<Deed> {
        let mut state = self.shared.state.lock();
        let trap = state.trap.as_mut()?;
        match trap.moment {
            // Before it is passed on: the answer may come at once.
            Moment::Answered(method) if self.way == Way::ToServer && names(payload, method) => {
                trap.awaited = id(payload).map(|id| (self.number, id));
                None
            }
            Moment::Asked(method) if self.way == Way::ToServer && names(payload, method) => {
                let deed = trap.deed;
                state.spring().then_some(deed)
            }
            Moment::Answered(_)
                if matches!(trap.deed, Deed::Hold(_)) && self.answers(trap, payload) =>
            {
                let deed = trap.deed;
                state.spring().then_some(deed)
            }
            _ => None,
        }
    }

    fn deed_after(&self, payload: &[u8]) -> Option<Deed> {
        let mut state = self.shared.state.lock();
        let trap = state.trap.as_ref()?;
        let now = match (trap.moment, self.way) {
            (Moment::Passed(method), Way::ToServer) => names(payload, method),
            (Moment::Answered(_), Way::ToDaemon) => self.answers(trap, payload),
            _ => false,
        };
        let deed = trap.deed;
        (now && state.spring()).then_some(deed)
    }

    /// Whether this is the answer that a trap waits for.
    fn answers(&self, trap: &Trap, payload: &[u8]) -> bool {
        self.way == Way::ToDaemon
            && names(payload, ".reply")
            && trap.awaited.is_some()
            && trap.awaited == id(payload).map(|id| (self.number, id))
    }

    fn does(&self, deed: Deed) {
        // To the daemon, whichever way the message went.
        if let Some(words) = deed.words() {
            let _telling = self.telling.lock();
            drop((&self.daemon).write_all(words));
        }
        self.shared.state.lock().does(deed, self.number);
    }

    /// Passes a message on later, and others before it.
    fn hold(&self, payload: &[u8], time: Duration) {
        let payload = payload.to_owned();
        let (shared, telling) = (Arc::clone(&self.shared), Arc::clone(&self.telling));
        let daemon = self.daemon.try_clone().expect("a socket can be shared");
        std::thread::spawn(move || {
            let end = Instant::now() + time;
            {
                let mut state = shared.state.lock();
                let mended = state.mended;
                while state.mended == mended && !shared.ended.load(Ordering::SeqCst) {
                    if shared.changed.wait_until(&mut state, end).timed_out() {
                        break;
                    }
                }
            }
            let _telling = telling.lock();
            write_frame(&daemon, &payload);
        });
    }

    /// Answers in the place of the server, which never hears of the call.
    fn answer(&self, payload: &[u8], exception: Exception) -> Option<()> {
        let id = id(payload)?;
        let Exception {
            class,
            number,
            text: why,
        } = exception;
        let answer = if is_msgpack(payload) {
            let mut out = vec![0x94, 0xd3];
            out.extend(id.to_be_bytes());
            out.push(2);
            text(".reply", &mut out);
            out.push(0x92);
            text(class, &mut out);
            out.push(0x91 + u8::from(number.is_some()));
            out.extend(number);
            text(why, &mut out);
            out
        } else {
            let number = number.map(|number| Say::Int(i64::from(number)));
            let arguments = number.into_iter().chain([Say::Text(why)]).collect();
            pickle(&Say::Tuple(vec![
                Say::Int(id),
                Say::Int(2),
                Say::Text(".reply"),
                Say::Tuple(vec![Say::Text(class), Say::Tuple(arguments)]),
            ]))
        };
        self.tell(&answer)
    }
}

fn write_frame(mut to: &TcpStream, payload: &[u8]) -> Option<()> {
    let length = u32::try_from(payload.len()).ok()?;
    to.write_all(&length.to_be_bytes()).ok()?;
    to.write_all(payload).ok()
}

impl State {
    /// Whether it springs: another of the same mark may have been faster.
    fn spring(&mut self) -> bool {
        let first = |trap: Trap| !trap.only_one.swap(true, Ordering::SeqCst);
        let springs = self.trap.take().is_some_and(first);
        self.sprung |= springs;
        springs
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    let length = u8::try_from(text.len()).expect("short");
    out.extend([0xd9, length]);
    out.extend(text.as_bytes());
}

fn is_msgpack(payload: &[u8]) -> bool {
    payload.first() == Some(&0x94)
}

/// Whether a message names this method: a short text near its beginning, in any of the ways in which
/// pickle and msgpack write one.
fn names(payload: &[u8], method: &str) -> bool {
    /// An id and a flag stand before the name, the id of a load being two texts of eight.
    const FARTHEST: usize = 64;
    let head = &payload[..payload.len().min(FARTHEST)];
    let length = u8::try_from(method.len()).expect("names are short");
    let forms = [
        vec![b'X', length, 0, 0, 0],
        vec![0x8c, length],
        vec![0xa0 | (length & 0x1f)],
        vec![0xd9, length],
    ];
    forms.iter().any(|form| {
        let wanted: Vec<u8> = form.iter().copied().chain(method.bytes()).collect();
        head.windows(wanted.len()).any(|window| window == wanted)
    })
}

/// The id of a message, where it is a number.
fn id(payload: &[u8]) -> Option<i64> {
    let at = |from: usize, count: usize| payload.get(from..from + count);
    if is_msgpack(payload) {
        let first = *payload.get(1)?;
        let wide = |count: usize| {
            let bytes = at(2, count)?;
            Some(
                bytes
                    .iter()
                    .fold(0_i64, |sum, byte| (sum << 8) | i64::from(*byte)),
            )
        };
        return match first {
            0..=0x7f => Some(i64::from(first)),
            0xcc | 0xd0 => wide(1),
            0xcd | 0xd1 => wide(2),
            0xce | 0xd2 => wide(4),
            0xcf | 0xd3 => wide(8),
            _ => None,
        };
    }
    // Protocol, perhaps a frame of protocol 4, a mark, the number.
    let mut from = if payload.first() == Some(&0x80) { 2 } else { 0 };
    if payload.get(from) == Some(&0x95) {
        from += 9;
    }
    if payload.get(from) == Some(&b'(') {
        from += 1;
    }
    let little = |from: usize, count: usize| {
        let bytes = at(from, count)?.iter().rev();
        Some(bytes.fold(0_i64, |sum, byte| (sum << 8) | i64::from(*byte)))
    };
    match payload.get(from)? {
        b'K' => little(from + 1, 1),
        b'M' => little(from + 1, 2),
        b'J' => little(from + 1, 4),
        0x8a => little(from + 2, usize::from(*payload.get(from + 1)?)),
        _ => None,
    }
}
