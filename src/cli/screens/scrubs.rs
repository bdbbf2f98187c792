//! What the last scrub found, as long as it is not mended.

use super::*;
use crate::admin::api::{LastScrub, Transaction};

/// The array, of which a scrub found `copy2` wrong.
pub(super) fn found_by_scrub(array: ArrayDetails) -> ArrayDetails {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let attention = "the last scrub found that copy2 is wrong".to_owned();
    ArrayDetails {
        line: format!("{}; {attention}", array.line),
        attention: Some(attention),
        next: Some("zeoraidctl disable copy2 && zeoraidctl recover --rebuild copy2".into()),
        last_scrub: Some(LastScrub {
            ended: at("09:12:07"),
            head: Transaction {
                tid: "0x040d23ccb0000000".into(),
                time: Some(at("09:12:00")),
                user: None,
                description: None,
            },
            transactions: 1402,
            blobs: 3,
            differences: 1,
            members: names(&["copy1", "copy2", "copy3"]),
            left_out: Vec::new(),
            suspects: names(&["copy2"]),
            undecided: Vec::new(),
            mended: Vec::new(),
            advice: vec![
                "zeoraidctl disable copy2; then zeoraidctl recover --rebuild copy2".into(),
            ],
        }),
        ..array
    }
}

#[test]
fn a_copy_that_a_scrub_found_wrong_is_a_warning_with_what_to_do() {
    let array = || vec![found_by_scrub(optimal().remove(0))];
    let line = "optimal; the last scrub found that copy2 is wrong";
    let status = Bench::new(array()).run("status");
    assert_eq!(status, format!("exit 1\n-- stdout\n{line}\n"));
    let status = Bench::new(array()).run("status --nagios");
    let nagios = format!("exit 1\n-- stdout\nZEORAID WARNING - {line} | ");
    assert!(status.starts_with(&nagios), "{status}");
    // Of several the one that needs somebody comes first.
    let other = ArrayDetails {
        name: "other".into(),
        ..optimal().remove(0)
    };
    let both = Bench::new(vec![other, array().remove(0)]).run("status");
    assert!(
        both.contains(&format!("main: {line}; other: optimal")),
        "{both}"
    );

    let mut bench = Bench::new(array());
    bench.width = 80;
    let details = bench.run("details");
    assert!(details.starts_with("exit 1\n"), "{details}");
    for part in [
        "  last scrub 09:12 (4 min): 1 402 transactions and 3 blobs, 1 difference\n",
        "  Attention: the last scrub found that copy2 is wrong.\n",
        "  - zeoraidctl disable copy2; then zeoraidctl recover --rebuild copy2\n",
        "\nNext: zeoraidctl disable copy2 && zeoraidctl recover --rebuild copy2\n",
    ] {
        assert!(details.contains(part), "{part}: {details}");
    }
    bench.width = 40;
    let narrow = bench.run("details");
    let scrub: Vec<&str> = narrow
        .lines()
        .skip_while(|line| !line.contains("last scrub"))
        .take_while(|line| !line.is_empty())
        .collect();
    assert!(scrub.len() > 5, "{narrow}");
    assert!(
        scrub.iter().all(|line| line.chars().count() <= 40),
        "{narrow}"
    );
}

#[test]
fn a_scrub_that_found_nothing_and_what_was_mended_are_one_line() {
    let mut array = found_by_scrub(optimal().remove(0));
    array.attention = None;
    array.line = "optimal".into();
    array.next = None;
    if let Some(scrub) = &mut array.last_scrub {
        scrub.suspects.clear();
        scrub.advice.clear();
        scrub.mended = vec!["copy2".into()];
    }
    let mut bench = Bench::new(vec![array]);
    bench.width = 80;
    let details = bench.run("details");
    assert!(details.starts_with("exit 0\n"), "{details}");
    let line = "  last scrub 09:12 (4 min): 1 402 transactions and 3 blobs, 1 difference; mended\n  since: copy2\n";
    assert!(details.contains(line), "{details}");
    assert!(!details.contains("Attention"), "{details}");
}
