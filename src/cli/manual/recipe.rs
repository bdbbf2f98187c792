//! `zeoraid-recipe(5)`: recipes and their templates.

use super::{Key, Page};
use crate::recipe::calls;
use crate::recipe::starter;

const RECIPE: &[Key] = &[
    Key {
        name: "description",
        values: "text",
        what: "What `recipe list` says.",
    },
    Key {
        name: "addition",
        values: "true, false [false]",
        what: "It makes no instance by itself; see below.",
    },
    Key {
        name: "extends",
        values: "name, or a list",
        what: "Recipes that this one begins with. What follows adds to them, and replaces options, folders and \
               parts of the same name. A part or folder with nothing behind it (`zope:`) is taken away.",
    },
    Key {
        name: "needs",
        values: "mapping of options to defaults",
        what: "Of an addition alone: options of the recipe that it is combined with, which must have a value then.",
    },
    Key {
        name: "options",
        values: "list",
        what: "What a person decides, in the order in which it is asked.",
    },
    Key {
        name: "folders",
        values: "mapping of paths to modes",
        what: "Folders that are made where they are missing, and removed by `uninstall` where they are empty. Instead \
               of a mode a mapping with `mode`, `each` and `when`. The path may be a template.",
    },
    Key {
        name: "parts",
        values: "mapping of names to parts",
        what: "The files.",
    },
];

const OPTION: &[Key] = &[
    Key {
        name: "name",
        values: "letters, digits, _",
        what: "In templates `{{name}}`, and for `--set name=VALUE`.",
    },
    Key {
        name: "prompt",
        values: "text",
        what: "The question.",
    },
    Key {
        name: "help",
        values: "text",
        what: "More than fits into it.",
    },
    Key {
        name: "kind",
        values: "kind [text]",
        what: "What kind of value it has; see below. Every answer is checked by it.",
    },
    Key {
        name: "choices",
        values: "list",
        what: "Of the kind `choice`.",
    },
    Key {
        name: "default",
        values: "value",
        what: "What is offered. It may be a template over earlier options, and then goes on following them. Without one \
               it must be answered.",
    },
    Key {
        name: "optional",
        values: "true, false [false]",
        what: "It may be empty.",
    },
    Key {
        name: "check",
        values: "mapping",
        what: "`min` and `max` of a count (or, `max`, of a list), `as_many_as: OPTION` of a list that has as many \
               entries as a count says, `must_exist: true` of a path, and `data_fs: true` of one to a \
               `Data.fs`.",
    },
    Key {
        name: "when",
        values: "conditions",
        what: "Otherwise it is not asked, and empty.",
    },
    Key {
        name: "ask",
        values: "yes, no [yes]",
        what: "With `no` nobody is asked, and who wants to answers it with `--set`.",
    },
    Key {
        name: "before",
        values: "name",
        what: "It is asked before that option of a recipe that this one extends, and not after all of them.",
    },
];

const KINDS: &[Key] = &[
    Key {
        name: "text",
        values: "",
        what: "Anything.",
    },
    Key {
        name: "word",
        values: "",
        what: "Letters, digits, `-`, `_` and `.`: what may be part of a name.",
    },
    Key {
        name: "count",
        values: "",
        what: "A number from 0 up.",
    },
    Key {
        name: "flag",
        values: "",
        what: "Yes or no; true or false in templates.",
    },
    Key {
        name: "choice",
        values: "",
        what: "One of its `choices`.",
    },
    Key {
        name: "address",
        values: "",
        what: "`HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.",
    },
    Key {
        name: "addresses",
        values: "",
        what: "Several, with commas between; a list in templates.",
    },
    Key {
        name: "path",
        values: "",
        what: "Absolute, or relative to the instance.",
    },
    Key {
        name: "paths",
        values: "",
        what: "Several, with commas between; a list in templates.",
    },
];

