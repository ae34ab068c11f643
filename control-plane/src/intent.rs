//! Changes of intent, one object at a time: what is allowed, and what is then to be written. Pure.
//!
//! Must not know: tonic, stores; what several objects at once are checked by is in [`crate::apply`].

use crate::cluster::View;
use crate::edit::Edit;
use crate::error::{Error, Kind};
use shunt_proto::cn::{Cn, CnGroup, CnId, CnState, Drain};
use shunt_proto::label::{Labels, MAX_LABELS};
use shunt_proto::snapshot::{Object, RoutingSnapshot};
use shunt_proto::tenant::Tenant;
use shunt_proto::wire::{Invalid, Policy};
use std::sync::Arc;

/// What a caller must have seen of an object to change it; empty: nothing.
pub(crate) type Etag = str;

/// The etag of what is kept under `key`; empty: nothing is.
pub(crate) fn etag(snapshot: &RoutingSnapshot, key: &str) -> String {
    snapshot.entry(key).map(|entry| entry.mod_revision.to_string()).unwrap_or_default()
}

/// Whether `given` is the etag of `key`, where one was given at all.
pub(crate) fn check_etag(view: &View, kind: Kind, name: &str, key: &str, given: &Etag) -> Result<(), Error> {
    if given.is_empty() || given == etag(&view.snapshot, key) {
        Ok(())
    } else {
        Err(Error::Stale(kind, name.to_owned()))
    }
}

/// The CN of that name as it is kept.
pub(crate) fn cn<'a>(snapshot: &'a RoutingSnapshot, name: &str) -> Result<&'a Arc<Cn>, Error> {
    match snapshot.entry(&format!("cn/{name}")).map(|entry| &entry.object) {
        Some(Object::Cn(cn)) => Ok(cn),
        _ => Err(Error::NotFound(Kind::Cn, name.to_owned())),
    }
}

/// The group of that name.
pub(crate) fn group<'a>(snapshot: &'a RoutingSnapshot, name: &str) -> Result<&'a Arc<CnGroup>, Error> {
    snapshot.group(name).ok_or_else(|| Error::NotFound(Kind::Group, name.to_owned()))
}

/// The tenant of that name, where it was declared.
pub(crate) fn tenant<'a>(snapshot: &'a RoutingSnapshot, name: &str) -> Result<&'a Arc<Tenant>, Error> {
    match snapshot.entry(&format!("tenant/{name}")).map(|entry| &entry.object) {
        Some(Object::Tenant(tenant)) => Ok(tenant),
        _ => Err(Error::NotFound(Kind::Tenant, name.to_owned())),
    }
}

/// The CNs of a group.
pub(crate) fn members<'a>(
    snapshot: &'a RoutingSnapshot,
    group: &'a str,
) -> impl Iterator<Item = &'a Arc<Cn>> {
    snapshot.cns().map(|routed| &routed.cn).filter(move |cn| cn.group.as_deref() == Some(group))
}

/// Refuses names that exist.
pub(crate) fn absent(snapshot: &RoutingSnapshot, kind: Kind, name: &str, key: &str) -> Result<(), Error> {
    match snapshot.entry(key) {
        Some(_) => Err(Error::AlreadyExists(kind, name.to_owned())),
        None => Ok(()),
    }
}

/// Refuses names that do not exist. What is stored and cannot be read exists: it can be deleted.
fn there(view: &View, kind: Kind, name: &str, key: &str) -> Result<(), Error> {
    match view.mod_revision(key) {
        0 => Err(Error::NotFound(kind, name.to_owned())),
        _ => Ok(()),
    }
}

/// Whether `cn` may be written beside what there is.
pub(crate) fn check_cn(snapshot: &RoutingSnapshot, cn: &Cn) -> Result<(), Error> {
    let group = match &cn.group {
        Some(name) => Some(
            snapshot
                .group(name)
                .ok_or_else(|| Error::NoGroup { cn: cn.name.to_string(), group: name.clone() })?,
        ),
        None => None,
    };
    check_labels(&cn.name, &cn.own_labels, group.map(Arc::as_ref))?;
    let same = |other: &&Arc<Cn>| other.name != cn.name && same_address(&other.address, &cn.address);
    match snapshot.cns().map(|routed| &routed.cn).find(same) {
        Some(other) => Err(Error::AddressInUse {
            cn: cn.name.to_string(),
            address: cn.address.clone(),
            other: other.name.to_string(),
        }),
        None => Ok(()),
    }
}

