//! When a part is rendered, or an option asked: `NAME`, `not NAME`, `NAME is VALUE`, or a list of them.

use std::fmt;

use serde_json::{Map, Value};

/// Conditions that must all be met; none is always.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct When(Vec<Condition>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    option: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    /// Neither empty nor no nor 0.
    Given,
    NotGiven,
    Is(String),
}

impl When {
    /// The conditions that a recipe writes, or what was expected.
    pub(super) fn parse(written: &[String]) -> Result<When, String> {
        let conditions = written.iter().map(|text| {
            let words: Vec<&str> = text.split_whitespace().collect();
            let (option, test) = match words.as_slice() {
                ["not", option] => (option, Test::NotGiven),
                [option] => (option, Test::Given),
                [option, "is", value] => (option, Test::Is((*value).to_owned())),
                _ => {
                    return Err(format!(
                        "`when: {text}` is expected to be `OPTION`, `not OPTION` or `OPTION is VALUE`"
                    ));
                }
            };
            Ok(Condition {
                option: (*option).to_owned(),
                test,
            })
        });
        Ok(When(conditions.collect::<Result<_, _>>()?))
    }

    /// The options that it asks about.
    pub(super) fn options(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|condition| condition.option.as_str())
    }

    /// Whether these values of options meet it.
    pub(super) fn is_met(&self, values: &Map<String, Value>) -> bool {
        self.0.iter().all(|condition| {
            let value = values.get(&condition.option);
            match &condition.test {
                Test::Given => value.is_some_and(is_truthy),
                Test::NotGiven => !value.is_some_and(is_truthy),
                Test::Is(wanted) => value.is_some_and(|value| match value {
                    Value::String(text) => text == wanted,
                    Value::Bool(flag) => wanted == if *flag { "yes" } else { "no" },
                    Value::Number(number) => number
                        .as_u64()
                        .is_some_and(|number| wanted.parse() == Ok(number)),
                    _ => false,
                }),
            }
        })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Condition { option, test }) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" and ")?;
            }
            match test {
                Test::Given => f.write_str(option)?,
                Test::NotGiven => write!(f, "not {option}")?,
                Test::Is(value) => write!(f, "{option} is {value}")?,
            }
        }
        Ok(())
    }
}

fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_u64() != Some(0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_conditions_must_be_met() {
        let values = Map::from_iter([
            ("flag".to_owned(), Value::from(true)),
            ("empty".to_owned(), "".into()),
            ("count".to_owned(), 3.into()),
            ("mode".to_owned(), "coop".into()),
        ]);
        for (written, expected) in [
            (&[][..], true),
            (&["flag"], true),
            (&["empty"], false),
            (&["not empty"], true),
            (&["mode is coop"], true),
            (&["mode is single"], false),
            (&["count is 3"], true),
            (&["flag is yes", "not empty"], true),
            (&["flag is yes", "empty"], false),
        ] {
            let written: Vec<String> = written.iter().map(|text| (*text).to_owned()).collect();
            let when = When::parse(&written).unwrap();
            assert_eq!(when.is_met(&values), expected, "{when}");
            assert_eq!(when.to_string(), written.join(" and "));
        }
        assert!(When::parse(&["mode = coop".to_owned()]).is_err());
        assert!(When::parse(&[String::new()]).is_err());
    }
}
