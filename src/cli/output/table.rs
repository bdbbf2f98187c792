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

/// A last column that has so much room is wrapped there, not put below.
const ROOM: usize = 24;

/// Columns with a heading, two spaces between them, indented by two.
///
/// Where a row is wider than the screen, its cell of the first of the `spill` columns goes below it, in
/// full, instead of being cut; where that is not enough, those of the next ones go there, under their
/// names. Without any, the last column is wrapped. What is said below a row is wrapped as well.
pub fn columns(
    headings: &[&str],
    mut rows: Vec<Row>,
    spill: impl IntoIterator<Item = usize>,
    width: usize,
    style: Style,
) -> String {
    let mut spilled: Vec<Vec<String>> = vec![Vec::new(); rows.len()];
    for (order, column) in spill.into_iter().enumerate() {
        let wide = widths(headings, &rows);
        let (Some(own), over) = (wide.get(column), total(&wide).saturating_sub(width)) else {
            continue;
        };
        if over == 0 {
            break;
        }
        let heading = headings.get(column).copied().unwrap_or_default();
        let room = own.saturating_sub(over);
        // Too little even for the heading: then all go.
        let room = if room < measure_text_width(heading) {
            0
        } else {
            room
        };
        let name = (order > 0).then_some(heading);
        for (row, spilled) in rows.iter_mut().zip(&mut spilled) {
            spilled.extend(spill_cell(row, column, room, name));
        }
    }
    let mut wide = widths(headings, &rows);
    let over = total(&wide).saturating_sub(width);
    if let (true, Some(last)) = (over > 0, wide.iter_mut().rfind(|width| **width > 0))
        && last.saturating_sub(over) >= ROOM
    {
        *last -= over;
    }
    let indent = indent(wide.first().copied().unwrap_or(0), width);
    let mut text = String::new();
    if headings.iter().any(|heading| !heading.is_empty()) {
        let headings: Vec<String> = headings.iter().map(|it| (*it).to_owned()).collect();
        text += &style.paint(Paint::Faint, &line(&headings, &wide));
        text.push('\n');
    }
    for (row, spilled) in rows.into_iter().zip(spilled) {
        let (cells, continued) = wrap_last(row.cells, &wide);
        text += &line(&cells, &wide);
        text.push('\n');
        let before = total(&wide) - wide.iter().rfind(|width| **width > 0).unwrap_or(&0);
        for more in continued {
            text += &format!("{:before$}{more}\n", "");
        }
        for below in spilled.iter().chain(&row.below) {
            for line in wrap(below, width.saturating_sub(indent)) {
                text += &format!("{:indent$}{line}\n", "");
            }
        }
    }
    text
}

/// How far what is said below a row is indented, where the first column is so wide: under the second
/// one, but never so far that little room is left.
pub fn indent(first: usize, width: usize) -> usize {
    (first + 4).min(width / 3)
}

/// Segments after one another, three spaces between, wrapped between segments. Lines after the first
/// are indented.
pub fn flow(first: &str, segments: &[String], indent: usize, width: usize) -> String {
    let mut text = first.to_owned();
    let mut used = measure_text_width(first);
    let mut at_start = first.trim().is_empty();
    let segments = segments.iter().filter(|segment| !segment.is_empty());
    // One that is wider than a line is wrapped within.
    let segments = segments.flat_map(|segment| wrap(segment, width.saturating_sub(indent)));
    for segment in segments {
        let wide = measure_text_width(&segment);
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
        text += &segment;
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
            lines.push(line.trim_end().to_owned());
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines.push(line);
    lines
}

/// Takes a cell that does not fit out of its row. That there is nothing needs no line.
fn spill_cell(row: &mut Row, column: usize, room: usize, name: Option<&str>) -> Option<String> {
    let cell = row.cells.get_mut(column)?;
    if room > 0 && measure_text_width(cell) <= room {
        return None;
    }
    let cell = std::mem::take(cell);
    if cell.is_empty() || cell == "-" {
        return None;
    }
    Some(match name {
        Some(name) => format!("{} {cell}", name.to_lowercase()),
        None => cell,
    })
}

/// The cells with the last column's cut to its width, and the lines that go on below it.
fn wrap_last(mut cells: Vec<String>, widths: &[usize]) -> (Vec<String>, Vec<String>) {
    let last = widths.iter().rposition(|width| *width > 0);
    let Some((cell, width)) = last.and_then(|last| cells.get_mut(last).zip(widths.get(last)))
    else {
        return (cells, Vec::new());
    };
    if measure_text_width(cell) <= *width {
        return (cells, Vec::new());
    }
    let mut lines = wrap(cell, *width);
    *cell = lines.remove(0);
    (cells, lines)
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
            "  N   S\n  a   x\n    /long/path\n  bb  y\n    /p\n"
        );
    }

    #[test]
    fn only_what_is_too_wide_goes_below_and_the_rest_follows_by_name() {
        let rows = || vec![row(&["a", "/a/long/path", "1 tx"]), row(&["b", "/p", "-"])];
        let headings = ["N", "AT", "LAG"];
        let some = columns(&headings, rows(), [1, 2], 15, Style::PLAIN);
        assert_eq!(
            some,
            "  N  AT  LAG\n  a      1 tx\n     /a/long/path\n  b  /p  -\n"
        );
        let all = columns(&headings, rows(), [1, 2], 12, Style::PLAIN);
        assert_eq!(
            all,
            "  N  LAG\n  a  1 tx\n    /a/long/path\n  b  -\n    /p\n"
        );
        let all = columns(&headings, rows(), [1, 2], 8, Style::PLAIN);
        assert_eq!(
            all,
            "  N  LAG\n  a\n  /a/long/path\n  lag 1\n  tx\n  b  -\n  /p\n"
        );
    }

    #[test]
    fn a_last_column_that_is_too_wide_is_wrapped_where_it_is() {
        let rows = vec![row(&["a", "one one one one one two two two"])];
        assert_eq!(
            columns(&["N", "WHAT"], rows, None, 32, Style::PLAIN),
            "  N  WHAT\n  a  one one one one one two two\n     two\n"
        );
    }

    #[test]
    fn segments_wrap_between_each_other_and_words_between_words() {
        let segments = ["one".to_owned(), "two".to_owned(), "three".to_owned()];
        assert_eq!(flow("A", &segments, 2, 14), "A   one   two\n  three\n");
        assert_eq!(wrap("a bb ccc dddd", 6), ["a bb", "ccc", "dddd"]);
    }
}
