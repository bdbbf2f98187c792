//! `details`: everything about an array that an administrator needs at night: what happened, since
//! when, what it means for the data, and the next command.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::status::{UnknownView, paint_state, state_word, unknown_of, worst};
use crate::admin::api::{
    AdminApi, ArrayDetails, ArrayState, LastScrub, MemberDetails, MemberState, Recovery,
};
use crate::cli::context::{Clock, Context};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Format, Paint, Screen, Style, View, escape, format, table};
use crate::cli::progress;
use crate::config::disks;

/// Show the array and its members
///
/// For everything that is not normal: what happened, since when, what it means for the data, and the
/// next command. The exit code is that of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl details
  zeoraidctl details --watch
  zeoraidctl details -o json | jq '.arrays[].members[].state'")]
pub struct DetailsArgs {
    /// Keep it on the screen, live, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

pub async fn run(args: &DetailsArgs, context: &Context) -> Result<Exit, CliError> {
    if args.watch {
        return watch(context).await;
    }
    match ask(&*context.api()?, context).await {
        Ok(view) => {
            context.printer.print(&view)?;
            Ok(view.exit())
        }
        Err(
            error @ (CliError::Failed {
                exit: Exit::Usage, ..
            }
            | CliError::OutputClosed),
        ) => Err(error),
        Err(error) => {
            let (message, next) = unknown_of(&error);
            context.printer.error(&message, &[], next.as_deref());
            if context.printer.format != Format::Table {
                context
                    .printer
                    .print(&UnknownView::new(message, next, false))?;
            }
            Ok(Exit::Unknown)
        }
    }
}

async fn ask(api: &dyn AdminApi, context: &Context) -> Result<DetailsView, CliError> {
    let arrays = match &context.global.array {
        Some(name) => vec![api.array(name).await?],
        None => api.arrays().await?,
    };
    if arrays.is_empty() {
        return Err(CliError::new("the daemon serves no array"));
    }
    Ok(DetailsView::new(
        arrays,
        &context.clock,
        context.instance().ok(),
    ))
}

/// A second between looks is enough for the eye and nothing for the daemon.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Whoever does not answer within it is told of instead of what was true before.
const WATCH_PATIENCE: Duration = Duration::from_secs(3);

async fn watch(context: &Context) -> Result<Exit, CliError> {
    let api = context.api()?;
    let mut ctrl_c = context.interrupts.claim()?;
    let printer = &context.printer;
    let live = printer.stdout_is_terminal() && printer.format == Format::Table;
    let mut before: Option<String> = None;
    let (mut exit, mut answered) = (Exit::Unknown, Instant::now());
    loop {
        // Dropped, a question asks for nothing any more.
        let asked = tokio::select! {
            asked = tokio::time::timeout(WATCH_PATIENCE, ask(&*api, context)) => asked,
            () = ctrl_c.pressed() => break Ok(exit),
        };
        let asked = asked.unwrap_or_else(|_| {
            let silent = format::duration(answered.elapsed().as_secs());
            let message = format!("no answer from the daemon for {silent}");
            Err(CliError::new(message).with_next("zeoraidctl logtail"))
        });
        let text = match asked {
            Ok(view) => {
                (exit, answered) = (view.exit(), Instant::now());
                printer.streamed(&view)?
            }
            Err(error) => {
                let (message, next) = unknown_of(&error);
                let view = UnknownView::new(message, next, false);
                exit = Exit::Unknown;
                printer.streamed(&view)?
            }
        };
        if live {
            // Home, each line cleared to its end, then everything below: nothing flickers.
            let lines = cut(&text, printer.height()).replace('\n', "\x1b[K\n");
            let first = if before.is_none() { "\x1b[2J" } else { "" };
            printer.write(&format!("{first}\x1b[H{lines}\x1b[J"))?;
        } else if before.as_ref() != Some(&text) {
            printer.write(&text)?;
        }
        before = Some(text);
        // Both may be dropped: a sleep holds nothing, and a press is kept until it is asked for.
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            () = ctrl_c.pressed() => break Ok(exit),
        }
    }
}

/// As much as a screen of so many lines holds: on one that scrolls, what is written over would be the wrong
/// lines, and the state, which comes first, would be gone.
fn cut(text: &str, height: usize) -> Cow<'_, str> {
    // The end of the last line takes a line, too.
    let room = height.saturating_sub(1).max(2);
    let lines = text.lines().count();
    if lines <= room {
        return Cow::from(text);
    }
    let kept: String = text.split_inclusive('\n').take(room - 1).collect();
    let more = format::count((lines - (room - 1)) as u64);
    Cow::from(format!("{kept}… {more} more lines: zeoraidctl details\n"))
}

