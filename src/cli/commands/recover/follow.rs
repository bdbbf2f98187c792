//! Following recoveries: bars, the keys of whoever watches, and how each ended.

use std::time::Duration;

use serde::Serialize;

use super::super::leaving::{self, Wish};
use super::{ask_rate, cancel};
use crate::admin::api::{AdminApi, ArrayDetails, MemberState, RateLimit, Recovery, RecoveryState};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::keys::Keys;
use crate::cli::output::escape;
use crate::cli::progress;

/// Often enough for a bar to move smoothly.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How a member's recovery ended.
enum Ended {
    Done,
    Cancelled,
    Failed { why: String, next: Option<String> },
}

/// Shows the recoveries until all have ended, or the person leaves. `first` is the id of the first of
/// them: what ended before is not theirs.
pub(super) async fn follow(
    api: &dyn AdminApi,
    array: &str,
    members: Vec<String>,
    first: u64,
    context: &Context,
) -> Result<Exit, CliError> {
    let mut ctrl_c = context.interrupts.claim()?;
    let mut keys = context.keys();
    let mut display = progress::display(&context.printer, help(keys.as_ref()));
    let mut ended: Vec<(String, Ended, Option<Recovery>)> = Vec::new();
    let mut open = members;
    loop {
        let recovery = api.recovery(array).await?;
        let is_ours = recovery.id >= first && open.contains(&recovery.member);
        if is_ours && recovery.state == RecoveryState::Running {
            display.show(&(&recovery).into());
        }
        // One that is neither running nor waiting has ended; if it was not seen to, the array says how.
        let unseen = open.iter().any(|member| {
            !(recovery.queued.contains(member) || is_ours && recovery.member == *member)
        });
        let details = if unseen {
            Some(api.array(array).await?)
        } else {
            None
        };
        open.retain(|member| {
            let seen = (is_ours && recovery.member == *member).then_some(&recovery);
            match how_it_ended(member, seen, &recovery.queued, details.as_ref()) {
                Some(how) => {
                    ended.push((member.clone(), how, seen.cloned()));
                    false
                }
                None => true,
            }
        });
        if open.is_empty() {
            break;
        }
        // Each may be dropped: a sleep holds nothing, and a press is kept until it is asked for.
        let wish = tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => continue,
            () = ctrl_c.pressed() => Key::Interrupt,
            key = pressed(keys.as_ref()) => match Key::of(key) {
                Some(key) => key,
                None => continue,
            },
        };
        if wish == Key::Pause {
            let rate = RateLimit {
                paused: !recovery.rate.paused,
                ..recovery.rate
            };
            // One that has ended just now needs it no more; how it ended comes next.
            api.change_recovery(array, rate).await.ok();
            continue;
        }
        // Questions have the terminal for themselves.
        display.end(false);
        drop(keys);
        let exit = match wish {
            Key::Detach => Some(leaving::leave(
                "the recovery",
                "zeoraidctl recover",
                context,
            )),
            Key::Cancel => {
                cancel(api, array, context).await?;
                Some(Exit::Failed)
            }
            Key::Rate => {
                change_rate(api, array, recovery.rate, context).await?;
                None
            }
            Key::Interrupt | Key::Pause => on_interrupt(api, array, context).await?,
        };
        if let Some(exit) = exit {
            return Ok(exit);
        }
        keys = context.keys();
        display = progress::display(&context.printer, help(keys.as_ref()));
        // A new claim: presses that the question has dealt with are not told again.
        ctrl_c = context.interrupts.claim()?;
    }
    display.end(ended.iter().all(|(_, how, _)| matches!(how, Ended::Done)));
    drop((display, keys, ctrl_c));
    summary(api, array, ended, context).await
}

/// What whoever watches wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Pause,
    Rate,
    Detach,
    Cancel,
    Interrupt,
}

impl Key {
    fn of(key: char) -> Option<Key> {
        match key.to_ascii_lowercase() {
            'p' | ' ' => Some(Key::Pause),
            'r' => Some(Key::Rate),
            'd' => Some(Key::Detach),
            'c' => Some(Key::Cancel),
            _ => None,
        }
    }
}

/// The line below the bars.
fn help(keys: Option<&Keys>) -> &'static str {
    match keys {
        Some(_) => "p pause or go on   r rate   d detach   c cancel",
        None => "",
    }
}

async fn pressed(keys: Option<&Keys>) -> char {
    match keys {
        Some(keys) => keys.pressed().await,
        None => std::future::pending().await,
    }
}

/// Asks for another rate; Ctrl-C there leaves it as it is.
async fn change_rate(
    api: &dyn AdminApi,
    array: &str,
    now: RateLimit,
    context: &Context,
) -> Result<(), CliError> {
    let rate = match ask_rate(now, context) {
        Ok(rate) => rate,
        Err(CliError::BrokenOff) => return Ok(()),
        Err(error) => return Err(error),
    };
    let paused = now.paused;
    api.change_recovery(array, RateLimit { paused, ..rate })
        .await
        .ok();
    Ok(())
}

