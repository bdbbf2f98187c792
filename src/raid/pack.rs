//! Packing: one optimal member after the other, so that the others answer at full speed.
//!
//! A member may take hours. It is waited for as long as it answers something else meanwhile, and is
//! never taken out for packing long. One that packs already (another daemon asked it to), that cannot
//! pack or that is lost meanwhile is left out, and that is said; members that are out are packed by
//! nobody, and come back with the unpacked history of their own. While members are packed they differ
//! in what they hold of the past: loads that miss are asked of the others, and nothing is undone,
//! because some could do it and some could not any more.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Notice;
use super::blobs::NotPacked;
use super::controller::{Event, MemberId};
use super::report::{PackOutcome, PackReport, PackedMember, Refused};
use super::runner::Runner;
use super::view::Reader;
use crate::job::{Amount, JobHandle, Rate, Work};
use crate::storage::{Answer, Fault, Result, StorageError};
use crate::zodb::Tid;

/// The pack that runs, or ended last.
pub(super) struct LastPack {
    id: u64,
    time: f64,
    members: Vec<(MemberId, PackedMember)>,
    shared_blobs: Option<PackOutcome>,
    handle: JobHandle,
    started: Timestamp,
    ended: Option<Timestamp>,
    cancelled: bool,
}

/// What a member that undoes is answered while others are packed.
pub(super) fn undo_is_disabled() -> Answer {
    Answer::Undo {
        reason: "undo is disabled while the array is being packed".into(),
        oid: None,
    }
}

/// The time to which members are packed: no later than the head. What is being finished has a TID of a moment
/// ago; a member that is packed now would not have it in its packed part, and the next one would.
fn no_later_than(time: f64, head: Tid) -> f64 {
    // Not before the head, where a number of seconds, here or in Python's `TimeStamp`, is not exact.
    const INEXACT: f64 = 1e-6;
    if head.is_zero() || head.time().is_none() {
        return time;
    }
    time.min(head.seconds() + INEXACT)
}

/// Starts a pack as a task.
pub(super) fn start(runner: &Arc<Runner>, time: f64) -> std::result::Result<(), Refused> {
    if !time.is_finite() || time < 0.0 {
        return Err(Refused::NoTime(time));
    }
    let view = runner.view();
    let can = |reader: &Reader| reader.storage.capabilities().pack;
    if !view.readers.is_empty() && !view.readers.iter().any(can) {
        let array = runner.options.name.clone();
        return Err(Refused::CannotPack { array });
    }
    runner.feed(Event::PackAsked)?;
    let (mut work, handle) = Work::new("pack", Rate::UNLIMITED, runner.tasks.stop());
    let sizes = view
        .readers
        .iter()
        .map(|reader| reader.storage.size().bytes);
    work.begin(
        "pack",
        Amount {
            transactions: 0,
            bytes: sizes.sum(),
        },
    );
    let members: Vec<MemberId> = view.readers.iter().map(|reader| reader.member).collect();
    let named = runner.update(|core| {
        let named: Vec<_> = members
            .iter()
            .map(|id| (*id, PackedMember::waiting(core.controller.name(*id))))
            .collect();
        core.pack = Some(LastPack {
            id: core.pack.as_ref().map_or(1, |last| last.id + 1),
            time,
            members: named.clone(),
            shared_blobs: runner.blobs.is_shared().then_some(PackOutcome::Waiting),
            handle,
            started: crate::clock::now(),
            ended: None,
            cancelled: false,
        });
        named
    });
    runner.notice(Notice::PackStarted {
        members: named.into_iter().map(|(_, member)| member.name).collect(),
    });
    let job = Job {
        runner: Arc::clone(runner),
        time: no_later_than(time, view.head),
        work,
    };
    runner.tasks.spawn("pack", job.run(members));
    Ok(())
}

