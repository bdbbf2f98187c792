//! systemd's journal, as a place for lines of the log.
//!
//! Each line is one datagram of the journal's native protocol (systemd's page "Native Journal Protocol"): fields,
//! each `NAME=value` and a newline, or, where the value has several lines, `NAME`, a newline, its length in
//! 8 bytes little-endian, the value and a newline. The layer for `tracing` that there is puts what varies into
//! fields of its own and only the constant message into `MESSAGE`; but `MESSAGE` is all that `journalctl` and
//! whoever reads it shows, so the whole line goes there.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// What it is called there: `journalctl -t zeoraid`.
const IDENTIFIER: &str = "zeoraid";

/// What surely fits into a datagram. A longer line is cut.
const MOST: usize = 96 << 10;

/// A way to the journal. Clones share it.
#[derive(Clone)]
pub(super) struct Journal(Arc<UnixDatagram>);

impl Journal {
    pub(super) fn open(path: &Path) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Journal(Arc::new(socket)))
    }
}

/// Whether standard error is the journal: systemd says which file it has given for that, since a program
/// further down may have been given another.
pub(super) fn is_standard_error() -> bool {
    let Ok(said) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let Ok(metadata) = stderr.and_then(|file| file.metadata()) else {
        return false;
    };
    said == format!("{}:{}", metadata.dev(), metadata.ino())
}

/// One line for the journal.
pub(super) struct Line {
    journal: Journal,
    priority: u8,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        self.journal.0.send(&datagram(self.priority, text))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            journal: self.clone(),
            priority: 6,
        }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line {
        Line {
            journal: self.clone(),
            priority: priority(*about.level()),
        }
    }
}

/// syslog's numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn datagram(priority: u8, text: &[u8]) -> Vec<u8> {
    let text = &text[..text.len().min(MOST)];
    let mut fields =
        format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE").into_bytes();
    if text.contains(&b'\n') {
        fields.push(b'\n');
        fields.extend((text.len() as u64).to_le_bytes());
    } else {
        fields.push(b'=');
    }
    fields.extend(text);
    fields.push(b'\n');
    fields
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn lines_go_there_whole_with_their_priority() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let there = UnixDatagram::bind(&path).unwrap();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(Journal::open(&path).unwrap())
            .with_ansi(false)
            .with_target(false)
            .with_level(false)
            .without_time();
        let subscriber = tracing_subscriber::registry().with(layer);
        let _guard = tracing::subscriber::set_default(subscriber);
        tracing::warn!(member = "a", "member taken out");
        let mut bytes = [0; 1024];
        let count = there.recv(&mut bytes).unwrap();
        assert_eq!(
            std::str::from_utf8(&bytes[..count]).unwrap(),
            "PRIORITY=4\nSYSLOG_IDENTIFIER=zeoraid\nMESSAGE=member taken out member=\"a\"\n"
        );
    }

    #[test]
    fn several_lines_have_a_length() {
        let made = datagram(6, b"a\nb");
        let (head, rest) = made.split_at(made.len() - 12);
        assert!(head.ends_with(b"MESSAGE\n"), "{made:?}");
        assert_eq!(rest, b"\x03\0\0\0\0\0\0\0a\nb\n");
    }

    #[test]
    fn without_a_journal_it_is_an_error() {
        assert!(Journal::open(Path::new("/nonexistent/journal")).is_err());
    }
}
