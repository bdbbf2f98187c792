//! `<runner>`: how `zdaemon` ran the old server. `zeoraidctl start` does that work, so nothing of it is a
//! setting of the daemon.

use crate::config::zconfig::notes::Findings;
use crate::config::zconfig::reader::{Fate, Left, Reader};
use crate::config::zconfig::tree::Section;

const OWN_WORK: &str = "`zeoraidctl start`, `stop` and `fg` do this work themselves";
const AGAIN: &str = "who starts it again when it dies is systemd or supervisor now: set it there";

const LEFT: &[Left] = &[
    ("program", Fate::Known, "the program is `zeoraidctl` now"),
    ("python", Fate::Known, OWN_WORK),
    ("zdrun", Fate::Known, OWN_WORK),
    ("schema-file", Fate::Known, OWN_WORK),
    (
        "socket-name",
        Fate::Known,
        "the control socket is `admin.socket`, var/zeoraid.sock in the instance",
    ),
    (
        "daemon",
        Fate::Known,
        "`zeoraidctl start` runs it in the background, `zeoraidctl fg` does not",
    ),
    ("directory", Fate::Known, "it runs in the instance's folder"),
    ("hang-around", Fate::Known, OWN_WORK),
    ("default-to-interactive", Fate::Known, OWN_WORK),
    ("prompt", Fate::Known, OWN_WORK),
    ("logfile", Fate::Known, "there is one log: `log.file`"),
    (
        "transcript",
        Fate::Known,
        "what the daemon would print is in `log.file`",
    ),
    (
        "start-test-program",
        Fate::Known,
        "`zeoraidctl start` returns when it serves",
    ),
    (
        "start-timeout",
        Fate::Known,
        "`zeoraidctl start --timeout` says how long it waits",
    ),
    (
        "stop-timeout",
        Fate::Known,
        "`zeoraidctl stop` returns when it has ended",
    ),
    ("backoff-limit", Fate::ToDo, AGAIN),
    ("forever", Fate::ToDo, AGAIN),
    ("exit-codes", Fate::ToDo, AGAIN),
    (
        "user",
        Fate::ToDo,
        "start it as that user (`User=` of a systemd unit, `user=` of supervisor), who must own the instance and the data",
    ),
    (
        "umask",
        Fate::ToDo,
        "set it where the daemon is started (`UMask=` of a systemd unit)",
    ),
];

pub(super) fn runner(section: &Section, found: &mut Findings) {
    let mut reader = Reader::new(section);
    reader.left(LEFT, found);
    reader.end(found);
}
