//! What must hold in every state; the numbers are those of the invariants.

use stateright::Property;

use crate::bounds::Array;
use crate::commit::Acting;
use crate::state::{Daemon, MEMBERS, Mask, Phase, Tid, World, bit, each, last, up_to};

pub(crate) const SOMETIMES: &str = "all members are optimal, and something was acknowledged";

pub(crate) fn all(model: &Array) -> Vec<Property<Array>> {
    let mut all = vec![
        Property::always("3: one history", one_history),
        Property::always(
            "4, 5: whom the array goes on with holds everything up to the head",
            reads,
        ),
        Property::always("4: the last member is never removed", last_is_kept),
        Property::always("what was refused is kept nowhere", refused),
        Property::always("no step is taken that must not be", |_, world: &World| {
            world.wrong.is_none()
        }),
        Property::sometimes(SOMETIMES, |model, world| {
            is_optimal(model, world) && world.acknowledged != 0
        }),
    ];
    if model.coop {
        let name = "more than half of the members hold what a daemon takes for acknowledged";
        all.push(Property::always(name, majority_holds_what_is_known));
    }
    all.push(if model.coop {
        let name = "1, 2: more than half of the members hold what was acknowledged";
        Property::always(name, majority_holds)
    } else {
        let name = "1, 2, 4: the recorded in-sync set holds what was acknowledged";
        Property::always(name, recorded_set_holds)
    });
    all
}

fn daemons<'a>(model: &'a Array, world: &World) -> impl Iterator<Item = Acting<'a>> {
    let world = *world;
    (0..model.daemons).map(move |daemon| Acting {
        model,
        world,
        daemon,
    })
}

fn recorded_set_holds(model: &Array, world: &World) -> bool {
    let mut records = world.daemons[..model.daemons]
        .iter()
        .filter_map(|it| it.record);
    records.all(|record| {
        let mut set = each(record.in_sync).map(|member| world.disks[member]);
        set.all(|disk| disk.is_old || world.acknowledged & !disk.durable == 0)
    })
}

fn majority_holds(model: &Array, world: &World) -> bool {
    let disks = &world.disks[..model.members];
    let mut acknowledged =
        (1..=model.transactions).filter(|tid| world.acknowledged & bit(*tid) != 0);
    acknowledged.all(|tid| {
        let holds = disks
            .iter()
            .filter(|disk| disk.is_old || disk.durable & bit(tid) != 0);
        holds.count() * 2 > disks.len()
    })
}

/// Whoever takes what fewer hold for acknowledged stands against the others for ever, where they go on without it.
fn majority_holds_what_is_known(model: &Array, world: &World) -> bool {
    let disks = &world.disks[..model.members];
    let is_held = |tid: Tid| {
        let holds = disks
            .iter()
            .filter(|disk| disk.is_old || disk.durable & bit(tid) != 0);
        tid == 0 || holds.count() * 2 > disks.len()
    };
    daemons(model, world).all(|acting| {
        let me = acting.see();
        let records = me.record.into_iter().chain(me.pending);
        is_held(acting.acknowledged()) && records.map(|record| record.head).all(is_held)
    })
}

fn reads(model: &Array, world: &World) -> bool {
    daemons(model, world).all(|acting| {
        let me = acting.see();
        if me.phase != Phase::Running {
            return true;
        }
        // With one daemon nobody else can know of more than it does.
        if !model.coop && acting.can_read() && world.acknowledged & !up_to(me.head) != 0 {
            return false;
        }
        let known = world.acknowledged & up_to(me.head);
        let read = |member: usize| world.disks[member].written & up_to(me.head);
        let mut histories = each(me.readable() & !me.broken).map(read);
        let Some(first) = histories.next() else {
            return true;
        };
        known & !first == 0 && histories.all(|history| history == first)
    })
}

fn one_history(model: &Array, world: &World) -> bool {
    let is_one = |me: &Daemon| {
        let set = if me.phase == Phase::Running {
            me.in_sync & !me.broken
        } else {
            0
        };
        let histories: [Mask; MEMBERS] = std::array::from_fn(|it| world.disks[it].written);
        let pairs = each(set).flat_map(|one| each(set).map(move |other| (one, other)));
        let mut pairs = pairs.map(|(one, other)| (histories[one], histories[other]));
        pairs.all(|(one, other)| {
            // Of several daemons one may leave behind, past the head, what the others go on without.
            let end = if model.coop { me.head } else { 8 };
            let common = up_to(last(one).min(last(other)).min(end));
            one & common == other & common
        })
    };
    world.daemons[..model.daemons].iter().all(is_one)
}

fn last_is_kept(model: &Array, world: &World) -> bool {
    world.daemons[..model.daemons].iter().all(|me| {
        let kept = me.phase != Phase::Running || me.in_sync != 0;
        kept && me.record.is_none_or(|record| record.in_sync != 0)
    })
}

fn refused(model: &Array, world: &World) -> bool {
    let mut disks = world.disks[..model.members].iter();
    disks.all(|disk| disk.written & world.aborted == 0)
}

/// Nothing is in hand, and every daemon has every member in its set, with one history.
pub(crate) fn is_optimal(model: &Array, world: &World) -> bool {
    let all_in = |acting: Acting<'_>| {
        let me = acting.see();
        me.in_sync == model.all() && me.is_durable && acting.can_read() && me.commits[0].is_none()
    };
    let disks = &world.disks[..model.members];
    let level = disks.iter().all(|disk| disk.written == disks[0].written);
    level && disks.iter().all(|disk| disk.hand == 0) && daemons(model, world).all(all_in)
}
