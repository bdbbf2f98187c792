//! Reading from whichever member is best, and from another where that one fails.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::controller::Generation;
use super::report::Serving;
use super::runner::Runner;
use super::view::{Published, Reader, View};
use crate::storage::{
    Answer, Fault, Loaded, Result, Storage, StorageError, in_time, in_time_about,
};
use crate::zodb::{Oid, Tid};

/// Objects of one page of oids are asked of the same member while it is not busier than the others,
/// so that each member's caches hold a part of the database and not all the same.
const PAGE_BITS: u32 = 12;

/// How many more calls the preferred member may have outstanding than the least busy one.
const PATIENCE: usize = 4;

/// How long a call may take whose deadline is its storage's to judge, should that not notice.
pub(super) const LONGEST_CALL: Duration = Duration::from_mins(10);

impl Runner {
    /// INVARIANT 5: what was current just before `before`, and never anything past the head.
    pub(super) async fn load_before(
        self: &Arc<Self>,
        oid: Oid,
        before: Tid,
    ) -> Result<Option<Loaded>> {
        self.counters.loads.fetch_add(1, Ordering::Relaxed);
        let view = self.view();
        let head = view.head;
        let before = if bug!(ReadPastHead) {
            before
        } else {
            before.min(head.next())
        };
        if view.serving.can_read()
            && let Some(loaded) = self.cache.get(oid, before, head)
        {
            return Ok(Some(loaded));
        }
        // A member that was recovered from one that was packed lacks what came between: it would give a state
        // that was changed before `before`. Packing would have taken that state, too.
        let is_gone = |loaded: &Loaded| loaded.end.is_some_and(|end| end <= self.view().packed);
        let is_nothing = |found: &Option<Loaded>| found.as_ref().is_none_or(is_gone);
        let loaded = self
            .ask_all(&view, oid, "loadBefore", is_nothing, move |storage| {
                Box::pin(async move { storage.load_before(oid, before).await })
            })
            .await?;
        let Some(mut loaded) = loaded.filter(|loaded| !is_gone(loaded)) else {
            // As of the head it does not exist; a member may hold it in a transaction that is not
            // acknowledged yet, and all have to give the same answer.
            return if before > head {
                Err(Answer::NoSuchObject(oid).into())
            } else {
                Ok(None)
            };
        };
        loaded.end = loaded.end.filter(|end| *end <= head);
        loaded.as_of = head;
        self.cache.put(oid, &loaded);
        Ok(Some(loaded))
    }

    /// One revision, as long as any member has it.
    pub(super) async fn load_serial(self: &Arc<Self>, oid: Oid, serial: Tid) -> Result<Bytes> {
        let view = self.view();
        if serial > view.head {
            return Err(Answer::NoSuchObject(oid).into());
        }
        self.ask_all(
            &view,
            oid,
            "loadSerial",
            |_: &Bytes| false,
            move |storage| Box::pin(async move { storage.load_serial(oid, serial).await }),
        )
        .await
    }

    /// With the first by name of the members that may be read, and nobody else: whom every daemon asks for
    /// new oids. A server gives none twice, two servers do. Where they cannot all ask the same, since one of them
    /// has lost it, an oid may be given twice; the second client to store it is told of a conflict then.
    pub(super) fn view_of_first(&self) -> View {
        let view = self.view();
        let first = self.look(|core| {
            let by_name = |reader: &&Reader| core.controller.name(reader.member);
            if bug!(AskAnybodyForOids) {
                return fastrand::choice(view.readers.iter()).cloned();
            }
            view.readers.iter().min_by_key(by_name).cloned()
        });
        let published = Published {
            serving: view.serving.clone(),
            readers: first.into_iter().collect(),
            packed: view.packed,
        };
        View::new(view.head, Arc::new(published))
    }

    /// Asks one member, and the others where it fails; who failed is taken out. `near` is what
    /// neighbours are kept together by.
    pub(super) async fn ask<T: Send>(
        self: &Arc<Self>,
        view: &View,
        near: Oid,
        what: &'static str,
        call: impl Fn(Arc<dyn Storage>) -> BoxFuture<'static, Result<T>> + Send + Sync,
    ) -> Result<T> {
        self.ask_until(Patience::ForACall, view, near, what, |_| false, call)
            .await
    }

