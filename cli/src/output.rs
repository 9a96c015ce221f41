//! The only module that writes to the terminal: lines, JSON, aligned tables, colours. A closed
//! pipe is not an error.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde::Serialize;

/// How a command prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Lines and tables for people
    #[default]
    Text,
    /// One JSON document for programs
    Json,
}

/// A line on standard output.
pub fn line(text: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// A line on standard error: progress and problems.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// How far something is that takes long, in place of what was said before: for a person at standard
/// error, nobody else. Nothing takes it away.
pub fn progress(text: impl Display) {
    let mut out = io::stderr().lock();
    if out.is_terminal() {
        let _ = write!(out, "\r\x1b[K{text}");
        let _ = out.flush();
    }
}

/// Text as it is, on standard output.
pub fn text(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// A JSON document on standard output.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(json) => line(json),
        Err(error) => note(format_args!("cannot write JSON: {error}")),
    }
}

/// A JSON document on one line of standard output, for streams of them.
pub fn json_line(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(json) => line(json),
        Err(error) => note(format_args!("cannot write JSON: {error}")),
    }
}

/// An empty screen to write on, or an empty line where there is no terminal.
pub fn clear() {
    text(if is_terminal() {
        "\x1b[H\x1b[2J\x1b[3J"
    } else {
        "\n"
    });
}

/// Whether a person looks at standard output.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A row of aligned columns under a heading.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column headings.
    pub fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self {
            rows: vec![heading.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            if number > 0 {
                formatter.write_str("\n")?;
            }
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            formatter.write_str(line.trim_end())?;
        }
        Ok(())
    }
}

/// Colours for the names of children; none without a terminal or with `NO_COLOR`.
#[derive(Debug, Clone, Copy)]
pub struct Palette {
    on: bool,
}

impl Palette {
    /// What standard output can show.
    pub fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            on: !refused && is_terminal(),
        }
    }

    /// `text` in the colour that belongs to `name`.
    pub fn of(self, name: &str, text: impl Display) -> String {
        /// Green, yellow, blue, magenta, cyan and their bright forms: red is for errors.
        const COLOURS: [u8; 10] = [32, 33, 34, 35, 36, 92, 93, 94, 95, 96];
        let sum: usize = name.bytes().map(usize::from).sum();
        self.coloured(COLOURS[sum % COLOURS.len()], text)
    }

    /// Something good.
    pub fn good(self, text: impl Display) -> String {
        self.coloured(32, text)
    }

    /// Something that may turn bad.
    pub fn warning(self, text: impl Display) -> String {
        self.coloured(33, text)
    }

    /// No colours.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { on: false }
    }

    /// Something bad.
    pub fn bad(self, text: impl Display) -> String {
        self.coloured(31, text)
    }

    fn coloured(self, colour: u8, text: impl Display) -> String {
        if self.on {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["NAME", "PORT"]);
        table.row(["order-1".to_owned(), "18100".to_owned()]);
        table.row(["a".to_owned(), "1".to_owned()]);
        assert_eq!(
            table.to_string(),
            "NAME     PORT\norder-1  18100\na        1"
        );
    }

    #[test]
    fn no_colours_without_a_terminal() {
        assert_eq!(Palette { on: false }.of("order-1", "order-1"), "order-1");
        assert_eq!(Palette { on: true }.bad("no"), "\x1b[31mno\x1b[0m");
    }
}
