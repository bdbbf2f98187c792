//! Durations and sizes as people write them: `500ms`, `2m`, `64MiB`, `20MB`.

use std::time::Duration;

const DURATIONS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A duration: a number and its unit. A bare number is refused: of what?
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    if unit.is_empty() && number.parse::<f64>().is_ok() {
        return Err(format!(
            "`{text}` has no unit; write {number}s, or ms, m, h, d"
        ));
    }
    let factor = factor(DURATIONS, unit)
        .ok_or_else(|| format!("`{text}` is no duration; write it like 10s, 500ms, 2m, 1h"))?;
    let millis = multiply(number, factor)
        .ok_or_else(|| format!("`{text}` is no duration; write it like 10s, 500ms, 2m, 1h"))?;
    Ok(Duration::from_millis(millis))
}

/// A size in bytes. A bare number is bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let unit = if unit.is_empty() { "B" } else { unit };
    factor(SIZES, unit)
        .and_then(|factor| multiply(number, factor))
        .ok_or_else(|| format!("`{text}` is no size; write it like 64MiB, 20MB, 1GiB"))
}

/// The largest unit that says it without a fraction: `90s`, `2m`, `1500ms`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    whole(DURATIONS, millis, "s")
}

/// The largest unit that says it without a fraction: `64MiB`, `20MB`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    whole(SIZES, bytes, "B")
}

fn whole(units: &[(&str, u64)], value: u64, of_zero: &str) -> String {
    let best = units
        .iter()
        .filter(|(unit, factor)| *unit != "KB" && value >= *factor && value.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor);
    match best {
        Some((unit, factor)) => format!("{}{unit}", value / factor),
        None => format!("{value}{of_zero}"),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    let found = units.iter().find(|(name, _)| *name == unit);
    found.map(|(_, factor)| *factor)
}

/// Exact for whole numbers; a fraction is rounded to a whole smallest unit.
fn multiply(number: &str, factor: u64) -> Option<u64> {
    let number = number.replace('_', "");
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let value = number.parse::<f64>().ok()? * factor as f64;
    // Beyond this a float no longer counts ones, and nobody means it.
    (0.0..9e15).contains(&value).then(|| value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("2 h", 7_200_000),
            ("1d", 86_400_000),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "10 years",
            "1e3s",
            "..s",
            "99999999999999999999s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes_unless_a_unit_says_otherwise() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("64MiB", 64 << 20),
            ("20MB", 20_000_000),
            ("1.5KiB", 1536),
            ("1_000", 1000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MB",
            "-5",
            "5 apples",
            "64Mib",
            "1e400MB",
            "99999999999TiB",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for millis in [0, 1, 999, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1000, 1024, 20_000_000, 64 << 20, 123_456_789] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
        assert_eq!(format_size(64 << 20), "64MiB");
    }
}
