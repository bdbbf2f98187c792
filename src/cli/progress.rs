//! How far long work is, on the screen.
//!
//! On a terminal bars, one for each member (or array) and phase; without one a line every ten seconds,
//! and one at every change of phase. Both are told the same [`Step`]s and go to standard error.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::output::{Paint, Printer, Style, escape, format, is_dumb};
use crate::admin::api::{Job, JobKind, JobMemberState, Lag, Recovery, RecoveryState};

/// How far it is at one moment.
pub(super) struct Step {
    /// The member that is recovered, the array that is packed.
    of: String,
    phase: String,
    done: u64,
    total: u64,
    /// The rest in words.
    amounts: String,
}

impl Step {
    /// Of something that this command does itself, counted in bytes.
    pub(super) fn of_bytes(of: &str, phase: &str, done: u64, total: u64) -> Self {
        let done = done.min(total);
        Step {
            of: of.to_owned(),
            phase: phase.to_owned(),
            done,
            total,
            amounts: format!("{} of {}", format::bytes(done), format::bytes(total)),
        }
    }
}

impl From<&Recovery> for Step {
    fn from(recovery: &Recovery) -> Self {
        let reached = Reached::from(recovery);
        let (done, total) = reached.position();
        Step {
            of: recovery.member.clone(),
            phase: recovery.phase.clone(),
            done,
            total,
            amounts: reached.amounts(),
        }
    }
}

/// Counts members of a pack: nobody knows how far one of them is.
impl From<&Job> for Step {
    fn from(job: &Job) -> Self {
        if job.kind != JobKind::Pack {
            let reached = Reached::from(job);
            let (done, total) = reached.position();
            return Step {
                of: job.array.clone(),
                phase: job.phase.clone(),
                done,
                total,
                amounts: reached.amounts(),
            };
        }
        let waits = |state| matches!(state, JobMemberState::Waiting | JobMemberState::Running);
        let done = job.members.iter().filter(|member| !waits(member.state));
        Step {
            of: job.array.clone(),
            phase: job.phase.clone(),
            done: done.count() as u64,
            total: job.members.len() as u64,
            amounts: escape(job.note.as_deref().unwrap_or_default()).into_owned(),
        }
    }
}

/// Shows how far it is.
pub(super) trait Display {
    fn show(&mut self, step: &Step);

    /// Takes away what is not finished: something else will be written. What is finished stays.
    fn end(&mut self, finished: bool);
}

/// What this output can show.
///
/// `help` stands below bars: what keys can be pressed.
pub(super) fn display<'a>(printer: &'a Printer, help: &str) -> Box<dyn Display + 'a> {
    if printer.quiet {
        Box::new(Nothing)
    } else if printer.stderr_is_terminal() && !is_dumb() {
        Box::new(Bars::new(
            ProgressDrawTarget::stderr_with_hz(10),
            printer.error_style(),
            help,
        ))
    } else {
        Box::new(Lines::new(printer))
    }
}

/// Below this, what is said counts more than the length of the bar, and that columns are aligned.
const NARROW: usize = 60;

fn columns() -> usize {
    usize::from(console::Term::stderr().size().1)
}

/// What a bar is of, and in which phase.
fn prefix(step: &Step, columns: usize, style: Style) -> String {
    let (of, phase) = (escape(&step.of), escape(&step.phase));
    if columns < NARROW {
        return format!("{} {phase}", style.paint(Paint::Strong, &of));
    }
    let of = style.paint(Paint::Strong, &format!("{of:<8}"));
    format!("{of} {phase:<9}")
}

/// What is left for the amounts, where so much stands before the bar.
fn room(columns: usize, prefix: usize) -> usize {
    let bar = if columns < NARROW { 4 } else { 8 };
    // Two blanks, one on each side of the bar, `100 %` and two more.
    columns.saturating_sub(2 + prefix + 2 + bar + 5 + 2)
}

/// `p pause or go on   r rate` as `p pause  r rate`.
fn squeezed(help: &str) -> String {
    let keys = help.split("   ").map(|key| {
        let words: Vec<&str> = key.split(' ').take(2).collect();
        words.join(" ")
    });
    keys.collect::<Vec<_>>().join("  ")
}

/// Nothing, for `--quiet`.
struct Nothing;

impl Display for Nothing {
    fn show(&mut self, _: &Step) {}
    fn end(&mut self, _: bool) {}
}

/// Bars that follow the width of the terminal.
struct Bars {
    all: MultiProgress,
    style: Style,
    current: Option<Current>,
    help: Option<ProgressBar>,
}

struct Current {
    of: String,
    phase: String,
    bar: ProgressBar,
    has_total: bool,
}

