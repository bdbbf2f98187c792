//! A panic is a bug: it is logged, with what to report, and the process is aborted. Half a daemon would
//! be worse than none: what it still answered could be wrong, and files are safe after a crash.

use std::panic::PanicHookInfo;

/// From now on a panic in any thread ends the process.
pub(super) fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(
            version = env!("CARGO_PKG_VERSION"),
            place = %place(info),
            reason = reason(info),
            %backtrace,
            "this is a bug in zeoraidctl: please report it with this line; the daemon ends now"
        );
        std::process::abort();
    }));
}

fn place(info: &PanicHookInfo<'_>) -> String {
    info.location()
        .map_or_else(|| "?".into(), ToString::to_string)
}

fn reason<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given")
}
