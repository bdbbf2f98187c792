//! `recover`: brings members back, and shows how far it is.
//!
//! The steps: choose the members; find out what each needs (always in the guided form, else only where
//! something would be cut); name what would be cut, and have it confirmed; start; follow until all have
//! ended. The recovery is the daemon's: leaving it alone does not stop it.

mod cost;
mod follow;

use clap::Args;

use self::cost::{Costs, will_not_do};
use self::follow::follow;
use crate::admin::api::{
    AdminApi, Analysis, ArrayDetails, Finding, MemberState, Problem, RateLimit, RecoverRequest,
    RecoveryState, Strategy, Transaction,
};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{escape, format};
use crate::cli::prompt::Question;
use crate::config::parse_size;

/// Bring members back into the array
///
/// Copies what a member lacks from one that holds everything, while clients go on. Without a MEMBER,
/// the only one that is out. The recovery runs in the daemon: Ctrl-C asks whether to leave it running or
/// to cancel it, and a cancelled one is continued by the next. While it is watched at a terminal, p pauses
/// it and lets it go on, r changes its rate, d leaves it running, and c cancels it.
///
/// Where a start waits because members are missing, it lets the start compare one that was disabled, or
/// whose recovery was cancelled.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl recover --interactive             guided
  zeoraidctl recover copy2                     what copy2 lacks
  zeoraidctl recover --all --rate 50MiB/s      every member that is out
  zeoraidctl recover copy2 --rebuild           a copy that has diverged
  zeoraidctl recover --cancel                  the recovery that runs
  zeoraidctl recover copy2 --cancel            the same, if it is that of copy2")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag that people type"
)]
pub struct RecoverArgs {
    /// The members to recover [default: the only one that is out]; with --attach, --pause, --resume and
    /// --cancel the one whose recovery is meant [default: the one that runs]
    members: Vec<String>,

    /// Every member that is out
    #[arg(short, long, conflicts_with = "members")]
    all: bool,

    /// Choose what to recover, and how, from what is found
    #[arg(short, long)]
    interactive: bool,

    /// Compare every record afterwards
    #[arg(long, conflicts_with = "rebuild")]
    verify: bool,

    /// Cut a diverged copy back, or start it afresh; what is cut is set aside in a file
    ///
    /// It asks first, whatever was found, since everything is compared and what differs is cut; without a terminal
    /// it needs --yes.
    #[arg(long)]
    rebuild: bool,

    /// At most so fast: 50MiB/s, 1000tx/s, both with a comma between, or none; of a running
    /// recovery with --attach
    ///
    /// The last part, which is copied while commits wait, goes as fast as it can all the same: there a
    /// limit would only make them wait longer (for `catch_up_limit` at most).
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rate: Option<RateLimit>,

    /// Start it and do not wait for its end
    #[arg(short, long)]
    detach: bool,

    /// Come back to the recovery that runs
    #[arg(long, conflicts_with_all = ["all", "interactive", "verify", "rebuild", "detach"])]
    attach: bool,

    /// Let the recovery that runs wait, until --resume
    #[arg(long, conflicts_with_all = ["all", "interactive", "verify", "rebuild", "detach", "attach", "rate"])]
    pause: bool,

    /// Let it go on
    #[arg(long, conflicts_with_all = ["all", "interactive", "verify", "rebuild", "detach", "attach", "pause"])]
    resume: bool,

    /// Cancel the recovery that runs
    #[arg(long, conflicts_with_all = ["all", "interactive", "verify", "rebuild", "detach", "attach", "rate", "pause", "resume"])]
    cancel: bool,

    /// Rebuild without asking
    #[arg(short, long)]
    yes: bool,
}

pub async fn run(args: RecoverArgs, context: &Context) -> Result<Exit, CliError> {
    let api = context.api()?;
    let array = context.array(&*api).await?;
    check_names(&args.members, &array)?;
    if args.attach || args.pause || args.resume || args.cancel {
        check_running(&args, &array)?;
    }
    if args.cancel {
        return cancel(&*api, &array.name, context).await;
    }
    if args.pause || args.resume {
        return pause(&*api, &args, &array.name, context).await;
    }
    if args.attach {
        return attach(&*api, &args, &array, context).await;
    }
    let Some(plan) = choose(&*api, &args, &array, context).await? else {
        return Ok(Exit::Done);
    };
    let mut started = Vec::new();
    for (member, strategy) in &plan.members {
        let request = RecoverRequest {
            strategy: *strategy,
            rate: plan.rate,
        };
        started.push(api.recover(&array.name, member, request).await?);
    }
    let names: Vec<String> = plan.members.into_iter().map(|(member, _)| member).collect();
    if !array.serving {
        let text = format!(
            "{} may be compared with the others, and is recovered where it lacks something; see `zeoraidctl details`",
            names.join(", "),
        );
        context.printer.success(&text);
        context.printer.print_for_programs(&started)?;
        return Ok(Exit::Done);
    }
    if args.detach {
        let text = format!(
            "{} {} being recovered; come back with `zeoraidctl recover --attach`",
            names.join(", "),
            if names.len() == 1 { "is" } else { "are" },
        );
        context.printer.success(&text);
        context.printer.print_for_programs(&started)?;
        return Ok(Exit::Done);
    }
    let first = started
        .iter()
        .map(|recovery| recovery.id)
        .min()
        .unwrap_or(0);
    follow(&*api, &array.name, names, first, context).await
}

