//! `init`: makes an instance from a recipe, or brings one up to date.
//!
//! The steps: find the answers, render, compare with what is there, check the configuration that would
//! result, show what would be done, ask, write. Nothing is written before the last step.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use similar::TextDiff;

use super::recipe::library;
use super::start::{self, StartArgs};
use crate::cli::context::{Context, environment, load_config};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Format, Paint, Screen, Style, View, escape};
use crate::cli::prompt::Question;
use crate::config;
use crate::recipe::apply::{Choice, apply, on_disk};
use crate::recipe::installed::{self, Installed, OwnRecipe};
use crate::recipe::options::{Answers, Resolved, resolve};
use crate::recipe::plan::{Plan, Step, What};
use crate::recipe::render::{Surroundings, render};
use crate::recipe::{Kind, Library, OptionSpec, Recipe, RecipeError, builtin};

/// Make an instance, or bring one up to date
///
/// Asks what it is to be, shows what will be written, and writes it: the configuration, a wrapper
/// `bin/zeoraidctl`, and examples for clients. Run again it writes only what has changed; a file that
/// was edited by hand is never overwritten silently, and data is never touched.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl init /srv/zodb                      asks
  zeoraidctl init /srv/zodb --yes --start        two copies, all defaults
  zeoraidctl init . --set members=3 --set listen=0.0.0.0:8100 --yes
  zeoraidctl init . --set adopt=/srv/old/Data.fs
  zeoraidctl init . --diff                       what would change")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag that people type"
)]
pub struct InitArgs {
    /// The instance's folder [default: --instance, else this folder]
    dir: Option<PathBuf>,

    /// What to make it from; see `zeoraidctl recipe list` [default: embedded]
    #[arg(short, long, value_name = "NAME")]
    recipe: Option<String>,

    /// Answer a question; see `zeoraidctl recipe options NAME`
    #[arg(short, long = "set", value_name = "OPTION=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,

    /// Take answers from a YAML file
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,

    /// Ask nothing: take the defaults for what is not answered
    #[arg(short, long)]
    yes: bool,

    /// What to do with files that were edited by hand and would be written differently
    #[arg(long, value_enum, value_name = "WHAT")]
    edited: Option<Edited>,

    /// Start it, and show its details
    #[arg(long, conflicts_with_all = ["dry_run", "diff"])]
    start: bool,

    /// Say what would be written, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Show what would change, line by line, and write nothing
    #[arg(long)]
    diff: bool,
}

/// What to do with an edited file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Edited {
    /// Keep it, and write the new one beside it, as .new
    Beside,
    /// Keep it
    Keep,
    /// Write the new one, and keep the edited one beside it, as .old
    Replace,
}

pub async fn run(args: InitArgs, context: &Context) -> Result<Exit, CliError> {
    let instance = folder(&args, context)?;
    let library = library(Some(&instance));
    let stored = OwnRecipe::load(&instance)?;
    let recipe = Recipe::load(
        &library,
        &recipe_name(&args, stored.as_ref(), &library, context)?,
    )?;
    let resolved = answers(&args, stored.as_ref(), &recipe, &instance, context)?;
    let own = OwnRecipe::from_resolved(&recipe, &resolved);
    let (plan, installed) = plan(&library, &recipe, &resolved, &instance)?;
    check_configuration(&plan, &instance, &recipe.name, context)?;

    let may_write = !args.dry_run && !args.diff;
    if args.diff {
        let style = context.printer.screen().style;
        let diffs = plan.steps.iter().filter(|step| step.what.is_change());
        let text: String = diffs.map(|step| diff(step, style)).collect();
        context.printer.write(&text)?;
        return Ok(Exit::Done);
    }
    let same_recipe = stored
        .as_ref()
        .is_some_and(|stored| stored.says_the_same(&own));
    let changes = !plan.is_empty() || !same_recipe;
    if !may_write || !changes {
        context
            .printer
            .print(&InitView::new(&instance, &recipe, &plan, !may_write))?;
    } else {
        let asked = !args.yes && context.prompt.can_ask();
        if asked {
            confirm(&InitView::new(&instance, &recipe, &plan, true), context)?;
        }
        let mut choose = |step: &Step| choose(&args, step, context);
        let done = apply(&instance, &plan, installed, &own, &mut choose)?;
        let mut view = InitView::new(&instance, &recipe, &plan, false);
        for (file, done) in view.files.iter_mut().zip(&done) {
            file.choice = done.choice.map(choice_word);
        }
        if asked && context.printer.format == Format::Table {
            // It was shown before the question.
            context.printer.success("written");
        } else {
            context.printer.print(&view)?;
        }
    }
    if args.start {
        return start::in_instance(&StartArgs::default(), &instance, context).await;
    }
    if may_write && context.printer.format == Format::Table {
        next(&instance, changes, context).await;
    }
    Ok(Exit::Done)
}