/// Of the lines of a next step, below its first one.
const INDENT: usize = "Next: ".len();

/// The arrays, and the moment and zone that times are shown for.
#[derive(Serialize)]
pub(super) struct DetailsView {
    /// Of the worst array; `unknown` where there is none.
    state: &'static str,
    arrays: Vec<ArrayDetails>,
    #[serde(skip)]
    now: Timestamp,
    #[serde(skip)]
    zone: TimeZone,
    /// Paths in it are shown as they are written in its configuration.
    #[serde(skip)]
    instance: Option<PathBuf>,
}

impl DetailsView {
    pub(super) fn new(arrays: Vec<ArrayDetails>, clock: &Clock, instance: Option<PathBuf>) -> Self {
        DetailsView {
            state: worst(arrays.iter().map(|array| array.state)),
            arrays,
            now: clock.now(),
            zone: clock.zone.clone(),
            instance,
        }
    }

    fn location<'a>(&self, member: &'a MemberDetails) -> Cow<'a, str> {
        let within = self.instance.as_ref().and_then(|instance| {
            let within = Path::new(&member.location).strip_prefix(instance).ok()?;
            within.to_str()
        });
        escape(within.unwrap_or(&member.location))
    }

    /// Copies of this machine that are lost together. A daemon elsewhere has disks that are not seen here.
    fn shared_disks(&self, array: &ArrayDetails) -> Vec<String> {
        if self.instance.is_none() {
            return Vec::new();
        }
        let files = array.members.iter().filter_map(|member| {
            let file = Path::new(&member.location);
            (member.kind == "file" && file.exists()).then_some((member.name.as_str(), file))
        });
        disks::shared(files)
    }

    pub(super) fn exit(&self) -> Exit {
        let arrays = self.arrays.iter();
        Exit::of_arrays(arrays.map(|array| (array.state, array.attention.is_some())))
    }

    fn array(&self, array: &ArrayDetails, screen: &Screen) -> String {
        let style = screen.style;
        let mut text = self.header(array, screen);
        if let Some(meaning) = meaning(array) {
            for line in table::wrap(&meaning, screen.width.saturating_sub(2)) {
                text += &format!("  {line}\n");
            }
        }
        for line in self.to_look_after(array, screen) {
            text += &format!("  {line}\n");
        }
        text.push('\n');
        text += &self.members(array, screen);
        for note in self.shared_disks(array) {
            let note = format!("Note: {}.", escape(&note));
            let lines = table::wrap(&note, screen.width.saturating_sub(2));
            text += &format!("\n{}\n", lines.join("\n  "));
        }
        if let Some(next) = &array.next {
            let word = style.paint(Paint::Strong, "Next:");
            // A sentence is wrapped; a command is short.
            let lines = table::wrap(&escape(next), screen.width.saturating_sub(INDENT));
            let lines = lines.iter().map(|line| style.paint(Paint::Command, line));
            let next = lines.collect::<Vec<_>>().join(&format!("\n{:INDENT$}", ""));
            text += &format!("\n{word} {next}\n");
        }
        text
    }

    fn header(&self, array: &ArrayDetails, screen: &Screen) -> String {
        let style = screen.style;
        let name = style.paint(Paint::Strong, &escape(&array.name));
        let sign = match array.state {
            ArrayState::Failed => "✖",
            _ => "●",
        };
        let state = format!("{sign} {}", state_word(array.state));
        let state = paint_state(array.state, &state, style);
        let addresses: Vec<_> = array.addresses.iter().map(|a| escape(a)).collect();
        let serving = if is_read_only(array) {
            style.paint(Paint::Bad, "read-only")
        } else {
            "serving".to_owned()
        };
        let serving = match (array.serving, addresses.is_empty()) {
            (false, _) => style.paint(Paint::Bad, "not serving"),
            (true, true) => serving,
            (true, false) => format!("{serving} {}", addresses.join(", ")),
        };
        let since = format::since(array.since, self.now, &self.zone);
        let first = [serving, format!("since {since}")];
        let mut text = table::flow(&format!("Array {name}  {state}"), &first, 2, screen.width);

        let head = match &array.head {
            Some(head) => format!("head {}", format::transaction(head, &self.zone)),
            None if array.serving => "no transaction yet".into(),
            None => "head unknown".into(),
        };
        // What could not be looked at yet is not empty.
        let (objects, bytes) = if is_size_unknown(array) {
            ("size unknown".to_owned(), String::new())
        } else {
            (
                format::counted(array.objects, "object"),
                format::bytes(array.bytes),
            )
        };
        let second = [head, objects, bytes];
        text += &table::flow("  ", &second, 2, screen.width);

        let lock = match (array.commit_lock.held, array.commit_lock.held_ms) {
            (false, _) => "commit lock free".to_owned(),
            (true, None) => "commit lock held".to_owned(),
            (true, Some(ms)) => format!("commit lock held for {}", format::milliseconds(ms as f64)),
        };
        let waiting = match array.commit_lock.waiting {
            0 => String::new(),
            waiting => format!("{} waiting", format::count(waiting)),
        };
        let third = [
            format::counted(array.clients, "client"),
            format!("{} loads/s", format::rate(array.loads_per_s)),
            format!("{} commits/s", format::rate(array.commits_per_s)),
            lock,
            waiting,
            format!("membership no. {}", array.epoch),
        ];
        text + &table::flow("  ", &third, 2, screen.width)
    }

    /// The last scrub, what an operator has to look after, and what to do about what a scrub has found.
    fn to_look_after(&self, array: &ArrayDetails, screen: &Screen) -> Vec<String> {
        let width = screen.width.saturating_sub(2);
        let scrub = array.last_scrub.as_ref();
        let mut lines = scrub.map_or_else(Vec::new, |scrub| self.last_scrub(scrub, width));
        if let Some(attention) = &array.attention {
            let warning = format!("Attention: {}.", escape(attention));
            let warning = table::wrap(&warning, width);
            lines.extend(
                warning
                    .iter()
                    .map(|line| screen.style.paint(Paint::Warning, line)),
            );
        }
        for advice in scrub.iter().flat_map(|scrub| &scrub.advice) {
            let advice = table::wrap(&escape(advice), width.saturating_sub(2));
            let starts = ["- "].into_iter().chain(std::iter::repeat("  "));
            lines.extend(
                starts
                    .zip(advice)
                    .map(|(start, line)| format!("{start}{line}")),
            );
        }
        lines
    }

    /// When the members were compared last, and what that found.
    fn last_scrub(&self, scrub: &LastScrub, width: usize) -> Vec<String> {
        let blobs = match scrub.blobs {
            0 => String::new(),
            many => format!(" and {}", format::counted(many, "blob")),
        };
        let found = match scrub.differences {
            0 => "no differences".to_owned(),
            many => format::counted(many, "difference"),
        };
        let mut line = format!(
            "last scrub {}: {}{blobs}, {found}",
            format::since(scrub.ended, self.now, &self.zone),
            format::counted(scrub.transactions, "transaction"),
        );
        for (names, what) in [
            (&scrub.left_out, "not to the end"),
            (&scrub.mended, "mended since"),
        ] {
            if !names.is_empty() {
                line += &format!("; {what}: {}", escape(&names.join(", ")));
            }
        }
        table::wrap(&line, width)
    }

    fn members(&self, array: &ArrayDetails, screen: &Screen) -> String {
        let headings = ["MEMBER", "STATE", "TYPE", "WHERE", "LATENCY", "LAG"];
        let names = array.members.iter();
        let names = names.map(|member| console::measure_text_width(&escape(&member.name)));
        let widest = names.max().unwrap_or(0).max("MEMBER".len());
        let room = screen.width - table::indent(widest, screen.width);
        let rows = array.members.iter().map(|member| {
            let cells = vec![
                screen.style.paint(Paint::Strong, &escape(&member.name)),
                member_state(array, member, screen.style),
                escape(&member.kind).into_owned(),
                self.location(member).into_owned(),
                member.latency_ms.map_or("-".into(), format::milliseconds),
                member.lag.map_or("-".into(), |lag| format::lag(lag, false)),
            ];
            let below = self.below(array, member, room, screen.style);
            table::Row { cells, below }
        });
        let rows: Vec<_> = rows.collect();
        // Where first, then what is least missed.
        table::columns(&headings, rows, [3, 5, 4, 2], screen.width, screen.style)
    }

    /// What is said below a member that is not optimal, and below one that had faults.
    fn below(
        &self,
        array: &ArrayDetails,
        member: &MemberDetails,
        room: usize,
        style: Style,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        if member.state != MemberState::Optimal {
            let mut sentence = format!(
                "out since {}: ",
                format::since(member.since, self.now, &self.zone)
            );
            sentence += &match &member.reason {
                Some(reason) => escape(reason),
                None => Cow::from("it lacks transactions"),
            };
            if let Some(outlook) = &member.outlook {
                sentence += &format!("; {}", escape(outlook));
            }
            lines.push(sentence);
            if let Some(last) = &member.last {
                lines.push(format!(
                    "last transaction {}",
                    format::transaction(last, &self.zone)
                ));
            }
        }
        if let (true, Some(why)) = (is_missing(member), &member.reason) {
            let mut sentence = escape(why).into_owned();
            if let Some(outlook) = &member.outlook {
                sentence += &format!("; {}", escape(outlook));
            }
            lines.push(sentence);
        }
        let recovery: Option<&Recovery> = array.recovery.as_ref();
        if let Some(recovery) = recovery.filter(|recovery| recovery.member == member.name) {
            lines.push(progress::line(recovery, room, style));
        }
        if member.faults > 0 {
            lines.push(format!(
                "{} since the daemon started",
                format::counted(member.faults, "fault")
            ));
        }
        lines
    }
}

