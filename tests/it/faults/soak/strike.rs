//! What happens to a member, a client or the daemon every few seconds, how long it lasts, and how it is mended.

use std::time::Duration;

use super::jobs;
use crate::faults::fault::Fault;
use crate::harness::lab::{Lab, LabSetup};
use crate::harness::proxy::{Deed, Exception, Moment};
use crate::main_job::Damage;

/// A member that does not answer is given this long. More than in other labs: thirteen processes share the machine.
pub(super) const MEMBER_TIMEOUT: Duration = Duration::from_secs(4);

pub(super) const SETUP: LabSetup = LabSetup {
    servers: 2,
    files: 1,
    // The cache is small enough to be full soon: what it takes is not what is looked for.
    settings: "member_timeout: 4s\ncache: 16MiB",
    ..LabSetup::TWO
};

/// Both servers, then the file.
pub(super) const MEMBERS: [&str; 3] = ["zeo1", "zeo2", "file1"];
pub(super) const FILE: usize = 2;

#[derive(Debug, Clone, Copy)]
pub(super) enum Strike {
    /// A server, or the way to it.
    Server(Fault),
    /// At this moment of a call, if one comes.
    Trap(Moment, Deed),
    /// The way is longer by so much.
    Slow(Duration),
    Disable {
        verify: bool,
    },
    /// The file is out, and something becomes of it; then it is rebuilt.
    Rebuild(Replaced),
    /// The member is taken from the configuration, and put back later.
    Remove,
    Job(jobs::Kind),
    /// One who asks for a lot and reads nothing.
    Deaf,
    /// An honest client that is stopped.
    Asleep,
    Nonsense,
    HangUp,
    Reopen,
}

/// What has become of the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Replaced {
    By(Damage),
    /// As the last backup has it, with the blobs and the index that it had.
    OfBackup,
}

/// How one is undone.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mend {
    Fault(Fault),
    Way,
    Trap,
    Recover(&'static [&'static str]),
    Rebuild(Replaced),
    PutBack,
}

/// What is struck: a member by its index, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) strike: Strike,
    pub(super) member: Option<usize>,
    /// For how long.
    pub(super) lasts: Duration,
}

fn seconds(random: &mut fastrand::Rng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(from + random.f64() * (to - from))
}

/// Chosen by nothing but the seed.
pub(super) fn plan(random: &mut fastrand::Rng) -> Plan {
    let server = random.usize(0..2);
    let any = random.usize(0..3);
    let short = seconds(random, 0.1, 1.5);
    let some = seconds(random, 0.5, 6.0);
    // Long enough to be taken out for it.
    let long = MEMBER_TIMEOUT * 2 + seconds(random, 0.0, 4.0);
    let of = |strike, member, lasts| Plan {
        strike,
        member,
        lasts,
    };
    let fault = |fault, lasts| of(Strike::Server(fault), Some(server), lasts);
    let nobody = |strike, lasts| of(strike, None, lasts);
    match random.u8(0..30) {
        0..=2 => fault(Fault::Killed, some),
        3..=4 => fault(Fault::Frozen, short),
        5..=6 => fault(Fault::Frozen, long),
        7 => fault(Fault::Link(Deed::Cut), some),
        8 => fault(Fault::Link(Deed::CutInMessage), short),
        9 => fault(Fault::Link(Deed::Stall), short),
        10 => fault(Fault::Link(Deed::Stall), long),
        11 => fault(
            Fault::Link(
                random
                    .choice([Deed::Garbage, Deed::Oversize, Deed::Corrupt])
                    .expect("three"),
            ),
            short,
        ),
        12..=13 => {
            let method = random
                .choice(["vote", "tpc_finish", "loadBefore"])
                .expect("three");
            let moment = match random.u8(0..3) {
                0 => Moment::Asked(method),
                1 => Moment::Passed(method),
                _ => Moment::Answered(method),
            };
            let deed = match random.u8(0..4) {
                0 => Deed::Cut,
                1 => Deed::Stall,
                2 => Deed::Corrupt,
                _ if matches!(moment, Moment::Answered(_)) => Deed::Hold(short),
                // Nobody's vote fails alone but by such.
                _ if moment == Moment::Asked("vote") => Deed::Error(Exception::NO_SPACE),
                _ => Deed::Cut,
            };
            of(Strike::Trap(moment, deed), Some(server), some)
        }
        14..=15 => {
            let by = seconds(random, 0.01, 0.15);
            of(Strike::Slow(by), Some(server), some)
        }
        16..=17 => {
            let verify = random.bool();
            of(Strike::Disable { verify }, Some(any), some)
        }
        18 => {
            let replaced = match random.u8(0..6) {
                0..=1 => Replaced::By(Damage::Deleted),
                2 => Replaced::By(Damage::Emptied),
                3 => Replaced::By(Damage::Middle),
                4 => Replaced::By(Damage::Tail),
                _ => Replaced::OfBackup,
            };
            of(Strike::Rebuild(replaced), Some(FILE), some)
        }
        19..=20 => of(Strike::Remove, Some(any), some),
        21..=23 => {
            let kind = random.choice(jobs::Kind::ALL).expect("three");
            nobody(Strike::Job(kind), Duration::ZERO)
        }
        24 => nobody(Strike::Deaf, long),
        25 => nobody(Strike::Asleep, long),
        26..=27 => nobody(Strike::Nonsense, Duration::ZERO),
        28 => nobody(Strike::HangUp, Duration::ZERO),
        _ => nobody(Strike::Reopen, Duration::ZERO),
    }
}

