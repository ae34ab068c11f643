//! CNs and the groups that they belong to.
//!
//! Must not know: who asks for a CN ([`crate::tenant`]), how it is stored or sent ([`crate::wire`]).

use crate::label::Labels;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The weight of a CN that says none.
pub const DEFAULT_WEIGHT: u32 = 100;

/// A CN's name: bare, as `cn-1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CnId(Arc<str>);

/// A name that is not 1 to 63 of the allowed characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("name {0:?} is not 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.', beginning with a letter or a digit")]
pub struct InvalidName(pub String);

impl CnId {
    /// A CN's name out of text.
    ///
    /// # Errors
    /// [`InvalidName`].
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        check_name(name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `name` may name a CN, a group or a tenant.
///
/// # Errors
/// [`InvalidName`].
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let begins = name.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !begins || name.len() > 63 || !name.bytes().all(allowed) {
        return Err(InvalidName(name.chars().take(80).collect()));
    }
    Ok(())
}

/// Whether a CN takes sessions, by the operator's will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CnState {
    /// Its labels are not confirmed yet.
    Pending,
    /// It takes sessions.
    Working,
    /// It takes no new ones and is being emptied.
    Draining,
    /// It is empty, and was declared so.
    Drained,
}

impl fmt::Display for CnState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Working => "working",
            Self::Draining => "draining",
            Self::Drained => "drained",
        })
    }
}

/// What was found out about a CN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Never tried. Counts as up.
    #[default]
    Unknown,
    /// The last try succeeded.
    Up,
    /// It is avoided until a probe succeeds.
    Down,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// A CN as it was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cn {
    /// Its name.
    pub name: CnId,
    /// `host:port` of its MySQL listener.
    pub address: String,
    /// The group that it belongs to.
    pub group: Option<String>,
    /// What it adds to, replaces in, or (empty) removes from its group's labels.
    pub own_labels: Labels,
    /// Where it stands. Picks do not look at it yet.
    pub zone: String,
    /// Its share relative to the others'.
    pub weight: u32,
    /// By the operator's will.
    pub state: CnState,
    /// Deleted as soon as it holds no session.
    pub remove_when_empty: bool,
    /// How it is emptied, while it is.
    pub drain: Option<Drain>,
}

/// How a CN is emptied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// How long its sessions may take to leave, from when a data plane hears of it; none: as long as they like.
    pub timeout: Option<Duration>,
    /// Those that are left then are closed.
    pub force: bool,
}

/// A named set of CNs, with what they have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CnGroup {
    /// Its name.
    pub name: String,
    /// Labels of each of its CNs.
    pub labels: Labels,
    /// The tenant that its CNs serve; none: any. May hold `*`.
    pub tenant: Option<String>,
    /// How many CNs are wanted; 0: as many as there are.
    pub replicas: u32,
}

/// A CN with the labels and the tenant that count for routing: its group's, and its own over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutedCn {
    /// As declared.
    pub cn: Arc<Cn>,
    /// The effective labels, without the tenant.
    pub labels: Labels,
    /// The tenant pattern that it carries as its label `tenant`.
    pub tenant: Option<String>,
}

impl RoutedCn {
    /// `cn` as a member of `group`. A group that does not exist gives nothing.
    #[must_use]
    pub fn new(cn: Arc<Cn>, group: Option<&CnGroup>) -> Self {
        let (labels, tenant) = match group {
            Some(group) => (group.labels.overlaid(&cn.own_labels), group.tenant.clone()),
            None => (Labels::new().overlaid(&cn.own_labels), None),
        };
        Self { cn, labels, tenant }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &CnId {
        &self.cn.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "cn-1", "CN_1.x", &"a".repeat(63)] {
            assert!(CnId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a b", "a/b", "ä", &"a".repeat(64)] {
            assert!(CnId::new(bad).is_err(), "{bad}");
        }
    }
}
