//! What members that are ZEO servers can do wrong, with real servers and real clients: in every case no
//! client sees an error or waits longer than a member's timeout, and afterwards all members are the same.

use crate::harness::Lab;
use crate::harness::proxy::Deed;

mod blobs;
mod caches;
mod coop;
mod disk;
mod lock;
mod members;
mod packing;
mod recovery;
mod stages;
mod torn;
mod undo;

/// What strikes a member, at a moment for which its proxy has a trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// On the way to it.
    Link(Deed),
    /// The process is gone.
    Killed,
    /// The process is stopped: it accepts, and never answers.
    Frozen,
}

impl Fault {
    /// What the trap does.
    fn deed(self) -> Deed {
        match self {
            Fault::Link(deed) => deed,
            Fault::Killed | Fault::Frozen => Deed::Stall,
        }
    }

    /// The trap has sprung.
    fn strikes(self, lab: &mut Lab, index: usize) {
        match self {
            Fault::Link(_) => {}
            Fault::Killed => {
                lab.servers[index].kill9();
                lab.proxies[index].cut();
            }
            Fault::Frozen => {
                lab.servers[index].freeze();
                lab.proxies[index].mend();
            }
        }
    }

    fn ends(self, lab: &mut Lab, index: usize) {
        match self {
            Fault::Link(_) => {}
            Fault::Killed => lab.servers[index].start(),
            Fault::Frozen => lab.servers[index].thaw(),
        }
        lab.proxies[index].mend();
    }
}