impl View for DetailsView {
    fn table(&self, screen: &Screen) -> String {
        let arrays = self.arrays.iter().map(|array| self.array(array, screen));
        arrays.collect::<Vec<_>>().join("\n")
    }
}

/// What a state that is not normal means for the data.
fn meaning(array: &ArrayDetails) -> Option<String> {
    let complete: Vec<&str> = array
        .members
        .iter()
        .filter(|member| member.state == MemberState::Optimal)
        .map(|member| member.name.as_str())
        .collect();
    let why = array.line.split_once(": ").map_or("", |(_, why)| why);
    let why = if why.is_empty() {
        String::new()
    } else {
        format!(": {}", escape(why))
    };
    if is_read_only(array) {
        return Some(format!(
            "Clients can read, and every commit is refused{why}. Commits are taken again when enough \
             members are recovered."
        ));
    }
    if !array.serving {
        return Some(format!(
            "Clients are refused{why}. Every acknowledged transaction is on {}: keep {}.",
            match complete.as_slice() {
                [] => "the members that were optimal last".to_owned(),
                names => escape(&names.join(" and on ")).into_owned(),
            },
            if complete.len() == 1 { "it" } else { "them" },
        ));
    }
    match (array.state, complete.as_slice()) {
        (ArrayState::Optimal, _) => None,
        (_, []) => {
            Some("No member holds every acknowledged transaction: clients can only read.".into())
        }
        (_, [one]) => Some(format!(
            "Clients work on. {} alone holds every transaction: until another member is recovered, \
             losing it loses data.",
            escape(one)
        )),
        (_, many) => Some(format!(
            "Clients work on. {} of {} members hold every transaction.",
            many.len(),
            array.members.len()
        )),
    }
}

