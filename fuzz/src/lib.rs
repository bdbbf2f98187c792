//! What all fuzz targets do: the body of the main package, and a look at how much memory it held.

use std::sync::Once;

use zeoraidctl::fuzzing::Target;

/// Gives the input to the body of this name.
///
/// # Panics
/// Where the body does, and where it held more memory than it may.
pub fn run(name: &str, data: &[u8]) {
    ignore_broken_pipes();
    let target = Target::named(name);
    let held = allocation_counter::measure(|| (target.body)(data)).bytes_max;
    let allowed = target.memory(data.len());
    let length = data.len();
    assert!(
        held <= allowed,
        "it held {held} bytes for {length}, {allowed} are allowed"
    );
}

/// As in every program of Rust: who writes to a socket that is closed is told by an error. There is no
/// `main` here that would have done it.
fn ignore_broken_pipes() {
    static ONCE: Once = Once::new();
    // SAFETY: no handler is set that could do anything.
    ONCE.call_once(|| unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    });
}
