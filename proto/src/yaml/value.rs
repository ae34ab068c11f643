//! One value of a configuration, read as what its key says that it is.
//!
//! Each method notes a problem and answers nothing where the value is of another kind; so does a value that is empty
//! (`listen:` with nothing after it). A value that was refused while parsing answers nothing and notes nothing more.

use super::problem::quoted;
use super::tree::{Kind, Node};
use super::{Document, Place, Section};
use crate::wire::check_address;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A value with its path and its place.
#[derive(Clone, Debug)]
pub struct Value<'a> {
    document: &'a Document,
    node: &'a Node,
    path: String,
}

impl<'a> Value<'a> {
    pub(super) fn new(document: &'a Document, node: &'a Node, path: String) -> Self {
        Self { document, node, path }
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> Place {
        self.node.place
    }

    /// Its path: `groups[0].name`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Notes a problem with it.
    pub fn problem(&self, what: impl fmt::Display) {
        self.document.problem(self.node.place, &self.path, what);
    }

    /// Whether it is a list, and not one word or a section.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self.node.kind, Kind::List(_))
    }

    /// Whether it is a section.
    #[must_use]
    pub fn is_section(&self) -> bool {
        matches!(self.node.kind, Kind::Mapping(_))
    }

    fn wrong_kind<T>(&self, wanted: &str) -> Option<T> {
        match &self.node.kind {
            Kind::Bad => {}
            Kind::Null => self.problem(format_args!("has no value, expected {wanted}")),
            Kind::Scalar { text, .. } => self.problem(format_args!("{} is not {wanted}", quoted(text))),
            Kind::List(_) => self.problem(format_args!("is a list, not {wanted}")),
            Kind::Mapping(_) => self.problem(format_args!("is a section, not {wanted}")),
        }
        None
    }

    /// The text of a value without quotes.
    fn plain(&self, wanted: &str) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Scalar { text, quoted: false } => Some(text),
            _ => self.wrong_kind(wanted),
        }
    }

    /// The text of a value, with or without quotes: in JSON a unit needs them.
    fn unquoted(&self, wanted: &str) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => self.wrong_kind(wanted),
        }
    }

    /// Its keys and values; empty where nothing follows the key.
    pub fn section(&self) -> Option<Section<'a>> {
        let mapping = match &self.node.kind {
            Kind::Mapping(mapping) => Some(mapping),
            Kind::Null => None,
            _ => return self.wrong_kind("a section"),
        };
        Some(Section::new(self.document, mapping, self.node.place, self.path.clone()))
    }

    /// Its items; none where nothing follows the key.
    pub fn list(&self) -> Vec<Self> {
        let Kind::List(items) = &self.node.kind else {
            if !matches!(self.node.kind, Kind::Null) {
                self.wrong_kind::<()>("a list");
            }
            return Vec::new();
        };
        let item = |(i, node)| Self::new(self.document, node, format!("{}[{i}]", self.path));
        items.iter().enumerate().map(item).collect()
    }

    /// Its items, or itself where it is one word.
    pub fn one_or_list(&self) -> Vec<Self> {
        match &self.node.kind {
            Kind::Scalar { .. } => vec![self.clone()],
            _ => self.list(),
        }
    }

    /// A word, with or without quotes; not an empty one.
    pub fn text(&self) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Scalar { text, .. } if text.is_empty() => {
                self.problem("is empty");
                None
            }
            Kind::Scalar { text, .. } => Some(text),
            _ => self.wrong_kind("a word"),
        }
    }

    /// `true` or `false`, without quotes.
    pub fn bool(&self) -> Option<bool> {
        let wanted = "true or false";
        match self.plain(wanted)? {
            "true" => Some(true),
            "false" => Some(false),
            _ => self.wrong_kind(wanted),
        }
    }

    /// A whole number in decimal digits.
    pub fn u32(&self) -> Option<u32> {
        let wanted = "a whole number from 0 to 4294967295";
        let text = self.plain(wanted)?;
        // `parse` would take "+1" too.
        let digits = text.bytes().all(|c| c.is_ascii_digit());
        text.parse().ok().filter(|_| digits).or_else(|| self.wrong_kind(wanted))
    }

    /// A number, finite.
    pub fn f64(&self) -> Option<f64> {
        let wanted = "a number";
        let text = self.plain(wanted)?;
        text.parse().ok().filter(|number: &f64| number.is_finite()).or_else(|| self.wrong_kind(wanted))
    }

    /// A whole number with a unit: `50ms`, `1s`, `2m`, `1h`; at most a year.
    pub fn duration(&self) -> Option<Duration> {
        let wanted = "a duration such as 50ms, 1s, 2m or 1h";
        duration(self.unquoted(wanted)?).or_else(|| self.wrong_kind(wanted))
    }

    /// Bytes: a whole number, with or without a unit: `512`, `64KiB`, `16MiB`, `1GiB`.
    pub fn size(&self) -> Option<u64> {
        let wanted = "a size such as 512, 64KiB, 16MiB or 1GiB";
        size(self.unquoted(wanted)?).or_else(|| self.wrong_kind(wanted))
    }

    /// `host:port` of something to connect to.
    pub fn address(&self) -> Option<String> {
        self.parse(|text| {
            let checked = check_address("", text).map(|()| text.to_owned());
            checked.map_err(|_| format!("{} is not an address such as 127.0.0.1:3306", quoted(text)))
        })
    }

    /// `address:port` to listen on; port 0 lets the system choose. A host name is none, but `localhost` is.
    pub fn listen(&self) -> Option<SocketAddr> {
        self.parse(|text| {
            let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
            let address = numeric.as_deref().unwrap_or(text).parse::<SocketAddr>();
            address.map_err(|_| {
                format!("{} is not an address to listen on, such as 127.0.0.1:6001", quoted(text))
            })
        })
    }

    /// A file or a folder. A relative one is relative to where the program was started.
    pub fn file(&self) -> Option<PathBuf> {
        self.text().map(PathBuf::from)
    }

    /// One of `words`, for what it stands for.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.problem(format_args!("{} is not one of: {}", quoted(text), words.join(", ")));
        }
        found
    }

    /// What `parse` makes of its text; an error of it is a problem.
    pub fn parse<T, E: fmt::Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match parse(self.text()?) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.problem(error);
                None
            }
        }
    }
}

/// A year: what is added to a clock must stay in the clock's range.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// The number at the start of `text`, and the unit behind it.
fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis).filter(|duration| *duration <= MAX_DURATION)
}

fn size(text: &str) -> Option<u64> {
    let (number, unit) = number(text)?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}
