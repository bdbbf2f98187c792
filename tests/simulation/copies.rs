//! What an operator does with copies: one is kept, and put in the place of a newer one.
//!
//! That is done only to a member that is out of the in-sync set: of the set somebody may be all that holds
//! what was acknowledged, and a daemon that finds him alone cannot know.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::trace;
use super::world::World;
use crate::raid::{FileRecord, MemberState, RecordStore as _};

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

impl World {
    fn kept_copy(&self, member: &str) -> Option<(PathBuf, PathBuf)> {
        let (data, _) = self.store(0, member)?;
        let folder = data.parent()?;
        Some((data.clone(), folder.join("kept")))
    }

    /// Keeps a copy of every member as it is.
    pub(super) fn keep_copies(&self) {
        for (member, _) in &self.shape.members {
            self.keep_copy(member);
        }
    }

    /// Copies its file and its blobs, as a tool does that knows nothing of who writes.
    fn keep_copy(&self, member: &str) {
        let Some((data, kept)) = self.kept_copy(member).filter(|(data, _)| data.exists()) else {
            return;
        };
        trace::note(format!("a copy of {member} is kept"));
        if kept.exists() {
            std::fs::remove_dir_all(&kept).expect("it can be removed");
        }
        let blobs = data.with_file_name("blobs");
        copy_all(&blobs, &kept.join("blobs")).expect("it can be copied");
        std::fs::copy(&data, kept.join("Data.fs")).expect("it can be copied");
    }

    /// Whether no daemon has it in sync, nor is about to.
    fn is_out(&self, member: &str) -> bool {
        (0..self.daemons()).all(|daemon| {
            let record = FileRecord::new(self.record(daemon)).load();
            let recorded = match &record {
                Ok(Some(record)) => !record.in_sync().any(|name| name == member),
                _ => false,
            };
            let said = self.whole(daemon).is_none_or(|whole| {
                let members = whole.report().members;
                let found = members.iter().find(|found| found.name == member);
                found.is_some_and(|found| found.state == MemberState::Degraded)
            });
            recorded && said
        })
    }

    /// Puts the copy that was kept in the place of what a member holds, with who serves it down.
    pub(super) async fn put_copy_back(self: &Arc<Self>, daemon: usize) {
        let names = self.shape.members.iter().map(|(name, _)| name.as_str());
        let mut out = names.filter(|member| self.is_out(member));
        let Some(member) = out.next() else { return };
        let Some((data, kept)) = self.kept_copy(member).filter(|(_, kept)| kept.exists()) else {
            return;
        };
        let is_server = self.servers().iter().any(|server| server == member);
        let power = fastrand::bool();
        if is_server {
            self.hold_server(member, true);
            self.crash_server(member, power).await;
        } else {
            self.hold_daemon(daemon, true);
            self.crash_daemon(daemon, power).await;
        }
        self.is_another_copy(0, member);
        let index = fastrand::bool();
        trace::note(format!(
            "an old copy of {member} is put back, with the newer index: {index}"
        ));
        let blobs = data.with_file_name("blobs");
        std::fs::remove_file(&data).expect("it can be removed");
        std::fs::remove_dir_all(&blobs).expect("it can be removed");
        copy_all(&kept, data.parent().expect("a folder")).expect("it can be copied");
        let indexes = data.with_file_name("Data.fs.index");
        if !index && indexes.exists() {
            std::fs::remove_file(indexes).expect("it can be removed");
        }
        let (this, member) = (Arc::clone(self), member.to_owned());
        let pause = Duration::from_millis(fastrand::u64(10..5000));
        drop(super::spawn(async move {
            tokio::time::sleep(pause).await;
            if is_server {
                this.hold_server(&member, false);
            } else {
                this.hold_daemon(daemon, false);
            }
        }));
    }
}
