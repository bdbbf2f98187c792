//! TIDs as times, and times as TIDs.
//!
//! The high 32 bits count minutes in a calendar in which every month has 31 days:
//! `(((year - 1900) * 12 + month - 1) * 31 + day - 1) * 24 + hour) * 60 + minute`. The low 32 bits
//! are the fraction of that minute, in units of `60 / 2^32` seconds. Source: the `persistent`
//! package, `persistent/timestamp.py`, `_TimeStamp`.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Unit};

use super::ids::Tid;

const NANOS_PER_MINUTE: u128 = 60_000_000_000;

impl Tid {
    /// The TID of a moment. Moments before 1900 give [`Tid::ZERO`].
    #[must_use]
    pub fn from_time(time: Timestamp) -> Tid {
        let civil = TimeZone::UTC.to_datetime(time);
        let years = i64::from(civil.year()) - 1900;
        if years < 0 {
            return Tid::ZERO;
        }
        let months = years * 12 + i64::from(civil.month()) - 1;
        let days = months * 31 + i64::from(civil.day()) - 1;
        let minutes = (days * 24 + i64::from(civil.hour())) * 60 + i64::from(civil.minute());
        let nanos = u128::from(civil.second().unsigned_abs()) * 1_000_000_000
            + u128::from(civil.subsec_nanosecond().unsigned_abs());
        let fraction = (nanos << 32) / NANOS_PER_MINUTE;
        // Years up to 9999 need 32 bits; the fraction is below 2^32 because seconds are below 60.
        Tid((minutes.unsigned_abs() << 32) | fraction as u64)
    }

    /// A TID for a commit now: the time, or the smallest TID after `last` where the clock stands
    /// still or goes back.
    #[must_use]
    pub fn for_commit(now: Timestamp, last: Tid) -> Tid {
        Tid::from_time(now).max(last.next())
    }

    /// The moment of this TID; none where the bits are not a calendar date.
    #[must_use]
    pub fn time(self) -> Option<Timestamp> {
        let minutes = self.0 >> 32;
        let nanos = ((u128::from(self.0 & 0xffff_ffff) * NANOS_PER_MINUTE) >> 32) as u64;
        let (hours, minute) = (minutes / 60, minutes % 60);
        let (days, hour) = (hours / 24, hours % 24);
        let (months, day) = (days / 31, days % 31 + 1);
        let (years, month) = (months / 12, months % 12 + 1);
        let civil = DateTime::new(
            i16::try_from(years + 1900).ok()?,
            month as i8,
            day as i8,
            hour as i8,
            minute as i8,
            (nanos / 1_000_000_000) as i8,
            (nanos % 1_000_000_000) as i32,
        )
        .ok()?;
        TimeZone::UTC.to_timestamp(civil).ok()
    }

    /// The moment in seconds since 1970, as Python's `TimeStamp.timeTime` gives it; 0 where the bits are
    /// not a calendar date.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.time().map_or(0.0, |time| {
            // Nanoseconds of this century need 61 bits of the 53 that a float has.
            #[expect(clippy::cast_precision_loss, reason = "the type is Python's")]
            let seconds = time.as_nanosecond() as f64 / 1e9;
            seconds
        })
    }

    /// The moment as people read it, in `zone`: `2026-11-20 09:16:41 UTC`.
    #[must_use]
    pub fn to_local_text(self, zone: &TimeZone) -> Option<String> {
        let time = self.time()?.round(Unit::Second).ok()?;
        Some(
            time.to_zoned(zone.clone())
                .strftime("%Y-%m-%d %H:%M:%S %Z")
                .to_string(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_those_of_the_persistent_package() {
        // persistent.timestamp.TimeStamp(2026, 11, 20, 9, 16, 41.25).raw()
        let time: Timestamp = "2026-11-20T09:16:41.25Z".parse().expect("a time");
        let tid = Tid::from_time(time);
        assert_eq!(tid.to_bytes()[..4], [0x04, 0x0d, 0x23, 0xcc]);
        assert_eq!(tid.0 & 0xffff_ffff, 0xb000_0000);
        assert_eq!(tid.time(), Some(time));
    }

    #[test]
    fn a_commit_is_later_than_the_last_whatever_the_clock_says() {
        let now: Timestamp = "2026-11-20T09:16:41Z".parse().expect("a time");
        assert_eq!(Tid::for_commit(now, Tid::ZERO), Tid::from_time(now));
        let future = Tid(Tid::from_time(now).0 + 1_000_000);
        assert_eq!(Tid::for_commit(now, future), Tid(future.0 + 1));
    }

    #[test]
    fn what_is_no_date_has_no_time() {
        // The 31st of February.
        let minutes = ((((126 * 12 + 1) * 31 + 30) * 24) * 60) as u64;
        assert_eq!(Tid(minutes << 32).time(), None);
    }

    proptest! {
        #[test]
        fn the_time_of_a_tid_gives_the_tid_again(seconds in 0i64..4_000_000_000, nanos in 0i32..1_000_000_000) {
            let time = Timestamp::new(seconds, nanos).expect("in range");
            let tid = Tid::from_time(time);
            let back = tid.time().expect("a date");
            // A unit of the fraction is 14 ns.
            prop_assert!((time.as_nanosecond() - back.as_nanosecond()).abs() <= 15);
            prop_assert!(Tid::from_time(back) <= tid);
        }
    }
}