    /// As [`Self::ask`], for what takes as long as there is to look at, on a healthy member, too. One that hangs is
    /// found by other calls.
    pub(super) async fn ask_for_long<T: Send>(
        self: &Arc<Self>,
        view: &View,
        near: Oid,
        what: &'static str,
        call: impl Fn(Arc<dyn Storage>) -> BoxFuture<'static, Result<T>> + Send + Sync,
    ) -> Result<T> {
        let patience = Patience::WhileItAnswers(LONGEST_CALL);
        self.ask_until(patience, view, near, what, |_| false, call)
            .await
    }

    /// As [`Self::ask`], and where a member does not have it (any more), the others are asked before
    /// that is the answer: members may differ in what is packed. `is_nothing` says which answers
    /// mean so, besides [`Answer::NoSuchObject`].
    pub(super) async fn ask_all<T: Send>(
        self: &Arc<Self>,
        view: &View,
        near: Oid,
        what: &'static str,
        is_nothing: impl Fn(&T) -> bool + Send + Sync,
        call: impl Fn(Arc<dyn Storage>) -> BoxFuture<'static, Result<T>> + Send + Sync,
    ) -> Result<T> {
        self.ask_all_with(Patience::ForACall, view, near, what, is_nothing, call)
            .await
    }

    /// As [`Self::ask_all`], for calls that may take longer.
    pub(super) async fn ask_all_with<T: Send>(
        self: &Arc<Self>,
        patience: Patience,
        view: &View,
        near: Oid,
        what: &'static str,
        is_nothing: impl Fn(&T) -> bool + Send + Sync,
        call: impl Fn(Arc<dyn Storage>) -> BoxFuture<'static, Result<T>> + Send + Sync,
    ) -> Result<T> {
        let is_missing = move |answer: &Result<T>| match answer {
            Ok(found) => is_nothing(found),
            Err(error) => matches!(error, StorageError::Answer(Answer::NoSuchObject(_))),
        };
        self.ask_until(patience, view, near, what, is_missing, call)
            .await
    }

    /// Asks one member after the other until one gives an answer that is not missing.
    async fn ask_until<T: Send>(
        self: &Arc<Self>,
        patience: Patience,
        view: &View,
        near: Oid,
        what: &'static str,
        is_missing: impl Fn(&Result<T>) -> bool + Send + Sync,
        call: impl Fn(Arc<dyn Storage>) -> BoxFuture<'static, Result<T>> + Send + Sync,
    ) -> Result<T> {
        let (mut asked, mut doubted) = (Vec::new(), Doubted::default());
        let (mut given, mut answered, mut missing) = (None, 0, None);
        loop {
            let newer;
            let mut view = view;
            let mut chosen = choose(view, near, &asked);
            if chosen.is_none() {
                // Another may have joined since. What it answers is as right: it holds all that the
                // older view covers.
                newer = self.view();
                view = &newer;
                chosen = choose(view, near, &asked);
            }
            let Some(reader) = chosen else {
                return match given.or(missing) {
                    Some(answer) => {
                        self.settle(what, doubted, answered);
                        answer
                    }
                    None => Err(self.unanswered(doubted, view)),
                };
            };
            asked.push(reader.generation);
            match self.ask_one(patience, reader, near, what, &call).await {
                Err(StorageError::Fault(fault)) if bug!(AskNobodyElse) => return Err(fault.into()),
                Err(StorageError::Fault(fault)) => {
                    let failed = self.failed(reader, what, fault, &mut doubted);
                    if given.is_none() {
                        failed?;
                    }
                }
                Err(StorageError::Answer(answer)) if !is_final(&answer) => {
                    doubted.refused(reader, answer);
                }
                answer if is_missing(&answer) => {
                    missing.get_or_insert(answer);
                }
                answer => {
                    answered += usize::from(answer.is_ok());
                    let answer = given.take().unwrap_or(answer);
                    if doubted.refused.is_empty() {
                        self.settle(what, doubted, answered);
                        return answer;
                    }
                    // Some refuse what others answer: all are asked, to know who is in the minority.
                    given = Some(answer);
                }
            }
        }
    }

