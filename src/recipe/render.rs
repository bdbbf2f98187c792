//! Templates to text.
//!
//! Handlebars in strict mode (a name that means nothing is an error, with its line) and without
//! HTML escaping. What a template sees:
//!
//! | name | what |
//! | --- | --- |
//! | `{{listen}}` … | the options of the recipe |
//! | `{{part.value}}`, `{{part.target}}` | values of this part or another; the absolute path of its file |
//! | `{{#each part.each}}` | the values of all files of a part, also where it is one |
//! | `{{index}}`, `{{item}}` | in a part with `each`: which one it is, from 1; and the entry of the list |
//! | `{{instance}}` | the instance's folder, absolute |
//! | `{{program}}` | this program's file |
//!
//! and [`super::calls`], besides Handlebars' own (`if`, `each`, `eq`, `and`, …). Of a part that is there
//! several times, a file that is repeated in the same way sees its own one, and every other file the first.

use std::collections::BTreeMap;
use std::path::Path;

use handlebars::{Handlebars, RenderErrorReason, TemplateErrorReason};
use serde_json::{Map, Value};

use super::bounds::{self, Bounded};
use super::calls;
use super::error::RecipeError;
use super::library::Library;
use super::model::{Place, Process, Recipe};
use super::options::Resolved;
use super::pieces::{Pieces, turns};
use super::raw::{check_target, listed};

/// Where the instance is, and what it is run with.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Absolute.
    pub instance: &'a Path,
    pub program: &'a Path,
}

/// A whole recipe as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    pub files: Vec<Rendered>,
    /// With their modes; absolute, or relative to the instance.
    pub folders: BTreeMap<String, u32>,
}

/// A file as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    pub part: String,
    /// Relative to the instance.
    pub target: String,
    pub mode: u32,
    pub content: String,
    /// With an absolute path.
    pub process: Option<Process>,
}

/// Renders every part of a recipe that is wanted.
pub fn render(
    library: &Library,
    recipe: &Recipe,
    resolved: &Resolved,
    surroundings: Surroundings<'_>,
) -> Result<Made, RecipeError> {
    let pieces = Pieces::new(recipe, resolved, surroundings)?;
    let mut made = Made::default();
    let mut targets: Vec<(&str, &str)> = Vec::new();
    for piece in &pieces.files {
        let part = piece.part;
        for (target, other) in &targets {
            if let Some(what) = clash(&piece.target, target) {
                return Err(part.place.mistake(format!(
                    "`target: {}` {what} of the part `{other}`; a target of its own is expected",
                    piece.target
                )));
            }
        }
        targets.push((&piece.target, &part.name));
        let seen = pieces.seen(piece.turn.as_ref());
        let source = library.template(&part.template)?;
        let process = part.process.as_ref().map(|process| {
            let text = |text: &str| value(text, &seen, &part.place);
            let socket = surroundings.instance.join(text(&process.socket)?);
            Ok::<_, RecipeError>(Process {
                socket: socket.display().to_string(),
                start: text(&process.start)?,
                stop: text(&process.stop)?,
                address: process.address.as_deref().map(&text).transpose()?,
                data: process.data.as_deref().map(&text).transpose()?,
            })
        });
        made.files.push(Rendered {
            part: part.name.clone(),
            target: piece.target.clone(),
            mode: part.mode,
            content: render_text(&source.text, &seen, &source.origin, None, bounds::FILE)?,
            process: process.transpose()?,
        });
        let bytes: usize = made.files.iter().map(|file| file.content.len()).sum();
        if bytes > bounds::FILES {
            let most = bounds::FILES;
            let what = format!("the files of a recipe are expected to have at most {most} bytes");
            return Err(part.place.mistake(what));
        }
    }
    for folder in &recipe.folders {
        if !folder.when.is_met(&resolved.values) {
            continue;
        }
        for turn in turns(recipe, folder.each.as_deref(), &folder.place, resolved)? {
            let path = value(&folder.path, &pieces.seen(turn.as_ref()), &folder.place)?;
            // Of a file right in the instance.
            if path.is_empty() {
                continue;
            }
            if Path::new(&path).is_relative() {
                check_target(&path).map_err(|_| {
                    folder.place.mistake(format!(
                        "the folder `{path}` is expected to be a path within the instance"
                    ))
                })?;
            }
            made.folders.insert(path, folder.mode);
        }
    }
    Ok(made)
}

/// One value of a recipe that may name options.
pub(super) fn value(
    text: &str,
    values: &Map<String, Value>,
    place: &Place,
) -> Result<String, RecipeError> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    render_text(text, values, &place.file, place.line, bounds::VALUE)
}

/// How two targets are in each other's way.
fn clash(one: &str, other: &str) -> Option<&'static str> {
    let below = |path: &str, folder: &str| {
        path.strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    if one == other {
        Some("is also that")
    } else if below(one, other) {
        Some("lies in that")
    } else if below(other, one) {
        Some("is a folder of that")
    } else {
        None
    }
}