const PART: &[Key] = &[
    Key {
        name: "template",
        values: "name",
        what: "A file in `templates`.",
    },
    Key {
        name: "target",
        values: "path",
        what: "Where it is written, within the instance. It may be a template.",
    },
    Key {
        name: "mode",
        values: "octal digits [\"0644\"]",
        what: "Its permissions, in quotes.",
    },
    Key {
        name: "when",
        values: "conditions",
        what: "Otherwise it is left out.",
    },
    Key {
        name: "each",
        values: "name",
        what: "It is there once for each: of a count from 1 up, of the entries of a list, or of the files of another \
               part. Its target must differ then, by `{{index}}` for example. A recipe makes 1000 files at most.",
    },
    Key {
        name: "values",
        values: "mapping",
        what: "Values that templates see as `{{part.value}}`, and that are set by `--set part.value=TEXT`. They may be \
               templates over options and over other parts' values.",
    },
    Key {
        name: "process",
        values: "mapping",
        what: "A process that runs by the file: the Unix `socket` on which it answers, and the commands that `start` and \
               `stop` it; where it has an `address`, `init` warns when somebody else listens there, and where several have their \
               `data` on one disk, it says so. `init --start` starts it before the daemon, and `uninstall` removes nothing while it runs.",
    },
];

const SEEN: &[Key] = &[
    Key {
        name: "{{name}}",
        values: "",
        what: "An option.",
    },
    Key {
        name: "{{part.value}}",
        values: "",
        what: "A value of this part or another. Of a part that is there several times, a file that is repeated in the \
               same way sees its own, and every other file the first.",
    },
    Key {
        name: "{{part.target}}",
        values: "",
        what: "Where a part's file is, absolute.",
    },
    Key {
        name: "{{#each part.each}} {{this.value}} {{/each}}",
        values: "",
        what: "The values of all files of a part, also where it is one.",
    },
    Key {
        name: "{{index}}, {{item}}",
        values: "",
        what: "Of a part with `each`: which one it is, from 1 up; and the entry of the list.",
    },
    Key {
        name: "{{instance}}",
        values: "",
        what: "The instance's folder, absolute.",
    },
    Key {
        name: "{{program}}",
        values: "",
        what: "The file of zeoraidctl.",
    },
];

const CONFIG: &[Key] = &[
    Key {
        name: "home",
        values: "",
        what: "The daemon's folder, absolute: what `zeoraidctl -C` takes.",
    },
    Key {
        name: "suffix",
        values: "",
        what: "What tells daemons apart in names of files: empty for the first, `-d2` for the second.",
    },
    Key {
        name: "listen",
        values: "",
        what: "Where its clients connect.",
    },
    Key {
        name: "admin",
        values: "",
        what: "Where it answers over HTTP; empty where it does not. An addition that cannot do without says `needs: \
               {admin_address: \"127.0.0.1:8101\"}`.",
    },
    Key {
        name: "token",
        values: "",
        what: "The file with the token for that, relative to `home`; or empty.",
    },
    Key {
        name: "socket, pid, log",
        values: "",
        what: "Its files, relative to `home`: `{{absolute config.log config.home}}`.",
    },
    Key {
        name: "data",
        values: "",
        what: "What it keeps: files and folders with commas between, relative to `home`; or empty.",
    },
    Key {
        name: "members, cluster_mode",
        values: "",
        what: "Of what its array is made, for the configuration.",
    },
];