/// Addresses are names of hosts, and those do not know case.
pub(crate) fn same_address(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// Whether a CN's own labels go together with those of its group.
pub(crate) fn check_labels(cn: &CnId, own: &Labels, group: Option<&CnGroup>) -> Result<(), Error> {
    let Some(group) = group else { return Ok(()) };
    let all = group.labels.overlaid(own);
    if all.keys().count() > MAX_LABELS {
        let problem = format!("CN {cn} would carry more than {MAX_LABELS} labels, its group's included");
        return Err(Invalid::new("cn.own_labels", problem).into());
    }
    Ok(())
}

/// Whether `group` may be written beside what there is.
pub(crate) fn check_group(snapshot: &RoutingSnapshot, group: &CnGroup) -> Result<(), Error> {
    for cn in members(snapshot, &group.name) {
        check_labels(&cn.name, &cn.own_labels, Some(group))?;
    }
    Ok(())
}

/// Label keys that drivers send in connection attributes on their own: nothing may be asked for by them.
pub(crate) fn is_reserved(key: &str) -> bool {
    key.starts_with('_') || matches!(key, "program_name" | "os_user" | "os_sudouser")
}

/// Whether `tenant` may be written.
pub(crate) fn check_tenant(tenant: &Tenant) -> Result<(), Error> {
    match tenant.default_labels.keys().find(|key| is_reserved(key)) {
        Some(key) => {
            let problem = format!("label key {key:?} is reserved");
            Err(Invalid::new("tenant.default_labels", problem).into())
        }
        None => Ok(()),
    }
}

/// Writes `object` where it differs from what is kept.
pub(crate) fn put_changed(view: &View, edit: &mut Edit, object: &Object) -> bool {
    let kept = view.snapshot.entry(&object.key()).map(|entry| &entry.object);
    // The default policy is what holds without one: written all the same, so that it is there to be read.
    let changed = kept != Some(object);
    if changed {
        edit.put(object);
    }
    changed
}

/// The edit that writes `cn` anew.
pub(crate) fn create_cn(view: &View, cn: Cn) -> Result<Edit, Error> {
    let object = Object::Cn(Arc::new(cn.clone()));
    absent(&view.snapshot, Kind::Cn, cn.name.as_str(), &object.key())?;
    check_cn(&view.snapshot, &cn)?;
    let mut edit = Edit::new();
    edit.put(&object);
    Ok(edit)
}

/// The edit that makes `change` of a CN.
pub(crate) fn update_cn(
    view: &View,
    name: &str,
    etag: &Etag,
    change: impl Fn(&mut Cn) -> Result<(), Error>,
) -> Result<Edit, Error> {
    let mut cn = cn(&view.snapshot, name)?.as_ref().clone();
    check_etag(view, Kind::Cn, name, &format!("cn/{name}"), etag)?;
    change(&mut cn)?;
    check_cn(&view.snapshot, &cn)?;
    let mut edit = Edit::new();
    put_changed(view, &mut edit, &Object::Cn(Arc::new(cn)));
    Ok(edit)
}

/// The edit after which a CN is emptied. One that is empty by a drain already stays that.
pub(crate) fn drain_cn(view: &View, name: &str, drain: Drain) -> Result<Edit, Error> {
    update_cn(view, name, "", |cn| {
        if cn.state != CnState::Drained {
            cn.state = CnState::Draining;
            cn.drain = Some(drain);
        }
        Ok(())
    })
}

/// The edit after which a CN takes sessions again.
pub(crate) fn undrain_cn(view: &View, name: &str) -> Result<Edit, Error> {
    update_cn(view, name, "", |cn| {
        if matches!(cn.state, CnState::Draining | CnState::Drained) {
            cn.state = CnState::Working;
        }
        cn.drain = None;
        // Who takes it back keeps it.
        cn.remove_when_empty = false;
        Ok(())
    })
}

/// The edit that deletes a CN that has `sessions`.
pub(crate) fn delete_cn(
    view: &View,
    name: &str,
    etag: &Etag,
    force: bool,
    sessions: u64,
) -> Result<Edit, Error> {
    there(view, Kind::Cn, name, &format!("cn/{name}"))?;
    check_etag(view, Kind::Cn, name, &format!("cn/{name}"), etag)?;
    if sessions > 0 && !force {
        return Err(Error::HasSessions { cn: name.to_owned(), sessions });
    }
    let mut edit = Edit::new();
    edit.delete(format!("cn/{name}"));
    Ok(edit)
}

/// The edit that writes `group` anew.
pub(crate) fn create_group(view: &View, group: CnGroup) -> Result<Edit, Error> {
    let object = Object::Group(Arc::new(group.clone()));
    absent(&view.snapshot, Kind::Group, &group.name, &object.key())?;
    check_group(&view.snapshot, &group)?;
    let mut edit = Edit::new();
    edit.put(&object);
    Ok(edit)
}

/// The edit that makes `change` of a group.
pub(crate) fn update_group(
    view: &View,
    name: &str,
    etag: &Etag,
    change: impl Fn(&mut CnGroup) -> Result<(), Error>,
) -> Result<Edit, Error> {
    let mut group = group(&view.snapshot, name)?.as_ref().clone();
    check_etag(view, Kind::Group, name, &format!("group/{name}"), etag)?;
    change(&mut group)?;
    check_group(&view.snapshot, &group)?;
    let mut edit = Edit::new();
    put_changed(view, &mut edit, &Object::Group(Arc::new(group)));
    Ok(edit)
}

/// The edit that deletes a group without CNs.
pub(crate) fn delete_group(view: &View, name: &str, etag: &Etag) -> Result<Edit, Error> {
    there(view, Kind::Group, name, &format!("group/{name}"))?;
    check_etag(view, Kind::Group, name, &format!("group/{name}"), etag)?;
    let cns: Vec<&str> = members(&view.snapshot, name).map(|cn| cn.name.as_str()).collect();
    if !cns.is_empty() {
        return Err(Error::HasCns { group: name.to_owned(), cns: some(&cns) });
    }
    let mut edit = Edit::new();
    edit.delete(format!("group/{name}"));
    Ok(edit)
}

/// The edit that writes `tenant` anew.
pub(crate) fn create_tenant(view: &View, tenant: Tenant) -> Result<Edit, Error> {
    let object = Object::Tenant(Arc::new(tenant.clone()));
    absent(&view.snapshot, Kind::Tenant, &tenant.name, &object.key())?;
    check_tenant(&tenant)?;
    let mut edit = Edit::new();
    edit.put(&object);
    Ok(edit)
}

/// The edit that makes `change` of a tenant.
pub(crate) fn update_tenant(
    view: &View,
    name: &str,
    etag: &Etag,
    change: impl Fn(&mut Tenant) -> Result<(), Error>,
) -> Result<Edit, Error> {
    let mut tenant = tenant(&view.snapshot, name)?.as_ref().clone();
    check_etag(view, Kind::Tenant, name, &format!("tenant/{name}"), etag)?;
    change(&mut tenant)?;
    check_tenant(&tenant)?;
    let mut edit = Edit::new();
    put_changed(view, &mut edit, &Object::Tenant(Arc::new(tenant)));
    Ok(edit)
}

/// The edit that deletes a tenant: from then on it is one that was never declared.
pub(crate) fn delete_tenant(view: &View, name: &str, etag: &Etag) -> Result<Edit, Error> {
    there(view, Kind::Tenant, name, &format!("tenant/{name}"))?;
    check_etag(view, Kind::Tenant, name, &format!("tenant/{name}"), etag)?;
    let mut edit = Edit::new();
    edit.delete(format!("tenant/{name}"));
    Ok(edit)
}

/// The edit that makes `change` of the policy.
pub(crate) fn update_policy(
    view: &View,
    etag: &Etag,
    change: impl Fn(&Policy) -> Result<Policy, Error>,
) -> Result<Edit, Error> {
    check_etag(view, Kind::Policy, "policy", "policy", etag)?;
    let mut edit = Edit::new();
    put_changed(view, &mut edit, &Object::Policy(change(&view.snapshot.policy())?));
    Ok(edit)
}

/// A list of names for a message, with an end.
pub(crate) fn some(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    match names.len() {
        n if n > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    }
}
