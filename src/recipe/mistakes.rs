//! Mistakes that people make in recipes and templates: each is said with file, line and what was expected.

use super::workshop::make;

/// (what is wrong, the recipe, the template `t`, how what is said begins)
const MISTAKES: &[(&str, &str, &str, &str)] = &[
    (
        "not YAML",
        "parts: [",
        "",
        "recipes/r.yaml:1: parts: invalid type: sequence, expected a mapping by name",
    ),
    (
        "a key that is none",
        "optoins: []\n",
        "",
        "recipes/r.yaml:1: unknown field `optoins`, expected one of `description`, `addition`, `extends`, `needs`, `options`, `folders`, `parts`",
    ),
    (
        "a key of an option that is none",
        "options:\n  - {name: a, prompt: A, defualt: 1}\n",
        "",
        "recipes/r.yaml:2: options[0]: unknown field `defualt`, expected one of `name`, `prompt`, `help`, `kind`, `choices`, `default`, `optional`, `check`, `when`, `ask`, `before`",
    ),
    (
        "a kind that is none",
        "options:\n  - {name: a, prompt: A, kind: wrod}\n",
        "",
        "recipes/r.yaml:2: options[0].kind: unknown variant `wrod`, expected one of `text`, `word`, `count`, `flag`, `choice`, `address`, `addresses`, `path`, `paths`",
    ),
    (
        "no prompt",
        "options:\n\n  - name: a\n",
        "",
        "recipes/r.yaml:3: options[0]: missing field `prompt`",
    ),
    (
        "a name that is no word",
        "options:\n  - {name: a-b, prompt: A}\n",
        "",
        "recipes/r.yaml:2: `name: a-b` is expected to be letters, digits and `_`",
    ),
    (
        "a name that templates have",
        "options:\n  - {name: instance, prompt: A}\n",
        "",
        "recipes/r.yaml:2: `instance` means something else in templates; another name is expected",
    ),
    (
        "a name that a helper has",
        "options:\n  - {name: port, prompt: A}\n",
        "",
        "recipes/r.yaml:2: `{{port}}` calls a helper in templates; another name is expected",
    ),
    (
        "an option twice",
        "options:\n  - {name: a, prompt: A}\n  - {name: a, prompt: A}\n",
        "",
        "recipes/r.yaml:3: the option `a` is there twice",
    ),
    (
        "a default that is a mapping",
        "options:\n  - name: a\n    prompt: A\n    default: {b: c}\n",
        "",
        "recipes/r.yaml:4: the default of `a` is expected to be one value or a list of values",
    ),
    (
        "a default that is no value",
        "options:\n  - {name: a, prompt: A, kind: count, default: many}\n",
        "",
        "recipes/r.yaml:2: the default of `a` is `many`: a number from 0 up is expected",
    ),
    (
        "a default that names what comes later",
        "options:\n  - {name: a, prompt: A, default: '{{b}}'}\n  - {name: b, prompt: B}\n",
        "",
        "recipes/r.yaml:2: `b` is unknown here; known are: none",
    ),
    (
        "a choice without choices",
        "options:\n  - {name: a, prompt: A}\n  - {name: c, prompt: C, kind: choice}\n",
        "",
        "recipes/r.yaml:3: the option `c` is a choice: `choices` is expected",
    ),
    (
        "choices without a choice",
        "options:\n  - name: c\n    prompt: C\n    choices: [a]\n",
        "",
        "recipes/r.yaml:4: `choices` is expected with `kind: choice` alone, not with text",
    ),
    (
        "a range that is none",
        "options:\n  - name: c\n    prompt: C\n    kind: count\n    check: {min: 3, max: 1}\n",
        "",
        "recipes/r.yaml:5: `min: 3` is expected not to be more than `max: 1`",
    ),
    (
        "a check that is none",
        "options:\n  - name: c\n    prompt: C\n    check: {minimum: 3}\n",
        "",
        "recipes/r.yaml:4: options[0].check: unknown field `minimum`, expected one of `min`, `max`, `as_many_as`, `must_exist`, `data_fs`",
    ),
    (
        "as many as what",
        "options:\n  - {name: c, prompt: C, kind: paths, check: {as_many_as: d}}\n",
        "",
        "recipes/r.yaml:2: `as_many_as: d` is expected to name an option of the kind `count`",
    ),
    (
        "ask what",
        "options:\n  - {name: c, prompt: C, ask: maybe}\n",
        "",
        "recipes/r.yaml:2: `ask` is expected to be yes or no",
    ),
    (
        "not asked and not known",
        "options:\n  - {name: c, prompt: C, ask: no}\n",
        "",
        "recipes/r.yaml:2: the option `c` is not asked: `default` is expected, or `optional`",
    ),
    (
        "a when that is none",
        "options:\n  - name: c\n    prompt: C\n    when: a = b\n",
        "",
        "recipes/r.yaml:4: `when: a = b` is expected to be `OPTION`, `not OPTION` or `OPTION is VALUE`",
    ),
    (
        "a when that names no option",
        "parts:\n  x: {template: t, target: x, when: y}\n",
        "",
        "recipes/r.yaml:2: `when: y` names no option `y`; the options are: none",
    ),
    (
        "before what",
        "options:\n  - {name: c, prompt: C, before: d}\n",
        "",
        "recipes/r.yaml:2: `before: d` names no earlier option; they are: none",
    ),
    (
        "a part without a target",
        "parts:\n  one:\n    template: t\n",
        "",
        "recipes/r.yaml:3: parts.one: missing field `target`",
    ),
    (
        "a part without a template that is there",
        "parts:\n  one: {template: u, target: x}\n",
        "",
        "recipes/r.yaml:2: there is no template `u`; there are:",
    ),
    (
        "a part that is a list",
        "parts:\n  - {template: t, target: x}\n",
        "",
        "recipes/r.yaml:2: parts: invalid type: sequence, expected a mapping by name",
    ),
    (
        "a part twice",
        "parts:\n  x: {template: t, target: x}\n  x: {template: t, target: y}\n",
        "",
        "recipes/r.yaml:2: parts: `x` is there twice",
    ),
    (
        "a part with an option's name",
        "options:\n  - {name: a, prompt: A, default: 1}\nparts:\n  a: {template: t, target: x}\n",
        "",
        "recipes/r.yaml:4: the part `a` has the name of an option, so `{{a}}` could mean both; a name of its own is expected",
    ),
    (
        "a part that is not there to be taken away",
        "parts:\n  x:\n",
        "",
        "recipes/r.yaml:2: there is no part `x` to take away",
    ),
    (
        "a target outside",
        "parts:\n  one: {template: t, target: ../x}\n",
        "",
        "recipes/r.yaml:2: `target: ../x` is expected to be a path within the instance",
    ),
    (
        "an absolute target",
        "parts:\n  one:\n    template: t\n    target: /etc/x\n",
        "",
        "recipes/r.yaml:4: `target: /etc/x` is expected to be a path within the instance",
    ),
    (
        "a target outside by an answer",
        "options:\n  - {name: a, prompt: A, default: '../x'}\nparts:\n  one: {template: t, target: 'etc/{{a}}'}\n",
        "",
        "recipes/r.yaml:4: `target: etc/../x` is expected to be a path within the instance",
    ),
    (
        "a target of zeoraidctl",
        "parts:\n  one: {template: t, target: recipe.yaml}\n",
        "",
        "recipes/r.yaml:2: `target: recipe.yaml` is zeoraidctl's own file; another target is expected",
    ),
    (
        "the same target",
        "parts:\n  one: {template: t, target: x}\n  two: {template: t, target: x}\n",
        "",
        "recipes/r.yaml:3: `target: x` is also that of the part `one`; a target of its own is expected",
    ),
    (
        "a target in another",
        "parts:\n  one: {template: t, target: x}\n  two: {template: t, target: x/y}\n",
        "",
        "recipes/r.yaml:3: `target: x/y` lies in that of the part `one`; a target of its own is expected",
    ),
    (
        "a target that does not differ",
        "options:\n  - {name: n, prompt: N, kind: count, default: 2}\nparts:\n  one: {template: t, target: x, each: n}\n",
        "",
        "recipes/r.yaml:4: `target: x` is also that of the part `one`; a target of its own is expected",
    ),
    (
        "a mode that is a number",
        "parts:\n\n  one:\n    template: t\n    target: x\n    mode: 644\n",
        "",
        "recipes/r.yaml:6: a mode is expected to be quoted octal digits, as \"0644\"",
    ),
    (
        "a mode that is too much",
        "parts:\n  one: {template: t, target: x, mode: \"4755\"}\n",
        "",
        "recipes/r.yaml:2: a mode is expected to be quoted octal digits, as \"0644\"",
    ),
    (
        "a folder's mode",
        "folders:\n  var: 750\n",
        "",
        "recipes/r.yaml:2: a mode is expected to be quoted octal digits, as \"0644\"",
    ),
    (
        "a folder's key",
        "folders:\n  var: {mode: \"0750\", moed: 1}\n",
        "",
        "recipes/r.yaml:2: folders: a mode as \"0755\" is expected, or a mapping with `mode` and perhaps `each` and `when`",
    ),
    (
        "a folder outside",
        "folders: {../var: \"0750\"}\n",
        "",
        "recipes/r.yaml:1: the folder `../var` is expected to be a path within the instance",
    ),
    (
        "each of nothing",
        "parts:\n  one: {template: t, target: x, each: y}\n",
        "",
        "recipes/r.yaml:2: `each: y` names neither an option nor a part; the parts are: one",
    ),
    (
        "each of a text",
        "options:\n  - {name: a, prompt: A, default: b}\nparts:\n  one: {template: t, target: x, each: a}\n",
        "",
        "recipes/r.yaml:4: `each: a` is expected to name a count, addresses, paths or a part, and that is a text",
    ),
    (
        "each of itself",
        "parts:\n  one: {template: t, target: x, each: two}\n  two: {template: t, target: y, each: one}\n",
        "",
        "recipes/r.yaml:2: `two` is for each of `one` is for each of `two`: a part cannot be for each of itself",
    ),
    (
        "a value that is a mapping",
        "parts:\n  one:\n    template: t\n    target: x\n    values:\n      v: {a: b}\n",
        "",
        "recipes/r.yaml:6: the value `one.v` is expected to be one value",
    ),
    (
        "a value with a name that is taken",
        "parts:\n  one:\n    template: t\n    target: x\n    values: {target: y}\n",
        "",
        "recipes/r.yaml:5: the name of the value `target` is expected to be letters, digits and `_`, and none of: target, each, index",
    ),
    (
        "values in a circle",
        "parts:\n  one: {template: t, target: x, values: {a: '{{two.b}}'}}\n  two: {template: t, target: y, values: {b: '{{one.a}}'}}\n",
        "",
        "recipes/r.yaml:2: `two.b` is unknown here; of `two` are known: each, target",
    ),
    (
        "a value that is not closed",
        "parts:\n  one: {template: t, target: x, values: {a: '{{two'}}\n",
        "",
        "recipes/r.yaml:2: a template is expected; an expression `{{…}}` or a block is not closed here",
    ),
    (
        "extends nothing that is there",
        "extends: nothing\n",
        "",
        "recipes/r.yaml:1: there is no recipe `nothing`; there are:",
    ),
    (
        "extends itself",
        "description: d\nextends: r\n",
        "",
        "recipes/r.yaml:2: `r` extends `r`: a recipe cannot extend itself",
    ),
    (
        "extends what is no name",
        "extends: {a: b}\n",
        "",
        "recipes/r.yaml:1: a text or a list of texts is expected",
    ),
    (
        "an addition alone",
        "addition: true\n",
        "",
        "`r` is an addition, and makes no instance by itself; it is combined with a recipe that does",
    ),
    (
        "needs of who is none",
        "needs: {a: 1}\n",
        "",
        "recipes/r.yaml:1: `needs` is expected of an addition alone; any other recipe has options of its own",
    ),
    (
        "a name in a template",
        "parts:\n  one: {template: t, target: x}\n",
        "\n\n{{nmae}}",
        "templates/t:3: `nmae` is unknown here; known are: instance, one, program",
    ),
    (
        "a value in a template",
        "parts:\n  one: {template: t, target: x}\n",
        "\n{{one.traget}}",
        "templates/t:2: `one.traget` is unknown here; of `one` are known: each, target",
    ),
    (
        "a helper in a template",
        "parts:\n  one: {template: t, target: x}\n",
        "\n{{yalm one.target}}",
        "templates/t:2: there is no helper `yalm`; there are:",
    ),
    (
        "a helper's argument",
        "parts:\n  one: {template: t, target: x}\n",
        "\n{{port one.target}}",
        "templates/t:2: `port`: an address with a port is expected, not /i/x",
    ),
    (
        "a block in a template",
        "parts:\n  one: {template: t, target: x}\n",
        "\n{{#if one}}\n",
        "templates/t:3: a template is expected; an expression `{{…}}` or a block is not closed here",
    ),
    (
        "another end in a template",
        "parts:\n  one: {template: t, target: x}\n",
        "\n{{#if one}}\n{{/each}}",
        "templates/t:3: helper \"if\" was opened, but \"each\" is closing",
    ),
    (
        "a partial in a template",
        "parts:\n  one: {template: t, target: x}\n",
        "\n{{> other}}",
        "templates/t:2: `{{> other}}` would be another template; one that is whole by itself is expected",
    ),
];

#[test]
fn each_mistake_names_its_file_and_line_and_what_was_expected() {
    let mut wrong = Vec::new();
    for (what, recipe, template, expected) in MISTAKES {
        let said = match make(&[("r", recipe)], template, "r", &[], &[]) {
            Ok(_) => "nothing".to_owned(),
            Err(said) => said,
        };
        if expected.is_empty() || !said.starts_with(expected) {
            wrong.push(format!(
                "{what}:\n  said      {said}\n  expected  {expected}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