fn how_it_ended(
    member: &str,
    seen: Option<&Recovery>,
    queued: &[String],
    details: Option<&ArrayDetails>,
) -> Option<Ended> {
    if let Some(recovery) = seen {
        return match recovery.state {
            RecoveryState::Running => None,
            RecoveryState::Done => Some(Ended::Done),
            RecoveryState::Cancelled => Some(Ended::Cancelled),
            RecoveryState::Failed => {
                let problem = recovery.problem.clone();
                Some(Ended::Failed {
                    why: problem
                        .as_ref()
                        .map_or("it failed".into(), |p| p.detail.clone()),
                    next: problem.and_then(|problem| problem.next),
                })
            }
        };
    }
    if queued.iter().any(|other| other == member) {
        return None;
    }
    let member = details?.members.iter().find(|other| other.name == member)?;
    match member.state {
        MemberState::Recovering => None,
        MemberState::Optimal => Some(Ended::Done),
        MemberState::Degraded => Some(Ended::Failed {
            why: member
                .reason
                .clone()
                .unwrap_or_else(|| "it is still out".into()),
            next: None,
        }),
    }
}

/// Ctrl-C: asks, where there is somebody to ask. None goes on.
async fn on_interrupt(
    api: &dyn AdminApi,
    array: &str,
    context: &Context,
) -> Result<Option<Exit>, CliError> {
    match leaving::ask("the recovery", "zeoraidctl recover", context)? {
        Wish::Leave => Ok(Some(Exit::Done)),
        Wish::Cancel => {
            cancel(api, array, context).await?;
            Ok(Some(Exit::Failed))
        }
        Wish::GoOn => Ok(None),
    }
}

/// `✔ copy2 is optimal. The array is degraded: copy3 is out.`
async fn summary(
    api: &dyn AdminApi,
    array: &str,
    ended: Vec<(String, Ended, Option<Recovery>)>,
    context: &Context,
) -> Result<Exit, CliError> {
    let printer = &context.printer;
    let details = api.array(array).await?;
    let outcome = outcome(&details);
    let last_done = ended
        .iter()
        .rposition(|(_, how, _)| matches!(how, Ended::Done));
    let mut failed = None;
    for (index, (member, how, recovery)) in ended.iter().enumerate() {
        let member = escape(member);
        match how {
            Ended::Done => {
                let more = if Some(index) == last_done {
                    format!(". {outcome}")
                } else {
                    String::new()
                };
                printer.success(&format!("{member} is optimal{more}"));
            }
            Ended::Cancelled => {
                failed = Some(
                    CliError::new(format!("the recovery of {member} was cancelled"))
                        .with_next(format!("to continue it: zeoraidctl recover {member}")),
                );
            }
            Ended::Failed { why, next } => {
                let error = CliError::new(format!("{member} could not be recovered: {why}"));
                let next = next.clone().or_else(|| details.next.clone());
                failed = Some(match next {
                    Some(next) => error.with_next(next),
                    None => error,
                });
            }
        }
        let files = recovery.iter().flat_map(|recovery| &recovery.set_aside);
        for file in files {
            printer.note(&format!("  what was cut is in {}", escape(file)));
        }
    }
    printer.print_for_programs(&Told {
        recovered: ended
            .iter()
            .filter(|(_, how, _)| matches!(how, Ended::Done))
            .map(|(member, ..)| member.as_str())
            .collect(),
        not_recovered: ended.iter().filter_map(NotRecovered::of).collect(),
        set_aside: ended
            .iter()
            .filter_map(|(_, _, recovery)| recovery.as_ref())
            .flat_map(|recovery| &recovery.set_aside)
            .collect(),
        array: &details,
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(Exit::Done),
    }
}

fn outcome(details: &ArrayDetails) -> String {
    let out: Vec<_> = details
        .members
        .iter()
        .filter(|member| member.state != MemberState::Optimal)
        .map(|member| escape(&member.name))
        .collect();
    let state = super::super::status::state_word(details.state);
    match out.as_slice() {
        [] => format!("The array is {state}."),
        [one] => format!("The array is {state}: {one} is out."),
        many => format!("The array is {state}: {} are out.", many.join(", ")),
    }
}

#[derive(Serialize)]
struct Told<'a> {
    recovered: Vec<&'a str>,
    not_recovered: Vec<NotRecovered<'a>>,
    /// Files with what was cut.
    set_aside: Vec<&'a String>,
    array: &'a ArrayDetails,
}

#[derive(Serialize)]
struct NotRecovered<'a> {
    member: &'a str,
    /// `cancelled` or `failed`.
    state: &'static str,
    reason: Option<&'a str>,
    next: Option<String>,
}

impl NotRecovered<'_> {
    fn of((member, how, _): &(String, Ended, Option<Recovery>)) -> Option<NotRecovered<'_>> {
        let (state, reason, next) = match how {
            Ended::Done => return None,
            Ended::Cancelled => {
                let next = format!("zeoraidctl recover {member}");
                ("cancelled", None, Some(next))
            }
            Ended::Failed { why, next } => ("failed", Some(why.as_str()), next.clone()),
        };
        Some(NotRecovered {
            member,
            state,
            reason,
            next,
        })
    }
}
