//! Packing and recovering exclude each other: a recovery compares and copies histories, and a pack
//! rewrites them. So do packing and reading whole histories, for a backup or a scrub: a pack takes files
//! of blobs away that belong to what was read. The work itself is ordinary code in `raid::pack`,
//! `raid::backup` and `raid::scrub`.

use super::{Asked, Changes, Controller, Now, Phase, Refused, Serving};

/// Why a whole history is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reading {
    Backup,
    Scrub,
}

impl Reading {
    /// What the array is being.
    fn word(self) -> &'static str {
        match self {
            Reading::Backup => "backed up",
            Reading::Scrub => "scrubbed",
        }
    }

    /// Of the tool.
    fn command(self) -> &'static str {
        match self {
            Reading::Backup => "backup",
            Reading::Scrub => "scrub",
        }
    }
}

impl Controller {
    pub(crate) fn is_packing(&self) -> bool {
        self.packing
    }

    /// Begins a pack, or says why not.
    pub(super) fn pack_asked(&mut self) -> Asked {
        if self.phase == Phase::Stopping {
            return Err(Refused::ShuttingDown);
        }
        match &self.serving {
            Serving::Yes => {}
            Serving::Starting { waits_for: reason }
            | Serving::ReadOnly { reason }
            | Serving::No { reason } => {
                let reason = reason.clone();
                return Err(Refused::NotServing { reason });
            }
        }
        if self.packing {
            let array = self.rules.array.clone();
            return Err(Refused::Packing { array });
        }
        let running = self.recovery.as_ref().map(|running| running.member);
        let waiting = self.recovery_queue.front().map(|wanted| wanted.member);
        if let Some(member) = running.or(waiting) {
            let member = self.name(member);
            return Err(Refused::RecoveryFirst { member });
        }
        if let Some(reading) = self.reading.first() {
            return Err(self.is_being(*reading));
        }
        self.packing = true;
        Ok(Changes::default())
    }

    /// Begins to read whole histories, or says why not.
    pub(super) fn read_asked(&mut self, reading: Reading) -> Asked {
        if self.phase == Phase::Stopping {
            return Err(Refused::ShuttingDown);
        }
        match &self.serving {
            Serving::Yes | Serving::ReadOnly { .. } => {}
            Serving::Starting { waits_for: reason } | Serving::No { reason } => {
                let reason = reason.clone();
                return Err(Refused::NotServing { reason });
            }
        }
        if self.packing {
            let array = self.rules.array.clone();
            return Err(Refused::Packing { array });
        }
        if !self.reading.insert(reading) {
            return Err(self.is_being(reading));
        }
        Ok(Changes::default())
    }

    fn is_being(&self, reading: Reading) -> Refused {
        Refused::Reading {
            array: self.rules.array.clone(),
            what: reading.word(),
            command: reading.command(),
        }
    }

    /// Members that came back meanwhile are recovered now.
    pub(super) fn pack_ended(&mut self, now: Now) {
        self.packing = false;
        self.start_next_recovery(now);
    }
}
