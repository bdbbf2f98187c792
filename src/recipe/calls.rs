//! What templates can call, besides what Handlebars brings.
//!
//! One list: each helper with what its page in the manual says of it.

use std::path::Path;

use handlebars::{
    Context, Handlebars, Helper, HelperDef, RenderContext, RenderError, RenderErrorReason,
    ScopedJson,
};
use serde_json::Value;

/// A helper and its description.
#[derive(Debug, Clone, Copy)]
pub struct HelperSpec {
    pub name: &'static str,
    /// How it is called, without the braces.
    pub usage: &'static str,
    pub what: &'static str,
    run: Pure,
}

/// Makes one value of the arguments, or says what it expected. The context is there for `absolute`.
type Pure = fn(&[Value], &Value) -> Result<Value, String>;

/// Every helper of ours, in the order of the manual.
pub const HELPERS: &[HelperSpec] = &[
    HelperSpec {
        name: "yaml",
        usage: "yaml v",
        what: "as a YAML scalar, quoted where it must be",
        run: |values, _| {
            let text = serde_yaml::to_string(one(values)?).map_err(|error| error.to_string())?;
            Ok(text.trim_end().into())
        },
    },
    HelperSpec {
        name: "shell",
        usage: "shell v",
        what: "as one word of a shell command, quoted where it must be",
        run: |values, _| {
            let text = text(values)?;
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+=".contains(c);
            if !text.is_empty() && text.chars().all(plain) {
                return Ok(text.into());
            }
            Ok(format!("'{}'", text.replace('\'', r"'\''")).into())
        },
    },
    HelperSpec {
        name: "python",
        usage: "python v",
        what: "as a Python string literal",
        run: |values, _| {
            // A JSON string is a Python string.
            serde_json::to_string(&text(values)?)
                .map(Value::from)
                .map_err(|error| error.to_string())
        },
    },
    HelperSpec {
        name: "zconfig",
        usage: "zconfig v",
        what: "with `$` doubled, as ZConfig wants it",
        run: |values, _| Ok(text(values)?.replace('$', "$$").into()),
    },
    HelperSpec {
        name: "host",
        usage: "host a",
        what: "the host of an address; the brackets of an IPv6 address stay",
        run: |values, _| Ok(address(&text(values)?)?.0.into()),
    },
    HelperSpec {
        name: "bare_host",
        usage: "bare_host a",
        what: "the host of an address, without brackets",
        run: |values, _| {
            let text = text(values)?;
            let host = address(&text)?.0;
            Ok(host.trim_start_matches('[').trim_end_matches(']').into())
        },
    },
    HelperSpec {
        name: "port",
        usage: "port a",
        what: "the port of an address",
        run: |values, _| Ok(address(&text(values)?)?.1.into()),
    },
    HelperSpec {
        name: "is_socket",
        usage: "is_socket a",
        what: "whether an address is `unix:PATH`",
        run: |values, _| Ok(text(values)?.starts_with("unix:").into()),
    },
    HelperSpec {
        name: "socket",
        usage: "socket a [folder]",
        what: "the path of an address `unix:PATH`, absolute as by `absolute`",
        run: |values, context| {
            let (text, folder) = path_and_folder(values, context)?;
            let path = text
                .strip_prefix("unix:")
                .ok_or_else(|| format!("an address `unix:PATH` is expected, not {text}"))?;
            Ok(absolute(path, &folder))
        },
    },
    HelperSpec {
        name: "absolute",
        usage: "absolute p [folder]",
        what: "a path, a relative one taken from that folder, or else from the instance",
        run: |values, context| {
            let (text, folder) = path_and_folder(values, context)?;
            Ok(absolute(&text, &folder))
        },
    },
    HelperSpec {
        name: "parent",
        usage: "parent p",
        what: "the folder of a path; empty where it names none",
        run: |values, _| {
            let text = text(values)?;
            let parent = Path::new(&text).parent().unwrap_or(Path::new(""));
            Ok(parent.display().to_string().into())
        },
    },
    HelperSpec {
        name: "which",
        usage: "which 'x' 'y'",
        what: "the absolute path of the first of these programs that is on $PATH; empty where none is",
        run: |values, _| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let names = values.iter().filter_map(Value::as_str);
            let found = names
                .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)))
                .find(|path| path.is_absolute() && path.is_file());
            let found = found.map(|path| path.display().to_string());
            Ok(found.unwrap_or_default().into())
        },
    },
    HelperSpec {
        name: "systemd",
        usage: "systemd v",
        what: "as one word of a setting of systemd, quoted",
        run: |values, _| Ok(systemd(&text(values)?).into()),
    },
    HelperSpec {
        name: "systemd_exec",
        usage: "systemd_exec v",
        what: "the same for ExecStart= and the like, where `$` stands for variables",
        run: |values, _| Ok(systemd(&text(values)?).replace('$', "$$").into()),
    },
    HelperSpec {
        name: "replace",
        usage: "replace v 'a' 'b'",
        what: "the text with every `a` replaced by `b`",
        run: |values, _| match values {
            [value, Value::String(from), Value::String(to)] if !from.is_empty() => {
                let text = text(std::slice::from_ref(value))?;
                Ok(text.replace(from.as_str(), to).into())
            }
            _ => Err("a text, what to replace in it, and by what are expected".into()),
        },
    },
    HelperSpec {
        name: "folders",
        usage: "folders p [folder]",
        what: "the list of the folders of these paths (with commas between), absolute as by `absolute`, each once",
        run: |values, context| {
            let (paths, folder) = path_and_folder(values, context)?;
            let mut folders: Vec<Value> = Vec::new();
            for path in paths.split(',').map(str::trim) {
                let whole = Path::new(&folder).join(path);
                let above = whole.parent().unwrap_or(&whole).display().to_string();
                if !path.is_empty() && !folders.contains(&above.as_str().into()) {
                    folders.push(above.into());
                }
            }
            Ok(folders.into())
        },
    },
    HelperSpec {
        name: "is_inside",
        usage: "is_inside p folder",
        what: "whether a path, as by `absolute`, is that folder or lies in it",
        run: |values, context| {
            let (path, folder) = path_and_folder(values, context)?;
            Ok(Path::new(&path).starts_with(folder).into())
        },
    },
    HelperSpec {
        name: "nth",
        usage: "nth list n",
        what: "an entry of a list; the first is 1",
        run: |values, _| match values {
            [Value::Array(items), number] => {
                let item = whole(number)
                    .and_then(|number| usize::try_from(number).ok()?.checked_sub(1))
                    .and_then(|index| items.get(index));
                item.cloned().ok_or_else(|| {
                    format!(
                        "a number from 1 to {} is expected, not {number}",
                        items.len()
                    )
                })
            }
            _ => Err("a list and a number are expected".into()),
        },
    },
    HelperSpec {
        name: "join",
        usage: "join list 'x'",
        what: "the entries of a list with that text between",
        run: |values, _| match values {
            [Value::Array(items), Value::String(between)] => {
                let texts: Result<Vec<_>, _> = items
                    .iter()
                    .map(|item| text(std::slice::from_ref(item)))
                    .collect();
                Ok(texts?.join(between).into())
            }
            _ => Err("a list and a text are expected".into()),
        },
    },
    HelperSpec {
        name: "add",
        usage: "add n m",
        what: "the sum",
        run: |values, _| numbers(values, u64::checked_add),
    },
    HelperSpec {
        name: "subtract",
        usage: "subtract n m",
        what: "the difference, which cannot be less than 0",
        run: |values, _| numbers(values, u64::checked_sub),
    },
    HelperSpec {
        name: "sequence",
        usage: "sequence 'x#' 1 3",
        what: "`x1, x2, x3`: the text for each number, with commas between",
        run: |values, _| match values {
            [Value::String(pattern), first, last] => {
                let (Some(first), Some(last)) = (whole(first), whole(last)) else {
                    return Err("a pattern and two numbers are expected".into());
                };
                if last.saturating_sub(first) > 1000 {
                    return Err("at most 1000 numbers are expected".into());
                }
                let texts: Vec<_> = (first..=last)
                    .map(|number| pattern.replace('#', &number.to_string()))
                    .collect();
                Ok(texts.join(", ").into())
            }
            _ => Err("a pattern and two numbers are expected".into()),
        },
    },
];

