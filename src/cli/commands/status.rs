//! `status`: one line and an exit code, for people in a hurry and for Nagios.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use crate::admin::api::{ArrayDetails, ArrayState, ArrayStatus, MemberState, Problem, Status};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Paint, Screen, Style, View, escape};

/// Show the state in one line
///
/// The exit code is Nagios': 0 optimal, 1 recovering, 2 degraded or failed, 3 unknown (no daemon
/// answers). Of several arrays the worst counts. Optimal is 1 as well while what a scrub has found is not
/// mended; the line says what.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl status
  zeoraidctl status --all
  zeoraidctl --admin http://db1:8101 status --nagios")]
pub struct StatusArgs {
    /// A line for every array
    #[arg(short, long)]
    all: bool,

    /// As a Nagios plugin: with performance data
    #[arg(long)]
    nagios: bool,
}

pub async fn run(args: &StatusArgs, context: &Context) -> Result<Exit, CliError> {
    match ask(args, context).await {
        Ok((view, exit)) => {
            context.printer.print(&view)?;
            Ok(exit)
        }
        Err(error) => unknown(args, context, error),
    }
}

/// That nobody answers is an answer, with a code of its own.
pub(super) fn unknown_of(error: &CliError) -> (String, Option<String>) {
    let next = match error {
        CliError::Failed { next, .. } => next.clone(),
        _ => None,
    };
    (error.to_string(), next)
}

fn unknown(args: &StatusArgs, context: &Context, error: CliError) -> Result<Exit, CliError> {
    if matches!(
        error,
        CliError::Failed {
            exit: Exit::Usage,
            ..
        } | CliError::OutputClosed
    ) {
        return Err(error);
    }
    let (detail, next) = unknown_of(&error);
    context
        .printer
        .print(&UnknownView::new(detail, next, args.nagios))?;
    Ok(Exit::Unknown)
}

async fn ask(args: &StatusArgs, context: &Context) -> Result<(StatusView, Exit), CliError> {
    let api = context.api()?;
    let mut status: Status = api.status().await?;
    if let Some(name) = &context.global.array {
        let names: Vec<String> = status
            .arrays
            .iter()
            .map(|array| array.name.clone())
            .collect();
        status.arrays.retain(|array| array.name == *name);
        if status.arrays.is_empty() {
            let names = names.join(", ");
            let detail = format!("there is no array {name}; there are: {names}");
            return Err(Problem::not_found(detail).into());
        }
    }
    let mut performance = Vec::new();
    if args.nagios {
        for array in &status.arrays {
            let details = api.array(&array.name).await?;
            performance.extend(performance_data(&details));
        }
    }
    if status.arrays.is_empty() {
        return Err(CliError::new("the daemon serves no array"));
    }
    let exit = exit_of(&status.arrays);
    let mut view = StatusView {
        state: worst(status.arrays.iter().map(|array| array.state)),
        line: String::new(),
        version: status.version,
        pid: status.pid,
        started: status.started,
        uptime_s: status.uptime_s,
        ready: status.ready,
        arrays: status.arrays,
        all: args.all,
        nagios: args.nagios.then_some(performance),
    };
    view.line = view.line(Style::PLAIN);
    Ok((view, exit))
}

fn exit_of<'a>(arrays: impl IntoIterator<Item = &'a ArrayStatus>) -> Exit {
    let arrays = arrays.into_iter();
    Exit::of_arrays(arrays.map(|array| (array.state, array.attention.is_some())))
}

/// The word for the worst of several arrays.
pub(super) fn worst(states: impl IntoIterator<Item = ArrayState>) -> &'static str {
    match Exit::of_states(states) {
        Exit::State(state) => state_word(state),
        _ => "unknown",
    }
}

#[derive(Serialize)]
struct StatusView {
    /// Of the worst array, with what `status` says without `-o`.
    state: &'static str,
    line: String,
    version: String,
    pid: u32,
    started: Timestamp,
    uptime_s: u64,
    ready: bool,
    arrays: Vec<ArrayStatus>,
    #[serde(skip)]
    all: bool,
    #[serde(skip)]
    nagios: Option<Vec<String>>,
}

