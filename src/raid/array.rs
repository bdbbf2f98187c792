//! The handle of an array: starting and stopping it, and the commands of operators. As a storage for
//! clients it is in [`super::storage`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::blobs::{Blobs, SharedBlobsError};
use super::controller::{Controller, Event, Now, Rules};
use super::options::{ArrayOptions, MemberSpec};
use super::report::{
    AnalysisReport, BackupReport, PackReport, Refused, ScrubReport, Serving, Strategy,
};
use super::runner::{Runner, configured};
use super::{NoticeSink, RecordError, RecordStore};
use super::{backup, pack, recovery, scrub};
use crate::job::Rate;
use crate::task::StillRunning;

/// How long the start waits for the other members of the in-sync set once one is open.
const START_GRACE: Duration = Duration::from_secs(3);

/// Why an array cannot be started at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    SharedBlobs(#[from] SharedBlobsError),
}

/// An array. Clones are handles of the same one.
#[derive(Clone)]
pub struct Array(pub(super) Arc<Runner>);

impl Array {
    /// Starts the array: reads the membership record and opens the members in the background. It
    /// serves when [`serving`](Self::serving) says so.
    ///
    /// # Errors
    /// Where the membership record cannot be read, or the folder of shared blobs cannot be opened.
    pub async fn start(
        options: ArrayOptions,
        members: Vec<MemberSpec>,
        record: Arc<dyn RecordStore>,
        notices: NoticeSink,
    ) -> std::result::Result<Array, StartError> {
        let store = Arc::clone(&record);
        let recorded = crate::task::blocking(move || store.load()).await;
        let recorded = recorded.unwrap_or_else(|ended| Err(RecordError::interrupted(&ended)))?;
        let store = Arc::clone(&record);
        let scrubbed = crate::task::blocking(move || store.load_scrubbed()).await;
        let scrubbed = scrubbed.unwrap_or_else(|ended| Err(std::io::Error::other(ended)));
        let scrubbed = scrubbed.unwrap_or_else(|error| {
            let array = options.name.as_str();
            tracing::warn!(array, %error, "what the last scrub found cannot be read; scrub again");
            None
        });
        let shared = options.shared_blobs.clone();
        let blobs = crate::task::blocking(move || Blobs::open(shared.as_ref())).await;
        let blobs = blobs.unwrap_or_else(|ended| Err(std::io::Error::other(ended)));
        let blobs = blobs.map_err(|source| SharedBlobsError {
            folder: options
                .shared_blobs
                .iter()
                .map(|shared| shared.folder.clone())
                .collect(),
            source,
        })?;
        let rules = Rules {
            array: options.name.clone(),
            cluster_mode: options.cluster_mode,
            start_policy: options.start_policy,
            force: options.force,
            min_optimal: options.min_optimal,
            fail_mode: options.fail_mode,
            transaction_timeout: options.transaction_timeout,
            catch_up_limit: options.catch_up_limit,
            level_limit: options.member_timeout,
            auto_recover: options.auto_recover,
            start_grace: START_GRACE,
        };
        let configured = members.iter().map(configured).collect();
        let controller = Controller::new(rules, configured, recorded, Now::read());
        let runner = Runner::new(options, controller, members, notices, blobs, scrubbed);
        runner.start(record);
        Ok(Array(runner))
    }

    /// Whether clients can be served, and its changes.
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<Serving> {
        self.0.serving()
    }

    /// Whether it is known from which members the array goes on, and durable: also where they are too few to serve.
    #[cfg(test)]
    pub(crate) fn has_started(&self) -> bool {
        self.0.look(|core| core.controller.has_started())
    }

    /// Recovers a member, at once or after the recoveries that were asked for before.
    pub fn recover(
        &self,
        member: &str,
        strategy: Strategy,
        rate: Option<Rate>,
    ) -> std::result::Result<(), Refused> {
        // What it holds is wrong, or may be, whether or not it lacks anything. Of two copies that differ only who
        // asks can tell which is right; nobody is asked where a member comes back by itself.
        let strategy = match strategy {
            Strategy::Missing if super::scrub::is_doubted(&self.0, member) => Strategy::Verify,
            strategy => strategy,
        };
        let member = member.to_owned();
        self.0
            .feed(Event::RecoverAsked {
                member,
                strategy,
                rate,
            })
            .map(drop)
    }

    /// Changes the speed of the recovery that runs.
    pub fn set_recovery_rate(&self, rate: Rate) -> std::result::Result<(), Refused> {
        self.0.look(|core| match &core.recovery {
            Some(recovery) if recovery.ended.is_none() => {
                recovery.handle.set_rate(rate);
                Ok(())
            }
            _ => Err(Refused::NoRecovery),
        })
    }

