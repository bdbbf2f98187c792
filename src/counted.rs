//! Counts as people read them: `1 transaction`, `1 402 transactions`.

/// `1 204 311`: groups of three, with spaces between.
#[must_use]
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1 transaction`, `2 transactions`.
#[must_use]
pub(crate) fn counted(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {one}{plural}", count(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_many_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1402), "1 402");
        assert_eq!(count(1_204_311), "1 204 311");
        assert_eq!(counted(0, "client"), "0 clients");
        assert_eq!(counted(1, "client"), "1 client");
        assert_eq!(counted(1000, "client"), "1 000 clients");
    }
}
