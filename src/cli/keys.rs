//! Single keys, while something is shown that goes on by itself.
//!
//! They are read from the terminal itself, in a mode without lines and echo, which ends when the [`Keys`] are
//! dropped: before a question is asked, and when the command ends. Ctrl-C stays a signal.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;
use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use tokio::net::unix::pipe::Receiver;

/// Keys are read as long as this is there.
pub(super) struct Keys {
    /// It waits like a pipe.
    terminal: Receiver,
    before: Termios,
}

impl Keys {
    /// None where there is no terminal to read from.
    pub(super) fn read() -> Option<Keys> {
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        // Opened anew, so that nobody else's standard input ceases to wait.
        let terminal = File::options()
            .read(true)
            .custom_flags(nonblock)
            .open("/dev/tty")
            .ok()?;
        // In the background the terminal is somebody else's, and changing it would stop us.
        if tcgetpgrp(&terminal).ok()? != getpgrp() {
            return None;
        }
        let before = tcgetattr(&terminal).ok()?;
        let mut mode = before.clone();
        mode.local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO);
        let terminal = Receiver::from_file_unchecked(terminal).ok()?;
        tcsetattr(&terminal, OptionalActions::Now, &mode).ok()?;
        Some(Keys { terminal, before })
    }

    /// Waits for the next key. Cancel safe. A terminal that is gone has no more keys.
    pub(super) async fn pressed(&self) -> char {
        loop {
            if self.terminal.readable().await.is_err() {
                return std::future::pending().await;
            }
            let mut byte = [0];
            match self.terminal.try_read(&mut byte) {
                Ok(1..) => return char::from(byte[0]),
                Ok(0) => return std::future::pending().await,
                Err(error) => match error.kind() {
                    // It was not ready after all.
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    _ => return std::future::pending().await,
                },
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that is gone needs it no more.
        tcsetattr(&self.terminal, OptionalActions::Now, &self.before).ok();
    }
}