    /// A member could not answer. INVARIANT 7: another one is asked, and this one is looked after.
    ///
    /// # Errors
    /// [`Fault::Here`]: the others would fail in the same way, none is worse than before, and whoever
    /// could not be asked because of us may be the one that has it.
    pub(super) fn failed(
        self: &Arc<Self>,
        reader: &Reader,
        what: &'static str,
        fault: Fault,
        doubted: &mut Doubted,
    ) -> Result<(), Fault> {
        match fault {
            Fault::Here { .. } => {
                tracing::error!(what, %fault, "an answer could not be taken in");
                return Err(fault);
            }
            Fault::Damaged(_) | Fault::Io { .. } => {
                doubted.unreadable.push((reader.clone(), fault));
            }
            fault => self.lost(reader.member, reader.generation, fault),
        }
        Ok(())
    }

    /// So many members could answer, or one at least knows that it is not there: who could not read what
    /// it holds is taken out, and so is who refused, in the minority.
    pub(super) fn settle(self: &Arc<Self>, what: &'static str, doubted: Doubted, answered: usize) {
        let Doubted {
            unreadable,
            refused,
        } = doubted;
        for (reader, fault) in unreadable {
            self.cannot_read(reader.member, reader.generation, fault);
        }
        if refused.is_empty() || answered == 0 {
            return;
        }
        // INVARIANT 8.
        let in_words = |(reader, answer): &(Reader, Answer)| {
            let name = self.look(|core| core.controller.name(reader.member));
            format!("{name}: no: {answer}")
        };
        let mut members: Vec<_> = refused.iter().map(in_words).collect();
        members.push(format!("{answered} other: an answer"));
        self.disagreement(what, members);
        if refused.len() < answered {
            for (reader, answer) in refused {
                let text = format!("refused {what}, which the majority answered: {answer}");
                self.cannot_read(reader.member, reader.generation, Fault::Damaged(text));
            }
        }
    }

    /// Nobody could answer. What all refuse is the client's own mistake, and one record that cannot be read
    /// is an error for who asks for it: taking the copies out would help nobody, and would take everything
    /// else from everybody.
    pub(super) fn unanswered(&self, doubted: Doubted, view: &View) -> StorageError {
        let array = self.options.name.as_str();
        for (reader, fault) in &doubted.unreadable {
            let member = self.look(|core| core.controller.name(reader.member));
            tracing::error!(array, member, %fault, "no copy can be read in one place");
        }
        let mut refused = doubted.refused.into_iter();
        let mut unreadable = doubted.unreadable.into_iter();
        match (refused.next(), unreadable.next()) {
            (Some((_, answer)), _) => answer.into(),
            (None, Some((_, fault))) => fault.into(),
            (None, None) => not_serving(view).into(),
        }
    }