fn render_text(
    text: &str,
    context: &Map<String, Value>,
    file: &str,
    line: Option<usize>,
    most: usize,
) -> Result<String, RecipeError> {
    if let Some(own) = bounds::too_deep(text) {
        let what = "what is nested less deeply is expected";
        return Err(RecipeError::mistake(file, line.or(Some(own)), what));
    }
    let mut handlebars = Handlebars::new();
    handlebars.set_strict_mode(true);
    handlebars.register_escape_fn(handlebars::no_escape);
    calls::register(&mut handlebars);
    // In a value of a recipe, line 1 is the line of the recipe on which the value's owner begins.
    let at = |own: Option<usize>| line.or(own);
    handlebars
        .register_template_string("template", text)
        .map_err(|error| {
            let own = error.pos().map(|(line, _)| line);
            let what = match error.reason() {
                TemplateErrorReason::InvalidSyntax(_) => {
                    "a template is expected; an expression `{{…}}` or a block is not closed here"
                        .to_owned()
                }
                reason => reason.to_string(),
            };
            RecipeError::mistake(file, at(own), what)
        })?;
    let mut made = Bounded::of(most);
    let rendered = handlebars.render_to_write("template", context, &mut made);
    rendered.map_err(|error| {
        let what = match error.reason() {
            RenderErrorReason::MissingVariable(Some(name)) => unknown(name, context),
            RenderErrorReason::HelperNotFound(name) => format!(
                "there is no helper `{name}`; there are: {}",
                calls::names().join(", ")
            ),
            RenderErrorReason::PartialNotFound(name) => format!(
                "`{{{{> {name}}}}}` would be another template; one that is whole by itself is expected"
            ),
            RenderErrorReason::IOError(error) => error.to_string(),
            reason => reason.to_string(),
        };
        RecipeError::mistake(file, at(error.line_no), what)
    })?;
    String::from_utf8(made.bytes)
        .map_err(|error| RecipeError::mistake(file, line, error.to_string()))
}