/// Nobody has looked at it since the start: then no more is known than the zeros to begin with.
fn is_size_unknown(array: &ArrayDetails) -> bool {
    !array.serving && array.head.is_none() && array.objects == 0 && array.bytes == 0
}

/// Too few members remain, and the fail mode allows reading.
fn is_read_only(array: &ArrayDetails) -> bool {
    array.serving && array.state == ArrayState::Failed
}

/// One that holds everything, but cannot be reached: so the array cannot serve.
fn is_missing(member: &MemberDetails) -> bool {
    member.state == MemberState::Optimal && member.reason.is_some()
}

fn member_state(array: &ArrayDetails, member: &MemberDetails, style: Style) -> String {
    match member.state {
        _ if is_missing(member) => style.paint(Paint::Bad, "✖ missing"),
        // It is, and does not suffice.
        MemberState::Optimal if !array.serving && array.members.iter().any(is_missing) => {
            style.paint(Paint::Warning, "● reached")
        }
        MemberState::Optimal => style.paint(Paint::Good, "● optimal"),
        MemberState::Degraded => style.paint(Paint::Bad, "✖ degraded"),
        MemberState::Recovering => style.paint(Paint::Warning, "⟳ recovering"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_never_scrolls_its_state_away() {
        let text = "state\n1\n2\n3\n4\n";
        for height in [6, 24] {
            assert_eq!(cut(text, height), text);
        }
        assert_eq!(
            cut(text, 5),
            "state\n1\n2\n… 2 more lines: zeoraidctl details\n"
        );
        for height in [0, 1, 2, 3] {
            let shown = cut(text, height);
            assert_eq!(shown, "state\n… 4 more lines: zeoraidctl details\n");
        }
    }
}
