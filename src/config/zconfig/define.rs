//! `%define`, and what is put in for `$name`, `${name}`, `$(VARIABLE)` and `$$`.
//!
//! As ZConfig's `substitution.py` does it: names of definitions have no case, variables of the
//! environment have one, what is put in is not looked into again, and a `$` that means none of this is
//! a mistake.

use std::collections::HashMap;

use crate::config::Environment;

/// What is wrong, and the mend.
pub(super) type Wrong = (String, String);

pub(super) struct Defines<'a> {
    values: HashMap<String, String>,
    environment: Environment<'a>,
}

impl<'a> Defines<'a> {
    pub(super) fn new(environment: Environment<'a>) -> Self {
        Defines {
            values: HashMap::new(),
            environment,
        }
    }

    /// `%define NAME VALUE`. Saying it again is allowed where it says the same.
    pub(super) fn define(&mut self, name: &str, value: &str) -> Result<(), Wrong> {
        let name = name.to_lowercase();
        if let Some(before) = self.values.get(&name)
            && before != value
        {
            return Err((
                format!("`{name}` is already defined, as `{before}`"),
                "a name can have one value: use another name".into(),
            ));
        }
        if name_length(&name) != name.len() {
            return Err((
                format!("`{name}` cannot be the name of a definition"),
                "letters, digits and `_`, the first no digit".into(),
            ));
        }
        let value = self.replace(value)?;
        self.values.insert(name, value);
        Ok(())
    }

    /// The text with everything put in that it refers to.
    pub(super) fn replace(&self, text: &str) -> Result<String, Wrong> {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            result.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                result.push('$');
                rest = after;
                continue;
            }
            let (reference, after) = reference(after)?;
            match reference {
                Reference::Define(name) => {
                    let value = self.values.get(&name.to_lowercase()).ok_or_else(|| {
                        let mend = format!(
                            "add `%define {name} VALUE` before it, or write `$$` for a `$`"
                        );
                        (format!("`{name}` is not defined"), mend)
                    })?;
                    result.push_str(value);
                }
                Reference::Variable(name) => {
                    let value = (self.environment)(name).ok_or_else(|| {
                        let mend = format!("set {name} as it was set for the old server");
                        (format!("the environment has no `{name}`"), mend)
                    })?;
                    result.push_str(&value);
                }
            }
            rest = after;
        }
        result.push_str(rest);
        Ok(result)
    }
}

enum Reference<'t> {
    Define(&'t str),
    Variable(&'t str),
}

/// What stands after a `$`, and the rest.
fn reference(text: &str) -> Result<(Reference<'_>, &str), Wrong> {
    let (closing, inner) = match text.as_bytes().first() {
        Some(b'{') => (Some('}'), &text[1..]),
        Some(b'(') => (Some(')'), &text[1..]),
        _ => (None, text),
    };
    let (name, rest) = inner.split_at(name_length(inner));
    let wrong = |what: &str| {
        Err((
            what.to_owned(),
            "write `$name`, `${name}`, `$(VARIABLE)`, or `$$` for a `$`".to_owned(),
        ))
    };
    if name.is_empty() {
        return wrong("a `$` without a name after it");
    }
    let Some(closing) = closing else {
        return Ok((Reference::Define(name), rest));
    };
    let Some(rest) = rest.strip_prefix(closing) else {
        return wrong(&format!("`{closing}` is missing after `{name}`"));
    };
    if closing == '}' {
        Ok((Reference::Define(name), rest))
    } else {
        Ok((Reference::Variable(name), rest))
    }
}

/// How many bytes of a text are a name, from its beginning.
fn name_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(first) if first.is_ascii_alphabetic() || *first == b'_' => {}
        _ => return 0,
    }
    let is_in_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    bytes.iter().take_while(|byte| is_in_name(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/zope".to_owned())
    }

    #[test]
    fn what_is_referred_to_is_put_in() {
        let mut defines = Defines::new(&environment);
        defines.define("Instance", "/srv/zope").unwrap();
        defines.define("VAR", "$INSTANCE/var").unwrap();
        defines.define("empty", "").unwrap();
        defines.define("money", "$$var").unwrap();
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$var/Data.fs", "/srv/zope/var/Data.fs"),
            ("${VAR}x", "/srv/zope/varx"),
            ("$(HOME)/x", "/home/zope/x"),
            ("a$$b$$", "a$b$"),
            ("$empty$empty", ""),
            ("$money", "$var"),
            ("$instance.$instance", "/srv/zope./srv/zope"),
        ] {
            assert_eq!(defines.replace(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "$",
            "a $",
            "$1",
            "${}",
            "${var",
            "$(HOME}",
            "$()",
            "$nothing",
            "$(NOTHING)",
            "$-",
        ] {
            assert!(defines.replace(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_definition_is_made_once() {
        let mut defines = Defines::new(&environment);
        defines.define("a", "1").unwrap();
        defines.define("A", "1").unwrap();
        assert!(defines.define("a", "2").is_err());
        assert!(defines.define("a-b", "1").is_err());
        assert!(defines.define("1", "1").is_err());
        // As ZConfig: compared is what is written with what was put in.
        defines.define("b", "$a").unwrap();
        assert!(defines.define("b", "$a").is_err());
    }
}
