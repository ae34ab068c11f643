//! Values of a scripted MySQL 8: what a user variable keeps, which is its type also where it is NULL.

use anyhow::{Context as _, Result, bail};
use std::fmt;

/// A type of MySQL's expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// BIGINT
    Int,
    /// BIGINT UNSIGNED
    Unsigned,
    /// DECIMAL
    Decimal,
    /// DOUBLE
    Double,
    /// A string.
    Text,
}

/// A value with its type; a number is kept as its digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// Its type.
    pub kind: Kind,
    /// `None` is NULL.
    pub bytes: Option<Vec<u8>>,
    /// `binary` for numbers.
    pub collation: String,
}

/// Collations with their numbers; the first of each character set is its default.
const COLLATIONS: [(&str, u16); 12] = [
    ("utf8mb4_0900_ai_ci", 255),
    ("utf8mb4_general_ci", 45),
    ("utf8mb4_bin", 46),
    ("utf8mb4_unicode_ci", 224),
    ("utf8mb3_general_ci", 33),
    ("latin1_swedish_ci", 8),
    ("latin1_german2_ci", 31),
    ("latin1_bin", 47),
    ("ascii_general_ci", 11),
    ("ucs2_general_ci", 35),
    ("ucs2_bin", 90),
    ("binary", 63),
];

/// All of them: number, name, character set.
pub(super) fn collations() -> impl Iterator<Item = (u16, &'static str, &'static str)> {
    COLLATIONS.iter().map(|(name, number)| (*number, *name, character_set(name)))
}

/// The character set of a collation.
pub(super) fn character_set(collation: &str) -> &str {
    collation.split('_').next().unwrap_or_default()
}

pub(super) fn default_collation(character_set: &str) -> Option<&'static str> {
    let wanted = character_set.to_ascii_lowercase();
    collations().find(|(_, _, of)| *of == wanted).map(|(_, name, _)| name)
}

pub(super) fn number_of(collation: &str) -> u16 {
    COLLATIONS.iter().find(|(name, _)| *name == collation).map_or(0, |(_, number)| *number)
}

pub(super) fn named(number: u16) -> Option<&'static str> {
    COLLATIONS.iter().find(|(_, of)| *of == number).map(|(name, _)| *name)
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes.as_deref().map(<[u8]>::escape_ascii);
        let text = bytes.map_or_else(|| "NULL".to_owned(), |bytes| bytes.to_string());
        write!(f, "{text} ({:?} {})", self.kind, self.collation)
    }
}

impl Value {
    /// The NULL that nobody gave a type.
    pub fn null() -> Self {
        Self { kind: Kind::Text, bytes: None, collation: "binary".into() }
    }

    /// A string.
    pub fn text(bytes: impl Into<Vec<u8>>, collation: &str) -> Self {
        Self { kind: Kind::Text, bytes: Some(bytes.into()), collation: collation.into() }
    }

    /// A value that is a number, or NULL of that type.
    pub fn of(kind: Kind, digits: Option<&str>) -> Self {
        Self { kind, bytes: digits.map(|digits| digits.as_bytes().to_vec()), collation: "binary".into() }
    }

    /// A number as it is written in SQL.
    pub fn number(digits: &str) -> Self {
        if digits.contains(['e', 'E']) {
            let number: f64 = digits.parse().unwrap_or_default();
            return Self::of(Kind::Double, Some(&number.to_string()));
        }
        if digits.contains('.') {
            return Self::of(Kind::Decimal, Some(digits.trim_end_matches('.')));
        }
        let fits = digits.parse::<i64>().is_ok();
        Self::of(if fits { Kind::Int } else { Kind::Unsigned }, Some(digits))
    }

    pub(super) fn int(number: u64) -> Self {
        Self::of(Kind::Int, Some(&number.to_string()))
    }

    /// Its bytes as text, for people and for comparing.
    pub(super) fn word(&self) -> Option<String> {
        self.bytes.as_deref().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    pub(super) fn is_true(&self) -> bool {
        self.word().is_some_and(|word| word != "0" && !word.is_empty())
    }

    /// In another character set.
    pub(super) fn convert(&self, to: &str) -> Result<Self> {
        let collation = default_collation(to).with_context(|| format!("Unknown character set: '{to}'"))?;
        let from = if self.kind == Kind::Text { character_set(&self.collation) } else { "ascii" };
        let bytes = self.bytes.as_deref().map(|bytes| recode(bytes, from, to)).transpose()?;
        Ok(Self { kind: Kind::Text, bytes, collation: collation.to_owned() })
    }

    /// CAST, by the words of the type.
    pub(super) fn cast(self, words: &[String]) -> Result<Self> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let to = |kind| Self { kind, bytes: self.bytes.clone(), collation: "binary".into() };
        Ok(match words[..] {
            ["BINARY"] => to(Kind::Text),
            ["SIGNED"] => to(Kind::Int),
            ["UNSIGNED"] => to(Kind::Unsigned),
            ["DECIMAL"] => to(Kind::Decimal),
            ["DOUBLE"] => to(Kind::Double),
            ["CHAR"] => self.convert("utf8mb4")?,
            ["CHAR", "CHARACTER", "SET", name] => self.convert(&name.to_ascii_lowercase())?,
            _ => bail!("a type {words:?}"),
        })
    }

    /// The number of its type in a column's definition, and its flags.
    pub(super) fn column(&self) -> (u8, u16) {
        match self.kind {
            Kind::Int => (8, 0x80),
            Kind::Unsigned => (8, 0x80 | 0x20),
            Kind::Decimal => (246, 0x80),
            Kind::Double => (5, 0x80),
            Kind::Text => (251, if self.collation == "binary" { 0x80 } else { 0 }),
        }
    }
}

/// Bytes of one character set in another.
pub(super) fn recode(bytes: &[u8], from: &str, to: &str) -> Result<Vec<u8>> {
    if from == to || from == "binary" || to == "binary" {
        return Ok(bytes.to_vec());
    }
    let text: String = match from {
        "latin1" | "ascii" => bytes.iter().map(|byte| char::from(*byte)).collect(),
        "utf8mb4" | "utf8mb3" => String::from_utf8_lossy(bytes).into_owned(),
        "ucs2" => {
            let units: Vec<u16> =
                bytes.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        other => bail!("from {other}"),
    };
    Ok(match to {
        "latin1" | "ascii" => text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect(),
        "utf8mb4" | "utf8mb3" => text.into_bytes(),
        "ucs2" => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        other => bail!("to {other}"),
    })
}
