//! What commands print, and how.
//!
//! A command makes a view and gives it to the [`Printer`], which prints it as a table, as JSON or as
//! YAML: the same facts each time. Answers go to standard output, everything that is said about the
//! work (notes, warnings, errors, progress, questions) to standard error.

pub mod diff;
mod escape;
pub mod format;
mod printer;
mod style;
pub mod table;

pub use escape::escape;
pub use printer::{Format, Output, Printer, Screen, View, is_dumb};
pub use style::{Paint, Style};
