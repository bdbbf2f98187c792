//! What must hold after every event. A violation is a bug; going on would break a promise.

use super::{CommitState, Controller, Kind, Phase};

impl Controller {
    /// # Panics
    /// Where the state contradicts itself.
    pub(super) fn check(&self) {
        assert!(self.durable_epoch <= self.epoch, "a record of the future");
        assert!(
            self.head <= self.last_given,
            "the head is a TID that was given"
        );
        if self.phase == Phase::Running {
            assert!(
                self.known <= self.head,
                "the array goes on from all that was acknowledged"
            );
            assert!(
                self.in_sync_count() > 0,
                "INVARIANT 4: the in-sync set is never empty"
            );
            for (_, member) in self.in_sync() {
                assert!(member.is_open(), "{} is in sync and not open", member.name);
            }
        }
        // INVARIANT 6: one after the other, and none behind the head.
        let mut last = self.head;
        for id in &self.finishing {
            let commit = &self.commits[id];
            assert!(commit.tid > last, "{} finishes after {last}", commit.tid);
            assert!(matches!(
                commit.state,
                CommitState::Finishing { .. } | CommitState::AwaitsAck { .. }
            ));
            last = commit.tid;
        }
        for id in &self.queue {
            assert_eq!(
                self.commits[id].state,
                CommitState::Queued,
                "only the queued wait"
            );
        }
        for (id, commit) in &self.commits {
            let finishing = self.finishing.contains(id);
            let queued = self.queue.contains(id);
            assert!(
                finishing || queued || self.lock == Some(*id),
                "{id:?} is in {:?} and nobody will end it",
                commit.state
            );
            if commit.kind == Kind::Client {
                for member in &commit.participants {
                    let known = self.members.get(member);
                    assert!(
                        known.is_some_and(super::state::Member::is_in_sync),
                        "{id:?} asks an outsider"
                    );
                }
            }
        }
        if let Some(id) = self.lock {
            assert!(self.commits.contains_key(&id), "the lock is held by nobody");
        }
    }
}
