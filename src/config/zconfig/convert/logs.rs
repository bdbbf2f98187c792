//! `<eventlog>`: the level and the file. ZConfig's `components/logger`.

use super::paths::Paths;
use crate::config::LogLevel;
use crate::config::zconfig::document::Map;
use crate::config::zconfig::notes::Findings;
use crate::config::zconfig::reader::{Fate, Left, Reader};
use crate::config::zconfig::tree::{Place, Section};
use crate::config::zconfig::values::level;

const ROTATION: &str =
    "the daemon does not rotate its log: let logrotate do it, with `zeoraidctl reopen` after it";
const SHAPE: &str = "the shape of lines is fixed: text, or JSON with `log.format: json`";

const OF_A_FILE: &[Left] = &[
    ("format", Fate::Known, SHAPE),
    ("dateformat", Fate::Known, SHAPE),
    ("formatter", Fate::Known, SHAPE),
    ("style", Fate::Known, SHAPE),
    ("arbitrary-fields", Fate::Known, SHAPE),
    ("encoding", Fate::Known, "the log is UTF-8"),
    ("delay", Fate::Known, "the file is opened at the start"),
    ("old-files", Fate::ToDo, ROTATION),
    ("max-size", Fate::ToDo, ROTATION),
    ("when", Fate::ToDo, ROTATION),
    ("interval", Fate::ToDo, ROTATION),
];

pub(super) fn eventlog(section: &Section, paths: &Paths<'_>, found: &mut Findings) -> Map {
    let mut reader = Reader::new(section);
    let mut lowest = reader
        .value("level", level, found)
        .map(|(level, place)| (level, place.clone()));
    let mut file: Option<(String, Place)> = None;
    for section in reader.sections("logfile") {
        let mut reader = Reader::new(section);
        let own = reader
            .value("level", level, found)
            .map(|(level, place)| (level, place.clone()));
        match reader.one("path", found) {
            None => found.mistake(&section.place, "<logfile> has no `path`", "add `path FILE`"),
            Some(key) if matches!(key.value.to_uppercase().as_str(), "STDOUT" | "STDERR") => found.known(
                &key.place,
                format!("`path {}` in <logfile>", key.value),
                "`zeoraidctl fg` logs to standard error; in the background there is a file, var/log/zeoraid.log",
            ),
            Some(key) if file.is_some() => found.must_do(
                &key.place,
                format!("`path {}` in a second <logfile>", key.value),
                "there is one log file: the first is taken",
            ),
            Some(key) => {
                file = Some((paths.absolute(key, found), key.place.clone()));
                // What the file takes is what counts, unless the whole log takes less.
                if let Some((level, place)) = own
                    && quiet(level) < lowest.as_ref().map_or(quiet(LogLevel::Info), |(whole, _)| quiet(*whole))
                {
                    lowest = Some((level, place));
                }
            }
        }
        reader.left(OF_A_FILE, found);
        reader.end(found);
    }
    for kind in ["syslog", "email-notifier", "http-logger", "win32-eventlog"] {
        for section in reader.sections(kind) {
            found.must_do(
                &section.place,
                format!("{} in <eventlog>", section.title()),
                "the daemon logs to a file, or to standard error in the foreground; let what watches the file, or the \
                 journal, pass it on",
            );
        }
    }
    reader.end(found);
    let mut map = Map::default();
    if let Some((path, place)) = &file {
        map.text("file", path, place);
    }
    if let Some((level, place)) = &lowest {
        map.plain("level", level.word(), place);
    }
    map
}

fn quiet(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error => 0,
        LogLevel::Warn => 1,
        LogLevel::Info => 2,
        LogLevel::Debug => 3,
        LogLevel::Trace => 4,
    }
}
