//! Labels: keys with one or more values, as CNs carry them and sessions ask for them.
//!
//! Must not know: CNs, tenants, tiers. What makes a match is in [`crate::tenant`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The key under which a CN's tenant is matched. It is never asked for as a label, nor set as one.
pub const TENANT_KEY: &str = "tenant";

/// The most labels that a CN may carry, or a session may ask for.
pub const MAX_LABELS: usize = 32;

/// The longest key or value, in bytes.
pub const MAX_LEN: usize = 63;

/// Keys with their values. A value of a CN may hold `*`, which stands for any run of characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(BTreeMap<String, BTreeSet<String>>);

/// Why something is not a label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    /// The key is not of the allowed form.
    #[error("label key {0:?} is not 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.', '/'")]
    Key(String),
    /// The key is set by other means.
    #[error("label key \"tenant\" is set by the tenant of the group, not as a label")]
    Tenant,
    /// The value is not of the allowed form.
    #[error("value {1:?} of label {0} is not 1 to 63 printable characters without ',', '=' and '?'")]
    Value(String, String),
    /// More than [`MAX_LABELS`].
    #[error("more than {MAX_LABELS} labels")]
    TooMany,
}

impl Labels {
    /// No labels.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `value` to the values of `key`.
    ///
    /// # Errors
    /// [`InvalidLabel`] where key or value have not the allowed form, or there are too many.
    pub fn add(&mut self, key: &str, value: &str) -> Result<(), InvalidLabel> {
        check_value(key, value)?;
        self.declare(key)?;
        self.0.entry(key.to_owned()).or_default().insert(value.to_owned());
        Ok(())
    }

    /// Makes `key` present, with no value as yet. In a CN's own labels a key without a value takes the group's away.
    ///
    /// # Errors
    /// [`InvalidLabel`] where the key has not the allowed form, or there are too many.
    pub fn declare(&mut self, key: &str) -> Result<(), InvalidLabel> {
        check_key(key)?;
        if !self.0.contains_key(key) && self.0.len() >= MAX_LABELS {
            return Err(InvalidLabel::TooMany);
        }
        self.0.entry(key.to_owned()).or_default();
        Ok(())
    }

    /// Takes `key` away. True where it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    /// The values of `key`.
    #[must_use]
    pub fn values(&self, key: &str) -> Option<&BTreeSet<String>> {
        self.0.get(key)
    }

    /// Keys with their values, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeSet<String>)> {
        self.0.iter().map(|(key, values)| (key.as_str(), values))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// These labels with those of `own` in their place where both have a key. A key of `own` without a value is
    /// taken away.
    #[must_use]
    pub fn overlaid(&self, own: &Self) -> Self {
        let mut all = self.0.clone();
        for (key, values) in &own.0 {
            if values.is_empty() {
                all.remove(key);
            } else {
                all.insert(key.clone(), values.clone());
            }
        }
        Self(all)
    }

    /// These labels, and those of `defaults` whose keys are not here.
    #[must_use]
    pub fn with_defaults(&self, defaults: &Self) -> Self {
        let mut all = self.clone();
        for (key, values) in &defaults.0 {
            all.0.entry(key.clone()).or_insert_with(|| values.clone());
        }
        all
    }
}

/// As people write them: `workload=tp,tier=gold|silver`; `none` where there are none.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, (key, values)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            write!(f, "{comma}{key}={}", values.join("|"))?;
        }
        Ok(())
    }
}

/// Whether `key` has the form of a label key.
///
/// # Errors
/// [`InvalidLabel`] that names the key.
pub fn check_key(key: &str) -> Result<(), InvalidLabel> {
    if key == TENANT_KEY {
        return Err(InvalidLabel::Tenant);
    }
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b'/');
    if key.is_empty() || key.len() > MAX_LEN || !key.bytes().all(allowed) {
        return Err(InvalidLabel::Key(key.chars().take(MAX_LEN).collect()));
    }
    Ok(())
}

fn check_value(key: &str, value: &str) -> Result<(), InvalidLabel> {
    let refused = |c: char| c.is_control() || matches!(c, ',' | '=' | '?');
    if value.is_empty() || value.len() > MAX_LEN || value.chars().any(refused) {
        return Err(InvalidLabel::Value(key.to_owned(), value.chars().take(MAX_LEN).collect()));
    }
    Ok(())
}

/// Whether `text` is of `pattern`, in which `*` stands for any run of characters and nothing else is special.
/// Time is bounded by the product of the lengths.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go back to: just behind the last star, and one byte further in the text.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((behind, from)) = star {
            star = Some((behind, from + 1));
            p = behind;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_star_is_special() {
        for (pattern, text, is) in [
            ("tp", "tp", true),
            ("tp", "TP", false),
            ("t*", "tp", true),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a.c", "abc", false),
            ("", "", true),
            ("", "a", false),
            ("a?", "ab", false),
        ] {
            assert_eq!(glob(pattern, text), is, "{pattern} {text}");
        }
    }

    /// The plain recursive definition.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => slow(rest, text) || (!text.is_empty() && slow(pattern, &text[1..])),
            (Some((p, pattern)), Some((t, text))) => p == t && slow(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn glob_is_its_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(glob(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }

    #[test]
    fn own_values_replace_and_empty_ones_remove() {
        let mut group = Labels::new();
        group.add("workload", "tp").unwrap();
        group.add("tier", "gold").unwrap();
        let mut own = Labels::new();
        own.add("workload", "ap").unwrap();
        own.declare("tier").unwrap();
        assert_eq!(group.overlaid(&own).to_string(), "workload=ap");
    }

    #[test]
    fn defaults_fill_only_what_was_not_asked() {
        let mut asked = Labels::new();
        asked.add("workload", "ap").unwrap();
        let mut defaults = Labels::new();
        defaults.add("workload", "tp").unwrap();
        defaults.add("tier", "gold").unwrap();
        assert_eq!(asked.with_defaults(&defaults).to_string(), "tier=gold,workload=ap");
    }

    #[test]
    fn bad_labels_are_refused_by_name() {
        let mut labels = Labels::new();
        assert_eq!(labels.add("tenant", "x"), Err(InvalidLabel::Tenant));
        assert!(matches!(labels.add("", "x"), Err(InvalidLabel::Key(_))));
        assert!(matches!(labels.add("a b", "x"), Err(InvalidLabel::Key(_))));
        assert!(matches!(labels.add("a", "x,y"), Err(InvalidLabel::Value(_, _))));
        for i in 0..MAX_LABELS {
            labels.add(&format!("k{i}"), "v").unwrap();
        }
        assert_eq!(labels.add("one-more", "v"), Err(InvalidLabel::TooMany));
    }
}