impl Bars {
    fn new(target: ProgressDrawTarget, style: Style, help: &str) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let help = (!help.is_empty()).then(|| {
            let line = all.add(ProgressBar::new_spinner());
            line.set_style(Self::plain("  {msg}"));
            let help = if columns() < NARROW {
                squeezed(help)
            } else {
                help.to_owned()
            };
            line.set_message(style.paint(Paint::Faint, &help));
            line
        });
        Bars {
            all,
            style,
            current: None,
            help,
        }
    }

    fn plain(template: &str) -> ProgressStyle {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    }

    fn prefix(&self, step: &Step) -> String {
        prefix(step, columns(), self.style)
    }

    /// What is left for the amounts beside a bar that can still be seen.
    fn room(&self, step: &Step) -> usize {
        room(columns(), console::measure_text_width(&self.prefix(step)))
    }

    fn template(&self, has_total: bool) -> ProgressStyle {
        let template = match (has_total, self.style.color) {
            (true, true) => "  {prefix} {wide_bar:.green/dim} {percent:>3} %  {msg}",
            (true, false) => "  {prefix} {wide_bar} {percent:>3} %  {msg}",
            (false, _) => "  {prefix} {msg}",
        };
        ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("━╸─")
    }

    fn close(&mut self, finished: bool) {
        let Some(current) = self.current.take() else {
            return;
        };
        if finished {
            current.bar.set_style(self.template(false));
            current.bar.finish_with_message("done");
        } else {
            current.bar.finish_and_clear();
        }
    }
}

impl Display for Bars {
    fn show(&mut self, step: &Step) {
        let (done, total) = (step.done, step.total);
        let is_same = |current: &Current| current.of == step.of && current.phase == step.phase;
        if !self.current.as_ref().is_some_and(is_same) {
            self.close(true);
            let bar = ProgressBar::new(total);
            let bar = match &self.help {
                Some(help) => self.all.insert_before(help, bar),
                None => self.all.add(bar),
            };
            bar.set_style(self.template(total > 0));
            bar.set_prefix(self.prefix(step));
            self.current = Some(Current {
                of: step.of.clone(),
                phase: step.phase.clone(),
                bar,
                has_total: total > 0,
            });
        }
        let style = self.template(true);
        let Some(current) = &mut self.current else {
            return;
        };
        if total > 0 && !current.has_total {
            current.has_total = true;
            current.bar.set_style(style);
        }
        current.bar.set_length(total);
        current.bar.set_position(done.min(total));
        let room = self.room(step);
        if let Some(current) = &self.current {
            current.bar.set_message(fitting(&step.amounts, room));
        }
    }

    fn end(&mut self, finished: bool) {
        self.close(finished);
        if let Some(help) = self.help.take() {
            help.finish_and_clear();
        }
    }
}

/// As much of the amounts as there is room for: the speed goes first, then the amount, the time last.
fn fitting(amounts: &str, room: usize) -> String {
    let mut parts: Vec<&str> = amounts.split("  ").collect();
    let width = |parts: &[&str]| console::measure_text_width(&parts.join("  "));
    while width(&parts) > room && parts.len() > 1 {
        parts.remove(usize::from(parts.len() > 2));
    }
    console::truncate_str(&parts.join("  "), room, "…").into_owned()
}

/// A line every ten seconds.
struct Lines<'a> {
    printer: &'a Printer,
    last: Option<(Instant, String, String)>,
}

impl<'a> Lines<'a> {
    const EVERY: Duration = Duration::from_secs(10);

    fn new(printer: &'a Printer) -> Self {
        Lines {
            printer,
            last: None,
        }
    }
}

impl Display for Lines<'_> {
    fn show(&mut self, step: &Step) {
        let due = self.last.as_ref().is_none_or(|(when, of, phase)| {
            *of != step.of || *phase != step.phase || when.elapsed() >= Lines::EVERY
        });
        if !due {
            return;
        }
        let of = escape(&step.of);
        let phase = escape(&step.phase);
        let percent = match percent(step.done, step.total) {
            Some(percent) => format!(" {percent} %"),
            None => String::new(),
        };
        let amounts = match step.amounts.as_str() {
            "" => String::new(),
            amounts => format!(", {amounts}"),
        };
        self.printer
            .note(&format!("{of}: {phase}{percent}{amounts}"));
        let now = Instant::now();
        self.last = Some((now, step.of.clone(), step.phase.clone()));
    }

    fn end(&mut self, _: bool) {}
}

/// How far something is that knows it in bytes, or in transactions.
struct Reached<'a> {
    done: Lag,
    total: Lag,
    bytes_per_s: f64,
    time_left_s: Option<u64>,
    note: Option<&'a str>,
    paused: bool,
}

