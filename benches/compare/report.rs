//! The table and the JSON.

use comfy_table::{Cell, CellAlignment, Table, presets};
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

impl Report {
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header([
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
        ]);
        for line in &self.lines {
            let figures = [
                (line.runzeo.per_second, 0),
                (line.ours.per_second, 0),
                (line.ratio, 2),
                (line.runzeo.p50_us, 0),
                (line.ours.p50_us, 0),
                (line.runzeo.p99_us, 0),
                (line.ours.p99_us, 0),
                (line.runzeo.server_cpu_us, 1),
                (line.ours.server_cpu_us, 1),
            ];
            let mut row = vec![Cell::new(&line.what)];
            row.extend(figures.map(|(figure, digits)| {
                Cell::new(format!("{figure:.digits$}")).set_alignment(CellAlignment::Right)
            }));
            table.add_row(row);
        }
        table
    }
}
