//! The textual literals of protocol 0, and integers as two's complement.

use bytes::Bytes;

use super::Value;

/// Decimal integers longer than this are nobody's transaction id, and reading them is quadratic: at this length it
/// costs a few times as much as reading as many bytes of anything else.
const MOST_DIGITS: usize = 100;

/// The integer of a `LONG1`: two's complement, little-endian, of any length.
pub(super) fn integer(mut bytes: Bytes) -> Value {
    if let Some(int) = small_integer(&bytes) {
        return Value::Int(int);
    }
    bytes.truncate(significant(&bytes));
    Value::BigInt(bytes)
}

/// The same where it fits into 64 bits.
pub(super) fn small_integer(bytes: &[u8]) -> Option<i64> {
    let length = significant(bytes);
    if length > 8 {
        return None;
    }
    let negative = bytes[..length].last().is_some_and(|last| last & 0x80 != 0);
    let mut all = if negative { [0xff; 8] } else { [0; 8] };
    all[..length].copy_from_slice(&bytes[..length]);
    Some(i64::from_le_bytes(all))
}

/// How many bytes say the same: a last byte that only repeats the sign is superfluous.
pub(super) fn significant(bytes: &[u8]) -> usize {
    let mut length = bytes.len();
    while length > 1 {
        let (last, before) = (bytes[length - 1], bytes[length - 2]);
        let repeats_sign =
            (last == 0 && before & 0x80 == 0) || (last == 0xff && before & 0x80 != 0);
        if !repeats_sign {
            break;
        }
        length -= 1;
    }
    if length == 1 && bytes[0] == 0 {
        length = 0;
    }
    length
}

/// A decimal integer as two's complement; none where it is not one.
pub(super) fn decimal(text: &[u8]) -> Option<Vec<u8>> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > MOST_DIGITS {
        return None;
    }
    let mut magnitude: Vec<u8> = Vec::with_capacity(digits.len() / 2 + 2);
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        let mut carry = u16::from(digit - b'0');
        for byte in &mut magnitude {
            carry += u16::from(*byte) * 10;
            *byte = carry.to_le_bytes()[0];
            carry >>= 8;
        }
        if carry != 0 {
            magnitude.push(carry.to_le_bytes()[0]);
        }
    }
    magnitude.push(0);
    if negative {
        let mut carry = true;
        for byte in &mut magnitude {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    Some(magnitude)
}

/// The bytes of a `STRING`: quoted, with the escapes of `repr`.
pub(super) fn quoted(line: &[u8]) -> Option<Vec<u8>> {
    let (quote, rest) = line.split_first()?;
    let (last, inner) = rest.split_last()?;
    if quote != last || !matches!(quote, b'\'' | b'"') {
        return None;
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut at = 0;
    while let Some(&byte) = inner.get(at) {
        at += 1;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let escape = *inner.get(at)?;
        at += 1;
        match escape {
            b'\\' | b'\'' | b'"' => bytes.push(escape),
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'r' => bytes.push(b'\r'),
            b'a' => bytes.push(7),
            b'b' => bytes.push(8),
            b'v' => bytes.push(11),
            b'f' => bytes.push(12),
            b'x' => {
                let digits = inner.get(at..at + 2)?;
                bytes.push(u8::try_from(number(digits, 16)?).ok()?);
                at += 2;
            }
            b'0'..=b'7' => {
                let mut end = at;
                while end < at + 2 && matches!(inner.get(end), Some(b'0'..=b'7')) {
                    end += 1;
                }
                // Python takes `\777` modulo 256.
                bytes.push(number(&inner[at - 1..end], 8)?.to_le_bytes()[0]);
                at = end;
            }
            other => bytes.extend_from_slice(&[b'\\', other]),
        }
    }
    Some(bytes)
}

/// The text of a `UNICODE`: Latin-1, with `\uXXXX` and `\UXXXXXXXX`.
pub(super) fn raw_unicode(line: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(line.len());
    let mut at = 0;
    let mut high = None;
    while let Some(&byte) = line.get(at) {
        at += 1;
        let digits = match (byte, line.get(at)) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(char::from(byte));
                continue;
            }
        };
        let code = number(line.get(at + 1..at + 1 + digits)?, 16)?;
        at += 1 + digits;
        // A narrow Python 2 writes what is beyond 16 bits as two surrogates.
        match (high.take(), code) {
            (None, 0xd800..=0xdbff) => {
                if line.get(at..at + 2) != Some(b"\\u") {
                    return None;
                }
                high = Some(code - 0xd800);
            }
            (Some(high), 0xdc00..=0xdfff) => {
                text.push(char::from_u32(0x1_0000 + (high << 10) + (code - 0xdc00))?);
            }
            (None, _) => text.push(char::from_u32(code)?),
            (Some(_), _) => return None,
        }
    }
    high.is_none().then_some(text)
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    digits.iter().try_fold(0u32, |number, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        number.checked_mul(radix)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_lose_what_only_repeats_the_sign() {
        let cases: [(&[u8], i64); 7] = [
            (&[], 0),
            (&[0], 0),
            (&[0xff], -1),
            (&[0xff, 0], 255),
            (&[0, 0xff], -256),
            (&[0, 0, 0, 0, 0, 0, 0, 0x80], i64::MIN),
            (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1),
        ];
        for (bytes, expected) in cases {
            assert_eq!(integer(Bytes::from_static(bytes)), Value::Int(expected));
        }
        let big = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0]);
        assert_eq!(integer(big.clone()), Value::BigInt(big));
    }

    #[test]
    fn decimals_of_any_size_are_read() {
        let value = |text: &[u8]| integer(decimal(text).expect("a number").into());
        assert_eq!(value(b"0"), Value::Int(0));
        assert_eq!(value(b"-1"), Value::Int(-1));
        assert_eq!(value(b"-9223372036854775808"), Value::Int(i64::MIN));
        assert_eq!(
            value(b"1180591620717411303424"),
            Value::BigInt(Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0x40]))
        );
        for wrong in [&b""[..], b"-", b"1x", &[b'9'; MOST_DIGITS + 1]] {
            assert_eq!(decimal(wrong), None);
        }
    }

    #[test]
    fn escapes_are_those_of_python() {
        assert_eq!(
            quoted(br#"'a\'\\\n\x00\xff\101\0"'"#),
            Some(b"a'\\\n\0\xffA\0\"".to_vec())
        );
        assert_eq!(quoted(b"'a"), None);
        assert_eq!(quoted(b"'\\'"), None);
        assert_eq!(raw_unicode(b"\xe9\\u000a\\u20ac"), Some("é\n€".to_owned()));
        assert_eq!(raw_unicode(b"\\ud83d\\ude00"), Some("😀".to_owned()));
        assert_eq!(raw_unicode(b"\\ud83d"), None);
    }
}