impl Plan {
    /// As it is counted.
    pub(super) fn name(&self) -> &'static str {
        let is_long = self.lasts > MEMBER_TIMEOUT;
        match self.strike {
            Strike::Server(Fault::Killed) => "server killed",
            Strike::Server(Fault::Frozen) if is_long => "server stopped for long",
            Strike::Server(Fault::Frozen) => "server stopped for a moment",
            Strike::Server(Fault::Link(Deed::Stall)) if is_long => "way held for long",
            Strike::Server(Fault::Link(Deed::Stall)) => "way held for a moment",
            Strike::Server(Fault::Link(Deed::Cut | Deed::CutInMessage)) => "way cut",
            Strike::Server(Fault::Link(_)) => "nonsense on the way",
            Strike::Trap(..) => "trap in a call",
            Strike::Slow(_) => "way slow",
            Strike::Disable { .. } => "member disabled",
            Strike::Rebuild(_) => "file replaced and rebuilt",
            Strike::Remove => "member removed and added",
            Strike::Job(jobs::Kind::Scrub) => "scrub",
            Strike::Job(jobs::Kind::Pack) => "pack",
            Strike::Job(jobs::Kind::Backup) => "backup",
            Strike::Deaf => "client that does not read",
            Strike::Asleep => "client stopped",
            Strike::Nonsense => "nonsense at the port",
            Strike::HangUp => "SIGHUP",
            Strike::Reopen => "SIGUSR2",
        }
    }
}

/// All names, so that the summary says of what there was nothing.
pub(super) const NAMES: [&str; 20] = [
    "server killed",
    "server stopped for a moment",
    "server stopped for long",
    "way cut",
    "way held for a moment",
    "way held for long",
    "way slow",
    "nonsense on the way",
    "trap in a call",
    "member disabled",
    "file replaced and rebuilt",
    "member removed and added",
    "scrub",
    "pack",
    "backup",
    "client that does not read",
    "client stopped",
    "nonsense at the port",
    "SIGHUP",
    "SIGUSR2",
];

/// Writes the configuration without this member, or with all.
pub(super) fn configure(lab: &mut Lab, without: Option<usize>) {
    let servers: Vec<usize> = (0..SETUP.servers)
        .filter(|index| Some(*index) != without)
        .collect();
    let files = lab.setup.files;
    lab.setup.files = usize::from(without != Some(FILE));
    lab.configure(&lab.instance, &servers);
    lab.setup.files = files;
}
