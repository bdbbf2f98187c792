//! Recipes and templates. The input is a recipe, a template, and answers (`option=value`, one a line),
//! with zero bytes between.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use super::in_folder;
use crate::recipe::options::{Answers, resolve};
use crate::recipe::render::{Surroundings, render};
use crate::recipe::{Library, Recipe};

/// Any text as a recipe and its template. Whatever is made lies within the instance.
pub(super) fn recipe(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (recipe, template, answers) = (part(), part(), part());
    in_folder(|folder| {
        for (kind, name, text) in [("recipes", "r.yaml", recipe), ("templates", "t", template)] {
            let folder = folder.join(kind);
            std::fs::create_dir(&folder).expect("a folder can be made");
            std::fs::write(folder.join(name), text).expect("a file can be written");
        }
        let library = Library::new(vec![folder.to_owned()]);
        make(&library, &[], answers);
        make(&library, &["systemd".to_owned()], answers);
    });
}

fn make(library: &Library, with: &[String], answers: &[u8]) {
    let Ok(recipe) = Recipe::combined(library, "r", with) else {
        return;
    };
    let instance = Path::new("/srv/zeo");
    let answers = Answers {
        set: answered(&String::from_utf8_lossy(answers)),
        ..Answers::default()
    };
    let Ok(resolved) = resolve(&recipe, &answers, instance, &mut |_| Ok(None)) else {
        return;
    };
    let surroundings = Surroundings {
        instance,
        program: Path::new("/usr/bin/zeoraidctl"),
    };
    let Ok(made) = render(library, &recipe, &resolved, surroundings) else {
        return;
    };
    for file in &made.files {
        let normal = |part| matches!(part, Component::Normal(_));
        let inside = Path::new(&file.target).components().all(normal);
        assert!(inside && !file.target.is_empty(), "{}", file.target);
        assert!(file.mode <= 0o777);
    }
    for folder in made.folders.keys() {
        let climbs = |part| part == Component::ParentDir;
        let absolute = Path::new(folder).is_absolute();
        assert!(absolute || !Path::new(folder).components().any(climbs));
    }
}

fn answered(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .map(|(option, value)| (option.to_owned(), value.to_owned()))
        .collect()
}
