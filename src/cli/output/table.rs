//! Columns and lines that fit a screen.
//!
//! Every row may have lines of its own below it, which no common table package offers; the rest is
//! little enough.

use console::measure_text_width;

use super::style::{Paint, Style};

/// A row, and what is said below it.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Already escaped and painted.
    pub cells: Vec<String>,
    pub below: Vec<String>,
}

/// Columns with a heading, two spaces between them, indented by two. A row that is wider than the
/// screen gets its `spill` column below it, in full, instead of being cut.
pub fn columns(
    headings: &[&str],
    rows: Vec<Row>,
    spill: Option<usize>,
    width: usize,
    style: Style,
) -> String {
    let rows: Vec<Row> = match spill {
        Some(column) if total(&widths(headings, &rows)) > width => {
            rows.into_iter().map(|row| spilled(row, column)).collect()
        }
        _ => rows,
    };
    let widths = widths(headings, &rows);
    let mut text = String::new();
    let headings: Vec<String> = headings
        .iter()
        .map(|heading| (*heading).to_owned())
        .collect();
    if headings.iter().any(|heading| !heading.is_empty()) {
        text += &style.paint(Paint::Faint, &line(&headings, &widths));
        text.push('\n');
    }
    for row in rows {
        text += &line(&row.cells, &widths);
        text.push('\n');
        for below in row.below {
            text += &format!("{}{below}\n", " ".repeat(widths.first().unwrap_or(&0) + 4));
        }
    }
    text
}

/// Segments after one another, three spaces between, wrapped between segments. Lines after the first
/// are indented.
pub fn flow(first: &str, segments: &[String], indent: usize, width: usize) -> String {
    let mut text = first.to_owned();
    let mut used = measure_text_width(first);
    let mut at_start = first.trim().is_empty();
    for segment in segments.iter().filter(|segment| !segment.is_empty()) {
        let wide = measure_text_width(segment);
        if !at_start && used + 3 + wide > width {
            text += "\n";
            text += &" ".repeat(indent);
            used = indent;
            at_start = true;
        }
        if !at_start {
            text += "   ";
            used += 3;
        }
        text += segment;
        used += wide;
        at_start = false;
    }
    text.push('\n');
    text
}

/// A sentence, wrapped between words.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let wide = measure_text_width(&line) + 1 + measure_text_width(word);
        if !line.is_empty() && wide > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines.push(line);
    lines
}

fn spilled(mut row: Row, column: usize) -> Row {
    if let Some(cell) = row.cells.get_mut(column) {
        row.below.insert(0, std::mem::take(cell));
    }
    row
}

fn widths(headings: &[&str], rows: &[Row]) -> Vec<usize> {
    let cell =
        |row: &Row, column: usize| row.cells.get(column).map_or(0, |c| measure_text_width(c));
    let of = |(column, heading): (usize, &&str)| {
        let widest = rows.iter().map(|row| cell(row, column)).max().unwrap_or(0);
        // A column that is empty needs no heading either, unless the table has no rows at all.
        if widest == 0 && !rows.is_empty() {
            0
        } else {
            widest.max(measure_text_width(heading))
        }
    };
    headings.iter().enumerate().map(of).collect()
}

fn total(widths: &[usize]) -> usize {
    widths.iter().filter(|w| **w > 0).map(|w| w + 2).sum()
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths).filter(|(_, width)| **width > 0) {
        let padding = width.saturating_sub(measure_text_width(cell));
        text += &format!("  {cell}{}", " ".repeat(padding));
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Row {
        Row {
            cells: cells.iter().map(|cell| (*cell).to_owned()).collect(),
            below: Vec::new(),
        }
    }

    #[test]
    fn a_column_that_does_not_fit_goes_below_in_full() {
        let rows = || vec![row(&["a", "x", "/long/path"]), row(&["bb", "y", "/p"])];
        let wide = columns(&["N", "S", "WHERE"], rows(), Some(2), 80, Style::PLAIN);
        assert_eq!(wide, "  N   S  WHERE\n  a   x  /long/path\n  bb  y  /p\n");
        let narrow = columns(&["N", "S", "WHERE"], rows(), Some(2), 12, Style::PLAIN);
        assert_eq!(
            narrow,
            "  N   S\n  a   x\n      /long/path\n  bb  y\n      /p\n"
        );
    }

    #[test]
    fn segments_wrap_between_each_other_and_words_between_words() {
        let segments = ["one".to_owned(), "two".to_owned(), "three".to_owned()];
        assert_eq!(flow("A", &segments, 2, 14), "A   one   two\n  three\n");
        assert_eq!(wrap("a bb ccc dddd", 6), ["a bb", "ccc", "dddd"]);
    }
}
