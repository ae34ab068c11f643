//! Several objects at once: what a declaration changes of what there is. Pure; all or nothing.
//!
//! A named object becomes what the declaration says, whole; what is not named stays. A CN that a named group no longer
//! lists is refused, or with prune taken out: deleted where it has no session, else drained first.

use crate::cluster::View;
use crate::edit::Edit;
use crate::error::Error;
use crate::intent::{check_labels, check_tenant, put_changed, same_address, some};
use shunt_proto::cn::{Cn, CnGroup, CnId, CnState};
use shunt_proto::intent::{GroupIntent, Intent};
use shunt_proto::snapshot::Object;
use shunt_proto::wire::Invalid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Objects that may change at once.
pub(crate) const MAX_CHANGES: usize = 100;

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Created,
    Updated,
    /// Taken out as soon as it holds no session.
    Draining,
    Removed,
}

impl What {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Draining => "draining",
            Self::Removed => "removed",
        }
    }
}

/// An object and what happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Its key.
    pub(crate) object: String,
    pub(crate) what: What,
}

/// The edit that makes what there is as `intent` says. `sessions` tells how many a CN has.
pub(crate) fn plan(
    view: &View,
    intent: &Intent,
    prune: bool,
    sessions: impl Fn(&CnId) -> u32,
) -> Result<(Edit, Vec<Change>), Error> {
    once(intent)?;
    let mut plan = Plan::new(view);
    for group in &intent.groups {
        plan.group(group, prune, &sessions)?;
    }
    for tenant in &intent.tenants {
        check_tenant(tenant)?;
        plan.put(&Object::Tenant(Arc::new(tenant.clone())));
    }
    if let Some(policy) = &intent.policy {
        plan.put(&Object::Policy(policy.clone()));
    }
    plan.check()?;
    match plan.changes.len() {
        changes if changes > MAX_CHANGES => Err(Error::TooManyChanges { changes, max: MAX_CHANGES }),
        _ => Ok((plan.edit, plan.changes)),
    }
}

/// Refuses an object that is named twice.
fn once(intent: &Intent) -> Result<(), Error> {
    let groups = intent.groups.iter().map(|group| ("groups", group.group.name.as_str()));
    let cns = intent.groups.iter().flat_map(|group| &group.cns).map(|cn| ("cns", cn.name.as_str()));
    let tenants = intent.tenants.iter().map(|tenant| ("tenants", tenant.name.as_str()));
    let mut seen = BTreeSet::new();
    for (field, name) in groups.chain(cns).chain(tenants) {
        if !seen.insert((field, name)) {
            return Err(Invalid::new(field, format!("{name} is named twice")).into());
        }
    }
    Ok(())
}

struct Plan<'a> {
    view: &'a View,
    /// As they will be.
    cns: BTreeMap<CnId, Arc<Cn>>,
    /// Those that are named, as they will be.
    groups: BTreeMap<String, Arc<CnGroup>>,
    edit: Edit,
    changes: Vec<Change>,
}

impl<'a> Plan<'a> {
    fn new(view: &'a View) -> Self {
        let cns = view.snapshot.cns().map(|routed| (routed.name().clone(), Arc::clone(&routed.cn))).collect();
        Self { view, cns, groups: BTreeMap::new(), edit: Edit::new(), changes: Vec::new() }
    }

    fn put(&mut self, object: &Object) {
        self.put_as(object, What::Updated);
    }

    fn put_as(&mut self, object: &Object, what: What) {
        let key = object.key();
        let what = if self.view.snapshot.entry(&key).is_none() { What::Created } else { what };
        if put_changed(self.view, &mut self.edit, object) {
            self.changes.push(Change { object: key, what });
        }
    }

    fn group(
        &mut self,
        intent: &GroupIntent,
        prune: bool,
        sessions: &impl Fn(&CnId) -> u32,
    ) -> Result<(), Error> {
        let GroupIntent { group, cns, keep_cns } = intent;
        let group = Arc::new(group.clone());
        self.put(&Object::Group(Arc::clone(&group)));
        self.groups.insert(group.name.clone(), Arc::clone(&group));
        for cn in cns {
            self.member(&group.name, cn)?;
        }
        if *keep_cns {
            return Ok(());
        }
        let listed: BTreeSet<&CnId> = cns.iter().map(|cn| &cn.name).collect();
        let dropped: Vec<Arc<Cn>> = self
            .cns
            .values()
            .filter(|cn| cn.group.as_ref() == Some(&group.name) && !listed.contains(&cn.name))
            // That one is being taken out already.
            .filter(|cn| !cn.remove_when_empty)
            .cloned()
            .collect();
        if !prune && !dropped.is_empty() {
            let names: Vec<&str> = dropped.iter().map(|cn| cn.name.as_str()).collect();
            return Err(Error::Dropped { group: group.name.clone(), cns: some(&names) });
        }
        for cn in dropped {
            self.take_out(&cn, sessions(&cn.name));
        }
        Ok(())
    }

    /// A CN that a group lists.
    fn member(&mut self, group: &str, listed: &Cn) -> Result<(), Error> {
        let mut cn = Cn {
            group: Some(group.to_owned()),
            state: CnState::Working,
            remove_when_empty: false,
            drain: None,
            ..listed.clone()
        };
        if let Some(kept) = self.cns.get(&cn.name) {
            if let Some(other) = kept.group.as_ref().filter(|other| *other != group) {
                return Err(Error::OtherGroup { cn: cn.name.to_string(), other: other.clone() });
            }
            // Who drains it by hand says when it works again; who took it off the list has put it back.
            if !kept.remove_when_empty {
                (cn.state, cn.drain) = (kept.state, kept.drain);
            }
        }
        let cn = Arc::new(cn);
        self.cns.insert(cn.name.clone(), Arc::clone(&cn));
        self.put(&Object::Cn(cn));
        Ok(())
    }

    fn take_out(&mut self, cn: &Arc<Cn>, sessions: u32) {
        if sessions == 0 {
            let key = Object::Cn(Arc::clone(cn)).key();
            self.cns.remove(&cn.name);
            self.edit.delete(key.clone());
            self.changes.push(Change { object: key, what: What::Removed });
            return;
        }
        let leaving = Cn {
            state: CnState::Draining,
            remove_when_empty: true,
            drain: Some(cn.drain.unwrap_or_default()),
            ..cn.as_ref().clone()
        };
        let leaving = Arc::new(leaving);
        self.cns.insert(cn.name.clone(), Arc::clone(&leaving));
        self.put_as(&Object::Cn(leaving), What::Draining);
    }

    /// Whether what will be goes together.
    fn check(&self) -> Result<(), Error> {
        let mut addresses: HashMap<String, &CnId> = HashMap::new();
        for cn in self.cns.values() {
            if let Some(name) = &cn.group {
                let group = self.groups.get(name).or_else(|| self.view.snapshot.group(name));
                check_labels(&cn.name, &cn.own_labels, group.map(Arc::as_ref))?;
            }
            if let Some(other) = addresses.insert(cn.address.to_ascii_lowercase(), &cn.name) {
                debug_assert!(same_address(&cn.address, &self.cns[other].address));
                return Err(Error::AddressInUse {
                    cn: cn.name.to_string(),
                    address: cn.address.clone(),
                    other: other.to_string(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
