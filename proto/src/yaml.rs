//! Reads a YAML configuration, and says of each thing that is wrong where it is.
//!
//! A [`Document`] is parsed once and read by as many programs as like: each asks the [`Section`]s for the keys that it
//! knows. A bad value is noted and read as absent, so that reading goes on and all problems come out together, at
//! [`Document::finish`], where keys that no reader asked for are problems too:
//!
//! ```
//! use shunt_proto::yaml::Document;
//! use std::time::Duration;
//!
//! let document = Document::parse("shunt.yaml", b"limits: { cn_connect: 50ms }").unwrap();
//! let limits = document.root().section("limits");
//! let cn_connect = limits.duration("cn_connect").unwrap_or(Duration::from_secs(1));
//! let login = limits.duration("login").unwrap_or(Duration::from_secs(10));
//! let read = document.finish((cn_connect, login)).unwrap();
//! assert_eq!(read, (Duration::from_millis(50), Duration::from_secs(10)));
//! ```
//!
//! Must not know: which program reads, what a key means.

mod problem;
mod tree;
mod value;

pub use problem::{Place, Problem, Problems};
pub use value::Value;

use std::cell::RefCell;
use std::fmt;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tree::{Kind, Mapping, Node};

/// A parsed file, and the problems that its readers found so far.
#[derive(Debug)]
pub struct Document {
    root: Node,
    problems: RefCell<Problems>,
}

impl Document {
    /// The document in `text`. `file` is what problems call it.
    ///
    /// # Errors
    /// What keeps the text from being read at all. All else is told by [`Self::finish`].
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, Problems> {
        let mut problems = Problems::none(file);
        let root = tree::parse(file, text, &mut problems)?;
        Ok(Self { root, problems: RefCell::new(problems) })
    }

    /// The document in the file at `path`.
    ///
    /// # Errors
    /// As [`Self::parse`]; a file that cannot be read is a problem too.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        let name = path.display().to_string();
        let mut text = Vec::new();
        let limit = u64::try_from(tree::MAX_BYTES + 1).unwrap_or(u64::MAX);
        match std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut text)) {
            Ok(_) => Self::parse(&name, &text),
            Err(error) => Err(Problems::of_file(&name, error)),
        }
    }

    /// Its outermost section.
    #[must_use]
    pub fn root(&self) -> Section<'_> {
        let mapping = match &self.root.kind {
            Kind::Mapping(mapping) => Some(mapping),
            _ => None,
        };
        Section::new(self, mapping, self.root.place, String::new())
    }

    /// What was read, where the document has no problem. Readers call it when they have asked for all keys that they
    /// know; keys nobody asked for are unknown, and problems.
    ///
    /// # Errors
    /// All problems of the document, in the order of its lines.
    pub fn finish<T>(&self, read: T) -> Result<T, Problems> {
        let mut problems = self.problems.borrow().clone();
        unknown_keys(&self.root, "", &mut problems);
        if problems.is_empty() { Ok(read) } else { Err(problems) }
    }

    fn problem(&self, place: Place, path: &str, what: impl fmt::Display) {
        self.problems.borrow_mut().add(place, path, what);
    }
}

/// A mapping of keys to values. A section that is not in the file reads as an empty one.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    document: &'a Document,
    mapping: Option<&'a Mapping>,
    place: Place,
    path: String,
}

impl<'a> Section<'a> {
    fn new(document: &'a Document, mapping: Option<&'a Mapping>, place: Place, path: String) -> Self {
        if let Some(mapping) = mapping {
            mapping.opened.set(true);
        }
        Self { document, mapping, place, path }
    }

