//! A backup: one optimal member that is a file of this machine is copied, while clients go on.
//!
//! The copying is the storage's; here is decided what is copied, and that nobody packs meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::Notice;
use super::controller::{Event, Now, Reading};
use super::report::{BackupReport, Refused};
use super::runner::{Core, Runner};
use super::view::Reader;
use crate::job::{JobHandle, Rate, Work};
use crate::storage::{BackedUp, Backup, BackupError, BackupOrder};

/// The backup that runs, or ended last.
pub(super) struct LastBackup {
    id: u64,
    into: PathBuf,
    member: String,
    handle: JobHandle,
    started: Timestamp,
    ended: Option<(Timestamp, Result<BackedUp, BackupError>)>,
}

/// Nothing is packed while this lives.
pub(super) struct Held {
    runner: Arc<Runner>,
    reading: Reading,
    /// It was let go of already.
    over: bool,
}

impl Held {
    pub(super) fn begin(runner: &Arc<Runner>, reading: Reading) -> Result<Self, Refused> {
        runner.feed(Event::ReadAsked(reading))?;
        Ok(Held {
            runner: Arc::clone(runner),
            reading,
            over: false,
        })
    }
}

impl Held {
    /// Lets go of it and says so at the same moment: who sees that it has ended may begin the next one.
    pub(super) fn end(mut self, say: impl FnOnce(&mut Core)) {
        let mut core = self.runner.lock_core();
        let event = Event::ReadEnded(self.reading);
        let (_, effects) = core.controller.apply(Now::read(), event);
        self.runner.carry_out(&mut core, effects);
        say(&mut core);
        drop(core);
        self.over = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.over {
            self.runner.feed(Event::ReadEnded(self.reading)).ok();
        }
    }
}

/// Prepares a backup, and starts it as a task.
pub(super) async fn start(
    runner: &Arc<Runner>,
    into: PathBuf,
    replace: bool,
    rate: Rate,
) -> Result<(), Refused> {
    let array = runner.options.name.clone();
    let held = Held::begin(runner, Reading::Backup)?;
    let view = runner.view();
    let busy = |reader: &&Reader| reader.stats.outstanding.load(Ordering::Relaxed);
    let files = view
        .readers
        .iter()
        .filter(|reader| reader.storage.capabilities().backup);
    let Some(source) = files.min_by_key(busy) else {
        return Err(Refused::CannotBackUp { array });
    };
    let order = BackupOrder {
        into: into.clone(),
        replace,
        through: view.head,
        array: array.clone(),
        blobs: runner.blobs.of_members(),
    };
    let prepared = source.storage.back_up(order).await;
    let prepared = prepared.map_err(|error| Refused::Backup { array, error })?;
    let (work, handle) = Work::new("copy", rate, runner.tasks.stop());
    let member = runner.update(|core| {
        let member = core.controller.name(source.member);
        core.backup = Some(LastBackup {
            id: core.backup.as_ref().map_or(1, |last| last.id + 1),
            into: into.clone(),
            member: member.clone(),
            handle,
            started: crate::clock::now(),
            ended: None,
        });
        member
    });
    let folder = into.display().to_string();
    runner.notice(Notice::BackupStarted { member, folder });
    runner
        .tasks
        .spawn("backup", run(held, prepared, work, into));
    Ok(())
}

async fn run(held: Held, prepared: Box<dyn Backup>, work: Work, into: PathBuf) {
    let ended = prepared.run(work).await;
    let folder = into.display().to_string();
    let notice = match &ended {
        Ok(done) => Some(Notice::BackupDone {
            folder,
            last: done.last,
        }),
        Err(BackupError::Cancelled) => None,
        Err(error) => Some(Notice::BackupFailed {
            folder,
            reason: error.to_string(),
        }),
    };
    let runner = Arc::clone(&held.runner);
    held.end(|core| {
        if let Some(backup) = &mut core.backup {
            backup.ended = Some((crate::clock::now(), ended));
        }
    });
    if let Some(notice) = notice {
        runner.notice(notice);
    }
}

pub(super) fn report(runner: &Runner) -> Option<BackupReport> {
    runner.look(|core| {
        let backup = core.backup.as_ref()?;
        Some(BackupReport {
            id: backup.id,
            into: backup.into.clone(),
            member: backup.member.clone(),
            progress: backup.handle.progress(),
            started: backup.started,
            ended: backup.ended.clone(),
        })
    })
}

pub(super) fn cancel(runner: &Runner) -> Result<(), Refused> {
    runner.look(|core| match &core.backup {
        Some(backup) if backup.ended.is_none() => {
            backup.handle.cancel();
            Ok(())
        }
        _ => Err(Refused::NoSuchJob("backup")),
    })
}
