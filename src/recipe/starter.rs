//! What `recipe new` begins with: a recipe and a template that work as they are, and say how to go on.

/// The text of a new recipe.
pub fn recipe(name: &str) -> String {
    RECIPE.replace("NAME", name)
}

/// The name of the template that a new recipe renders.
pub fn template_name(name: &str) -> String {
    format!("{name}.txt")
}

const RECIPE: &str = "\
# What `zeoraidctl init --recipe NAME` makes. All that can be said here is in zeoraid-recipe(5):
#   zeoraidctl man zeoraid-recipe | man -l -
description: an instance as we have it

# All that `embedded` has: its options, folders and parts. `zeoraidctl recipe list` shows what else there is.
extends: embedded

options:
  # One of the same name takes the place of the one that is extended.
  - name: members
    prompt: How many complete copies
    kind: count            # text, word, count, flag, choice, address, addresses, path, paths
    default: 3
    check: {min: 1, max: 16}

  # A new one. It is `{{contact}}` in templates, and answered by a person or with `--set contact=…`.
  - name: contact
    prompt: Whom to ask about this database
    help: Is written into etc/NAME.txt.
    default: nobody

parts:
  # This one of `embedded` is not wanted:
  # zope:

  # A file more.
  note:
    template: NAME.txt     # in the folder templates beside the folder of this recipe
    target: etc/NAME.txt   # within the instance
    mode: \"0644\"
    # when: contact        # only where that is answered
    # each: members        # one for each; its target must differ then, as by {{index}}
    values:                # set by `--set note.greeting=…`
      greeting: \"This is {{name}}\"
";

/// The text of its template.
pub const TEMPLATE: &str = "\
{{note.greeting}}, with {{members}} copies, served at {{config.listen}}.
It lies in {{instance}}; ask {{contact}} about it.
{{#each paths}}
  copy {{add @index 1}}: {{absolute this}}
{{/each}}
";
