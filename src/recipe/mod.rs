//! Recipes: what an instance is made of, in the spirit of a buildout.
//!
//! A [`Recipe`] has options and parts; [`options::resolve`] finds the value of each option,
//! [`render::render`] makes the text of each part, [`plan::Plan::new`] says (and changes nothing) what
//! would be written, kept and removed, and [`apply::apply`] does it. What was written is remembered with
//! checksums in `.installed.yaml` ([`installed`]), so that running again is idempotent and a file that
//! a person edited is never overwritten silently.
//!
//! The room knows neither the terminal nor the daemon: whoever asks people is handed in as a function.

pub mod apply;
mod bounds;
pub mod builtin;
pub mod calls;
mod error;
pub mod installed;
pub mod library;
mod load;
#[cfg(test)]
mod mistakes;
pub mod model;
pub mod options;
mod pieces;
pub mod plan;
mod raw;
pub mod render;
pub mod starter;
pub mod uninstall;
mod when;
#[cfg(test)]
mod workshop;

pub use error::RecipeError;
pub use library::Library;
pub use model::{Kind, OptionSpec, Part, Process, Recipe};