/// Of what is typed wrong nothing is begun.
fn check_names(members: &[String], array: &ArrayDetails) -> Result<(), CliError> {
    let unknown = |member: &&String| array.members.iter().all(|known| known.name != **member);
    let Some(member) = members.iter().find(unknown) else {
        return Ok(());
    };
    let known = array.members.iter().map(|known| known.name.as_str());
    let detail = format!(
        "there is no member {member}; {} has: {}",
        array.name,
        known.collect::<Vec<_>>().join(", ")
    );
    let problem = Problem::not_found(detail).with_next("zeoraidctl details");
    Err(problem.into())
}

/// One recovery runs at a time, and that one is meant: whoever names another member means something else.
/// Whoever only looks can wait for what is queued, too.
fn check_running(args: &RecoverArgs, array: &ArrayDetails) -> Result<(), CliError> {
    let running = array.recovery.as_ref();
    // Where none runs, the daemon says so.
    let Some(running) = running.filter(|it| it.state == RecoveryState::Running) else {
        return Ok(());
    };
    let is_meant = |member: &&String| {
        **member == running.member || (args.attach && running.queued.contains(member))
    };
    let Some(other) = args.members.iter().find(|member| !is_meant(member)) else {
        return Ok(());
    };
    let waits = if running.queued.contains(other) {
        ", and waits for it"
    } else {
        ""
    };
    let detail = format!(
        "{other} is not being recovered{waits}: {} is",
        running.member
    );
    let problem = Problem::conflict(detail).with_next("zeoraidctl details");
    Err(problem.into())
}

/// What to recover, and how.
struct Plan {
    members: Vec<(String, Strategy)>,
    rate: RateLimit,
}

/// None where there is nothing to do.
async fn choose(
    api: &dyn AdminApi,
    args: &RecoverArgs,
    array: &ArrayDetails,
    context: &Context,
) -> Result<Option<Plan>, CliError> {
    let out: Vec<&str> = array
        .members
        .iter()
        .filter(|member| member.state == MemberState::Degraded)
        .map(|member| member.name.as_str())
        .collect();
    let candidates: Vec<String> = if args.members.is_empty() {
        out.iter().map(|name| (*name).to_owned()).collect()
    } else {
        args.members.clone()
    };
    if candidates.is_empty() {
        nothing_to_do(array, context);
        return Ok(None);
    }
    must_be_out(args, array, &candidates)?;
    if args.interactive {
        return guided(api, args, array, &candidates, context).await;
    }
    if args.members.is_empty() && !args.all && candidates.len() > 1 {
        let message = format!(
            "{} members are out: {}; name those to recover",
            candidates.len(),
            candidates.join(", ")
        );
        return Err(CliError::usage(message)
            .with_next("zeoraidctl recover --interactive, or: zeoraidctl recover --all"));
    }
    let strategy = args.strategy();
    if strategy == Strategy::Rebuild {
        for member in &candidates {
            let analysis = api.analyse(&array.name, member).await?;
            confirm_rebuild(args, &analysis, context)?;
        }
    }
    Ok(Some(Plan {
        members: candidates
            .into_iter()
            .map(|member| (member, strategy))
            .collect(),
        rate: args.rate.unwrap_or_default(),
    }))
}

/// Before anything is asked about a member: of an optimal one nothing is.
fn must_be_out(
    args: &RecoverArgs,
    array: &ArrayDetails,
    candidates: &[String],
) -> Result<(), CliError> {
    let mut optimal = array
        .members
        .iter()
        .filter(|member| member.state == MemberState::Optimal && candidates.contains(&member.name));
    let Some(member) = optimal.next() else {
        return Ok(());
    };
    let name = escape(&member.name);
    let (what, flag) = if args.rebuild {
        ("rebuild", "--rebuild")
    } else {
        ("check", "--verify")
    };
    Err(CliError::new(format!("{name} is optimal already")).with_next(format!(
        "to {what} it all the same: zeoraidctl disable {name}, then: zeoraidctl recover {flag} {name}"
    )))
}

