//! The keys of the store and what is written under them: the API's JSON.
//!
//! | key | value |
//! |---|---|
//! | `meta/store` | the store's id and the schema of its keys |
//! | `meta/fence` | one random word, new with each write of a replica: what one replica validated, no other changed |
//! | `cn/<name>`, `group/<name>`, `tenant/<name>`, `policy` | intent |
//! | `dp/<id>` | a data plane that may hold sessions, with its block of session ids |
//! | `replica/<id>` | a replica, under its lease |
//! | `leader` | which replica leads, under that replica's lease |
//! | `report/<replica>/<data plane>/<n>` | what a data plane reported to that replica, under the replica's lease |

use serde::{Deserialize, Serialize};
use shunt_proto::snapshot::{Entry, Object, entry_hash};
use shunt_proto::{json, pb};
use std::sync::Arc;

/// Says which store it is.
pub(crate) const META_STORE: &str = "meta/store";
/// Compared and renewed by each write.
pub(crate) const META_FENCE: &str = "meta/fence";
/// The one policy.
pub(crate) const POLICY: &str = "policy";
const DATA_PLANE: &str = "dp/";
/// Which replica leads.
pub(crate) const LEADER: &str = "leader";
const REPLICA: &str = "replica/";
const REPORT: &str = "report/";

/// The schema that this release writes.
pub(crate) const SCHEMA: u32 = 1;

/// What `meta/store` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreMeta {
    /// Random, made at the store's first start.
    pub(crate) id: String,
    /// What the keys mean.
    pub(crate) schema: u32,
}

/// A data plane as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptPlane {
    /// First of its block of session ids.
    pub(crate) first_session_id: u32,
    /// Its release.
    pub(crate) version: String,
}

/// Who leads, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leader {
    pub(crate) replica: String,
    /// It leads as long as this lives.
    pub(crate) lease: i64,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Of the routing state.
    Routing(Entry),
    /// `dp/<id>`, without the prefix.
    Plane(String, KeptPlane),
    Store(StoreMeta),
    Fence,
    Replica(Box<pb::Replica>),
    Leader(Leader),
    /// Part of what a data plane reported.
    Report(Box<pb::KeptReport>),
    /// Of another release, or not ours.
    Other,
}

/// Why a stored value is not what its key says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("read {key}: {problem}")]
pub(crate) struct BadValue {
    pub(crate) key: String,
    pub(crate) problem: String,
}

/// The key of a data plane.
pub(crate) fn plane_key(id: &str) -> String {
    format!("{DATA_PLANE}{id}")
}

/// The key of a replica.
pub(crate) fn replica_key(id: &str) -> String {
    format!("{REPLICA}{id}")
}

/// The key of a part of what a data plane reported to a replica.
pub(crate) fn report_key(replica: &str, plane: &str, part: usize) -> String {
    format!("{REPORT}{replica}/{plane}/{part}")
}

/// What all keys of what is reported to a replica begin with.
pub(crate) fn reports_of(replica: &str) -> String {
    format!("{REPORT}{replica}/")
}

/// Whether what is under `key` is no intent: it comes and goes with the processes, and nobody routes by it.
pub(crate) fn is_passing(key: &str) -> bool {
    key == LEADER || key.starts_with(REPLICA) || key.starts_with(REPORT)
}

/// What `value` under `key` says.
pub(crate) fn read(key: &str, mod_revision: u64, value: &[u8]) -> Result<Value, BadValue> {
    let bad = |problem: String| BadValue { key: key.to_owned(), problem };
    let object = match key.split_once('/') {
        Some(("cn", _)) => Object::Cn(Arc::new(parsed::<pb::Cn, _>(value).map_err(bad)?)),
        Some(("group", _)) => Object::Group(Arc::new(parsed::<pb::CnGroup, _>(value).map_err(bad)?)),
        Some(("tenant", _)) => Object::Tenant(Arc::new(parsed::<pb::Tenant, _>(value).map_err(bad)?)),
        None if key == POLICY => Object::Policy(parsed::<pb::Policy, _>(value).map_err(bad)?),
        Some(("dp", id)) => {
            let plane: pb::DataPlane = json::from_stored(value).map_err(|error| bad(error.to_string()))?;
            let kept = KeptPlane { first_session_id: plane.first_session_id, version: plane.version };
            return Ok(Value::Plane(id.to_owned(), kept));
        }
        None if key == LEADER => {
            return Ok(Value::Leader(serde_json::from_slice(value).map_err(|error| bad(error.to_string()))?));
        }
        Some(("replica", id)) => {
            let replica: pb::Replica = json::from_stored(value).map_err(|error| bad(error.to_string()))?;
            return match replica.id == id {
                true => Ok(Value::Replica(Box::new(replica))),
                false => Err(bad(format!("it holds replica {}", replica.id))),
            };
        }
        Some(("report", of)) => {
            let report: pb::KeptReport = json::from_stored(value).map_err(|error| bad(error.to_string()))?;
            let [_, plane, _] = of.split('/').collect::<Vec<_>>()[..] else {
                return Ok(Value::Other);
            };
            return match report.data_plane == plane {
                true => Ok(Value::Report(Box::new(report))),
                false => Err(bad(format!("it holds a report of {}", report.data_plane))),
            };
        }
        _ if key == META_STORE => {
            let meta = serde_json::from_slice(value).map_err(|error| bad(error.to_string()))?;
            return Ok(Value::Store(meta));
        }
        _ if key == META_FENCE => return Ok(Value::Fence),
        _ => return Ok(Value::Other),
    };
    if object.key() != key {
        return Err(bad(format!("it holds {}", object.key())));
    }
    Ok(Value::Routing(Entry { object, mod_revision, hash: entry_hash(key, mod_revision, value) }))
}