    /// Cancels the recovery that runs, and those that wait.
    pub fn cancel_recovery(&self) -> std::result::Result<(), Refused> {
        self.0.feed(Event::CancelAsked).map(drop)
    }

    /// Finds out what a recovery of this member would have to do, and changes nothing.
    pub async fn analyse(&self, member: &str) -> std::result::Result<AnalysisReport, Refused> {
        recovery::analyse(&self.0, member).await
    }

    /// Packs the members one after the other, to `time` in seconds since 1970. Nothing is recovered
    /// meanwhile. How far it is, [`pack_report`](Self::pack_report) says.
    ///
    /// # Errors
    /// Where the array does not serve or no member can pack; while a pack or a recovery runs, or waits.
    pub fn start_pack(&self, time: f64) -> std::result::Result<(), Refused> {
        pack::start(&self.0, time)
    }

    /// The pack that runs, or the last.
    #[must_use]
    pub fn pack_report(&self) -> Option<PackReport> {
        pack::report(&self.0)
    }

    /// Ends the pack that runs after the member that is being packed.
    pub fn cancel_pack(&self) -> std::result::Result<(), Refused> {
        pack::cancel(&self.0)
    }

    /// Copies an optimal member that is a file into a folder, while clients go on. How far it is,
    /// [`backup_report`](Self::backup_report) says. `into` is an absolute path on this machine.
    ///
    /// # Errors
    /// Where no optimal member is a file, that is no place for a backup, or the array is being packed or
    /// backed up.
    pub async fn start_backup(
        &self,
        into: PathBuf,
        replace: bool,
        rate: Rate,
    ) -> std::result::Result<(), Refused> {
        backup::start(&self.0, into, replace, rate).await
    }

    /// The backup that runs, or the last.
    #[must_use]
    pub fn backup_report(&self) -> Option<BackupReport> {
        backup::report(&self.0)
    }

    /// Ends the backup that runs, and removes what there is of it.
    pub fn cancel_backup(&self) -> std::result::Result<(), Refused> {
        backup::cancel(&self.0)
    }

    /// Compares all that the optimal members hold, while clients go on. What it finds,
    /// [`scrub_report`](Self::scrub_report) says.
    ///
    /// # Errors
    /// Where fewer than two members are optimal, or the array is being packed or scrubbed.
    pub fn start_scrub(&self, rate: Rate) -> std::result::Result<(), Refused> {
        scrub::start(&self.0, rate)
    }

    /// The scrub that runs, or the last.
    #[must_use]
    pub fn scrub_report(&self) -> Option<ScrubReport> {
        scrub::report(&self.0)
    }

    pub fn cancel_scrub(&self) -> std::result::Result<(), Refused> {
        scrub::cancel(&self.0)
    }

    /// Takes a member out until an operator recovers it, and closes it.
    pub fn disable(&self, member: &str) -> std::result::Result<(), Refused> {
        self.0
            .feed(Event::DisableAsked {
                member: member.to_owned(),
            })
            .map(drop)
    }

    /// Adds and removes members so that they are these: new ones are degraded and recovered, those
    /// with another fingerprint are opened anew. With `dry_run` only says what it would do. Gives
    /// the names of those added and those removed.
    ///
    /// # Errors
    /// Where no optimal member would remain; then nothing is done.
    pub fn set_members(
        &self,
        members: Vec<MemberSpec>,
        dry_run: bool,
    ) -> std::result::Result<(Vec<String>, Vec<String>), Refused> {
        let changes = self.0.feed_members(members, dry_run)?;
        Ok((changes.added, changes.removed))
    }

    /// Stops: no commit begins, those in hand are finished, jobs and members are closed. Of the time
    /// until the deadline a third is kept for the closing: a client that has voted and does not
    /// finish must not be the reason why a member is not closed properly.
    pub async fn shutdown(&self, deadline: Duration) -> std::result::Result<(), StillRunning> {
        let start = tokio::time::Instant::now();
        let (in_hand, until) = (start + deadline * 2 / 3, start + deadline);
        self.0.feed(Event::StopAsked).ok();
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        while !self.0.look(|core| core.controller.is_idle())
            && tokio::time::Instant::now() < in_hand
        {
            ticks.tick().await;
        }
        // Keeps the head in the record: the next start knows by it whether a copy is what it was.
        self.0.feed(Event::StopAsked).ok();
        self.0.publisher.cut_off();
        self.0
            .tasks
            .shutdown(until.saturating_duration_since(tokio::time::Instant::now()))
            .await
    }
}
