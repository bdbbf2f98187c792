//! What a process holds of the machine: memory, open files. As Linux tells; elsewhere nothing is known.

use std::fs;

/// Of the memory that is in use, what is in RAM; 0 where that is not known.
pub(crate) fn resident_kib(pid: i32) -> u64 {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return 0;
    };
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Open files and sockets; 0 where that is not known.
pub(crate) fn open_files(pid: i32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64)
}