/// The page.
pub(in crate::cli) fn page() -> Vec<u8> {
    let mut page = Page::new(
        "zeoraid-recipe",
        "what instances of zeoraidctl are made from",
    );
    page.section("DESCRIPTION");
    page.text(
        "A recipe is a YAML file in a folder `recipes`, and renders Handlebars templates in a folder `templates`. Both are \
         looked for in the instance, then in `~/.config/zeoraid` (or `$XDG_CONFIG_HOME/zeoraid`), then among those that \
         are built in; so one of the same name takes the place of a built-in one. `zeoraidctl recipe new NAME` makes a \
         start, `recipe list`, `recipe show NAME` and `recipe options NAME` show what there is.",
    );
    page.text(
        "What an instance is made from, and the answers, are in its `recipe.yaml`, which may be edited and versioned; \
         `zeoraidctl update` makes it effective. What was written is in `.installed.yaml` with checksums: a file that was \
         edited by hand is never overwritten silently, and `zeoraidctl uninstall` removes what was written, and never \
         data.",
    );
    page.section("THE RECIPE");
    page.keys(RECIPE);
    page.section("OPTIONS");
    page.keys(OPTION);
    page.section("KINDS OF OPTIONS");
    page.keys(KINDS);
    page.section("PARTS");
    page.keys(PART);
    page.section("CONDITIONS");
    page.text(
        "`when: OPTION` is met where that option is neither empty nor no nor 0, `when: not OPTION` where it is, `when: \
         OPTION is VALUE` where it has that value. Of a list all must be met.",
    );
    page.section("TEMPLATES");
    page.text("Handlebars. A name that means nothing is a mistake. A template sees:");
    page.keys(SEEN);
    page.text(&format!(
        "Of the helpers that Handlebars has, there are `{}`. Besides:",
        calls::OF_HANDLEBARS.join("`, `")
    ));
    for helper in calls::HELPERS {
        page.entry(
            &format!("{{{{{}}}}}", helper.usage),
            "",
            &format!("{}.", helper.what),
        );
    }
    page.section("ADDITIONS");
    page.text(
        "An addition is combined with a recipe that makes an instance: `zeoraidctl init --recipe classic --with \
         systemd,monitoring`; `--without` takes it away again. It comes after that recipe, and sees its options and \
         values. No two may have an option, part or folder of the same name, unless one extends the other. What every \
         recipe that makes an instance has is the part `config`, once for each daemon, so `each: config` makes a file for \
         each. It has these values:",
    );
    page.keys(CONFIG);
    page.section("EXAMPLE");
    page.text("What `zeoraidctl recipe new mine` makes: the recipe,");
    page.example(&starter::recipe("mine"));
    page.text("and its template:");
    page.example(starter::TEMPLATE);
    page.finish(&[
        "`zeoraidctl-init`(1)",
        "`zeoraidctl-recipe`(1)",
        "`zeoraid.yaml`(5)",
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Library, Recipe};

    /// What the program says that it knows, where a key `xyzzy` stands in a recipe.
    fn known(lines: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("recipes")).unwrap();
        std::fs::write(folder.path().join("recipes/r.yaml"), lines).unwrap();
        let library = Library::new(vec![folder.path().to_owned()]);
        let said = Recipe::load(&library, "r").unwrap_err().to_string();
        let (_, names) = said.split_once("expected one of ").expect(&said);
        let mut names: Vec<_> = names
            .split(", ")
            .map(|name| name.trim_matches('`').to_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_key_of_a_recipe_is_described_and_none_besides() {
        let documented = |keys: &[Key]| {
            let mut names: Vec<_> = keys.iter().map(|key| key.name.to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(documented(RECIPE), known("xyzzy: 1\n"));
        assert_eq!(documented(OPTION), known("options:\n  - {xyzzy: 1}\n"));
        assert_eq!(documented(PART), known("parts:\n  p: {xyzzy: 1}\n"));
        assert_eq!(
            documented(KINDS),
            known("options:\n  - {name: a, prompt: A, kind: xyzzy}\n")
        );
    }

    #[test]
    fn every_recipe_that_makes_an_instance_gives_what_additions_rely_on() {
        let library = Library::built_in();
        let mut wanted: Vec<_> = CONFIG.iter().flat_map(|key| key.name.split(", ")).collect();
        wanted.sort_unstable();
        for name in library.recipes() {
            let recipe = Recipe::load(&library, &name).unwrap();
            if recipe.addition {
                continue;
            }
            let config = recipe.part("config").unwrap_or_else(|| panic!("{name}"));
            let missing: Vec<_> = wanted
                .iter()
                .filter(|key| !config.values.contains_key(**key))
                .collect();
            assert!(missing.is_empty(), "{name}: {missing:?}");
        }
    }
}
