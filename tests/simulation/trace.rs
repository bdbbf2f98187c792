//! What happened, for whoever has to understand a failure: simulated time, host, what.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io;
use std::sync::LazyLock;

use tracing::Dispatch;

use super::host;

#[derive(Default)]
struct Trace {
    lines: Vec<String>,
    failure: Option<String>,
    /// The folder of this run, whose name is another each time.
    folder: String,
    echo: bool,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// A subscriber that is always there. What is worth saying is decided once for the process: while there
/// is only one subscriber, by whatever thread comes first, also by one that has none.
static ALSO: LazyLock<Dispatch> = LazyLock::new(|| {
    let all = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO);
    Dispatch::new(all.with_writer(io::sink).finish())
});

pub(super) fn begin(folder: &std::path::Path) {
    LazyLock::force(&ALSO);
    TRACE.set(Trace {
        folder: folder.display().to_string(),
        echo: std::env::var_os("TRACE").is_some(),
        ..Trace::default()
    });
}

/// Writes a line.
pub(super) fn note(text: impl AsRef<str>) {
    let life = host::current();
    let who = life.as_ref().map_or("-", |life| life.name());
    let elapsed = host::elapsed();
    TRACE.with_borrow_mut(|trace| {
        for text in text.as_ref().trim_end().lines() {
            let text = text.replace(&trace.folder, "");
            let line = format!(
                "{:>5}.{:03} {who:<4} {text}",
                elapsed.as_secs(),
                elapsed.subsec_millis()
            );
            if trace.echo {
                eprintln!("{line}");
            }
            trace.lines.push(line);
        }
    });
}

/// A promise was broken. The first time counts.
pub(super) fn fail(text: impl AsRef<str>) {
    note(format!("BROKEN: {}", text.as_ref()));
    TRACE.with_borrow_mut(|trace| {
        trace
            .failure
            .get_or_insert_with(|| text.as_ref().to_owned());
    });
}

pub(super) fn failure() -> Option<String> {
    TRACE.with_borrow(|trace| trace.failure.clone())
}

pub(super) fn take() -> Vec<String> {
    TRACE.with_borrow_mut(|trace| std::mem::take(&mut trace.lines))
}

/// The end of a trace, for a message.
pub(super) fn tail(lines: &[String]) -> String {
    const MOST: usize = 400;
    let from = lines.len().saturating_sub(MOST);
    let mut text = String::new();
    for line in &lines[from..] {
        writeln!(text, "{line}").expect("a string takes it");
    }
    text
}

/// Takes the log of whatever runs.
#[derive(Clone, Copy)]
pub(super) struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        note(String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
