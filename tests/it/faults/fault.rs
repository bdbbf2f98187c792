//! What strikes a member, by which words it is told, and how it is mended.

use crate::harness::Lab;
use crate::harness::proxy::{Deed, Exception};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// On the way to it.
    Link(Deed),
    /// The process is gone.
    Killed,
    /// The process is stopped: it accepts, and never answers.
    Frozen,
}

impl Fault {
    /// What a trap does, so that the fault strikes at that moment.
    pub(super) fn trap(self) -> Deed {
        match self {
            Fault::Link(deed) => deed,
            Fault::Killed | Fault::Frozen => Deed::Stall,
        }
    }

    /// Once the trap has sprung: the rest of it.
    pub(super) fn after_the_trap(self, lab: &mut Lab, server: usize) {
        match self {
            Fault::Link(_) => {}
            Fault::Killed => {
                lab.servers[server].kill9();
                lab.proxies[server].cut();
            }
            Fault::Frozen => {
                lab.servers[server].freeze();
                lab.proxies[server].mend();
            }
        }
    }

    /// At once.
    pub(super) fn strike(self, lab: &mut Lab, server: usize) {
        match self {
            Fault::Link(deed) => lab.proxies[server].strike(deed),
            Fault::Killed => lab.servers[server].kill9(),
            Fault::Frozen => lab.servers[server].freeze(),
        }
    }

    pub(super) fn mend(self, lab: &mut Lab, server: usize) {
        match self {
            Fault::Link(_) => {}
            Fault::Killed => lab.servers[server].start(),
            Fault::Frozen => lab.servers[server].thaw(),
        }
        lab.proxies[server].mend();
    }

    /// What a member that it strikes is taken out for: one of these is in the reason.
    pub(super) fn reasons(self) -> &'static [&'static str] {
        match self {
            Fault::Killed | Fault::Link(Deed::Cut | Deed::CutInMessage) => &["closed: by "],
            Fault::Frozen | Fault::Link(Deed::Stall | Deed::Hold(_)) => &["no answer to "],
            Fault::Link(Deed::Garbage) => &["damaged: the server said "],
            Fault::Link(Deed::Corrupt) => {
                &["damaged: the server said ", "damaged: the server answered "]
            }
            Fault::Link(Deed::Oversize) => &["a frame of 4294967295 bytes was announced"],
            Fault::Link(Deed::Error(Exception::NO_SPACE)) => &["no space left"],
            Fault::Link(Deed::Error(_)) => &["made.up.Trouble"],
        }
    }
}