/// Packs, and waits for the end of it.
pub(super) async fn run(runner: &Arc<Runner>, time: f64) -> Result<()> {
    let error = |text: String| {
        let class = "ZODB.POSException.StorageError".into();
        StorageError::Answer(Answer::Other { class, text })
    };
    start(runner, time).map_err(|refused| match refused {
        Refused::CannotPack { .. } => Answer::Unsupported("packing").into(),
        Refused::NotServing { reason } => Fault::NotServing(reason).into(),
        refused => error(refused.to_string()),
    })?;
    let handle = runner.look(|core| core.pack.as_ref().map(|pack| pack.handle.clone()));
    if let Some(mut handle) = handle {
        while handle.changed().await {}
    }
    let report = report(runner).ok_or_else(|| error("the pack was not begun".into()))?;
    let mut why = Vec::new();
    for member in &report.members {
        match member.outcome.why_not() {
            None => return Ok(()),
            Some(reason) => why.push(format!("{}: {reason}", member.name)),
        }
    }
    Err(error(format!("no member was packed ({})", why.join("; "))))
}

pub(super) fn report(runner: &Runner) -> Option<PackReport> {
    runner.look(|core| {
        let pack = core.pack.as_ref()?;
        let members = pack.members.iter().map(|(_, member)| member.clone());
        Some(PackReport {
            id: pack.id,
            time: pack.time,
            members: members.collect(),
            shared_blobs: pack.shared_blobs.clone(),
            progress: pack.handle.progress(),
            started: pack.started,
            ended: pack.ended,
            cancelled: pack.cancelled,
        })
    })
}

pub(super) fn cancel(runner: &Runner) -> std::result::Result<(), Refused> {
    runner.look(|core| match &core.pack {
        Some(pack) if pack.ended.is_none() => {
            pack.handle.cancel();
            Ok(())
        }
        _ => Err(Refused::NoPack),
    })
}

impl PackedMember {
    fn waiting(name: String) -> Self {
        PackedMember {
            name,
            outcome: PackOutcome::Waiting,
        }
    }
}

impl PackOutcome {
    /// Why it is not packed, once the pack has ended.
    fn why_not(&self) -> Option<&str> {
        match self {
            PackOutcome::Done => None,
            PackOutcome::Skipped(reason) | PackOutcome::Failed(reason) => Some(reason),
            PackOutcome::Waiting | PackOutcome::Packing => Some("cancelled"),
        }
    }
}

struct Job {
    runner: Arc<Runner>,
    time: f64,
    work: Work,
}

impl Job {
    async fn run(mut self, members: Vec<MemberId>) {
        let mut cancelled = self.wait_for_undos().await.is_err();
        for (number, id) in members.iter().enumerate() {
            cancelled = cancelled || self.work.check().is_err();
            if cancelled {
                break;
            }
            let name = self.tell(*id, PackOutcome::Packing);
            self.work
                .note(format!("{name}, {} of {}", number + 1, members.len()));
            let outcome = self.pack_one(*id).await;
            self.tell(*id, outcome);
        }
        self.runner.blobs.forget_fetched();
        if !cancelled {
            cancelled = self.pack_shared_blobs().await;
        }
        let (packed, left_out) = self.runner.update(|core| {
            let Some(pack) = &mut core.pack else {
                return Default::default();
            };
            pack.ended = Some(crate::clock::now());
            pack.cancelled = cancelled;
            let (mut packed, mut left_out) = (Vec::new(), Vec::new());
            for (_, member) in &pack.members {
                match member.outcome.why_not() {
                    None => packed.push(member.name.clone()),
                    Some(why) => left_out.push(format!("{}: {why}", member.name)),
                }
            }
            if let Some(why) = pack.shared_blobs.as_ref().and_then(PackOutcome::why_not) {
                left_out.push(format!("{}: {why}", PackReport::SHARED_BLOBS));
            }
            (packed, left_out)
        });
        self.runner.notice(Notice::PackDone { packed, left_out });
        self.runner.feed(Event::PackEnded).ok();
    }

    /// Packs the folder that no member owns, and says whether that was cancelled.
    async fn pack_shared_blobs(&mut self) -> bool {
        let packed = self.runner.update(|core| {
            let pack = core.pack.as_mut()?;
            *pack.shared_blobs.as_mut()? = PackOutcome::Packing;
            let done = |(id, member): &(MemberId, PackedMember)| {
                (member.outcome == PackOutcome::Done).then_some(*id)
            };
            Some(pack.members.iter().filter_map(done).collect::<Vec<_>>())
        });
        let Some(packed) = packed else {
            return false;
        };
        self.work.note(PackReport::SHARED_BLOBS.to_owned());
        let may_go_on = || self.work.check().is_ok();
        let walk = self
            .runner
            .pack_shared_blobs(self.time, &packed, may_go_on)
            .await;
        let cancelled = matches!(walk, Err(NotPacked::Cancelled));
        let outcome = match walk {
            Ok(_) => PackOutcome::Done,
            Err(why @ (NotPacked::Out(_) | NotPacked::Unpacked(_) | NotPacked::Cancelled)) => {
                PackOutcome::Skipped(why.to_string())
            }
            Err(why) => PackOutcome::Failed(why.to_string()),
        };
        self.runner.update(|core| {
            if let Some(pack) = &mut core.pack {
                pack.shared_blobs = Some(outcome);
            }
        });
        cancelled
    }