fn confirm(view: &InitView, context: &Context) -> Result<(), CliError> {
    let screen = Screen {
        style: context.printer.error_style(),
        width: context.printer.width(),
    };
    context.printer.note(view.table(&screen).trim_end());
    let question = Question {
        text: "Write this?",
        flags: &["--yes"],
    };
    if context.prompt.confirm(question, true)? {
        Ok(())
    } else {
        Err(CliError::BrokenOff)
    }
}

/// What to type next: it depends on whether its daemon runs.
async fn next(instance: &Path, changes: bool, context: &Context) {
    let runs = match load_config(instance).and_then(|config| start::client(&config)) {
        Ok(client) => client.ping().await.is_ok(),
        Err(_) => false,
    };
    let command = match (runs, changes) {
        (false, _) => "start",
        (true, true) => "reload",
        (true, false) => return,
    };
    let wrapper = instance.join("bin/zeoraidctl");
    let style = context.printer.error_style();
    let word = style.paint(Paint::Strong, "Next:");
    let command = format!("{} {command}", wrapper.display());
    let command = style.paint(Paint::Command, &escape(&command));
    context.printer.note(&format!("{word} {command}"));
}

/// Absolute, and without links where it exists: it goes into files.
fn folder(args: &InitArgs, context: &Context) -> Result<PathBuf, CliError> {
    let named = args.dir.as_ref().or(context.global.instance.as_ref());
    let folder = std::path::absolute(named.map_or(Path::new("."), PathBuf::as_path))
        .map_err(|error| CliError::new(format!("could not find the folder: {error}")))?;
    if folder.exists() && !folder.is_dir() {
        return Err(CliError::new(format!(
            "{} is not a folder",
            folder.display()
        )));
    }
    Ok(std::fs::canonicalize(&folder).unwrap_or(folder))
}

fn recipe_name(
    args: &InitArgs,
    stored: Option<&OwnRecipe>,
    library: &Library,
    context: &Context,
) -> Result<String, CliError> {
    if let Some(name) = &args.recipe {
        return Ok(name.clone());
    }
    if let Some(stored) = stored {
        return Ok(stored.recipe.clone());
    }
    if args.yes || !context.prompt.can_ask() {
        return Ok(builtin::DEFAULT.to_owned());
    }
    let names = library.recipes();
    let items: Vec<String> = names
        .iter()
        .map(|name| match Recipe::load(library, name) {
            Ok(recipe) => format!("{}  {}", escape(name), escape(&recipe.description)),
            Err(error) => format!("{}  ({})", escape(name), escape(&error.to_string())),
        })
        .collect();
    let default = names
        .iter()
        .position(|name| name == builtin::DEFAULT)
        .unwrap_or(0);
    let question = Question {
        text: "What is it to be?",
        flags: &["--recipe"],
    };
    let index = context.prompt.select(question, &items, default)?;
    Ok(names
        .into_iter()
        .nth(index)
        .unwrap_or_else(|| builtin::DEFAULT.to_owned()))
}

fn answers(
    args: &InitArgs,
    stored: Option<&OwnRecipe>,
    recipe: &Recipe,
    instance: &Path,
    context: &Context,
) -> Result<Resolved, CliError> {
    let file = match &args.answers {
        Some(path) => Some((
            path.display().to_string(),
            installed::read_answers_file(path)?,
        )),
        None => None,
    };
    let answers = Answers {
        set: args.set.iter().cloned().collect::<BTreeMap<_, _>>(),
        file,
        // Another recipe's answers answer nothing here.
        stored: stored
            .filter(|stored| stored.recipe == recipe.name)
            .map(OwnRecipe::as_answers)
            .unwrap_or_default(),
    };
    let is_stored = !answers.stored.is_empty();
    let mut ask = |option: &OptionSpec, default: &str| {
        // What was left to follow other answers was answered once: it is not asked again.
        let was_left = is_stored && option.follows_others();
        if args.yes || was_left {
            return Ok(None);
        }
        ask_option(option, default, instance, context).map(Some)
    };
    Ok(resolve(recipe, &answers, instance, &mut ask)?)
}