/// For `config.sokcet`, what `config` has.
fn unknown(name: &str, context: &Map<String, Value>) -> String {
    let of_part = name.split_once('.').and_then(|(part, _)| {
        let values = context.get(part)?.as_object()?;
        Some((part, values))
    });
    let keys = |map: &Map<String, Value>| listed(map.keys().map(String::as_str));
    match of_part {
        Some((part, values)) => {
            format!(
                "`{name}` is unknown here; of `{part}` are known: {}",
                keys(values)
            )
        }
        None => format!("`{name}` is unknown here; known are: {}", keys(context)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, expected: &str) {
        let context = Map::from_iter([
            ("name".to_owned(), Value::from("it's <a> $1: #")),
            ("listen".to_owned(), "[::1]:8100".into()),
            ("members".to_owned(), 2.into()),
            ("names".to_owned(), vec!["a", "b"].into()),
            ("instance".to_owned(), "/srv/zeo".into()),
        ]);
        let rendered = render_text(template, &context, "t", None, 100);
        let rendered = rendered.unwrap_or_else(|error| error.to_string());
        assert_eq!(rendered, expected, "{template}");
    }

    fn which_sh() -> String {
        let found = std::process::Command::new("sh")
            .args(["-c", "command -v sh"])
            .output();
        String::from_utf8(found.unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned()
    }

    #[test]
    fn helpers_write_values_as_the_reader_of_the_file_wants_them() {
        check("{{name}}", "it's <a> $1: #");
        check("{{yaml name}}", "'it''s <a> $1: #'");
        check("{{yaml 'plain'}}", "plain");
        check("{{yaml '127.0.0.1:8100'}}", "127.0.0.1:8100");
        check("{{shell name}}", r"'it'\''s <a> $1: #'");
        check("{{shell '/srv/zeo-1'}} {{shell ''}}", "/srv/zeo-1 ''");
        check("{{python name}}", "\"it's <a> $1: #\"");
        check("{{zconfig name}}", "it's <a> $$1: #");
        check(
            "{{host listen}} {{bare_host listen}} {{port listen}}",
            "[::1] ::1 8100",
        );
        check("{{#if (is_socket 'unix:a')}}yes{{/if}}", "yes");
        check(
            "{{socket 'unix:var/a'}} {{socket 'unix:/a'}}",
            "/srv/zeo/var/a /a",
        );
        check(
            "{{absolute 'var/x'}} {{absolute '/x'}}",
            "/srv/zeo/var/x /x",
        );
        check("{{add members 1}}", "3");
        check("{{sequence 'c#' 1 members}}", "c1, c2");
        check(
            "{{nth names 2}} {{join names '+'}} {{len names}}",
            "b a+b 2",
        );
        check(
            "{{nth names 3}}",
            "t:1: `nth`: a number from 1 to 2 is expected, not 3",
        );
        check("{{subtract (port listen) 100}}", "8000");
        check(
            "{{subtract 1 2}}",
            "t:1: `subtract`: other numbers than 1 and 2 are expected",
        );
        check("{{parent 'var/a/Data.fs'}} {{parent 'x'}}.", "var/a .");
        check(
            "{{absolute 'x' '/d'}} {{socket 'unix:x' '/d'}}",
            "/d/x /d/x",
        );
        check("{{which 'no-such-program' 'sh'}}", &which_sh());
    }

    #[test]
    fn a_mistake_in_a_template_names_file_line_and_what_was_expected() {
        check(
            "\n\n{{nmae}}",
            "t:3: `nmae` is unknown here; known are: instance, listen, members, name, names",
        );
        check(
            "\n{{yaml nmae}}",
            "t:2: `nmae` is unknown here; known are: instance, listen, members, name, names",
        );
        check("{{add 1 'x'}}", "t:1: `add`: two numbers are expected");
        check(
            "{{name}}{{name}}{{name}}{{name}}{{name}}{{name}}{{name}}{{name}}",
            "t:1: at most 100 bytes are expected to come of it",
        );
        let deep = "\n".to_owned() + &"{{#if name}}".repeat(65);
        check(&deep, "t:2: what is nested less deeply is expected");
        check(
            "{{nothing 1}}",
            &format!(
                "t:1: there is no helper `nothing`; there are: {}",
                calls::names().join(", ")
            ),
        );
        check(
            "\n{{#if name}}",
            "t:2: a template is expected; an expression `{{…}}` or a block is not closed here",
        );
    }

    fn make(lines: &str, template: &str, answers: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let made = crate::recipe::workshop::make(&[("r", lines)], template, "r", &[], answers)?;
        let files = made.files.into_iter();
        let files = files.map(|file| format!("{}: {}", file.target, file.content));
        let folders = made.folders.into_iter();
        Ok(files
            .chain(folders.map(|(folder, mode)| format!("{folder}/ {mode:o}")))
            .collect())
    }

    #[test]
    fn values_of_parts_may_name_each_other_but_not_in_a_circle() {
        let recipe = "parts:\n  one: {template: t, target: etc/one, values: {x: '{{two.y}}!'}}\n  \
            two: {template: t, target: etc/two, values: {y: '{{one.target}}'}}\n";
        let made = make(recipe, "{{one.x}}", &[]).unwrap();
        assert_eq!(made, ["etc/one: /i/etc/one!", "etc/two: /i/etc/one!"]);

        let circle = recipe.replace("one.target", "one.x");
        let error = make(&circle, "", &[]).unwrap_err();
        assert!(error.starts_with("recipes/r.yaml:2: `two.y`"), "{error}");
    }

    const REPEATED: &str = "\
options:
  - {name: servers, prompt: S, kind: count, default: 2}
  - {name: places, prompt: P, kind: paths, default: 'a, b'}
  - {name: made, prompt: M, kind: flag, default: yes}
folders:
  'var/{{index}}': {mode: '0750', each: servers}
parts:
  server:
    template: t
    target: etc/{{name}}{{index}}
    each: servers
    when: made
    values: {place: '{{nth places index}}', next: '{{server.place}}+'}
  control: {template: t, target: 'bin/{{index}}', each: server}
  other: {template: t, target: 'o{{index}}-{{item}}', each: places}
  all: {template: t, target: all}
";

    #[test]
    fn a_part_with_each_is_there_for_each() {
        let recipe = REPEATED.replace("{{name}}", "");
        let template =
            "{{server.next}} of {{#each server.each}}{{this.index}}{{this.place}} {{/each}}";
        insta::assert_debug_snapshot!(make(&recipe, template, &[]).unwrap(), @r#"
        [
            "etc/1: a+ of 1a 2b ",
            "etc/2: b+ of 1a 2b ",
            "bin/1: a+ of 1a 2b ",
            "bin/2: b+ of 1a 2b ",
            "o1-a: a+ of 1a 2b ",
            "o2-b: a+ of 1a 2b ",
            "all: a+ of 1a 2b ",
            "var/1/ 750",
            "var/2/ 750",
        ]
        "#);
        let made = make(
            &recipe,
            "{{len server.each}}",
            &[("made", "no"), ("servers", "1")],
        );
        assert_eq!(
            made.unwrap(),
            ["o1-a: 0", "o2-b: 0", "all: 0", "var/1/ 750"]
        );
        let most = make(&recipe, "", &[("servers", "999")]).unwrap_err();
        assert!(most.contains("at most 1000 files"), "{most}");
        let many = make(&recipe, "", &[("servers", "18446744073709551615")]).unwrap_err();
        assert!(many.contains("is expected to be at most 1000"), "{many}");
    }
}