fn nothing_to_do(array: &ArrayDetails, context: &Context) {
    if let Some(recovery) = &array.recovery {
        context.printer.note(&format!(
            "{} is being recovered already; come back to it with `zeoraidctl recover --attach`",
            escape(&recovery.member)
        ));
        return;
    }
    let optimal = format!("every member of {} is optimal", escape(&array.name));
    match &array.attention {
        Some(attention) => {
            let text = format!("{optimal}, but {}", escape(attention));
            context.printer.warning(&text);
        }
        None => context.printer.success(&optimal),
    }
}

/// The guided form.
async fn guided(
    api: &dyn AdminApi,
    args: &RecoverArgs,
    array: &ArrayDetails,
    candidates: &[String],
    context: &Context,
) -> Result<Option<Plan>, CliError> {
    let mut analyses = Vec::with_capacity(candidates.len());
    let mut unknown = Vec::new();
    for member in candidates {
        context
            .printer
            .note(&format!("looking at {} …", escape(member)));
        match api.analyse(&array.name, member).await {
            Ok(found) => analyses.push(found),
            Err(problem) => unknown.push((member, problem)),
        }
    }
    // Those that can be asked are recovered without the others.
    for (member, problem) in &unknown {
        if !analyses.is_empty() {
            context.printer.warning(&format!(
                "{} is left out: {}",
                escape(member),
                escape(&problem.detail)
            ));
        }
    }
    if let (true, Some((_, problem))) = (analyses.is_empty(), unknown.into_iter().next()) {
        return Err(problem.into());
    }
    let names = analyses.iter().map(|found| found.member.len());
    let widest = names.max().unwrap_or(0);
    let items: Vec<(String, bool)> = analyses
        .iter()
        .map(|found| {
            let name = escape(&found.member);
            // What can be mended without cutting anything is offered first.
            // Where there is nothing to choose from, that one is meant.
            let chosen = found.advice != Strategy::Rebuild || analyses.len() == 1;
            let line = analysis_line(found, context);
            (format!("{name:widest$}  {line}"), chosen)
        })
        .collect();
    let question = Question {
        text: "Which members?",
        flags: &["MEMBER…", "--all"],
    };
    let chosen = context.prompt.multi_select(question, &items)?;
    let analyses: Vec<Analysis> = chosen
        .into_iter()
        .filter_map(|index| analyses.get(index).cloned())
        .collect();
    if analyses.is_empty() {
        context.printer.note("none was chosen; nothing was changed");
        return Ok(None);
    }

    let costs = Costs::measured(api, args.rate, array).await;
    if !args.verify && !args.rebuild {
        context.printer.note(&costs.line());
    }
    let members = how(args, &analyses, &costs, context)?;
    let rate = match args.rate {
        Some(rate) => rate,
        None => ask_rate(RateLimit::default(), context)?,
    };
    for (found, (_, strategy)) in analyses.iter().zip(&members) {
        if *strategy == Strategy::Rebuild {
            confirm_rebuild(args, found, context)?;
        }
    }
    Ok(Some(Plan { members, rate }))
}

/// What was found, in the words of who looks: with the time of this place, and short enough for a choice.
fn analysis_line(found: &Analysis, context: &Context) -> String {
    let Finding::Diverged {
        common,
        lag,
        only_here_count,
        ..
    } = &found.finding
    else {
        return escape(&found.line).into_owned();
    };
    let since = match common {
        Some(common) => match common.time {
            Some(time) => format!("after {}", format::time(time, &context.clock.zone)),
            None => format!("after {}", escape(&common.tid)),
        },
        None => "from the beginning".to_owned(),
    };
    let lacks = match lag.transactions {
        0 => "nothing".to_owned(),
        many => format::count(many),
    };
    let only_here = format::count(*only_here_count);
    format!("diverged {since}: {only_here} only here, lacks {lacks}")
}