fn ask_option(
    option: &OptionSpec,
    default: &str,
    instance: &Path,
    context: &Context,
) -> Result<String, RecipeError> {
    let flag = format!("--set {}=VALUE", option.name);
    let question = Question {
        text: &option.prompt,
        flags: &[&flag, "--yes"],
    };
    if let Some(help) = &option.help
        && context.prompt.can_ask()
    {
        let style = context.printer.error_style();
        context
            .printer
            .note(&style.paint(Paint::Faint, &escape(help)));
    }
    let answer = match &option.kind {
        Kind::Choice(choices) => {
            let index = choices
                .iter()
                .position(|choice| choice == default)
                .unwrap_or(0);
            let answer = context.prompt.select(question, choices, index);
            answer.map(|index| choices[index].clone())
        }
        Kind::Flag => {
            let answer = context.prompt.confirm(question, default == "yes");
            answer.map(|yes| if yes { "yes" } else { "no" }.to_owned())
        }
        _ => {
            let check = |text: &str| option.check(text, instance).map(|_| ());
            context.prompt.input(question, default, &check)
        }
    };
    answer.map_err(|error| RecipeError::Asking(Box::new(error)))
}

fn plan(
    library: &Library,
    recipe: &Recipe,
    resolved: &Resolved,
    instance: &Path,
) -> Result<(Plan, Installed), CliError> {
    let program = std::env::current_exe()
        .map_err(|error| CliError::new(format!("could not find this program's file: {error}")))?;
    let surroundings = Surroundings {
        instance,
        program: &program,
    };
    let rendered = render(library, recipe, resolved, surroundings)?;
    let installed = Installed::load(instance)?;
    let plan = Plan::new(
        rendered,
        &recipe.folders,
        &installed,
        &|target| on_disk(instance, target),
        &|folder| instance.join(folder).is_dir(),
    );
    Ok((plan, installed))
}

/// The configuration that the answers make, read as the daemon would read it: a path of a socket that
/// is too long, or an answer that makes no sense together with another, is found before anything is
/// written. One that was edited by hand is the person's: it is read as well, and only warned about.
fn check_configuration(
    plan: &Plan,
    instance: &Path,
    recipe: &str,
    context: &Context,
) -> Result<(), CliError> {
    let Some(step) = plan.steps.iter().find(|step| step.target == config::FILE) else {
        return Ok(());
    };
    let file = instance.join(config::FILE);
    let mistakes = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        let parsed = config::parse(&text, &file, instance, &environment);
        parsed
            .err()
            .map_or(Vec::new(), |error| error.mistakes().to_vec())
    };
    let made = mistakes(&step.new);
    if !made.is_empty() {
        let next = if made
            .iter()
            .any(|mistake| mistake.what.starts_with("admin.socket"))
        {
            "choose a shorter folder, or: --set config.socket=/run/zeoraid.sock".to_owned()
        } else {
            format!("zeoraidctl recipe options {recipe}")
        };
        return Err(
            CliError::new("with these answers the configuration would make no sense")
                .with_details(made.iter().map(ToString::to_string))
                .with_next(next),
        );
    }
    if let (What::Kept | What::Edited, Some(old)) = (step.what, &step.old)
        && !mistakes(old).is_empty()
    {
        context.printer.warning(&format!(
            "{} was edited by hand and has mistakes; `zeoraidctl check-config` shows them",
            config::FILE
        ));
    }
    Ok(())
}

