//! Packing and recovering exclude each other: a recovery compares and copies histories, and a pack
//! rewrites them. The packing itself is ordinary code in `raid::pack`.

use super::{Asked, Changes, Controller, Now, Phase, Refused, Serving};

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
        self.packing = true;
        Ok(Changes::default())
    }

    /// Members that came back meanwhile are recovered now.
    pub(super) fn pack_ended(&mut self, now: Now) {
        self.packing = false;
        self.start_next_recovery(now);
    }
}
