//! What is wrong with a file, each with its place, all of it told at once.

use std::fmt;

/// The most problems that are kept of one file.
const MAX_PROBLEMS: usize = 100;

/// The most characters of the file's own text that a problem quotes.
const MAX_QUOTED: usize = 60;

/// A place in a file. Lines and columns (in characters) count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// Path of the key: `groups[0].cns[1].address`; empty: the file itself.
    pub path: String,
    /// What.
    pub what: String,
}

/// All that is wrong with one file, in the order of its lines. Printed, it is a line for each:
/// `FILE:LINE:COLUMN: path.to.key: what`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
    more: usize,
}

impl Problems {
    /// None, of `file`.
    pub(crate) fn none(file: &str) -> Self {
        Self { file: file.to_owned(), list: Vec::new(), more: 0 }
    }

    /// One that concerns the file as a whole: it cannot be read.
    #[must_use]
    pub fn of_file(file: &str, what: impl fmt::Display) -> Self {
        Self::one(file, Place { line: 1, column: 1 }, what)
    }

    /// One that concerns the file itself.
    pub(crate) fn one(file: &str, place: Place, what: impl fmt::Display) -> Self {
        let mut problems = Self::none(file);
        problems.add(place, "", what);
        problems
    }

    pub(crate) fn add(&mut self, place: Place, path: &str, what: impl fmt::Display) {
        let problem = Problem { place, path: path.to_owned(), what: what.to_string() };
        // Two readers of one document may find the same fault in the same value.
        if self.list.contains(&problem) {
            return;
        }
        if self.list.len() == MAX_PROBLEMS {
            self.more += 1;
            return;
        }
        let behind = self.list.partition_point(|known| known.place <= place);
        self.list.insert(behind, problem);
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Each of them (the first hundred), in the order of lines.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { place, path, what }) in self.list.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{}:{}: ", self.file, place.line, place.column)?;
            if !path.is_empty() {
                write!(f, "{path}: ")?;
            }
            f.write_str(what)?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more", self.file),
        }
    }
}

/// Text of the file as a problem quotes it: control characters escaped, cut where it is long.
pub(crate) fn quoted(text: &str) -> String {
    if text.chars().nth(MAX_QUOTED).is_none() {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(MAX_QUOTED).collect();
    format!("{start:?}…")
}
