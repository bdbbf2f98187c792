//! Whether a good end can still be reached from everywhere. What stateright asks of a path (`eventually`) any
//! fault or a client that never comes would refute; here it is enough that there is a way, on which an operator may
//! start a daemon anew that does not begin to serve.

use std::collections::HashMap;

use stateright::Model;

use crate::bounds::Array;
use crate::properties::is_optimal;
use crate::state::World;
use crate::steps::{Does, Step};

/// How many states there are; or the way to one from which all members can never be optimal again.
pub(crate) fn explore(model: &Array) -> Result<usize, Vec<Step>> {
    let mut numbers: HashMap<World, u32> = HashMap::new();
    let mut worlds: Vec<World> = Vec::new();
    let mut came_by: Vec<Option<(u32, Step)>> = Vec::new();
    // From later to earlier.
    let mut edges: Vec<(u32, u32)> = Vec::new();
    for world in model.init_states() {
        numbers.insert(world, worlds.len() as u32);
        worlds.push(world);
        came_by.push(None);
    }
    let mut at = 0;
    let mut steps = Vec::new();
    while let Some(world) = worlds.get(at).copied() {
        model.actions(&world, &mut steps);
        let next = |step| Some((step, model.next_state(&world, step)?));
        let nexts = steps.drain(..).filter_map(next);
        for (step, next) in nexts.chain(started_anew(model, &world)) {
            let number = *numbers.entry(next).or_insert_with(|| {
                worlds.push(next);
                came_by.push(Some((at as u32, step)));
                worlds.len() as u32 - 1
            });
            edges.push((number, at as u32));
        }
        at += 1;
    }
    edges.sort_unstable();
    let mut is_good = vec![false; worlds.len()];
    let good = worlds.iter().enumerate();
    let good = good.filter(|(_, world)| is_optimal(model, world));
    let mut reached: Vec<u32> = good.map(|(number, _)| number as u32).collect();
    while let Some(number) = reached.pop() {
        if std::mem::replace(&mut is_good[number as usize], true) {
            continue;
        }
        let first = edges.partition_point(|(to, _)| *to < number);
        let before = edges[first..].iter().take_while(|(to, _)| *to == number);
        reached.extend(before.map(|(_, from)| *from));
    }
    let Some(lost) = is_good.iter().position(|good| !good) else {
        return Ok(worlds.len());
    };
    let mut way = Vec::new();
    let mut number = lost;
    while let Some((from, step)) = came_by[number] {
        way.push(step);
        number = from as usize;
    }
    way.reverse();
    Err(way)
}

/// Of a daemon that does not start by itself, an operator can: it is started anew, however many crashes there may
/// be.
fn started_anew(model: &Array, world: &World) -> Option<(Step, World)> {
    let daemon = world.daemons.iter().position(|daemon| daemon.is_blocked)?;
    let mut may_crash = *world;
    may_crash.left.daemon_crashes += 1;
    let step = Step::Daemon(daemon, Does::Crash { power: false });
    Some((step, model.next_state(&may_crash, step)?))
}
