//! Labels as they are written on the command line, like kubectl's: `key=value` sets, `key-` removes.
//!
//! A key that is given several values has them all. `key=` gives it none, which takes the group's label away.

use shunt_proto::label::{Labels, check_key};
use std::collections::BTreeSet;

/// One argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// `key=value`
    Value(String, String),
    /// `key=`
    NoValue(String),
    /// `key-`
    Remove(String),
}

impl Change {
    /// The key that it is about.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Value(key, _) | Self::NoValue(key) | Self::Remove(key) => key,
        }
    }
}

/// Reads one argument.
pub(crate) fn change(text: &str) -> Result<Change, String> {
    let change = match text.split_once('=') {
        Some((key, "")) => Change::NoValue(key.to_owned()),
        Some((key, value)) => Change::Value(key.to_owned(), value.to_owned()),
        None => match text.strip_suffix('-') {
            Some(key) => Change::Remove(key.to_owned()),
            None => return Err("expected KEY=VALUE or KEY-".to_owned()),
        },
    };
    check_key(change.key()).map_err(|problem| problem.to_string())?;
    if let Change::Value(key, value) = &change {
        Labels::new().add(key, value).map_err(|problem| match value.split_once(',') {
            Some((first, _)) => format!("{problem}; several values are written {key}={first} {key}=…"),
            None => problem.to_string(),
        })?;
    }
    Ok(change)
}

/// What to set, and which keys to remove.
pub(crate) fn merged(changes: &[Change]) -> Result<(Labels, BTreeSet<String>), String> {
    let mut set = Labels::new();
    let mut removed = BTreeSet::new();
    for change in changes {
        let changed = match change {
            Change::Value(key, value) => set.add(key, value),
            Change::NoValue(key) => set.declare(key),
            Change::Remove(key) => {
                removed.insert(key.clone());
                Ok(())
            }
        };
        changed.map_err(|problem| problem.to_string())?;
    }
    for change in changes {
        let key = change.key();
        let none = matches!(change, Change::NoValue(_)) && set.values(key).is_some_and(|all| !all.is_empty());
        if none || (set.values(key).is_some() && removed.contains(key)) {
            return Err(format!("label {key} cannot be both set and removed"));
        }
    }
    Ok((set, removed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(arguments: &[&str]) -> Result<(String, Vec<String>), String> {
        let changes = arguments.iter().map(|text| change(text)).collect::<Result<Vec<_>, _>>()?;
        let (set, removed) = merged(&changes)?;
        let set: Vec<String> = set.iter().map(|(key, values)| format!("{key}={values:?}")).collect();
        Ok((set.join(" "), removed.into_iter().collect()))
    }

    #[test]
    fn values_add_up_and_a_dash_removes() {
        let (set, removed) =
            merge(&["workload=ap", "workload=tp", "a-b=c-", "zone-", "tier=", "x-y-"]).unwrap();
        assert_eq!(set, r#"a-b={"c-"} tier={} workload={"ap", "tp"}"#);
        assert_eq!(removed, ["x-y", "zone"]);
        assert_eq!(merge(&["a=b=c"]).unwrap_err(), change("a=b=c").unwrap_err(), "'=' is in no value");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (arguments, problem) in [
            (&["workload"][..], "expected KEY=VALUE or KEY-"),
            (&["=x"], "label key \"\" is not"),
            (&["tenant=x"], "label key \"tenant\" is set by the tenant of the group"),
            (&["tenant-"], "label key \"tenant\" is set by the tenant of the group"),
            (&["a b=x"], "label key \"a b\" is not"),
            (&["a=x,y"], "several values are written a=x a=…"),
            (&["a=x", "a-"], "label a cannot be both set and removed"),
            (&["a=", "a-"], "label a cannot be both set and removed"),
            (&["a=x", "a="], "label a cannot be both set and removed"),
        ] {
            let found = merge(arguments).unwrap_err();
            assert!(found.contains(problem), "{arguments:?}: {found}");
        }
    }
}