    /// Transactions that undo others and were voted before this began have an end by themselves: the
    /// members' timeouts and that of the transaction.
    async fn wait_for_undos(&self) -> std::result::Result<(), crate::job::Cancelled> {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while self
            .runner
            .look(|core| core.live.values().any(super::runner::Live::undoes))
        {
            self.work.check()?;
            looks.tick().await;
        }
        Ok(())
    }

    /// Changes what is said of a member, and gives its name.
    fn tell(&self, id: MemberId, outcome: PackOutcome) -> String {
        self.runner.update(|core| {
            let mut members = core.pack.iter_mut().flat_map(|pack| &mut pack.members);
            let Some((_, member)) = members.find(|(member, _)| *member == id) else {
                return String::new();
            };
            member.outcome = outcome;
            member.name.clone()
        })
    }

    async fn pack_one(&mut self, id: MemberId) -> PackOutcome {
        let view = self.runner.view();
        let Some(reader) = view.readers.iter().find(|reader| reader.member == id) else {
            return PackOutcome::Skipped("it is not optimal any more".into());
        };
        if !reader.storage.capabilities().pack {
            return PackOutcome::Skipped("it cannot pack".into());
        }
        let bytes = reader.storage.size().bytes;
        let call = reader.storage.pack(self.time);
        let packing = self.runner.while_it_answers(&*reader.storage, "pack", call);
        // Whoever goes on after a dropped call is the member, and it is about to be closed.
        let packed = crate::task::select! {
            () = self.runner.tasks.stop().requested() => {
                return PackOutcome::Failed("the daemon was stopped".into());
            }
            packed = packing => packed,
        };
        let outcome = match packed {
            Ok(()) => PackOutcome::Done,
            // Another daemon has asked it, or its operator.
            Err(StorageError::Answer(answer @ Answer::Other { .. })) => {
                PackOutcome::Skipped(answer.to_string())
            }
            Err(StorageError::Answer(answer)) => PackOutcome::Failed(answer.to_string()),
            Err(StorageError::Fault(fault)) => {
                self.look_after(reader, &fault).await;
                PackOutcome::Failed(fault.to_string())
            }
        };
        self.work.did(Amount {
            transactions: 0,
            bytes,
        });
        outcome
    }

    /// A pack that failed, for lack of room for example, leaves the member as it was. It is taken out
    /// where it does not answer any more, or has found that it is damaged.
    async fn look_after(&self, reader: &Reader, fault: &Fault) {
        let (member, generation) = (reader.member, reader.generation);
        if matches!(fault, Fault::Damaged(_)) {
            return self.runner.cannot_read(member, generation, fault.clone());
        }
        let storage = &*reader.storage;
        let asked = self
            .runner
            .in_time(storage, "lastTransaction", storage.last_tid());
        if asked.await.is_err() {
            self.runner.lost(member, generation, fault.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_packed_and_nothing_that_comes_after_it() {
        let noon: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        for ticks in 0..2000 {
            // 14 ns each, and then as far apart as commits are.
            let head = Tid(Tid::from_time(noon).0 + ticks * 7919);
            let time = no_later_than(noon.as_duration().as_secs_f64() + 100.0, head);
            #[expect(clippy::cast_possible_truncation, reason = "a time of this century")]
            let to = Timestamp::from_nanosecond((time * 1e9) as i128).unwrap();
            let to = Tid::from_time(to);
            assert!(head <= to && to.0 < head.0 + 200, "{head} {to}");
        }
        let earlier = noon.as_duration().as_secs_f64() - 1.0;
        assert!((no_later_than(earlier, Tid::from_time(noon)) - earlier).abs() < 1e-9);
        assert!((no_later_than(earlier, Tid::ZERO) - earlier).abs() < 1e-9);
    }
}
