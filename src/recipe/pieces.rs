//! Which files a recipe gives, and what the template of each sees: repeated parts, and values that name one
//! another.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::RecipeError;
use super::model::{Part, Place, Recipe};
use super::options::Resolved;
use super::raw::check_target;
use super::render::{Surroundings, value};

/// Which of several: the first is 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turn {
    /// The option that it is repeated by; none where it follows a part that is there once.
    source: Option<String>,
    index: u64,
    /// The entry, where it is repeated by a list.
    item: Option<Value>,
}

/// More than anybody wants; a count can be any number. Of all files together there are no more either:
/// each sees the values of all.
const MOST: usize = 1000;

/// One for each file: none in it where there is no `each`.
pub(super) fn turns(
    recipe: &Recipe,
    each: Option<&str>,
    place: &Place,
    resolved: &Resolved,
) -> Result<Vec<Option<Turn>>, RecipeError> {
    let Some(each) = each else {
        return Ok(vec![None]);
    };
    let source = recipe.source_of(each, place)?;
    // Of a part that is left out there is none. That it goes in no circle was seen just now.
    let mut part = recipe.part(each);
    while let Some(followed) = part {
        if !followed.when.is_met(&resolved.values) {
            return Ok(Vec::new());
        }
        part = followed.each.as_deref().and_then(|each| recipe.part(each));
    }
    let turn = |source: Option<&str>, index: usize, item: Option<Value>| {
        Some(Turn {
            source: source.map(str::to_owned),
            index: index as u64 + 1,
            item,
        })
    };
    let Some(option) = source else {
        return Ok(vec![turn(None, 0, None)]);
    };
    let name = Some(option.name.as_str());
    let several: Vec<_> = match resolved.values.get(&option.name) {
        Some(Value::Array(items)) => {
            let items = items.iter().enumerate();
            items
                .map(|(index, item)| turn(name, index, Some(item.clone())))
                .collect()
        }
        Some(count) => {
            let count = count.as_u64().and_then(|count| usize::try_from(count).ok());
            let count = count.unwrap_or_default().min(MOST + 1);
            (0..count).map(|index| turn(name, index, None)).collect()
        }
        None => Vec::new(),
    };
    if several.len() > MOST {
        return Err(place.mistake(format!("`each: {each}` is expected to be at most {MOST}")));
    }
    Ok(several)
}

/// A file that is to be, and its values as far as they are known.
pub(super) struct Piece<'a> {
    pub(super) part: &'a Part,
    pub(super) turn: Option<Turn>,
    /// Relative to the instance.
    pub(super) target: String,
    values: Map<String, Value>,
}

/// All files that are to be.
pub(super) struct Pieces<'a> {
    /// In the order of the recipe.
    names: Vec<&'a str>,
    pub(super) files: Vec<Piece<'a>>,
    /// The options, and where we are.
    base: Map<String, Value>,
}

/// A value that is not known yet.
struct Open<'a> {
    piece: usize,
    key: &'a str,
    template: &'a str,
}

impl<'a> Pieces<'a> {
    /// A part's value may name values of other parts, so they are rendered as soon as what they name is
    /// known; what never becomes known is a mistake.
    pub(super) fn new(
        recipe: &'a Recipe,
        resolved: &'a Resolved,
        surroundings: Surroundings<'_>,
    ) -> Result<Self, RecipeError> {
        let text = |path: &Path| Value::from(path.display().to_string());
        let mut base = resolved.values.clone();
        base.insert("instance".into(), text(surroundings.instance));
        base.insert("program".into(), text(surroundings.program));
        let mut pieces = Pieces {
            names: recipe.parts.iter().map(|part| part.name.as_str()).collect(),
            files: Vec::new(),
            base,
        };
        let mut open: Vec<Open<'a>> = Vec::new();
        for part in &recipe.parts {
            if !part.when.is_met(&resolved.values) {
                continue;
            }
            for turn in turns(recipe, part.each.as_deref(), &part.place, resolved)? {
                let piece = pieces.files.len();
                if piece == MOST {
                    let what = format!("the recipe is expected to make at most {MOST} files");
                    return Err(part.place.mistake(what));
                }
                let values = turn
                    .iter()
                    .map(|turn| ("index".to_owned(), turn.index.into()));
                pieces.files.push(Piece {
                    part,
                    values: values.collect(),
                    turn,
                    target: String::new(),
                });
                open.extend(part.values.iter().map(|(key, template)| {
                    let set = resolved.part_values.get(&format!("{}.{key}", part.name));
                    let template = set.map_or(template.as_str(), String::as_str);
                    Open {
                        piece,
                        key,
                        template,
                    }
                }));
                let template = &part.target;
                open.push(Open {
                    piece,
                    key: "target",
                    template,
                });
            }
        }
        while !open.is_empty() {
            let mut still_open = Vec::new();
            let mut first_error = None;
            let before = open.len();
            for wanted in open {
                match pieces.find(&wanted, surroundings.instance) {
                    Ok(()) => {}
                    Err(error) => {
                        first_error.get_or_insert(error);
                        still_open.push(wanted);
                    }
                }
            }
            if let Some(error) = first_error
                && still_open.len() == before
            {
                return Err(error);
            }
            open = still_open;
        }
        Ok(pieces)
    }

    fn find(&mut self, wanted: &Open<'_>, instance: &Path) -> Result<(), RecipeError> {
        let piece = &self.files[wanted.piece];
        let place = &piece.part.place;
        let mut text = value(wanted.template, &self.seen(piece.turn.as_ref()), place)?;
        if wanted.key == "target" {
            check_target(&text).map_err(|what| place.mistake(what))?;
            let absolute = instance.join(&text).display().to_string();
            self.files[wanted.piece].target = std::mem::replace(&mut text, absolute);
        }
        let values = &mut self.files[wanted.piece].values;
        values.insert(wanted.key.to_owned(), text.into());
        Ok(())
    }

    /// What the file sees whose turn it is.
    pub(super) fn seen(&self, turn: Option<&Turn>) -> Map<String, Value> {
        let mut seen = self.base.clone();
        for name in &self.names {
            let of_part = || self.files.iter().filter(|piece| piece.part.name == *name);
            let beside = turn.and_then(|mine| {
                of_part().find(|piece| {
                    piece.turn.as_ref().is_some_and(|turn| {
                        mine.source.is_some()
                            && (&turn.source, turn.index) == (&mine.source, mine.index)
                    })
                })
            });
            let mut values = match beside.or_else(|| of_part().next()) {
                Some(piece) => piece.values.clone(),
                None => Map::new(),
            };
            let each = of_part().map(|piece| Value::Object(piece.values.clone()));
            values.insert("each".into(), Value::Array(each.collect()));
            seen.insert((*name).to_owned(), Value::Object(values));
        }
        if let Some(turn) = turn {
            seen.insert("index".into(), turn.index.into());
            if let Some(item) = &turn.item {
                seen.insert("item".into(), item.clone());
            }
        }
        seen
    }
}