impl<'a> From<&'a Recovery> for Reached<'a> {
    fn from(recovery: &'a Recovery) -> Self {
        Reached {
            done: recovery.done,
            total: recovery.total,
            bytes_per_s: recovery.bytes_per_s,
            time_left_s: recovery.time_left_s,
            note: recovery.note.as_deref(),
            paused: recovery.rate.paused && recovery.state == RecoveryState::Running,
        }
    }
}

impl<'a> From<&'a Job> for Reached<'a> {
    fn from(job: &'a Job) -> Self {
        Reached {
            done: job.done,
            total: job.total,
            bytes_per_s: job.bytes_per_s,
            time_left_s: job.time_left_s,
            note: job.note.as_deref(),
            paused: false,
        }
    }
}

fn percent(done: u64, total: u64) -> Option<u64> {
    let done = u128::from(done.min(total)) * 100;
    done.checked_div(u128::from(total))
        .map(|percent| percent as u64)
}

impl Reached<'_> {
    /// Done and total in the unit that says most: bytes, where they are known, else transactions.
    fn position(&self) -> (u64, u64) {
        if self.total.bytes > 0 {
            (self.done.bytes, self.total.bytes)
        } else {
            (self.done.transactions, self.total.transactions)
        }
    }

    /// `5.7/8.4 GiB  212 MiB/s  12 s left`, or what is waited for.
    fn amounts(&self) -> String {
        let mut parts = Vec::new();
        let Lag {
            transactions,
            bytes,
        } = self.total;
        if bytes > 0 {
            let done = format::bytes(self.done.bytes.min(bytes));
            parts.push(format!("{done} of {}", format::bytes(bytes)));
        } else if transactions > 0 {
            let done = format::count(self.done.transactions.min(transactions));
            parts.push(format!("{done} of {} tx", format::count(transactions)));
        }
        if self.paused {
            parts.push("paused".into());
            return parts.join("  ");
        }
        if self.bytes_per_s >= 1.0 {
            parts.push(format!("{}/s", format::bytes(self.bytes_per_s as u64)));
        }
        if let Some(left) = self.time_left_s {
            parts.push(format!("{} left", format::duration(left)));
        }
        if parts.is_empty()
            && let Some(note) = self.note
        {
            parts.push(escape(note).into_owned());
        }
        parts.join("  ")
    }
}

/// The same as one line for `details`: `copy ━━━━╸━━ 68 %  5.7 of 8.4 GiB  12 s left`.
pub(super) fn line(recovery: &Recovery, width: usize, style: Style) -> String {
    let phase = escape(&recovery.phase);
    let reached = Reached::from(recovery);
    let (done, total) = reached.position();
    let amounts = reached.amounts();
    let Some(percent) = percent(done, total) else {
        return format!("{phase}  {amounts}").trim_end().to_owned();
    };
    let beside = console::measure_text_width(&phase) + " 100 %  ".len();
    let amounts = fitting(&amounts, width.saturating_sub(beside));
    let used = console::measure_text_width(&phase) + console::measure_text_width(&amounts) + 9;
    let room = width.saturating_sub(used).min(40);
    let bar = if room >= 8 {
        format!("{} ", bar(percent, room, style))
    } else {
        String::new()
    };
    format!("{phase} {bar}{percent} %  {amounts}")
}

/// What is done is thick, and what is not is thin, also where there are no colours.
fn bar(percent: u64, width: usize, style: Style) -> String {
    let full = (width as u64 * percent / 100) as usize;
    let done = "━".repeat(full);
    let rest = "─".repeat(width - full);
    format!(
        "{}{}",
        style.paint(Paint::Good, &done),
        style.paint(Paint::Faint, &rest)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_goes_in_the_order_of_its_worth() {
        let all = "5.7 GiB of 8.4 GiB  212 MiB/s  12 s left";
        for (room, expected) in [
            (40, all),
            (39, "5.7 GiB of 8.4 GiB  12 s left"),
            (28, "12 s left"),
            (5, "12 s…"),
        ] {
            assert_eq!(fitting(all, room), expected, "{room}");
        }
    }

    #[test]
    fn at_forty_columns_there_is_still_how_long_it_takes_and_every_key() {
        let mut step = Step::of_bytes("copy2", "catch-up", 1 << 20, 8 << 30);
        step.amounts = "1.0 MiB of 8.0 GiB  212 MiB/s  12 min left".to_owned();
        let before = prefix(&step, 40, Style::PLAIN);
        let amounts = fitting(&step.amounts, room(40, before.len()));
        assert_eq!(
            (before.as_str(), amounts.as_str()),
            ("copy2 catch-up", "12 min left")
        );
        let help = squeezed("p pause or go on   r rate   d detach   c cancel");
        assert_eq!(help, "p pause  r rate  d detach  c cancel");
        assert!(help.len() + 2 <= 40);
        assert_eq!(prefix(&step, 80, Style::PLAIN), "copy2    catch-up ");
    }
}