fn choose(args: &InitArgs, step: &Step, context: &Context) -> Result<Choice, RecipeError> {
    match args.edited {
        Some(Edited::Beside) => return Ok(Choice::Beside),
        Some(Edited::Keep) => return Ok(Choice::Keep),
        Some(Edited::Replace) => return Ok(Choice::Replace),
        None if args.yes || !context.prompt.can_ask() => return Ok(Choice::Beside),
        None => {}
    }
    context
        .printer
        .note(diff(step, context.printer.error_style()).trim_end());
    let text = format!("{} was edited by hand. And now?", step.target);
    let items = [
        format!(
            "keep it, and write the new one beside it ({}.new)",
            step.target
        ),
        "keep it".to_owned(),
        format!(
            "take the new one, and keep the edited one beside it ({}.old)",
            step.target
        ),
    ];
    let question = Question {
        text: &text,
        flags: &["--edited"],
    };
    let index = context
        .prompt
        .select(question, &items, 0)
        .map_err(|error| RecipeError::Asking(Box::new(error)))?;
    Ok([Choice::Beside, Choice::Keep, Choice::Replace][index.min(2)])
}

fn choice_word(choice: Choice) -> &'static str {
    match choice {
        Choice::Beside => "kept; the new one is beside it, as .new",
        Choice::Keep => "kept",
        Choice::Replace => "replaced; the edited one is beside it, as .old",
    }
}

/// The unified diff of a file.
fn diff(step: &Step, style: Style) -> String {
    let old = String::from_utf8_lossy(step.old.as_deref().unwrap_or_default());
    let new = String::from_utf8_lossy(&step.new);
    if old == new {
        return String::new();
    }
    let (from, to) = match step.what {
        What::Create => ("/dev/null".to_owned(), format!("b/{}", step.target)),
        What::Remove => (format!("a/{}", step.target), "/dev/null".to_owned()),
        _ => (format!("a/{}", step.target), format!("b/{}", step.target)),
    };
    let diff = TextDiff::from_lines(old.as_ref(), new.as_ref());
    let text = diff.unified_diff().header(&from, &to).to_string();
    let mut painted = String::with_capacity(text.len());
    for line in text.lines() {
        let paint = match line.as_bytes().first() {
            Some(b'+') => Some(Paint::Good),
            Some(b'-') => Some(Paint::Bad),
            Some(b'@') => Some(Paint::Faint),
            _ => None,
        };
        let line = escape(line);
        let line = match paint {
            Some(paint) => style.paint(paint, &line),
            None => line.into_owned(),
        };
        writeln!(painted, "{line}").expect("writing to a string does not fail");
    }
    painted
}

#[derive(Serialize)]
struct InitView {
    instance: String,
    recipe: String,
    /// Nothing was written.
    dry_run: bool,
    folders: Vec<String>,
    files: Vec<FileView>,
}

#[derive(Serialize)]
struct FileView {
    target: String,
    action: &'static str,
    changes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    choice: Option<&'static str>,
}

impl InitView {
    fn new(instance: &Path, recipe: &Recipe, plan: &Plan, dry_run: bool) -> Self {
        let files = plan.steps.iter().map(|step| FileView {
            target: step.target.clone(),
            action: action(step.what),
            changes: step.what.is_change(),
            choice: None,
        });
        InitView {
            instance: instance.display().to_string(),
            recipe: recipe.name.clone(),
            dry_run,
            folders: plan
                .folders
                .iter()
                .map(|(folder, _)| folder.clone())
                .collect(),
            files: files.collect(),
        }
    }
}

impl View for InitView {
    fn table(&self, screen: &Screen) -> String {
        let style = screen.style;
        let instance = style.paint(Paint::Strong, &escape(&self.instance));
        let changes = !self.folders.is_empty() || self.files.iter().any(|file| file.changes);
        let mut text = format!("Instance {instance}, recipe {}", escape(&self.recipe));
        text += if changes { "\n" } else { ": up to date\n" };
        for folder in &self.folders {
            text += &format!("  {:<10} {}/\n", "create", escape(folder));
        }
        for file in &self.files {
            if !file.changes && !changes && file.action == "unchanged" {
                continue;
            }
            let action = if file.changes {
                style.paint(Paint::Warning, &format!("{:<10}", file.action))
            } else {
                style.paint(Paint::Faint, &format!("{:<10}", file.action))
            };
            let choice = file
                .choice
                .map(|choice| format!("   {choice}"))
                .unwrap_or_default();
            text += &format!("  {action} {}{choice}\n", escape(&file.target));
        }
        text
    }
}