/// Which strategy for each.
fn how(
    args: &RecoverArgs,
    analyses: &[Analysis],
    costs: &Costs,
    context: &Context,
) -> Result<Vec<(String, Strategy)>, CliError> {
    let all = |strategy: Strategy| {
        analyses
            .iter()
            .map(|found| (found.member.clone(), strategy))
            .collect()
    };
    if args.verify || args.rebuild {
        return Ok(all(args.strategy()));
    }
    let advised: Vec<(String, Strategy)> = analyses
        .iter()
        .map(|found| (found.member.clone(), found.advice))
        .collect();
    let alike = advised.windows(2).all(|pair| pair[0].1 == pair[1].1);
    let mut items = Vec::new();
    let mut choices: Vec<Vec<(String, Strategy)>> = Vec::new();
    if !alike {
        let each: Vec<_> = advised
            .iter()
            .map(|(member, strategy)| format!("{}: {}", escape(member), word(*strategy)))
            .collect();
        let each = format!("what each needs   ({})", each.join("; "));
        items.push(each);
        choices.push(advised.clone());
    }
    for strategy in [Strategy::Missing, Strategy::Verify, Strategy::Rebuild] {
        let cost = costs.of(strategy, analyses);
        items.push(format!("{}   ({cost})", words(strategy)));
        choices.push(all(strategy));
    }
    let default = choices
        .iter()
        .position(|choice| *choice == advised)
        .unwrap_or(0);
    let question = Question {
        text: "How?",
        flags: &["--verify", "--rebuild"],
    };
    loop {
        let index = context.prompt.select(question, &items, default)?;
        let index = index.min(choices.len() - 1);
        let refused = choices[index]
            .iter()
            .all(|(_, strategy)| *strategy != Strategy::Rebuild)
            .then(|| will_not_do(analyses))
            .flatten();
        let Some(why) = refused else {
            return Ok(choices.swap_remove(index));
        };
        context.printer.warning(&why);
    }
}

fn word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Missing => "copy",
        Strategy::Verify => "compare",
        Strategy::Rebuild => "cut back",
    }
}

fn words(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Missing => "copy what is missing",
        Strategy::Verify => "copy and compare everything",
        Strategy::Rebuild => "cut back or start afresh",
    }
}

/// Asks for the rate; `now` is what holds until then.
fn ask_rate(now: RateLimit, context: &Context) -> Result<RateLimit, CliError> {
    let question = Question {
        text: "Limit the rate?",
        flags: &["--rate"],
    };
    let check = |text: &str| parse_rate(text).map(|_| ());
    let text = context.prompt.input(question, &rate_words(now), &check)?;
    parse_rate(&text).map_err(CliError::usage)
}

/// Names what would be cut, and wants it confirmed by the member's name. Also where nothing is known yet that would
/// be: a rebuild compares everything, and cuts what it finds different then.
fn confirm_rebuild(
    args: &RecoverArgs,
    found: &Analysis,
    context: &Context,
) -> Result<(), CliError> {
    const SHOWN: usize = 10;
    let printer = &context.printer;
    let member = escape(&found.member);
    match &found.finding {
        Finding::Diverged {
            common,
            only_here,
            only_here_count,
            ..
        } => {
            let counted = format::counted(*only_here_count, "transaction");
            let shown = only_here.iter().take(SHOWN);
            let mut lines: Vec<String> = shown.map(|it| transaction_line(it, context)).collect();
            let more = only_here_count.saturating_sub(lines.len() as u64);
            if more > 0 {
                lines.push(format!("and {} more", format::count(more)));
            }
            let text = match common {
                Some(common) => format!(
                    "{member} holds {counted} that the array does not. What only it holds will be cut from \
                     it and set aside in a file. Both agree up to {}",
                    format::transaction(common, &context.clock.zone)
                ),
                None => format!(
                    "{member} and the array share no transaction: its {counted} will be set aside in a \
                     file, and it is filled afresh"
                ),
            };
            printer.warning_with(&text, &lines);
        }
        Finding::Damaged { reason } => printer.warning(&format!(
            "{member} cannot be read ({}): its file will be set aside, and it is filled afresh",
            escape(reason)
        )),
        Finding::UpToDate | Finding::Behind { .. } => printer.warning(&format!(
            "{member} holds nothing, as far as is known, that the array does not. It is compared as a whole: what \
             differs will be cut from it and set aside in a file, and what cannot be read as well"
        )),
        Finding::Empty { .. } => printer.warning(&format!(
            "{member} is empty: it is filled, and compared as a whole"
        )),
    }
    if args.yes {
        return Ok(());
    }
    let text = format!("Rebuild {member}?");
    let question = Question {
        text: &text,
        flags: &["--yes"],
    };
    if context.prompt.type_word(question, &found.member)? {
        Ok(())
    } else {
        Err(CliError::BrokenOff)
    }
}

/// `0x040d23c820000000  2026-11-20 09:12:07 UTC  admin  /front-page/edit`.
fn transaction_line(transaction: &Transaction, context: &Context) -> String {
    let user = transaction.user.as_deref().unwrap_or_default();
    let description = transaction.description.as_deref().unwrap_or_default();
    let line = format!(
        "{}  {}  {}",
        format::transaction(transaction, &context.clock.zone),
        escape(user),
        escape(description)
    );
    line.trim_end().to_owned()
}