    /// Asks this member, and nobody else. Where it looks through much about `about`, the time since it last got on
    /// is what counts.
    pub(super) async fn ask_one<T: Send>(
        &self,
        patience: Patience,
        reader: &Reader,
        about: Oid,
        what: &'static str,
        call: &(impl Fn(Arc<dyn Storage>) -> BoxFuture<'static, Result<T>> + Send + Sync),
    ) -> Result<T> {
        let patience = match patience {
            // How large the answer is nobody knows before it is there. A server's storage gives it its
            // timeout, and longer only while bytes flow: else one large record on a slow way would take
            // out one member after the other.
            Patience::ForACall if reader.storage.capabilities().shared => {
                Patience::WhileItAnswers(LONGEST_CALL)
            }
            patience => patience,
        };
        let timed = reader.stats.count_read().then(crate::clock::instant);
        let _busy = Busy::new(reader);
        let mut answering = call(Arc::clone(&reader.storage));
        // Most answers are there at once, and then no timer is needed.
        let answer = if let Some(answer) = poll_once(answering.as_mut()).await {
            answer
        } else {
            let storage = &*reader.storage;
            let (longest, answer) = match patience {
                Patience::ForACall => {
                    let longest = self.options.member_timeout;
                    let answer = in_time_about(storage, about, longest, answering);
                    (longest, answer.await)
                }
                Patience::WhileItAnswers(longest) => {
                    let answering = self.while_it_answers(storage, what, answering);
                    let answer = in_time_about(storage, about, longest, answering);
                    (longest, answer.await)
                }
            };
            let after = longest;
            answer.unwrap_or_else(|| Err(Fault::Timeout { what, after }.into()))
        };
        if let Some(since) = timed {
            reader.stats.add_latency(since);
        }
        answer
    }
}

impl Runner {
    /// Waits for a call that may take long, for as long as the member answers another meanwhile: each
    /// time its timeout has passed it is asked for its last transaction.
    pub(super) async fn while_it_answers<T>(
        &self,
        storage: &dyn Storage,
        what: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let timeout = self.options.member_timeout;
        let mut call = pin!(call);
        loop {
            if let Ok(answer) = tokio::time::timeout(timeout, &mut call).await {
                return answer;
            }
            // Either may be dropped: the call is borrowed, and the question has no effect.
            crate::task::select! {
                answer = &mut call => return answer,
                alive = in_time(storage, timeout, storage.last_tid()) => {
                    alive.ok_or_else(|| self.timeout(what))??;
                }
            }
        }
    }
}

/// Who could not answer one question. Whether that is held against them depends on whether another
/// member can.
#[derive(Default)]
pub(super) struct Doubted {
    /// Those that cannot read what they hold, in this place.
    unreadable: Vec<(Reader, Fault)>,
    /// Those that said no in a way that no question gives a reason for.
    refused: Vec<(Reader, Answer)>,
}

impl Doubted {
    pub(super) fn refused(&mut self, reader: &Reader, answer: Answer) {
        self.refused.push((reader.clone(), answer));
    }
}

/// Whether a member that says so to a question has answered it. Of what is left nobody knows whether it is
/// about the question or about the member: INVARIANT 7, the others are asked.
pub(super) fn is_final(answer: &Answer) -> bool {
    !matches!(answer, Answer::Invalid(_) | Answer::Other { .. })
}

/// How long a member may take for a call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// Its timeout; for members that others write to, which are on a network, as its storage judges.
    ForACall,
    /// As long as it answers something else meanwhile, but not longer than this.
    WhileItAnswers(Duration),
}

/// Counts a call as outstanding while it lives.
struct Busy<'a>(&'a Reader);

impl<'a> Busy<'a> {
    fn new(reader: &'a Reader) -> Self {
        reader.stats.outstanding.fetch_add(1, Ordering::Relaxed);
        Busy(reader)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.stats.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The best of those that were not asked yet.
fn choose<'a>(view: &'a View, near: Oid, asked: &[Generation]) -> Option<&'a Reader> {
    if !view.serving.can_read() {
        return None;
    }
    let preferred = (near.0 >> PAGE_BITS) as usize % view.readers.len().max(1);
    if asked.is_empty()
        && let Some(reader) = view.readers.get(preferred)
        && reader.stats.outstanding.load(Ordering::Relaxed) <= PATIENCE
    {
        return Some(reader);
    }
    let usable = || {
        let readers = view.readers.iter().enumerate();
        readers.filter(|(_, reader)| !asked.contains(&reader.generation))
    };
    let busy = |reader: &Reader| reader.stats.outstanding.load(Ordering::Relaxed);
    let least = usable().map(|(_, reader)| busy(reader)).min()?;
    usable()
        .find(|(index, reader)| *index == preferred && busy(reader) <= least + PATIENCE)
        .or_else(|| usable().find(|(_, reader)| busy(reader) == least))
        .or_else(|| usable().next())
        .map(|(_, reader)| reader)
}

pub(super) fn not_serving(view: &View) -> Fault {
    let reason = match &view.serving {
        Serving::No { reason } | Serving::ReadOnly { reason } => reason.clone(),
        Serving::Starting { waits_for } => format!("it is starting, and waits for {waits_for}"),
        Serving::Yes => "every member failed".into(),
    };
    Fault::NotServing(reason)
}

/// The answer, where it is there at once.
async fn poll_once<T>(mut future: Pin<&mut (dyn Future<Output = T> + Send)>) -> Option<T> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
