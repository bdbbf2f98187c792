//! What the daemon takes of the machine while it is soaked: memory and open files must be flat.

use std::time::{Duration, Instant};

use crate::harness::resources::{open_files, resident_kib};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);

/// The last third may have so much more than the second: what the allocator keeps, and what another kind of fault
/// takes for its moment.
const MEMORY_SLACK_KIB: u64 = 16 * 1024;
const FILES_SLACK: u64 = 16;

struct Sample {
    at: Duration,
    kib: u64,
    files: u64,
}

/// Of files what is mostly open counts: whoever brings many blobs has them open for a moment.
struct Third {
    kib: u64,
    files: u64,
    most_files: u64,
}

pub(super) struct Usage {
    pid: i32,
    began: Instant,
    samples: Vec<Sample>,
}

impl Usage {
    pub(super) fn of(pid: i32, began: Instant) -> Self {
        Usage {
            pid,
            began,
            samples: Vec::new(),
        }
    }

    /// Looks, where it is time to. Cheap: the loop calls it all the time.
    pub(super) fn look(&mut self) {
        let at = self.began.elapsed();
        let last = self.samples.last();
        if last.is_none_or(|last| at >= last.at + EVERY) {
            self.samples.push(Sample {
                at,
                kib: resident_kib(self.pid),
                files: open_files(self.pid),
            });
        }
    }

    /// Of this third (0, 1, 2) of the time up to the last look.
    fn third(&self, third: u32) -> Third {
        let whole = self.samples.last().map_or(Duration::ZERO, |last| last.at);
        let of_it = |sample: &&Sample| {
            sample.at >= whole * third / 3 && (third == 2 || sample.at < whole * (third + 1) / 3)
        };
        let samples: Vec<&Sample> = self.samples.iter().filter(of_it).collect();
        let kib = samples.iter().map(|sample| sample.kib).max();
        let mut files: Vec<u64> = samples.iter().map(|sample| sample.files).collect();
        files.sort_unstable();
        Third {
            kib: kib.unwrap_or(0),
            files: files.get(files.len() / 2).copied().unwrap_or(0),
            most_files: files.last().copied().unwrap_or(0),
        }
    }

    pub(super) fn now(&self) -> String {
        let (kib, files) = (resident_kib(self.pid), open_files(self.pid));
        format!("{} MiB, {files} files", kib / 1024)
    }

    pub(super) fn summary(&self) -> String {
        let of = |third| {
            let Third {
                kib,
                files,
                most_files,
            } = self.third(third);
            format!("{} MiB, {files} files (at most {most_files})", kib / 1024)
        };
        format!(
            "the daemon's memory at most, and its open files mostly: {} in the first third; {} in the second; {} in \
             the last",
            of(0),
            of(1),
            of(2)
        )
    }

    /// What grew, where something did.
    pub(super) fn growth(&self) -> Option<String> {
        let (second, last) = (self.third(1), self.third(2));
        // There is no /proc.
        if second.kib == 0 {
            return None;
        }
        if last.kib > second.kib * 13 / 10 + MEMORY_SLACK_KIB {
            return Some(format!("memory grew: {}", self.summary()));
        }
        if last.files > second.files * 13 / 10 + FILES_SLACK {
            return Some(format!("open files grew: {}", self.summary()));
        }
        None
    }
}

/// What was seen every ten seconds for five minutes.
fn seen(kib: fn(u64) -> u64, files: fn(u64) -> u64) -> Usage {
    let samples = (0..30).map(|number| Sample {
        at: Duration::from_secs(number * 10),
        kib: kib(number),
        files: files(number),
    });
    Usage {
        samples: samples.collect(),
        ..Usage::of(0, Instant::now())
    }
}

#[test]
fn what_grows_in_a_soak_is_seen_and_what_comes_and_goes_is_not() {
    let said = |usage: Usage| usage.growth().unwrap_or_default();
    let flat = seen(|_| 60 << 10, |_| 40);
    assert_eq!(said(flat), "");
    // A cache that fills in the beginning, and a recovery at the end.
    let filling = |number: u64| number.min(10) * (6 << 10);
    let filled = seen(filling, |number| if number > 27 { 150 } else { 40 });
    assert_eq!(said(filled), "");
    let leak = seen(|number| (number + 1) * (6 << 10), |_| 40);
    assert!(said(leak).contains("memory grew"));
    let peak = seen(
        |number| if number == 25 { 200 << 10 } else { 60 << 10 },
        |_| 40,
    );
    assert!(said(peak).contains("memory grew"));
    let leak = seen(|_| 60 << 10, |number| 40 + number * 8);
    assert!(said(leak).contains("open files grew"));
    // Nothing is known where there is no /proc.
    assert_eq!(said(seen(|_| 0, |_| 0)), "");
}
