//! What a crash may leave of what was done to a folder.
//!
//! A [`Watch`](watch::Watch) records every [`step`](super::step) below a folder. The [`Log`](log::Log)
//! that comes of it is the whole truth: from it, [`Choice`](choice::Choice) by choice, every state is made
//! that the disk may be in when the power goes at any moment. The tests open those states.
//!
//! # The model of the file system
//!
//! Of one that keeps a journal of its metadata (ext4, XFS), and somewhat worse. Sources: Pillai et al.,
//! *All File Systems Are Not Created Equal* (OSDI 2014), section 2 and table 1, for what is and what is not
//! persistent and atomic; Mohan et al., *Finding Crash-Consistency Bugs with Bounded Black-Box Crash
//! Testing* (OSDI 2018), for trying every point; `fsync(2)`: "calling `fsync()` does not necessarily ensure
//! that the entry in the directory containing the file has also reached disk".
//!
//! 1. *Content.* A write or a new length is durable when a sync of the file has returned that began after
//!    it. Until then it may be there or not, each by itself and in any order; or in part: any of its
//!    sectors of 512 bytes, and the file as long as if all were there (the rest are zeros). A sector is
//!    written whole or not at all.
//! 2. *Names.* Making, linking, renaming and removing a name is done or not; a rename and an exchange are
//!    at one moment, also from folder to folder. It is durable when a sync of a folder that it touches has
//!    returned, or of the disk. Until then each may be missing by itself, but steps that touch the same
//!    name keep their order, and nothing is in a folder before that is made. (ext4 and XFS keep the order of all of them: these states are told apart, see
//!    [`Choice::in_order`](choice::Choice::in_order).)
//! 3. *No connection.* A sync of a file says nothing of its names, and one of a folder nothing of the
//!    content of files: a name may lead to a file that is empty yet.
//! 4. A sync that runs when the power goes has done nothing. What was durable stays as it is: no rot.

pub(crate) mod choice;
pub(crate) mod examine;
pub(crate) mod log;
pub(crate) mod mistake;
pub(crate) mod state;
#[cfg(test)]
mod tests;
pub(crate) mod watch;