    /// Whether the file has it, and something in it.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.mapping.is_some_and(|mapping| !mapping.entries.is_empty())
    }

    /// Its path: `groups[0]`; empty: the outermost.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value of `key`, which is known from now on. A key with nothing after it is there, with no value.
    pub fn value(&self, key: &str) -> Option<Value<'a>> {
        let mapping = self.mapping?;
        if !mapping.known.borrow().contains(key) {
            mapping.known.borrow_mut().insert(key.to_owned());
        }
        let pair = mapping.entry(key)?;
        Some(Value::new(self.document, &pair.value, self.path_of(key)))
    }

    /// All its keys and values, each of them known from now on, in the file's order.
    pub fn entries(&self) -> Vec<(&'a str, Value<'a>)> {
        let Some(mapping) = self.mapping else { return Vec::new() };
        mapping.known.borrow_mut().extend(mapping.entries.iter().map(|pair| pair.key.clone()));
        let value = |pair: &'a tree::Pair| {
            (pair.key.as_str(), Value::new(self.document, &pair.value, self.path_of(&pair.key)))
        };
        mapping.entries.iter().map(value).collect()
    }

    fn path_of(&self, key: &str) -> String {
        tree::joined(&self.path, key)
    }

    /// The section of `key`; an empty one where the file has none.
    pub fn section(&self, key: &str) -> Self {
        match self.value(key).and_then(|value| value.section()) {
            Some(section) => section,
            None => {
                Self { document: self.document, mapping: None, place: self.place, path: self.path_of(key) }
            }
        }
    }

    /// The items of the list of `key`; none where it is not there.
    pub fn list(&self, key: &str) -> Vec<Value<'a>> {
        self.value(key).map(|value| value.list()).unwrap_or_default()
    }

    /// As [`Self::list`], where one word may stand for a list of it.
    pub fn one_or_list(&self, key: &str) -> Vec<Value<'a>> {
        self.value(key).map(|value| value.one_or_list()).unwrap_or_default()
    }

    /// [`Value::text`] of `key`.
    pub fn text(&self, key: &str) -> Option<String> {
        self.value(key)?.text().map(str::to_owned)
    }

    /// [`Value::bool`] of `key`.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.value(key)?.bool()
    }

    /// [`Value::u32`] of `key`.
    pub fn u32(&self, key: &str) -> Option<u32> {
        self.value(key)?.u32()
    }

    /// [`Value::f64`] of `key`.
    pub fn f64(&self, key: &str) -> Option<f64> {
        self.value(key)?.f64()
    }

    /// [`Value::duration`] of `key`.
    pub fn duration(&self, key: &str) -> Option<Duration> {
        self.value(key)?.duration()
    }

    /// [`Value::size`] of `key`: bytes.
    pub fn size(&self, key: &str) -> Option<u64> {
        self.value(key)?.size()
    }

    /// [`Value::address`] of `key`.
    pub fn address(&self, key: &str) -> Option<String> {
        self.value(key)?.address()
    }

    /// [`Value::listen`] of `key`.
    pub fn listen(&self, key: &str) -> Option<SocketAddr> {
        self.value(key)?.listen()
    }

    /// [`Value::path`] of `key`.
    pub fn file(&self, key: &str) -> Option<PathBuf> {
        self.value(key)?.file()
    }

    /// [`Value::word`] of `key`.
    pub fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        self.value(key)?.word(words)
    }

    /// [`Value::parse`] of `key`.
    pub fn parse<T, E: fmt::Display>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.value(key)?.parse(parse)
    }

    /// Notes a problem where `key` is not there.
    pub fn require(&self, key: &str) {
        let missing = self.mapping.is_none_or(|mapping| mapping.entry(key).is_none());
        if missing {
            self.document.problem(self.place, &self.path_of(key), "is missing");
        }
    }

    /// Notes a problem with the section as a whole.
    pub fn problem(&self, what: impl fmt::Display) {
        self.document.problem(self.place, &self.path, what);
    }

    /// Notes a problem with `key`, at its value where it has one.
    pub fn problem_at(&self, key: &str, what: impl fmt::Display) {
        let place = self.mapping.and_then(|mapping| mapping.entry(key)).map(|pair| pair.value.place);
        self.document.problem(place.unwrap_or(self.place), &self.path_of(key), what);
    }
}

/// Adds each key of an opened mapping that no reader asked for. As deep as the tree, which is bounded.
fn unknown_keys(node: &Node, path: &str, problems: &mut Problems) {
    match &node.kind {
        Kind::List(items) => {
            for (i, item) in items.iter().enumerate() {
                unknown_keys(item, &format!("{path}[{i}]"), problems);
            }
        }
        Kind::Mapping(mapping) => {
            let known = mapping.known.borrow();
            for pair in &mapping.entries {
                let path = tree::joined(path, &pair.key);
                if known.contains(&pair.key) {
                    unknown_keys(&pair.value, &path, problems);
                } else if mapping.opened.get() {
                    let hint = nearest(&pair.key, known.iter().map(String::as_str));
                    let hint = hint.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
                    problems.add(pair.place, &path, format!("unknown key{hint}"));
                }
            }
        }
        Kind::Null | Kind::Scalar { .. } | Kind::Bad => {}
    }
}

/// The word of `known` that `word` was most likely meant to be.
fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > 40 {
        return None;
    }
    let near = known.map(|known| (edits(word, known), known)).min()?;
    (near.0 <= 1 + word.len() / 4).then_some(near.1)
}

/// How many letters must be changed, added or left out to make `a` of `b`.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
