//! What an operator wants of the cluster, as a configuration writes it: `groups`, `tenants`, `policy`.
//!
//! [`Intent::read`] makes domain objects of these sections and notes every problem at its place, clashes between
//! objects of the file included. It seeds an empty store, and is what `shuntctl apply` sends. An object that is named
//! is wanted as it stands there: what it leaves out has its default. An object that is not named is not spoken of.
//!
//! Must not know: what a store holds already, or how it is changed.

use crate::cn::{Cn, CnGroup, CnId, CnState, check_name};
use crate::label::Labels;
use crate::pb;
use crate::tenant::{OnNoMatch, Tenant};
use crate::wire::{Invalid, Policy, network};
use crate::yaml::{Place, Section, Value};
use ipnet::IpNet;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// A group with the CNs that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupIntent {
    /// The group.
    pub group: CnGroup,
    /// All its CNs, in the order of the file.
    pub cns: Vec<Cn>,
    /// The file has no list of them: the group keeps the CNs that it has.
    pub keep_cns: bool,
}

/// The objects that a configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// In the order of the file; no CN is in two of them.
    pub groups: Vec<GroupIntent>,
    /// In the order of the file.
    pub tenants: Vec<Tenant>,
    /// None: not spoken of.
    pub policy: Option<Policy>,
}

impl Intent {
    /// The intent of `root`'s keys `groups`, `tenants` and `policy`. Only to be used where the document then has no
    /// problem: what is wrong is left out.
    pub fn read(root: &Section<'_>) -> Self {
        let mut seen = Seen::default();
        let groups =
            sections(root.list("groups")).iter().filter_map(|section| group(section, &mut seen)).collect();
        let tenants =
            sections(root.list("tenants")).iter().filter_map(|section| tenant(section, &mut seen)).collect();
        let policy = root.section("policy");
        Self { groups, tenants, policy: policy.is_present().then(|| self::policy(&policy)) }
    }

    /// Whether it names nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { groups, tenants, policy } = self;
        groups.is_empty() && tenants.is_empty() && policy.is_none()
    }

    /// The call that makes it so. With `prune`, CNs that a named group no longer lists are taken out.
    #[must_use]
    pub fn to_apply(&self, prune: bool) -> pb::ApplyRequest {
        let group = |GroupIntent { group, cns, keep_cns }: &GroupIntent| pb::apply_request::Group {
            group: Some(group.into()),
            cns: cns.iter().map(Into::into).collect(),
            keep_cns: *keep_cns,
        };
        pb::ApplyRequest {
            groups: self.groups.iter().map(group).collect(),
            tenants: self.tenants.iter().map(Into::into).collect(),
            policy: self.policy.as_ref().map(Into::into),
            prune,
        }
    }
}

/// What must be there once only, with the place where it was seen first.
#[derive(Default)]
struct Seen(HashMap<(&'static str, String), Place>);

impl Seen {
    /// Notes a problem at `value` where there was one of this `kind` and `name` before.
    fn once(&mut self, kind: &'static str, name: &str, value: &Value<'_>) {
        match self.0.entry((kind, name.to_owned())) {
            Entry::Vacant(entry) => drop(entry.insert(value.place())),
            Entry::Occupied(entry) => {
                value.problem(format_args!(
                    "{kind} {name} is there twice, first in line {}",
                    entry.get().line
                ));
            }
        }
    }
}

fn sections<'a>(values: Vec<Value<'a>>) -> Vec<Section<'a>> {
    values.iter().filter_map(Value::section).collect()
}

/// The name of the object in `section`.
fn name(section: &Section<'_>, kind: &'static str, seen: &mut Seen) -> Option<String> {
    section.require("name");
    let value = section.value("name")?;
    let name = value.parse(|text| check_name(text).map(|()| text.to_owned()))?;
    seen.once(kind, &name, &value);
    Some(name)
}

/// The labels of `key`. A value is one word or a list; `may_be_empty`: a key may have none.
fn labels(section: &Section<'_>, key: &str, may_be_empty: bool) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in section.section(key).entries() {
        if let Err(problem) = labels.declare(key) {
            value.problem(problem);
            continue;
        }
        let values = value.one_or_list();
        if values.is_empty() && !(may_be_empty && value.is_list()) {
            value.problem("has no value");
        }
        for value in values {
            value.parse(|text| labels.add(key, text));
        }
    }
    labels
}

