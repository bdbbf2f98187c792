//! Numbers, amounts and times as people read them.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Unit};

use crate::admin::api::{Lag, Transaction};
pub(crate) use crate::counted::{count, counted};

/// `8.4 GiB`, `263 MiB`.
pub fn bytes(bytes: u64) -> String {
    let format = humansize::BINARY.decimal_zeroes(0);
    let exact = humansize::format_size(bytes, format.decimal_places(1));
    let whole = exact.find('.').unwrap_or(0);
    if whole < 3 {
        exact.replace(".0 ", " ")
    } else {
        humansize::format_size(bytes, format.decimal_places(0))
    }
}

/// Something per second: whole from ten up.
pub fn rate(per_second: f64) -> String {
    if per_second >= 9.95 || per_second == 0.0 {
        count(per_second.round() as u64)
    } else {
        format!("{per_second:.1}")
    }
}

/// `0.4 ms`, `2.1 s`.
pub fn milliseconds(ms: f64) -> String {
    if ms >= 1000.0 {
        format!("{:.1} s", ms / 1000.0)
    } else if ms >= 9.95 {
        format!("{} ms", count(ms.round() as u64))
    } else {
        format!("{ms:.1} ms")
    }
}

/// `12 s`, `4 min`, `3 h 10 min`, `2 d 4 h`.
pub fn duration(seconds: u64) -> String {
    let pair = |big: u64, big_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{big} {big_unit}")
        } else {
            format!("{big} {big_unit} {small} {small_unit}")
        }
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => pair(seconds / 86400, "d", seconds % 86400 / 3600, "h"),
    }
}

/// `1 402 transactions, 31 MiB`, or shorter, as `1 402 tx, 31 MiB`.
pub fn lag(lag: Lag, long: bool) -> String {
    let transactions = if long {
        counted(lag.transactions, "transaction")
    } else {
        format!("{} tx", count(lag.transactions))
    };
    if lag.bytes == 0 {
        transactions
    } else {
        format!("{transactions}, {}", bytes(lag.bytes))
    }
}

/// `2026-11-20 09:16:41 UTC`.
pub fn time(time: Timestamp, zone: &TimeZone) -> String {
    let rounded = time.round(Unit::Second).unwrap_or(time);
    let zoned = rounded.to_zoned(zone.clone());
    zoned.strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// `09:12 (4 min)` today, else `2026-11-19 22:10 (1 d 3 h)`.
pub fn since(time: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let (then, today) = (time.to_zoned(zone.clone()), now.to_zoned(zone.clone()));
    let format = if then.date() == today.date() {
        "%H:%M"
    } else {
        "%Y-%m-%d %H:%M"
    };
    let ago = duration(now.duration_since(time).as_secs().max(0).unsigned_abs());
    format!("{} ({ago})", then.strftime(format))
}

/// `0x03f1c2d4a9b80011  2026-11-20 09:16:41 UTC`.
pub fn transaction(transaction: &Transaction, zone: &TimeZone) -> String {
    match transaction.time {
        Some(when) => format!("{}  {}", transaction.tid, time(when, zone)),
        None => transaction.tid.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(bytes(8), "8 B");
        assert_eq!(bytes(31 << 20), "31 MiB");
        assert_eq!(bytes((31 << 20) + 4096), "31 MiB");
        assert_eq!(bytes(275_755_520), "263 MiB");
        assert_eq!(bytes(9_019_431_321), "8.4 GiB");
        assert_eq!(
            (rate(0.0), rate(0.25), rate(212.4)),
            ("0".into(), "0.2".into(), "212".into())
        );
        assert_eq!(milliseconds(0.42), "0.4 ms");
        assert_eq!(milliseconds(2100.0), "2.1 s");
        for (seconds, text) in [
            (12, "12 s"),
            (250, "4 min"),
            (11_400, "3 h 10 min"),
            (187_200, "2 d 4 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn a_time_of_today_is_short() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = time("2026-11-20T09:16:41Z");
        assert_eq!(
            since(time("2026-11-20T09:12:07Z"), now, &TimeZone::UTC),
            "09:12 (4 min)"
        );
        assert_eq!(
            since(time("2026-11-19T22:10:03Z"), now, &TimeZone::UTC),
            "2026-11-19 22:10 (11 h 6 min)"
        );
        assert_eq!(
            since(time("2026-11-21T09:12:07Z"), now, &TimeZone::UTC),
            "2026-11-21 09:12 (0 s)"
        );
    }
}