impl StatusView {
    /// The worst first; of those that are alike, in the order of the configuration.
    fn line(&self, style: Style) -> String {
        let mut arrays: Vec<&ArrayStatus> = self.arrays.iter().collect();
        arrays.sort_by_key(|array| std::cmp::Reverse(exit_of([*array]).code()));
        match arrays.as_slice() {
            [] => String::new(),
            [one] => painted(one, style),
            many if many.iter().all(|array| exit_of([*array]).code() == 0) => {
                format!(
                    "{} ({} arrays)",
                    paint_state(ArrayState::Optimal, "optimal", style),
                    many.len()
                )
            }
            many => {
                let lines = many
                    .iter()
                    .map(|array| format!("{}: {}", escape(&array.name), painted(array, style)));
                lines.collect::<Vec<_>>().join("; ")
            }
        }
    }
}

impl View for StatusView {
    fn table(&self, screen: &Screen) -> String {
        if let Some(performance) = &self.nagios {
            let word = match exit_of(&self.arrays).code() {
                0 => "OK",
                1 => "WARNING",
                2 => "CRITICAL",
                _ => "UNKNOWN",
            };
            let line = self.line(Style::PLAIN);
            let performance = performance.join(" ");
            return format!(
                "ZEORAID {word} - {} | {performance}\n",
                line.replace('|', "/")
            );
        }
        if !self.all {
            return format!("{}\n", self.line(screen.style));
        }
        let lines = self.arrays.iter().map(|array| {
            format!(
                "{}: {}\n",
                escape(&array.name),
                painted(array, screen.style)
            )
        });
        lines.collect()
    }
}

/// What is said where nobody answers. The keys are those of an answer.
#[derive(Serialize)]
pub(super) struct UnknownView {
    state: &'static str,
    line: String,
    next: Option<String>,
    arrays: [ArrayStatus; 0],
    #[serde(skip)]
    nagios: bool,
}

impl UnknownView {
    pub(super) fn new(line: String, next: Option<String>, nagios: bool) -> Self {
        UnknownView {
            state: "unknown",
            line,
            next,
            arrays: [],
            nagios,
        }
    }
}

impl View for UnknownView {
    fn table(&self, screen: &Screen) -> String {
        let line = escape(&self.line).replace('|', "/");
        let next = self.next.as_deref();
        if self.nagios {
            return format!("ZEORAID UNKNOWN - {line}\n");
        }
        let unknown = screen.style.paint(Paint::Bad, "unknown:");
        match next {
            Some(next) => {
                let next = screen.style.paint(Paint::Command, &escape(next));
                format!("{unknown} {line}\nNext: {next}\n")
            }
            None => format!("{unknown} {line}\n"),
        }
    }
}

/// The array's line, with its first word in the state's colour.
fn painted(array: &ArrayStatus, style: Style) -> String {
    let line = escape(&array.line);
    let word = state_word(array.state);
    match line.strip_prefix(word) {
        Some(rest) if exit_of([array]) == Exit::Attention => {
            format!("{}{rest}", style.paint(Paint::Warning, word))
        }
        Some(rest) => format!("{}{rest}", paint_state(array.state, word, style)),
        None => line.into_owned(),
    }
}

pub(in crate::cli) fn state_word(state: ArrayState) -> &'static str {
    match state {
        ArrayState::Optimal => "optimal",
        ArrayState::Recovering => "recovering",
        ArrayState::Degraded => "degraded",
        ArrayState::Failed => "failed",
    }
}

pub(in crate::cli) fn paint_state(state: ArrayState, text: &str, style: Style) -> String {
    let paint = match state {
        ArrayState::Optimal => Paint::Good,
        ArrayState::Recovering => Paint::Warning,
        ArrayState::Degraded | ArrayState::Failed => Paint::Bad,
    };
    style.paint(paint, text)
}

/// `'label'=value[unit];warn;crit;min;max`, as the guidelines for Nagios plugins say.
fn performance_data(array: &ArrayDetails) -> Vec<String> {
    let name: String = array
        .name
        .chars()
        .filter(|c| !matches!(c, '\'' | '=' | '|') && !c.is_control())
        .collect();
    let members = array.members.len();
    let optimal = array
        .members
        .iter()
        .filter(|member| member.state == MemberState::Optimal)
        .count();
    let lag = array.members.iter().filter_map(|member| member.lag);
    let lag: u64 = lag.map(|lag| lag.transactions).sum();
    vec![
        format!("'{name}_optimal_members'={optimal};;{members}:;0;{members}"),
        format!("'{name}_lag_transactions'={lag};;;0"),
        format!("'{name}_clients'={};;;0", array.clients),
        format!("'{name}_loads_per_s'={:.1};;;0", array.loads_per_s),
        format!("'{name}_commits_per_s'={:.1};;;0", array.commits_per_s),
        format!("'{name}_commits_waiting'={};;;0", array.commit_lock.waiting),
    ]
}