/// `object` after the checks that every object passes, with what they find noted at its key.
fn checked<P, T>(section: &Section<'_>, object: &P) -> Option<T>
where
    T: for<'p> TryFrom<&'p P, Error = Invalid>,
{
    let invalid = match T::try_from(object) {
        Ok(object) => return Some(object),
        Err(invalid) => invalid,
    };
    let key = invalid.field.rsplit('.').next().unwrap_or_default();
    section.problem_at(key, invalid.problem);
    None
}

fn group(section: &Section<'_>, seen: &mut Seen) -> Option<GroupIntent> {
    let name = name(section, "group", seen);
    let group = CnGroup {
        // A placeholder, so that the rest is checked too.
        name: name.clone().unwrap_or_else(|| "x".to_owned()),
        labels: labels(section, "labels", false),
        tenant: section.text("tenant"),
        replicas: section.u32("replicas").unwrap_or(0),
    };
    let group = checked(section, &pb::CnGroup::from(&group));
    let keep_cns = section.value("cns").is_none();
    let cns = sections(section.list("cns"));
    let cns = cns.iter().filter_map(|section| cn(section, name.as_deref(), seen)).collect();
    name?;
    Some(GroupIntent { group: group?, cns, keep_cns })
}

fn cn(section: &Section<'_>, group: Option<&str>, seen: &mut Seen) -> Option<Cn> {
    let name = name(section, "CN", seen);
    section.require("address");
    let address = section.address("address");
    if let (Some(address), Some(value)) = (&address, section.value("address")) {
        seen.once("address", address, &value);
    }
    let cn = Cn {
        name: CnId::new(name.as_deref().unwrap_or("x")).ok()?,
        address: address.clone().unwrap_or_else(|| "x:1".to_owned()),
        group: group.map(str::to_owned),
        own_labels: labels(section, "labels", true),
        zone: section.text("zone").unwrap_or_default(),
        weight: weight(section).unwrap_or(0),
        state: CnState::Working,
        remove_when_empty: false,
        drain: None,
    };
    let cn = checked(section, &pb::Cn::from(&cn));
    name.and(address).and(cn)
}

/// A weight of 0 would be read as none given.
fn weight(section: &Section<'_>) -> Option<u32> {
    let weight = section.u32("weight")?;
    if weight == 0 {
        section.problem_at("weight", "0 is not 1 to 10000");
    }
    Some(weight)
}

fn tenant(section: &Section<'_>, seen: &mut Seen) -> Option<Tenant> {
    let name = name(section, "tenant", seen);
    let words = [("unlabelled", OnNoMatch::Unlabelled), ("reject", OnNoMatch::Reject)];
    let tenant = Tenant {
        name: name.clone().unwrap_or_else(|| "x".to_owned()),
        default_labels: labels(section, "default_labels", false),
        allow: section.one_or_list("allow").iter().filter_map(allowed).collect(),
        max_sessions: section.u32("max_sessions").unwrap_or(0),
        on_no_match: section.word("on_no_match", &words).unwrap_or_default(),
        suspended: section.bool("suspended").unwrap_or(false),
    };
    let tenant = checked(section, &pb::Tenant::from(&tenant));
    name.and(tenant)
}

fn allowed(value: &Value<'_>) -> Option<IpNet> {
    value.parse(|text| network(text).map_err(|invalid| invalid.problem))
}

fn policy(section: &Section<'_>) -> Policy {
    let default = Policy::default();
    let rebalance = section.section("rebalance");
    let migrate = section.section("migrate");
    let policy = Policy {
        moves_per_second: rebalance.u32("moves_per_second").unwrap_or(default.moves_per_second),
        tolerance: rebalance.f64("tolerance").unwrap_or(default.tolerance),
        settle_after: migrate.duration("settle_after").unwrap_or(default.settle_after),
        freeze_deadline: migrate.duration("freeze_deadline").unwrap_or(default.freeze_deadline),
        last_result_grace: migrate.duration("last_result_grace").unwrap_or(default.last_result_grace),
        wait_for_cn: migrate.duration("wait_for_cn").unwrap_or(default.wait_for_cn),
    };
    // In a message 0 stands for the default.
    if policy.moves_per_second == 0 {
        rebalance.problem_at("moves_per_second", "0 is not 1 to 100000");
    }
    check_policy(&policy, &rebalance, &migrate);
    policy
}

/// One value at a time, so that each that is wrong is told.
fn check_policy(policy: &Policy, rebalance: &Section<'_>, migrate: &Section<'_>) {
    let Policy { moves_per_second, tolerance, .. } = *policy;
    let Policy { settle_after, freeze_deadline, last_result_grace, wait_for_cn, .. } = *policy;
    let alone = Policy::default;
    for (section, policy) in [
        (rebalance, Policy { moves_per_second, ..alone() }),
        (rebalance, Policy { tolerance, ..alone() }),
        (migrate, Policy { settle_after, ..alone() }),
        (migrate, Policy { freeze_deadline, ..alone() }),
        (migrate, Policy { last_result_grace, ..alone() }),
        (migrate, Policy { wait_for_cn, ..alone() }),
    ] {
        checked::<pb::Policy, Policy>(section, &(&policy).into());
    }
}

#[cfg(test)]
mod tests;
