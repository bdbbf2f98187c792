//! The TID of the time to which is packed, as Python computes it from seconds since 1970: the same in every
//! storage, so that members that are packed to one time keep the same.

use jiff::Timestamp;

use crate::storage::Answer;
use crate::zodb::Tid;

/// Transactions up to this TID are packed.
///
/// # Errors
/// [`Answer::Invalid`] where it is no time that a TID can have.
pub(crate) fn pack_tid(time: f64) -> Result<Tid, Answer> {
    let wrong = || Answer::Invalid("Invalid pack time".to_owned());
    // `TimeStamp(*gmtime(t)[:5] + (t % 60,))`
    let minutes = (time / 60.0).floor();
    let seconds = time.rem_euclid(60.0);
    // Anything that jiff knows is far below.
    if !minutes.is_finite() || minutes.abs() > 1e12 {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, reason = "it was just bounded")]
    let minute = Timestamp::from_second(minutes as i64 * 60).map_err(|_| wrong())?;
    let unit = 60.0 / 65536.0 / 65536.0;
    let fraction = (seconds / unit) as u64;
    match Tid::from_time(minute) {
        Tid::ZERO => Err(wrong()),
        minute => Ok(Tid(minute.0 | fraction.min(0xffff_ffff))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::python;

    #[test]
    fn times_are_those_of_python() {
        let lines = "
import sys, time
from persistent.TimeStamp import TimeStamp
for t in map(float, sys.argv[1:]):
    print(TimeStamp(*time.gmtime(t)[:5] + (t % 60,)).raw().hex())
";
        let times = [
            "0",
            "59.999999",
            "60",
            "1700000000.25",
            "1700000019.999999",
            "1763000000.123456",
        ];
        let printed = python::run(lines, &times);
        let expected: Vec<&str> = printed.lines().collect();
        for (time, expected) in times.iter().zip(expected) {
            let tid = pack_tid(time.parse().unwrap()).unwrap();
            assert_eq!(format!("{:016x}", tid.0), expected, "{time}");
        }
        for wrong in [f64::NAN, f64::INFINITY, -1e300, -3e9] {
            assert!(pack_tid(wrong).is_err());
        }
    }

    proptest::proptest! {
        /// A number of seconds is not exact; with a microsecond more it is never before the transaction.
        #[test]
        fn a_microsecond_after_a_transaction_is_not_before_it(tid in 0x02d0_0000_0000_0000_u64..0x0600_0000_0000_0000) {
            let Some(_) = Tid(tid).time() else { return Ok(()) };
            let stop = pack_tid(Tid(tid).seconds() + 1e-6).unwrap();
            let microseconds = (1 << 32) / 60_000_000;
            proptest::prop_assert!((tid..tid + 3 * microseconds).contains(&stop.0), "{stop:?}");
        }
    }
}