/// The helpers that Handlebars brings, for the manual and for messages.
pub const OF_HANDLEBARS: &[&str] = &[
    "if", "unless", "each", "with", "lookup", "eq", "ne", "gt", "gte", "lt", "lte", "and", "or",
    "not", "len",
];

/// The names of all helpers.
pub fn names() -> Vec<&'static str> {
    let ours = HELPERS.iter().map(|helper| helper.name);
    OF_HANDLEBARS.iter().copied().chain(ours).collect()
}

/// Makes all of them known.
pub(super) fn register(handlebars: &mut Handlebars<'_>) {
    for helper in HELPERS {
        handlebars.register_helper(helper.name, Box::new(PureHelper(helper.run)));
    }
}

struct PureHelper(Pure);

impl HelperDef for PureHelper {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        context: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        if let Some(missing) = helper
            .params()
            .iter()
            .find(|param| param.is_value_missing())
        {
            let name = missing.relative_path().cloned();
            return Err(RenderErrorReason::MissingVariable(name).into());
        }
        let values: Vec<Value> = helper.params().iter().map(|p| p.value().clone()).collect();
        let made = (self.0)(&values, context.data()).map_err(|expected| {
            RenderErrorReason::Other(format!("`{}`: {expected}", helper.name()))
        })?;
        Ok(ScopedJson::Derived(made))
    }
}