fn action(what: What) -> &'static str {
    match what {
        What::Create => "create",
        What::Rewrite => "rewrite",
        What::ChangeMode => "chmod",
        What::Unchanged => "unchanged",
        What::Kept => "edited",
        What::Edited => "conflict",
        What::Remove => "remove",
        What::Left => "leave",
        What::Forget => "gone",
    }
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("OPTION=VALUE is expected".to_owned())?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use crate::cli::prompt::script::Answer;
    use crate::cli::testing::Bench;

    /// A folder whose name does not show in what is printed.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Place(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().canonicalize().unwrap()
        }

        fn read(&self, target: &str) -> String {
            std::fs::read_to_string(self.path().join(target)).unwrap()
        }

        fn run(&self, line: &str, answers: impl IntoIterator<Item = Answer>) -> (String, String) {
            let bench = Bench::new(Vec::new()).answering(answers);
            let shown = self.run_on(&bench, line);
            (shown, bench.questions())
        }

        fn run_on(&self, bench: &Bench, line: &str) -> String {
            let path = self.path().display().to_string();
            bench
                .run(&line.replace("HERE", &path))
                .replace(&path, "HERE")
        }

        fn init(&self, more: &str) -> String {
            self.run(&format!("init HERE --yes {more}"), []).0
        }
    }

    #[test]
    fn an_instance_is_made_and_made_again_without_a_change() {
        let place = Place::new();
        insta::assert_snapshot!(place.init(""), @r#"
        exit 0
        -- stdout
        Instance HERE, recipe embedded
          create     var/
          create     var/log/
          create     bin/zeoraidctl
          create     etc/client.py
          create     etc/zeoraid.yaml
          create     etc/zope-client.conf
        -- stderr
        Next: HERE/bin/zeoraidctl start
        "#);
        insta::assert_snapshot!(place.init(""), @r#"
        exit 0
        -- stdout
        Instance HERE, recipe embedded: up to date
        -- stderr
        Next: HERE/bin/zeoraidctl start
        "#);
        insta::assert_snapshot!(place.read("recipe.yaml"), @r#"
        # What this instance is made of. Change an answer here, or with
        # `zeoraidctl init --set OPTION=VALUE`, and run `zeoraidctl init` again.
        # `zeoraidctl recipe options embedded` says what can be answered.
        recipe: embedded
        answers:
          adopt: ''
          encoding: Z5
          listen: 127.0.0.1:8100
          log_level: info
          members: 2
          name: main
        "#);
        insta::assert_snapshot!(place.run("check-config -C HERE", []).0, @r#"
        exit 0
        -- stdout
        ✔ etc/zeoraid.yaml: no mistakes
        "#);
        let config = place.read("etc/zeoraid.yaml");
        assert!(
            config.contains("      copy2:\n        file: var/copy2/Data.fs\n"),
            "{config}"
        );
        assert!(place.path().join("var").is_dir());
    }

    #[test]
    fn what_follows_from_another_answer_goes_on_following_it() {
        let place = Place::new();
        place.init("");
        insta::assert_snapshot!(place.init("--diff --set members=3"), @r#"
        exit 0
        -- stdout
        --- a/etc/zeoraid.yaml
        +++ b/etc/zeoraid.yaml
        @@ -65,6 +65,8 @@
                 file: var/copy1/Data.fs
               copy2:
                 file: var/copy2/Data.fs
        +      copy3:
        +        file: var/copy3/Data.fs
         
             # Other names by which clients may ask for this storage. The only array answers to "1", which is
             # what clients ask for unless they are told otherwise.
        "#);
        place.init("--set members=1 --set paths=var/elsewhere.fs");
        assert!(
            place
                .read("recipe.yaml")
                .contains("paths: var/elsewhere.fs")
        );
    }

    #[test]
    fn what_it_is_to_be_is_asked_and_shown_before_it_is_written() {
        let place = Place::new();
        let (shown, questions) = place.run(
            "init HERE",
            [
                Answer::Default,
                Answer::Type("zodb"),
                Answer::Type("8100"),
                Answer::Type("0.0.0.0:8100"),
                Answer::Default,
                Answer::Type("3"),
                Answer::Default,
                Answer::Select(1),
                Answer::Default,
                Answer::Confirm(true),
            ],
        );
        insta::assert_snapshot!(questions, @r#"
        What is it to be?
          > embedded  one daemon with complete copies of its own (Data.fs files)
            single-server  a plain ZEO server replacement with one Data.fs
        Name of the array [main]
        Where clients connect [127.0.0.1:8100]
          ! `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH` is expected
        Where clients connect [127.0.0.1:8100]
        An existing Data.fs to take over (empty for a new database)
        How many complete copies [2]
        Where the copies lie (on disks of their own, if there are) [var/copy1/Data.fs, var/copy2/Data.fs, var/copy3/Data.fs]
        Encoding of the protocol
          > Z5
            M5
        What is logged
            error
            warn
          > info
            debug
            trace
        Write this? [Y/n]
        "#);
        insta::assert_snapshot!(shown, @r#"
        exit 0
        -- stderr
        Clients name it as their storage. The only array of a daemon answers to `1` as well.
        HOST:PORT, [IPV6]:PORT or unix:PATH.
        It is used where it lies, as the first member; the other members are filled from it.
        Paths with commas between, as many as there are to be copies; relative ones are taken from the instance.
        Z5 is pickle, which every client of ZEO 5 and 6 speaks; M5 is msgpack, for clients that have that package.
        Instance HERE, recipe embedded
          create     var/
          create     var/log/
          create     bin/zeoraidctl
          create     etc/client.py
          create     etc/zeoraid.yaml
          create     etc/zope-client.conf
        ✔ written
        Next: HERE/bin/zeoraidctl start
        "#);
        assert!(place.read("etc/zeoraid.yaml").contains("encoding: M5\n"));

        let refused = Place::new();
        let defaults = std::iter::repeat_n(Answer::Default, 8);
        let answers = defaults.chain([Answer::Confirm(false)]);
        let (shown, _) = refused.run("init HERE", answers);
        assert!(
            shown.ends_with("broken off; nothing was changed\n"),
            "{shown}"
        );
        assert_eq!(std::fs::read_dir(refused.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_a_terminal_the_flags_are_named() {
        let place = Place::new();
        insta::assert_snapshot!(place.run("init HERE", []).0, @r#"
        exit 2
        -- stderr
        error: there is no terminal to ask on: Name of the array; answer it with `--set name=VALUE` or `--yes`
        "#);
        insta::assert_snapshot!(place.init("--set members=none"), @r#"
        exit 1
        -- stderr
        error: `none` from `--set` is no value for the option `members`: a number from 1 to 16 is expected
        "#);
        insta::assert_snapshot!(place.init("--set colour=red"), @r#"
        exit 1
        -- stderr
        error: `--set` answers `colour`, which is no option of the recipe `embedded`; it has: name, listen, adopt, members, paths, encoding, log_level
        Next: zeoraidctl recipe options embedded
        "#);
        insta::assert_snapshot!(place.init("--recipe clasic"), @r#"
        exit 1
        -- stderr
        error: there is no recipe `clasic`; there are: embedded, single-server
        Next: zeoraidctl recipe list
        "#);
        insta::assert_snapshot!(place.init("--answers HERE/none.yaml").replace(&place.path().display().to_string(), "HERE"), @r#"
        exit 1
        -- stderr
        error: could not read HERE/none.yaml: No such file or directory (os error 2)
        "#);
    }

    #[test]
    fn a_dry_run_and_a_diff_write_nothing() {
        let place = Place::new();
        insta::assert_snapshot!(place.init("--dry-run -o json"), @r#"
        exit 0
        -- stdout
        {
          "instance": "HERE",
          "recipe": "embedded",
          "dry_run": true,
          "folders": [
            "var",
            "var/log"
          ],
          "files": [
            {
              "target": "bin/zeoraidctl",
              "action": "create",
              "changes": true
            },
            {
              "target": "etc/client.py",
              "action": "create",
              "changes": true
            },
            {
              "target": "etc/zeoraid.yaml",
              "action": "create",
              "changes": true
            },
            {
              "target": "etc/zope-client.conf",
              "action": "create",
              "changes": true
            }
          ]
        }
        "#);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        place.init("");
        insta::assert_snapshot!(place.init("--diff --set log_level=debug"), @r#"
        exit 0
        -- stdout
        --- a/etc/zeoraid.yaml
        +++ b/etc/zeoraid.yaml
        @@ -131,7 +131,7 @@
         
         log:
           file: var/log/zeoraid.log
        -  level: info
        +  level: debug
           # format: text              # or json
           # target: auto              # this file in the background, standard error (or the journal, where that is
           #                           # it) in the foreground; or always: file, stderr, journal
        "#);
        assert!(place.read("etc/zeoraid.yaml").contains("level: info"));
    }

    #[test]
    fn what_was_edited_by_hand_is_kept_or_asked_about() {
        let place = Place::new();
        place.init("");
        let file = place.path().join("etc/zeoraid.yaml");
        let edited = place
            .read("etc/zeoraid.yaml")
            .replace("\n# read_only", "\nread_only");
        std::fs::write(&file, &edited).unwrap();
        insta::assert_snapshot!(place.init(""), @r#"
        exit 0
        -- stdout
        Instance HERE, recipe embedded: up to date
          edited     etc/zeoraid.yaml
        -- stderr
        Next: HERE/bin/zeoraidctl start
        "#);
        insta::assert_snapshot!(place.init("--set log_level=debug"), @r#"
        exit 0
        -- stdout
        Instance HERE, recipe embedded
          unchanged  bin/zeoraidctl
          unchanged  etc/client.py
          conflict   etc/zeoraid.yaml   kept; the new one is beside it, as .new
          unchanged  etc/zope-client.conf
        -- stderr
        Next: HERE/bin/zeoraidctl start
        "#);
        assert_eq!(place.read("etc/zeoraid.yaml"), edited);
        assert!(place.read("etc/zeoraid.yaml.new").contains("level: debug"));

        let (shown, questions) = place.run(
            "init HERE --set log_level=warn",
            [Answer::Confirm(true), Answer::Select(2)],
        );
        insta::assert_snapshot!(questions, @r#"
        Write this? [Y/n]
        etc/zeoraid.yaml was edited by hand. And now?
          > keep it, and write the new one beside it (etc/zeoraid.yaml.new)
            keep it
            take the new one, and keep the edited one beside it (etc/zeoraid.yaml.old)
        "#);
        insta::assert_snapshot!(shown, @r#"
        exit 0
        -- stderr
        Instance HERE, recipe embedded
          unchanged  bin/zeoraidctl
          unchanged  etc/client.py
          conflict   etc/zeoraid.yaml
          unchanged  etc/zope-client.conf
        --- a/etc/zeoraid.yaml
        +++ b/etc/zeoraid.yaml
        @@ -24,7 +24,7 @@
         encoding: Z5
         
         # Clients may not write. (For one array alone, and as a storage that is read-only: there.)
        -read_only: false
        +# read_only: false
         
         # A client that holds the commit lock longer than this loses its connection.
         # transaction_timeout: 1m
        @@ -131,7 +131,7 @@
         
         log:
           file: var/log/zeoraid.log
        -  level: info
        +  level: warn
           # format: text              # or json
           # target: auto              # this file in the background, standard error (or the journal, where that is
           #                           # it) in the foreground; or always: file, stderr, journal
        ✔ written
        Next: HERE/bin/zeoraidctl start
        "#);
        assert!(place.read("etc/zeoraid.yaml").contains("level: warn"));
        assert_eq!(place.read("etc/zeoraid.yaml.old"), edited);
    }

    #[test]
    fn every_recipe_and_answer_makes_a_configuration_without_mistakes() {
        let adopted = tempfile::NamedTempFile::new().unwrap();
        let adopt = format!("--set adopt={}", adopted.path().display());
        for more in [
            "--recipe single-server",
            "--set members=1",
            "--set members=16",
            "--set listen=[::1]:8100",
            "--set listen=unix:var/zeo.sock",
            "--set name=1",
            "--set encoding=M5 --set log_level=trace",
            "--set config.socket=/run/zeoraid.sock",
            &adopt,
            &format!("--recipe single-server {adopt}"),
            &format!("--set members=1 {adopt}"),
        ] {
            let place = Place::new();
            let shown = place.init(more);
            assert!(shown.starts_with("exit 0\n"), "{more}: {shown}");
            let checked = place.run("check-config -C HERE", []).0;
            assert!(checked.starts_with("exit 0\n"), "{more}: {checked}");
            if more.contains("adopt") {
                let first = format!("copy1:\n        file: {}\n", adopted.path().display());
                assert!(place.read("etc/zeoraid.yaml").contains(&first), "{more}");
            }
        }
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_found_before_anything_is_written() {
        let place = Place::new();
        let deep = place.path().join("d".repeat(100));
        let shown = Bench::new(Vec::new()).run(&format!("init {} --yes", deep.display()));
        assert!(shown.starts_with("exit 1\n"), "{shown}");
        assert!(
            shown.contains("the path of a Unix socket may have")
                && shown.contains("--set config.socket="),
            "{shown}"
        );
        assert!(!Path::new(&deep).exists());
    }

    #[test]
    fn the_wrapper_knows_its_folder_and_program() {
        let place = Place::new();
        place.init("");
        let wrapper = place.path().join("bin/zeoraidctl");
        // The program of this test is not zeoraidctl, but it is there and can be run.
        let shown = std::process::Command::new(&wrapper)
            .arg("--list")
            .output()
            .unwrap();
        assert!(shown.status.success(), "{shown:?}");
        std::fs::write(
            &wrapper,
            place
                .read("bin/zeoraidctl")
                .replace("program='", "program='/gone"),
        )
        .unwrap();
        let gone = std::process::Command::new(&wrapper).output().unwrap();
        let said = String::from_utf8(gone.stderr).unwrap();
        assert!(said.contains("is gone; run `zeoraidctl init"), "{said}");
    }

    #[test]
    fn mistakes_of_a_configuration_are_shown_with_line_and_mend() {
        let place = Place::new();
        place.init("");
        let text = place
            .read("etc/zeoraid.yaml")
            .replace("encoding: Z5", "encodng: Z5")
            .replace("listen: 127.0.0.1:8100", "listen: 8100")
            .replace("level: info", "level: loud");
        std::fs::write(place.path().join("etc/zeoraid.yaml"), text).unwrap();
        insta::assert_snapshot!(place.run("check-config -C HERE", []).0, @r#"
        exit 1
        -- stdout
        etc/zeoraid.yaml:20:9: listen: `8100` is only a port
            write `127.0.0.1:8100` for clients on this machine, `0.0.0.0:8100` for all
        etc/zeoraid.yaml:24:1: the configuration knows no `encodng`
            did you mean `encoding`?
        etc/zeoraid.yaml:134:10: log.level: `loud` is not known
            one of error, warn, info, debug, trace
        3 mistakes
        "#);
        insta::assert_snapshot!(place.run("check-config -C HERE -o json", []).0, @r#"
        exit 1
        -- stdout
        {
          "file": "etc/zeoraid.yaml",
          "ok": false,
          "mistakes": [
            {
              "file": "etc/zeoraid.yaml",
              "line": 20,
              "column": 9,
              "what": "listen: `8100` is only a port",
              "mend": "write `127.0.0.1:8100` for clients on this machine, `0.0.0.0:8100` for all"
            },
            {
              "file": "etc/zeoraid.yaml",
              "line": 24,
              "column": 1,
              "what": "the configuration knows no `encodng`",
              "mend": "did you mean `encoding`?"
            },
            {
              "file": "etc/zeoraid.yaml",
              "line": 134,
              "column": 10,
              "what": "log.level: `loud` is not known",
              "mend": "one of error, warn, info, debug, trace"
            }
          ],
          "warnings": []
        }
        "#);
        insta::assert_snapshot!(place.run("show --file -C HERE", []).0, @r#"
        exit 1
        -- stderr
        error: the configuration has 3 mistakes
          etc/zeoraid.yaml:20:9: listen: `8100` is only a port; write `127.0.0.1:8100` for clients on this machine, `0.0.0.0:8100` for all
          etc/zeoraid.yaml:24:1: the configuration knows no `encodng`; did you mean `encoding`?
          etc/zeoraid.yaml:134:10: log.level: `loud` is not known; one of error, warn, info, debug, trace
        Next: zeoraidctl check-config
        "#);
        insta::assert_snapshot!(place.init("--set members=3"), @r#"
        exit 0
        -- stdout
        Instance HERE, recipe embedded
          unchanged  bin/zeoraidctl
          unchanged  etc/client.py
          conflict   etc/zeoraid.yaml   kept; the new one is beside it, as .new
          unchanged  etc/zope-client.conf
        -- stderr
        warning: etc/zeoraid.yaml was edited by hand and has mistakes; `zeoraidctl check-config` shows them
        Next: HERE/bin/zeoraidctl start
        "#);
    }
}
