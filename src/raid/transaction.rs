//! A transaction of the array: collected, voted by the members, finished by them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::blobs::Placed;
use super::buffer::Buffer;
use super::controller::{CommitId, VoteReply};
use super::runner::{Ballots, Runner};
use crate::storage::{
    Answer, Capabilities, Fault, Finishing, Operations, Result, Transaction, TxnToken, Vote, Voted,
};
use crate::zodb::{Blob, Oid, Op, Tid, TxnMeta};

/// Tells the controller when a transaction is dropped before its end.
struct Guard {
    runner: Arc<Runner>,
    commit: CommitId,
    /// It was asked to vote, so the controller knows it.
    known: bool,
}

impl Guard {
    fn new(runner: Arc<Runner>) -> Self {
        let commit = runner.new_commit_id();
        Guard {
            runner,
            commit,
            known: false,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.known {
            self.runner.gone(self.commit);
        }
    }
}

pub(super) struct ArrayTransaction {
    guard: Guard,
    token: TxnToken,
    meta: TxnMeta,
    wanted: Option<Tid>,
    buffer: Buffer,
    can: Capabilities,
    /// The files of its blobs that are ready to be placed in the shared folder.
    staged: BTreeMap<Oid, Staged>,
}

/// A file that is ready to be placed, and the stored one that it has the content of: what is stored instead
/// after a conflict is another one.
struct Staged {
    of: Blob,
    file: Blob,
}

impl ArrayTransaction {
    /// A transaction that no member knows of before its vote.
    pub(super) fn new(
        runner: &Arc<Runner>,
        meta: TxnMeta,
        wanted: Option<Tid>,
        can: Capabilities,
    ) -> Self {
        ArrayTransaction {
            guard: Guard::new(Arc::clone(runner)),
            token: TxnToken::new(),
            meta,
            wanted,
            buffer: Buffer::new(runner.options.spool.clone(), runner.in_memory.clone()),
            can,
            staged: BTreeMap::new(),
        }
    }

    /// What members are sent: where they find the files of blobs by themselves, records only.
    fn for_members(&self) -> Arc<Operations> {
        if self.guard.runner.blobs.with_members() {
            Arc::new(self.buffer.ops().without_files())
        } else {
            Arc::clone(self.buffer.ops())
        }
    }

    /// How long members may take over it, as the bytes that would take them as long. What it undoes is looked for
    /// before anybody waits for it.
    async fn effort(&self) -> Result<u64> {
        let mut effort = self.buffer.bytes() + self.buffer.ops().effort();
        let mut undone = self.buffer.undone().await?;
        if !undone.is_empty() {
            undone.sort_unstable();
            undone.dedup();
            let measured = self.guard.runner.measure_undone(undone.into()).await;
            effort = effort.saturating_add(measured.unwrap_or(0));
        }
        Ok(effort)
    }

    /// Makes the files ready that go into the shared folder, where there is one: what takes long is done
    /// before anybody waits for this transaction.
    async fn stage_blobs(&mut self) -> Result<()> {
        let runner = &self.guard.runner;
        if !runner.blobs.is_shared() {
            return Ok(());
        }
        // Of several files of one object the last one counts, as it does for members.
        let stored: BTreeMap<Oid, Blob> = self.buffer.blobs().await?.into_iter().collect();
        // The client has resolved a conflict, and its first file is nobody's any more.
        self.staged
            .retain(|oid, staged| stored.get(oid).is_some_and(|blob| blob.is(&staged.of)));
        let mut new = stored;
        new.retain(|oid, _| !self.staged.contains_key(oid));
        let files = runner
            .blobs
            .stage(new.clone().into_iter().collect())
            .await?;
        for ((oid, of), (_, file)) in new.into_iter().zip(files) {
            self.staged.insert(oid, Staged { of, file });
        }
        Ok(())
    }

    /// Puts the files of what was voted into the shared folder, where there is one.
    async fn place_blobs(&self, tid: Tid, resolved: &[Oid]) -> Result<Placed> {
        let runner = &self.guard.runner;
        let mut files = Vec::new();
        if runner.blobs.is_shared() {
            let undone = self.buffer.undone().await?;
            if !undone.is_empty() {
                files = runner.undone_blobs(&undone, resolved).await?;
            }
            let staged = self.staged.iter();
            files.extend(staged.map(|(oid, staged)| (*oid, staged.file.clone())));
        }
        Ok(runner.blobs.place(tid, files).await?)
    }
}

#[async_trait]
impl Transaction for ArrayTransaction {
    fn token(&self) -> TxnToken {
        self.token
    }

    async fn store(&mut self, op: Op) -> Result<()> {
        // Members that can and members that cannot would not agree on it.
        match &op {
            Op::StoreBlob { .. } if !self.can.blobs => {
                return Err(Answer::Unsupported("blobs").into());
            }
            Op::Undo { .. } if !self.can.undo => return Err(Answer::Unsupported("undo").into()),
            _ => {}
        }
        if let Some(oid) = op.writes() {
            self.guard.runner.may_be_stored(oid).await?;
        }
        Ok(self.buffer.push(op).await?)
    }

    async fn vote(mut self: Box<Self>) -> Result<Vote> {
        self.stage_blobs().await?;
        let oids = self.buffer.oids().await?;
        let effort = self.effort().await?;
        self.guard.known = true;
        let reply = self.guard.runner.vote(Ballots {
            commit: self.guard.commit,
            token: self.token,
            meta: self.meta.clone(),
            ops: self.for_members(),
            oids,
            wanted: self.wanted,
            bytes: self.buffer.bytes(),
            effort,
        });
        match reply.await {
            Ok(VoteReply::Ready { tid, resolved }) => {
                let placed = self.place_blobs(tid, &resolved).await?;
                Ok(Vote::Ready(Box::new(ArrayVoted {
                    guard: self.guard,
                    tid,
                    resolved,
                    placed,
                })))
            }
            Ok(VoteReply::Conflicts(conflicts)) => {
                let oids: Vec<Oid> = conflicts.iter().map(|conflict| conflict.oid).collect();
                self.buffer.drop_stores(&oids).await?;
                Ok(Vote::Conflicts(self, conflicts))
            }
            Ok(VoteReply::No(answer)) => Err(answer.into()),
            Ok(VoteReply::Fault(fault)) => Err(fault.into()),
            Err(_) => Err(Fault::Timeout {
                what: "the client between vote and finish",
                after: self.guard.runner.options.transaction_timeout,
            }
            .into()),
        }
    }
}

struct ArrayVoted {
    guard: Guard,
    tid: Tid,
    resolved: Vec<Oid>,
    placed: Placed,
}

impl Voted for ArrayVoted {
    fn tid(&self) -> Option<Tid> {
        Some(self.tid)
    }

    fn resolved(&self) -> &[Oid] {
        &self.resolved
    }

    fn finish(mut self: Box<Self>) -> Finishing {
        // From here on it is finished, whoever goes away.
        self.guard.known = false;
        let kept = self.placed.keep();
        let reply = self.guard.runner.finish(self.guard.commit);
        Box::pin(async move {
            match reply.await {
                Ok(Ok(tid)) => {
                    kept.make_sure().await;
                    Ok(tid)
                }
                Ok(Err(fault)) => Err(fault.into()),
                Err(_) => Err(Fault::Closed("the daemon is shutting down".into()).into()),
            }
        })
    }
}
