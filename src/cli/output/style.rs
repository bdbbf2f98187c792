//! Colours, where there are any.

/// Whether what is written may have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub color: bool,
}

/// What a colour means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Good,
    Warning,
    Bad,
    /// Headings, names.
    Strong,
    /// What can be overlooked.
    Faint,
    /// Something to type.
    Command,
}

impl Style {
    pub const PLAIN: Style = Style { color: false };

    /// The text in a colour; as it is where there are none.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_owned();
        }
        let style = console::Style::new().force_styling(true);
        let style = match paint {
            Paint::Good => style.green(),
            Paint::Warning => style.yellow(),
            Paint::Bad => style.red().bold(),
            Paint::Strong => style.bold(),
            Paint::Faint => style.dim(),
            Paint::Command => style.cyan(),
        };
        style.apply_to(text).to_string()
    }
}