async fn cancel(api: &dyn AdminApi, array: &str, context: &Context) -> Result<Exit, CliError> {
    let cancelled = api.cancel_recovery(array).await?;
    context.printer.success(&format!(
        "the recovery of {} is cancelled; the next one continues from there",
        escape(&cancelled.member)
    ));
    context.printer.print_for_programs(&cancelled)?;
    Ok(Exit::Done)
}

/// Pauses the recovery that runs, or lets it go on.
async fn pause(
    api: &dyn AdminApi,
    args: &RecoverArgs,
    array: &str,
    context: &Context,
) -> Result<Exit, CliError> {
    let now = api.recovery(array).await?;
    let rate = RateLimit {
        paused: args.pause,
        ..args.rate.unwrap_or(now.rate)
    };
    let changed = api.change_recovery(array, rate).await?;
    let member = escape(&changed.member);
    context.printer.success(&if args.pause {
        format!(
            "the recovery of {member} is paused; let it go on with `zeoraidctl recover --resume`"
        )
    } else {
        format!("the recovery of {member} goes on")
    });
    context.printer.print_for_programs(&changed)?;
    Ok(Exit::Done)
}

async fn attach(
    api: &dyn AdminApi,
    args: &RecoverArgs,
    array: &ArrayDetails,
    context: &Context,
) -> Result<Exit, CliError> {
    let running = match &array.recovery {
        Some(recovery) if recovery.state == RecoveryState::Running => recovery,
        _ => {
            return Err(CliError::from(Problem::conflict(format!(
                "no recovery runs in {}",
                array.name
            )))
            .with_next("zeoraidctl details"));
        }
    };
    if let Some(rate) = args.rate {
        api.change_recovery(&array.name, rate).await?;
    }
    let mut members = vec![running.member.clone()];
    members.extend(running.queued.iter().cloned());
    follow(api, &array.name, members, running.id, context).await
}

impl RecoverArgs {
    fn strategy(&self) -> Strategy {
        if self.rebuild {
            Strategy::Rebuild
        } else if self.verify {
            Strategy::Verify
        } else {
            Strategy::Missing
        }
    }
}

/// `50MiB/s`, `1000tx/s`, both with a comma between, `none`.
pub(super) fn parse_rate(text: &str) -> Result<RateLimit, String> {
    let expected =
        "a rate like 50MiB/s, 1000tx/s, both with a comma between, or `none` is expected";
    let mut rate = RateLimit::default();
    if matches!(text.trim(), "none" | "no limit" | "") {
        return Ok(rate);
    }
    for part in text.split(',') {
        let part = part.trim();
        let part = part.strip_suffix("/s").unwrap_or(part).trim();
        let limit = match part.strip_suffix("tx") {
            Some(number) => number.trim().parse().map_err(|_| expected.to_owned())?,
            None => parse_size(part).map_err(|_| expected.to_owned())?,
        };
        if limit == 0 {
            return Err("a rate of 0 would never end; `none` is no limit".into());
        }
        if part.ends_with("tx") {
            rate.transactions_per_second = Some(limit);
        } else {
            rate.bytes_per_second = Some(limit);
        }
    }
    Ok(rate)
}

/// As [`parse_rate`] reads it.
fn rate_words(rate: RateLimit) -> String {
    let mut parts = Vec::new();
    if let Some(bytes) = rate.bytes_per_second {
        parts.push(format!("{}/s", crate::config::format_size(bytes)));
    }
    if let Some(transactions) = rate.transactions_per_second {
        parts.push(format!("{transactions}tx/s"));
    }
    if parts.is_empty() {
        return "no limit".into();
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_sizes_or_transactions_per_second() {
        let rate = |transactions_per_second, bytes_per_second| RateLimit {
            transactions_per_second,
            bytes_per_second,
            paused: false,
        };
        for (text, expected) in [
            ("none", rate(None, None)),
            ("no limit", rate(None, None)),
            ("50MiB/s", rate(None, Some(50 << 20))),
            ("50MiB", rate(None, Some(50 << 20))),
            ("1000tx/s", rate(Some(1000), None)),
            ("1000 tx/s, 1MB/s", rate(Some(1000), Some(1_000_000))),
        ] {
            assert_eq!(parse_rate(text), Ok(expected), "{text}");
            assert_eq!(parse_rate(&rate_words(expected)), Ok(expected), "{text}");
        }
        for text in ["fast", "0", "0tx/s", "-1MiB", "1 parsec"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
