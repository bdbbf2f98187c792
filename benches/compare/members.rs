//! Arrays of one, two and three `runzeo`, each beside a plain one: what it costs a client that the
//! daemon is in between, and what it gains.
//!
//! Everything shares the machine: with two members there are two Python servers, the daemon and the
//! clients where there was one server and the clients.

use super::loads::Objects;
use super::report::Report;
use super::sides::Side;
use super::{Plan, alternate, alternate_for, commits, loads, python};

/// The array's cache: it holds the few objects, and about a tenth of the many.
const CACHE: u64 = 4 << 20;
const SIZE: usize = 4096;
const FEW: usize = 200;
const MANY: usize = 10_000;

/// The same for each Python client.
const PYTHON_FEW: usize = 100;
const PYTHON_MANY: usize = 4000;

pub(crate) async fn measure(plan: &Plan, runzeo: &Side, report: &mut Report) -> anyhow::Result<()> {
    let mut stored = Vec::new();
    for count in [FEW, MANY] {
        stored.push(Objects::store(runzeo.address, count, SIZE).await?);
    }
    python::prepare(runzeo, PYTHON_MANY).await?;
    for members in 1..=3 {
        let array = Side::array(&plan.folder, members, CACHE)?;
        load(plan, runzeo, &array, &stored, members, report).await?;
        commit(plan, runzeo, &array, members, report).await?;
        by_python(plan, runzeo, &array, members, report).await?;
    }
    Ok(())
}

fn named(members: usize, what: &str) -> String {
    format!("{members} x runzeo: {what}")
}

async fn load(
    plan: &Plan,
    runzeo: &Side,
    array: &Side,
    at_runzeo: &[Objects],
    members: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    for (count, at_runzeo) in [FEW, MANY].into_iter().zip(at_runzeo) {
        let at_array = Objects::store(array.address, count, SIZE).await?;
        let cached = if count == FEW { "cached" } else { "not cached" };
        for (connections, in_flight) in [(1, 1), (4, 16)] {
            let what = format!("loads {cached}, {connections} x {in_flight}");
            let what = named(members, &what);
            if !plan.asked(&what) {
                continue;
            }
            let (theirs, ours) = alternate(plan, runzeo, array, async |side: &Side| {
                let objects = if std::ptr::eq(side, runzeo) {
                    at_runzeo
                } else {
                    &at_array
                };
                loads::load(side.address, objects, connections, in_flight, plan.time).await
            })
            .await?;
            report.add(what, theirs, ours);
        }
    }
    Ok(())
}

async fn commit(
    plan: &Plan,
    runzeo: &Side,
    array: &Side,
    members: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    for (objects, connections) in [(1, 1), (1, 4), (1, 16), (10, 4)] {
        let what = format!("commits of {objects}, {connections} connections");
        let what = named(members, &what);
        if !plan.asked(&what) {
            continue;
        }
        let (theirs, ours) = alternate(plan, runzeo, array, async |side: &Side| {
            commits::commit(side.address, objects, connections, plan.time).await
        })
        .await?;
        report.add(what, theirs, ours);
    }
    Ok(())
}

async fn by_python(
    plan: &Plan,
    runzeo: &Side,
    array: &Side,
    members: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    python::prepare(array, PYTHON_MANY).await?;
    for (shown, part, objects) in [
        ("loads cached", "loads", PYTHON_FEW),
        ("loads not cached", "loads", PYTHON_MANY),
        ("commits", "commits", 1),
    ] {
        for clients in [1, 4] {
            let what = named(members, &format!("{shown} by {clients} Python clients"));
            if !plan.asked(&what) {
                continue;
            }
            let (theirs, ours) =
                alternate_for(plan, Some(plan.time), runzeo, array, async |side: &Side| {
                    python::run(side, part, clients, objects, plan.time).await
                })
                .await?;
            report.add(what, theirs, ours);
        }
    }
    Ok(())
}
