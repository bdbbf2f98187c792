//! `<runner>`: how `zdaemon` ran the old server. `zeoraidctl start` does that work; settings of the daemon are
//! its user and its umask.

use crate::config::check::{parse_umask, user as parse_user};
use crate::config::zconfig::document::Map;
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
];

const BECOMES: &str = "root starts the daemon, as before, and it becomes that user before it opens anything \
    (`effective_user`); where that user starts it, it stays as it is";
const FIRST: &str = "another <runner> says it as well: the first is taken";

/// What is the daemon's own work too: which user it becomes, and its umask.
pub(super) fn runner(section: &Section, process: &mut Map, found: &mut Findings) {
    let mut reader = Reader::new(section);
    if let Some(key) = reader.one("user", found) {
        let name = &key.value;
        let what = format!("`user {name}` in <runner>");
        // `zdaemon` takes a number as well.
        if name.parse::<u32>().is_ok() {
            let mend = "a number: write the login name that it has into `effective_user`";
            found.must_do(&key.place, what, mend);
        } else if let Err(why) = parse_user(name) {
            found.must_do(&key.place, what, format!("not carried over: {why}"));
        } else if process.has("effective_user") {
            found.must_do(&key.place, what, FIRST);
        } else {
            process.text("effective_user", name, &key.place);
            found.known(&key.place, what, BECOMES);
        }
    }
    if let Some(key) = reader.one("umask", found) {
        let what = format!("`umask {}` in <runner>", key.value);
        match parse_umask(&key.value) {
            Err(why) => found.must_do(&key.place, what, format!("not carried over: {why}")),
            Ok(_) if process.has("umask") => found.must_do(&key.place, what, FIRST),
            Ok(mask) => process.text("umask", &format!("{mask:03o}"), &key.place),
        }
    }
    reader.left(LEFT, found);
    reader.end(found);
}