/// In double quotes; `%` is not a specifier of systemd's.
fn systemd(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('%', "%%"))
}

fn one(values: &[Value]) -> Result<&Value, String> {
    match values {
        [value] => Ok(value),
        _ => Err("one value is expected".into()),
    }
}

fn text(values: &[Value]) -> Result<String, String> {
    match one(values)? {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("a text is expected, not {other}")),
    }
}

fn whole(value: &Value) -> Option<u64> {
    // A port is the text that stood in an address.
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn numbers(values: &[Value], make: fn(u64, u64) -> Option<u64>) -> Result<Value, String> {
    let [one, other] = values else {
        return Err("two numbers are expected".into());
    };
    let (Some(one), Some(other)) = (whole(one), whole(other)) else {
        return Err("two numbers are expected".into());
    };
    let sum = make(one, other);
    sum.map(Value::from)
        .ok_or_else(|| format!("other numbers than {one} and {other} are expected"))
}

fn path_and_folder(values: &[Value], context: &Value) -> Result<(String, String), String> {
    let (path, folder) = match values {
        [path, folder] => (path, Some(text(std::slice::from_ref(folder))?)),
        _ => (one(values)?, None),
    };
    let instance = context.get("instance").and_then(Value::as_str);
    let folder = folder.unwrap_or_else(|| instance.unwrap_or_default().to_owned());
    Ok((text(std::slice::from_ref(path))?, folder))
}

fn absolute(path: &str, folder: &str) -> Value {
    Path::new(folder).join(path).display().to_string().into()
}

fn address(text: &str) -> Result<(&str, &str), String> {
    text.rsplit_once(':')
        .ok_or_else(|| format!("an address with a port is expected, not {text}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(name: &str, values: &[Value]) -> Result<Value, String> {
        let helper = HELPERS.iter().find(|helper| helper.name == name).unwrap();
        (helper.run)(values, &json!({"instance": "/srv/i"}))
    }

    #[test]
    fn words_of_systemd_mean_what_they_say() {
        let path = json!(r#"/a b/"c"\d/100%/$HOME"#);
        let quoted = r#""/a b/\"c\"\\d/100%%/$HOME""#;
        assert_eq!(
            call("systemd", std::slice::from_ref(&path)),
            Ok(json!(quoted))
        );
        let quoted = r#""/a b/\"c\"\\d/100%%/$$HOME""#;
        assert_eq!(call("systemd_exec", &[path]), Ok(json!(quoted)));
    }

    #[test]
    fn a_text_is_replaced_by_another() {
        let replaced = call("replace", &[json!("50% of $x$"), json!("$"), json!("$$")]);
        assert_eq!(replaced, Ok(json!("50% of $$x$$")));
        let nothing = call("replace", &[json!("a"), json!(""), json!("b")]);
        assert!(nothing.unwrap_err().contains("expected"));
    }

    #[test]
    fn folders_of_paths_are_absolute_and_each_is_there_once() {
        let paths = json!("var/a/Data.fs, /mnt/b c/Data.fs,/mnt/b c/2.fs");
        let folders = call("folders", std::slice::from_ref(&paths));
        assert_eq!(folders, Ok(json!(["/srv/i/var/a", "/mnt/b c"])));
        let folders = call("folders", &[paths, json!("/h")]);
        assert_eq!(folders, Ok(json!(["/h/var/a", "/mnt/b c"])));
        assert_eq!(call("folders", &[json!("")]), Ok(json!([])));
    }

    #[test]
    fn a_path_lies_inside_by_whole_names() {
        let inside = |path: &str| call("is_inside", &[json!(path), json!("/srv/i/var")]);
        assert_eq!(inside("/srv/i/var"), Ok(json!(true)));
        assert_eq!(inside("/srv/i/var/x"), Ok(json!(true)));
        assert_eq!(inside("/srv/i/variant"), Ok(json!(false)));
    }
}
