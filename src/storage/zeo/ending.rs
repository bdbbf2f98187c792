//! Where a server's history really ends.
//!
//! A server's word on it may be untrue. A `FileStorage` that cuts the unfinished or damaged end of its file
//! when it is opened goes on telling the TID of what it has cut, until the next commit (ZODB 6.4,
//! `FileStorage.py`: `read_index` returns the TID of the header at which it stopped). It takes no
//! damage to get there: a server that is killed between a vote and its finish is enough. Who believes it
//! takes a copy that lacks an acknowledged transaction for the newest, or waits for ever for one that was
//! never made.
//!
//! So what a server says of its end when a connection to it begins is believed when the transaction is
//! there; where it is not, the end is looked for, and that TID is asked about again whenever it is said.

use std::sync::Arc;

use super::Inner;
use super::iterate::Headers;
use super::measure::last_through;
use crate::storage::Result;
use crate::zodb::{Tid, TidRange};

/// The last transaction of a server that says that it is `said`, at the beginning.
pub(super) async fn look(inner: &Arc<Inner>, said: Tid) -> Result<Tid> {
    if said.is_zero() || holds(inner, said).await? {
        return Ok(said);
    }
    let last = last_through(inner, said).await?;
    tracing::warn!(
        server = %inner.options.address,
        %said,
        %last,
        "the server tells a last transaction that it does not hold; it has cut it, or packed it away"
    );
    inner.heard.ledger.disbelieve(said);
    Ok(last)
}

impl Inner {
    /// The last transaction of a server that says now that it is `said`.
    pub(super) async fn believed(self: &Arc<Self>, said: Tid) -> Result<Tid> {
        let ledger = &self.heard.ledger;
        // Once there is a later one, the server tells that.
        if !ledger.disbelieves(said) || ledger.last() >= said {
            return Ok(said);
        }
        // Somebody may have restored it since.
        if holds(self, said).await? {
            return Ok(said);
        }
        Ok(ledger.last())
    }
}

/// Over the main connection, in order with what is announced there.
async fn holds(inner: &Arc<Inner>, tid: Tid) -> Result<bool> {
    let mut headers = Headers::begin(&inner.main, TidRange::only(tid)).await?;
    Ok(headers.next(1).await?.is_some())
}
