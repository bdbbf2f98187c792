//! Where the log goes: standard error in the foreground, the log file in the background, or the journal.
//!
//! The file can be opened again after it was renamed by a rotation, and the level can be changed by a
//! reload, both while the daemon runs. Lines are written whole, each by one `write` at the file's end.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

use super::error::DaemonError;
use super::journal::{self, Journal};
use crate::config::{Log, LogFormat, LogLevel, LogTarget};

/// What can still be changed of the log. Clones are the same one.
#[derive(Clone)]
pub(super) struct Logging {
    file: Option<LogFile>,
    filter: Option<reload::Handle<Targets, Registry>>,
}

impl Logging {
    /// Begins to log, where the configuration says.
    ///
    /// # Errors
    /// Where the file cannot be opened, or there is no journal.
    pub(super) fn start(log: &Log, background: bool) -> Result<Logging, DaemonError> {
        let journal = || Journal::open(Path::new(journal::SOCKET));
        let mut file = None;
        let target = match (log.target, background) {
            (LogTarget::Auto | LogTarget::Stderr, true) => LogTarget::File,
            // What goes there line by line loses its level and gets a second time.
            (LogTarget::Auto, false) if journal::is_standard_error() && journal().is_ok() => {
                LogTarget::Journal
            }
            (LogTarget::Auto, false) => LogTarget::Stderr,
            (target, _) => target,
        };
        let layer = match target {
            LogTarget::File => {
                let opened = LogFile::open(&log.file);
                let opened = opened.map_err(DaemonError::io("open the log file", &log.file))?;
                file = Some(opened.clone());
                layer(log.format, opened, false)
            }
            LogTarget::Journal => {
                let journal =
                    journal().map_err(DaemonError::io("reach the journal at", journal::SOCKET))?;
                journal_layer(log.format, journal)
            }
            LogTarget::Stderr | LogTarget::Auto => {
                layer(log.format, io::stderr, io::stderr().is_terminal())
            }
        };
        let (filter, handle) = reload::Layer::new(filter(log.level));
        // A second daemon in one process, which only tests have, shares the first one's log.
        let begun = tracing_subscriber::registry()
            .with(layer.with_filter(filter))
            .try_init();
        Ok(Logging {
            file,
            filter: begun.is_ok().then_some(handle),
        })
    }

    /// Opens the log file anew, after a rotation. Standard error and the journal need none.
    pub(super) fn reopen(&self) -> io::Result<()> {
        match &self.file {
            Some(file) => file.reopen(),
            None => Ok(()),
        }
    }

    pub(super) fn set_level(&self, level: LogLevel) {
        if let Some(handle) = &self.filter
            && let Err(error) = handle.reload(filter(level))
        {
            tracing::warn!(%error, "could not change the log level");
        }
    }

    /// A log that goes nowhere.
    #[cfg(test)]
    pub(super) fn none() -> Logging {
        Logging {
            file: None,
            filter: None,
        }
    }
}

/// Libraries are heard only when they warn.
fn filter(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("zeoraidctl", ours)
}

fn layer<W>(format: LogFormat, writer: W, colours: bool) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_target(false);
    match format {
        LogFormat::Text => layer.with_ansi(colours).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// The journal has its own times and levels.
fn journal_layer(format: LogFormat, journal: Journal) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(journal)
        .with_ansi(false)
        .with_target(false)
        .without_time();
    match format {
        LogFormat::Text => layer.with_level(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// A log file that can be opened again. Who writes just then writes into the old one.
#[derive(Clone)]
struct LogFile {
    path: Arc<PathBuf>,
    open: Arc<ArcSwap<File>>,
}

/// One line's writer: it keeps the file that it began with.
struct LineWriter(Arc<File>);

impl LogFile {
    fn open(path: &Path) -> io::Result<LogFile> {
        Ok(LogFile {
            path: Arc::new(path.to_owned()),
            open: Arc::new(ArcSwap::from_pointee(append(path)?)),
        })
    }

    fn reopen(&self) -> io::Result<()> {
        self.open.store(Arc::new(append(&self.path)?));
        Ok(())
    }
}

/// Opens a file to append, and makes it where it is not there.
pub(super) fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter(self.open.load_full())
    }
}

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        (&*self.0).write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_rotation_lines_go_into_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeoraid.log");
        let file = LogFile::open(&path).unwrap();
        let subscriber =
            tracing_subscriber::registry().with(layer(LogFormat::Json, file.clone(), false));
        let _guard = tracing::subscriber::set_default(subscriber);
        tracing::info!("one");
        let rotated = folder.path().join("zeoraid.log.1");
        std::fs::rename(&path, &rotated).unwrap();
        tracing::info!("two");
        file.reopen().unwrap();
        tracing::info!(member = "a", "three");
        let old = std::fs::read_to_string(&rotated).unwrap();
        let new = std::fs::read_to_string(&path).unwrap();
        assert_eq!(old.lines().count(), 2, "{old}");
        let line: serde_json::Value = serde_json::from_str(&new).unwrap();
        assert_eq!(
            (&line["message"], &line["member"]),
            (&"three".into(), &"a".into())
        );
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let log = Log {
            target: LogTarget::Auto,
            file: "/nonexistent/zeoraid.log".into(),
            level: LogLevel::Info,
            format: LogFormat::Text,
        };
        let error = Logging::start(&log, true).err().unwrap();
        let expected = "could not open the log file /nonexistent/zeoraid.log: ";
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
