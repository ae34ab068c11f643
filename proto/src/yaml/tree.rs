//! The nodes of a YAML document, each with its place, made of the parser's events in bounded work and memory.
//!
//! What configurations do not need is refused here: anchors and aliases, tags, keys that are not plain words, several
//! documents, deep nesting. Must not know: which keys mean what.

use super::problem::{Place, Problems, quoted};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};

/// The largest text that is read, in bytes.
pub(super) const MAX_BYTES: usize = 2 << 20;

/// The most values in it.
const MAX_NODES: usize = 200_000;

/// How deep sections and lists may be nested.
const MAX_DEPTH: usize = 32;

/// A value with its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// A word. Quoted ones are never numbers or truth values.
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Node>),
    Mapping(Mapping),
    /// Refused already.
    Bad,
}

/// A mapping, and what its readers made of it.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    /// In the order of the file.
    pub(super) entries: Vec<Pair>,
    /// Where each key is in `entries`.
    index: HashMap<String, usize>,
    /// Somebody reads it: keys that nobody knows are then reported.
    pub(super) opened: Cell<bool>,
    /// The keys that readers asked for, whether there or not.
    pub(super) known: RefCell<BTreeSet<String>>,
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

impl Mapping {
    pub(super) fn entry(&self, key: &str) -> Option<&Pair> {
        self.index.get(key).map(|&i| &self.entries[i])
    }
}

/// The one document in `bytes`. Problems that leave the rest readable are added to `problems`.
///
/// # Errors
/// The one problem after which nothing can be read.
pub(super) fn parse(file: &str, bytes: &[u8], problems: &mut Problems) -> Result<Node, Problems> {
    let stop = |(place, what): Stop| Problems::one(file, place, what);
    let text = check_text(bytes).map_err(stop)?;
    let mut builder = Builder { problems, open: Vec::new(), root: None, nodes: 0 };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| stop((place(error.marker()), error.info().to_owned())))?;
        builder.event(event, place(&span.start)).map_err(stop)?;
    }
    match builder.root {
        Some(Node { kind: Kind::Null, place }) => Err(stop((place, EMPTY.to_owned()))),
        Some(root @ Node { kind: Kind::Mapping(_), .. }) => Ok(root),
        Some(Node { place, .. }) => Err(stop((place, "is not a mapping of keys to values".to_owned()))),
        None => Err(stop((Place { line: 1, column: 1 }, EMPTY.to_owned()))),
    }
}

const EMPTY: &str = "holds no configuration";

/// What ends the reading, and where.
type Stop = (Place, String);

