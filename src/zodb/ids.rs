//! Object and transaction identifiers.
//!
//! Both are eight bytes, big-endian, on disk and on the wire. They are kept as integers here, so
//! that order, hashing and arithmetic cost nothing; `Display` gives the sixteen hexadecimal digits
//! that ZODB's own tools print.

use std::fmt;

/// An object identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Oid(pub u64);

/// A transaction identifier: the time of the commit, see [`crate::zodb::time`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tid(pub u64);

impl Oid {
    /// The root object of every ZODB database.
    pub const ROOT: Oid = Oid(0);

    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Oid(u64::from_be_bytes(bytes))
    }

    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl Tid {
    /// What an empty storage reports as its last transaction, and what a record that is new has as
    /// its previous serial.
    pub const ZERO: Tid = Tid(0);
    /// Later than every transaction: `load_before(oid, Tid::MAX)` is the current revision.
    pub const MAX: Tid = Tid(u64::MAX);

    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Tid(u64::from_be_bytes(bytes))
    }

    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The smallest TID later than this one. [`Tid::MAX`] has none and stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Tid(self.0.saturating_add(1))
    }

    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

macro_rules! hexadecimal {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:016x})"), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            /// Sixteen hexadecimal digits, or fewer, with or without `0x`.
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digits = text.strip_prefix("0x").unwrap_or(text);
                if digits.is_empty() || digits.len() > 16 {
                    return Err(InvalidId(text.to_owned()));
                }
                u64::from_str_radix(digits, 16)
                    .map($name)
                    .map_err(|_| InvalidId(text.to_owned()))
            }
        }
    };
}

hexadecimal!(Oid);
hexadecimal!(Tid);

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an identifier: up to sixteen hexadecimal digits are expected")]
pub struct InvalidId(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_printed_and_read_as_sixteen_hexadecimal_digits() {
        let tid = Tid::from_bytes([0x03, 0xf1, 0xc2, 0xd4, 0xa9, 0xb8, 0x00, 0x11]);
        assert_eq!(tid.to_string(), "0x03f1c2d4a9b80011");
        assert_eq!("0x03f1c2d4a9b80011".parse(), Ok(tid));
        assert_eq!("1f".parse(), Ok(Oid(31)));
        assert!("".parse::<Oid>().is_err());
        assert!("0x".parse::<Oid>().is_err());
        assert!("-1".parse::<Tid>().is_err());
        assert!("12345678901234567".parse::<Tid>().is_err());
    }

    #[test]
    fn the_order_of_the_numbers_is_the_order_of_the_bytes() {
        assert!(Tid(255) < Tid(256));
        assert!(Tid(255).to_bytes() < Tid(256).to_bytes());
        assert_eq!(Tid::MAX.next(), Tid::MAX);
    }
}