fn parsed<M, T>(value: &[u8]) -> Result<T, String>
where
    M: prost::Message + prost::Name + Default,
    T: for<'a> TryFrom<&'a M, Error = shunt_proto::wire::Invalid>,
{
    let message: M = json::from_stored(value).map_err(|error| error.to_string())?;
    T::try_from(&message).map_err(|error| error.to_string())
}

/// As it is written.
pub(crate) fn written(object: &Object) -> Vec<u8> {
    match object {
        Object::Cn(cn) => json::to_stored(&pb::Cn::from(cn.as_ref())),
        Object::Group(group) => json::to_stored(&pb::CnGroup::from(group.as_ref())),
        Object::Tenant(tenant) => json::to_stored(&pb::Tenant::from(tenant.as_ref())),
        Object::Policy(policy) => json::to_stored(&pb::Policy::from(policy)),
    }
}

/// As it is written.
pub(crate) fn written_plane(id: &str, plane: &KeptPlane) -> Vec<u8> {
    json::to_stored(&pb::DataPlane {
        id: id.to_owned(),
        first_session_id: plane.first_session_id,
        version: plane.version.clone(),
        ..pb::DataPlane::default()
    })
}

/// As it is written.
pub(crate) fn written_leader(leader: &Leader) -> Vec<u8> {
    serde_json::to_vec(leader).expect("two plain fields have a JSON form")
}

/// As it is written.
pub(crate) fn written_store(meta: &StoreMeta) -> Vec<u8> {
    serde_json::to_vec(meta).expect("two plain fields have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_proto::cn::{Cn, CnId, CnState};
    use shunt_proto::label::Labels;

    fn cn() -> Object {
        let mut own_labels = Labels::new();
        own_labels.add("workload", "ap").unwrap();
        own_labels.declare("tier").unwrap();
        Object::Cn(Arc::new(Cn {
            name: CnId::new("cn-1").unwrap(),
            address: "127.0.0.1:13306".into(),
            group: Some("tp".into()),
            own_labels,
            zone: "a".into(),
            weight: 50,
            state: CnState::Draining,
            remove_when_empty: true,
            drain: None,
        }))
    }

    #[test]
    fn what_is_written_reads_as_it_was() {
        let bytes = written(&cn());
        let Value::Routing(entry) = read("cn/cn-1", 7, &bytes).unwrap() else { panic!("not routing") };
        assert_eq!(entry.object, cn());
        assert_eq!(entry.mod_revision, 7);
        let plane = KeptPlane { first_session_id: 1 << 30, version: "0.1.0".into() };
        assert_eq!(read("dp/x", 1, &written_plane("x", &plane)), Ok(Value::Plane("x".into(), plane)));
    }

    #[test]
    fn a_bad_value_is_told_by_its_key() {
        for (key, value) in [
            ("cn/cn-1", &b"{"[..]),
            ("cn/cn-1", b"{\"name\":\"cn-1\"}"),
            ("cn/cn-2", &written(&cn())),
            ("tenant/x", b"\xff\xfe"),
            ("policy", b"[]"),
            ("dp/x", b"1"),
            ("meta/store", b"{}"),
        ] {
            let error = read(key, 1, value).unwrap_err();
            assert_eq!(error.key, key);
        }
    }

    #[test]
    fn keys_of_others_are_left_alone() {
        for key in ["plan/tp", "cns", "policy/x", "", "/", "meta/later"] {
            assert_eq!(read(key, 1, b"?"), Ok(Value::Other), "{key}");
        }
    }
}