fn place(marker: &Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

/// Text that the parser can be given: UTF-8, of a bounded length, without what YAML forbids.
fn check_text(bytes: &[u8]) -> Result<&str, Stop> {
    if bytes.len() > MAX_BYTES {
        return Err((Place { line: 1, column: 1 }, format!("is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).expect("up to there it is valid");
            return Err((end_of(good), "is not UTF-8".to_owned()));
        }
    };
    for (i, line) in text.lines().enumerate() {
        let at = |column| Place { line: i + 1, column: column + 1 };
        if let Some((column, c)) = line.chars().enumerate().find(|(_, c)| c.is_control() && *c != '\t') {
            return Err((at(column), format!("control character {c:?}")));
        }
        let indent = line.chars().take_while(|c| matches!(c, ' ' | '\t')).collect::<String>();
        let blank = matches!(line[indent.len()..].chars().next(), None | Some('#'));
        if let (Some(column), false) = (indent.find('\t'), blank) {
            return Err((at(column), "tab in the indentation: YAML wants spaces".to_owned()));
        }
    }
    Ok(text)
}

fn end_of(text: &str) -> Place {
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Place { line, column }
}

/// A list or mapping whose end was not seen yet.
enum Open {
    List(Place, Vec<Node>),
    Mapping(Place, Mapping, Option<PairKey>),
}

/// A key that waits for its value.
struct PairKey {
    place: Place,
    /// None: it was refused, and so is its value.
    key: Option<String>,
}

struct Builder<'p> {
    problems: &'p mut Problems,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, place: Place) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err((place, "a second document begins: one file holds one".to_owned()))
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Alias(_) => {
                self.problem(place, "anchors and aliases are not used here");
                self.node(Node { place, kind: Kind::Bad })
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.no_extras(place, anchor, tag.is_some());
                self.node(Node { place, kind: scalar(&text, style) })
            }
            Event::SequenceStart(anchor, tag) => {
                self.no_extras(place, anchor, tag.is_some());
                self.begin(place, Open::List(place, Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.no_extras(place, anchor, tag.is_some());
                self.begin(place, Open::Mapping(place, Mapping::default(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
        }
    }

    fn no_extras(&mut self, place: Place, anchor: usize, tag: bool) {
        if anchor != 0 {
            self.problem(place, "anchors and aliases are not used here");
        }
        if tag {
            self.problem(place, "tags are not used here");
        }
    }

    fn problem(&mut self, place: Place, what: &str) {
        let path = path(&self.open);
        self.problems.add(place, &path, what);
    }

    fn begin(&mut self, place: Place, open: Open) -> Result<(), Stop> {
        if self.open.len() == MAX_DEPTH {
            return Err((place, format!("is nested deeper than {MAX_DEPTH}")));
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop> {
        match self.open.pop() {
            Some(Open::List(place, list)) => self.node(Node { place, kind: Kind::List(list) }),
            Some(Open::Mapping(place, mapping, _)) => self.node(Node { place, kind: Kind::Mapping(mapping) }),
            None => Ok(()),
        }
    }

    /// A whole value: a key or a value of the innermost mapping, an item of the innermost list, or the root.
    fn node(&mut self, node: Node) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err((node.place, format!("has more than {MAX_NODES} values")));
        }
        let path = match self.open.last() {
            Some(Open::Mapping(_, _, None)) => path(&self.open),
            _ => String::new(),
        };
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, list)) => list.push(node),
            Some(Open::Mapping(_, mapping, waiting)) => match waiting.take() {
                None => *waiting = Some(key(node, mapping, &path, self.problems)),
                Some(PairKey { place, key: Some(key) }) => {
                    mapping.index.insert(key.clone(), mapping.entries.len());
                    mapping.entries.push(Pair { key, place, value: node });
                }
                Some(PairKey { key: None, .. }) => {}
            },
        }
        Ok(())
    }
}

/// The path of what is being read: a mapping's own where it waits for a key.
fn path(open: &[Open]) -> String {
    let mut path = String::new();
    for open in open {
        match open {
            Open::List(_, items) => path.push_str(&format!("[{}]", items.len())),
            Open::Mapping(_, _, Some(PairKey { key: Some(key), .. })) => {
                path = joined(&path, key);
            }
            Open::Mapping(..) => {}
        }
    }
    path
}

/// A key's path under its section's. A key that would not be read as one word is quoted.
pub(super) fn joined(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '/');
    let dot = if path.is_empty() { "" } else { "." };
    if !key.is_empty() && key.len() <= 64 && key.chars().all(plain) {
        format!("{path}{dot}{key}")
    } else {
        format!("{path}{dot}{}", quoted(key))
    }
}

fn key(node: Node, mapping: &Mapping, path: &str, problems: &mut Problems) -> PairKey {
    let Node { place, kind } = node;
    let key = match kind {
        Kind::Scalar { text, .. } => match mapping.entry(&text) {
            Some(first) => {
                let what = format!("the key is there twice, first in line {}", first.place.line);
                problems.add(place, &joined(path, &text), what);
                None
            }
            None => Some(text),
        },
        Kind::Bad => None,
        Kind::Null | Kind::List(_) | Kind::Mapping(_) => {
            problems.add(place, path, "a key must be a word");
            None
        }
    };
    PairKey { place, key }
}

fn scalar(text: &str, style: ScalarStyle) -> Kind {
    let quoted = style != ScalarStyle::Plain;
    match text {
        "" | "~" | "null" | "Null" | "NULL" if !quoted => Kind::Null,
        text => Kind::Scalar { text: text.to_owned(), quoted },
    }
}
