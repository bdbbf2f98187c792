//! The table and the JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::measure::Figures;

/// One thing that both servers were asked to do.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) runzeo: Figures,
    pub(crate) ours: Figures,
    /// Ours to theirs, operations in the same time.
    pub(crate) ratio: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    pub(crate) ours: String,
    pub(crate) processors: usize,
    pub(crate) rounds: usize,
    pub(crate) seconds_per_round: f64,
    pub(crate) lines: Vec<Line>,
}

impl Line {
    pub(crate) fn new(what: String, runzeo: Figures, ours: Figures) -> Line {
        Line {
            what,
            ratio: ours.per_second / runzeo.per_second,
            runzeo,
            ours,
        }
    }

    /// In one line, for who waits.
    pub(crate) fn short(&self) -> String {
        format!(
            "{:<44} runzeo {:>9.0}/s   ours {:>9.0}/s   x {:.2}",
            self.what, self.runzeo.per_second, self.ours.per_second, self.ratio
        )
    }
}

const COLUMNS: [&str; 10] = [
    "what",
    "runzeo /s",
    "ours /s",
    "ratio",
    "p50 µs",
    "ours",
    "p99 µs",
    "ours",
    "server CPU µs",
    "ours",
];

impl Report {
    /// As a table in Markdown, that can be read as it is.
    pub(crate) fn table(&self) -> String {
        let mut rows = vec![COLUMNS.map(str::to_owned)];
        rows.extend(self.lines.iter().map(Line::cells));
        let widths: [usize; COLUMNS.len()] = std::array::from_fn(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        });
        let mut table = String::new();
        for (number, row) in rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                let written = if column == 0 {
                    write!(table, "| {cell:<width$} ")
                } else {
                    write!(table, "| {cell:>width$} ")
                };
                written.expect("a string takes everything");
            }
            table.push_str("|\n");
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let right = if column == 0 { '-' } else { ':' };
                    table.push('|');
                    table.extend(std::iter::repeat_n('-', width + 1));
                    table.push(right);
                }
                table.push_str("|\n");
            }
        }
        table
    }
}

impl Line {
    fn cells(&self) -> [String; COLUMNS.len()] {
        let (runzeo, ours) = (&self.runzeo, &self.ours);
        [
            self.what.clone(),
            format!("{:.0}", runzeo.per_second),
            format!("{:.0}", ours.per_second),
            format!("{:.2}", self.ratio),
            format!("{:.0}", runzeo.p50_us),
            format!("{:.0}", ours.p50_us),
            format!("{:.0}", runzeo.p99_us),
            format!("{:.0}", ours.p99_us),
            format!("{:.1}", runzeo.server_cpu_us),
            format!("{:.1}", ours.server_cpu_us),
        ]
    }
}
