//! A person at a terminal: the binary in a pseudo-terminal, and what its screen shows.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use super::Instance;
use super::wait::until_ok;

const PATIENCE: Duration = Duration::from_secs(30);
/// How long the reader may take for what was said before the end.
const LAST_WORDS: Duration = Duration::from_secs(5);
const ROWS: u16 = 50;

pub(crate) const ENTER: &str = "\r";
pub(crate) const DOWN: &str = "\x1b[B";
pub(crate) const SPACE: &str = " ";
pub(crate) const UP: &str = "\x1b[A";
pub(crate) const TAB: &str = "\t";
pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_D: &str = "\x04";

pub(crate) struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn Write + Send>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Ends when all was read.
    read: mpsc::Receiver<()>,
    // The terminal is there as long as this is.
    master: Box<dyn MasterPty + Send>,
}

impl Terminal {
    /// Starts a command about this instance on a terminal of this width.
    pub(crate) fn run(instance: &Instance, columns: u16, args: &[&str]) -> Self {
        Self::run_with(instance, columns, args, &[])
    }

    /// With these variables in the environment.
    pub(crate) fn run_with(
        instance: &Instance,
        columns: u16,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let size = PtySize {
            rows: ROWS,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        };
        let pair = native_pty_system()
            .openpty(size)
            .expect("a pseudo-terminal");
        let mut command = CommandBuilder::new(super::instance::ZEORAIDCTL);
        command.arg("-C");
        command.arg(instance.root());
        command.args(args);
        command.cwd(instance.root());
        for (name, _) in std::env::vars() {
            if name.starts_with("ZEORAID_") || name.contains("COLOR") || name == "COLUMNS" {
                command.env_remove(name);
            }
        }
        for (name, value) in [
            ("TZ", "UTC"),
            ("TERM", "xterm-256color"),
            ("LANG", "C.UTF-8"),
        ] {
            command.env(name, value);
        }
        for (name, value) in variables {
            command.env(name, value);
        }
        let child = pair
            .slave
            .spawn_command(command)
            .expect("the binary starts");
        drop(pair.slave);
        let cells = |length| NonZeroU16::new(length).expect("a terminal has a size");
        let screen = vt100::Parser::new(cells(ROWS), cells(columns), 0);
        let screen = Arc::new(Mutex::new(screen));
        let mut output = pair
            .master
            .try_clone_reader()
            .expect("a reader of the terminal");
        let shown = Arc::clone(&screen);
        // Ends with the terminal.
        let (reading, read) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let _reading = reading;
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                lock(&shown).process(&bytes[..count]);
            }
        });
        Terminal {
            child,
            keys: pair.master.take_writer().expect("a writer to the terminal"),
            screen,
            read,
            master: pair.master,
        }
    }

    /// What stands on the screen, without colours and without blanks at the ends of lines.
    pub(crate) fn text(&self) -> String {
        let parser = lock(&self.screen);
        let screen = parser.screen();
        let (_, columns) = screen.size();
        // Row by row: a line that is as wide as the screen is not joined with the next.
        let rows = screen.rows(0, columns.get());
        let lines: Vec<String> = rows.map(|row| row.trim_end().to_owned()).collect();
        lines.join("\n").trim_end().to_owned()
    }

    /// Whether anything stands there in colour.
    pub(crate) fn has_colour(&self) -> bool {
        let parser = lock(&self.screen);
        let screen = parser.screen();
        let (rows, columns) = screen.size();
        (0..rows.get()).any(|row| {
            (0..columns.get()).any(|column| {
                screen
                    .cell(row, column)
                    .is_some_and(|cell| cell.fgcolor() != vt100::Color::Default)
            })
        })
    }

    /// Whether the cursor can be seen: a program must not leave it hidden.
    pub(crate) fn shows_cursor(&self) -> bool {
        !lock(&self.screen).screen().hide_cursor()
    }

    /// The window gets another width.
    pub(crate) fn resize(&mut self, columns: u16) {
        let cells = |length| NonZeroU16::new(length).expect("a terminal has a size");
        lock(&self.screen)
            .screen_mut()
            .set_size(cells(ROWS), cells(columns));
        let size = PtySize {
            rows: ROWS,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        };
        self.master.resize(size).expect("the terminal takes a size");
    }

    /// Types a line at a prompt, and waits until it is taken: keys that come between two prompts are
    /// seen by whoever reads the terminal then.
    #[track_caller]
    pub(crate) fn enter(&mut self, line: &str) {
        self.press(line);
        until_ok(&format!("{line:?} at the prompt"), PATIENCE, || {
            let last = self.last_line();
            if last.ends_with(line) {
                Ok(())
            } else {
                Err(last)
            }
        });
        self.press(ENTER);
        until_ok(&format!("{line:?} to be taken"), PATIENCE, || {
            let last = self.last_line();
            if last.ends_with(line) {
                Err(last)
            } else {
                Ok(())
            }
        });
    }

    /// Waits for this prompt in the last line, and nothing typed behind it.
    #[track_caller]
    pub(crate) fn wait_prompt(&mut self, prompt: &str) {
        until_ok(&format!("{prompt:?} in the last line"), PATIENCE, || {
            if self.last_line() == prompt {
                Ok(())
            } else {
                Err(format!("it shows:\n{}", self.text()))
            }
        });
    }

    fn last_line(&self) -> String {
        let text = self.text();
        text.lines().last().unwrap_or_default().to_owned()
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keys
            .write_all(keys.as_bytes())
            .expect("the terminal takes keys");
        self.keys.flush().expect("the terminal takes keys");
    }

    /// Waits until this stands on the screen.
    #[track_caller]
    pub(crate) fn wait(&mut self, part: &str) {
        until_ok(&format!("{part:?} on the screen"), PATIENCE, || {
            let text = self.text();
            if text.contains(part) {
                return Ok(());
            }
            Err(format!("it shows:\n{text}"))
        });
    }

    /// Waits for the end; the exit code.
    #[track_caller]
    pub(crate) fn end(&mut self) -> u32 {
        let status = until_ok("the command to end", PATIENCE, || {
            match self.child.try_wait() {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err(format!("it shows:\n{}", self.text())),
                Err(error) => panic!("waiting for the command: {error}"),
            }
        });
        // What it said last may still be on its way; where a child of it keeps the terminal open, there is no end.
        self.read.recv_timeout(LAST_WORDS).unwrap_or_default();
        status.exit_code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lock(screen: &Mutex<vt100::Parser>) -> MutexGuard<'_, vt100::Parser> {
    screen.lock().expect("no test panics while it looks")
}
