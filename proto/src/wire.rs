//! Between generated messages and domain types. To a message it cannot fail; from one it fails with the field's name.
//!
//! Generated types stop here: behind this file both planes work with domain types.

use crate::cn::{Cn, CnGroup, CnId, CnState, DEFAULT_WEIGHT, Drain, Health, check_name};
use crate::label::{Labels, TENANT_KEY};
use crate::pb;
use crate::snapshot::{Delta, Entry, Object, Version};
use crate::tenant::{OnNoMatch, Tenant};
use ipnet::IpNet;
use prost_types::value::Kind;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A field of a message that says something it must not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field's path: `cn.own_labels`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Invalid {
    /// A problem with a field.
    #[must_use]
    pub fn new(field: &str, problem: impl ToString) -> Self {
        Self { field: field.to_owned(), problem: problem.to_string() }
    }
}

/// What holds for the whole cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Bound of moves, for each data plane.
    pub moves_per_second: u32,
    /// The part of a share by which a CN may differ from it.
    pub tolerance: f64,
    /// How long a session idles before what is not known of it is asked.
    pub settle_after: Duration,
    /// How long a client may be held in a move.
    pub freeze_deadline: Duration,
    /// How long the last result's leftovers are kept.
    pub last_result_grace: Duration,
    /// How long a session waits for a CN when all of its match are gone.
    pub wait_for_cn: Duration,
}

/// Tolerance is finite: [`Policy`] is only made by checks that refuse NaN.
impl Eq for Policy {}

impl Default for Policy {
    fn default() -> Self {
        Self {
            moves_per_second: 200,
            tolerance: 0.1,
            settle_after: Duration::from_millis(50),
            freeze_deadline: Duration::from_millis(200),
            last_result_grace: Duration::from_secs(1),
            wait_for_cn: Duration::from_secs(30),
        }
    }
}

/// A field's map of lists of strings.
type LabelMap = BTreeMap<String, prost_types::ListValue>;

/// Labels as a message has them.
#[must_use]
pub fn labels_to_pb(labels: &Labels) -> LabelMap {
    let text = |value: &String| prost_types::Value { kind: Some(Kind::StringValue(value.clone())) };
    labels
        .iter()
        .map(|(key, values)| {
            (key.to_owned(), prost_types::ListValue { values: values.iter().map(text).collect() })
        })
        .collect()
}

/// Labels out of a message's field. A key with an empty list stays, without a value.
///
/// # Errors
/// [`Invalid`] with `field`.
pub fn labels_from_pb(field: &str, map: &LabelMap) -> Result<Labels, Invalid> {
    let mut labels = Labels::new();
    for (key, list) in map {
        labels.declare(key).map_err(|problem| Invalid::new(field, problem))?;
        for value in &list.values {
            let Some(Kind::StringValue(value)) = &value.kind else {
                return Err(Invalid::new(field, format!("a value of label {key} is not a string")));
            };
            labels.add(key, value).map_err(|problem| Invalid::new(field, problem))?;
        }
    }
    Ok(labels)
}

/// Labels that must each have a value: those of groups, tenants and requests.
fn full_labels_from_pb(field: &str, map: &LabelMap) -> Result<Labels, Invalid> {
    let labels = labels_from_pb(field, map)?;
    if let Some((key, _)) = labels.iter().find(|(_, values)| values.is_empty()) {
        return Err(Invalid::new(field, format!("label {key} has no value")));
    }
    Ok(labels)
}

/// Labels that a request asks for.
///
/// # Errors
/// [`Invalid`] with the field `labels`.
pub fn asked_labels_from_pb(map: &LabelMap) -> Result<Labels, Invalid> {
    full_labels_from_pb("labels", map)
}

fn name(field: &str, name: &str) -> Result<String, Invalid> {
    check_name(name).map_err(|problem| Invalid::new(field, problem))?;
    Ok(name.to_owned())
}

/// Whether `address` is `host:port`, with a port that can be connected to.
///
/// # Errors
/// [`Invalid`] with `field`.
pub fn check_address(field: &str, address: &str) -> Result<(), Invalid> {
    let problem = || Invalid::new(field, format!("{address:?} is not host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(problem)?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let blank = host.is_empty() || host.len() > 255 || host.contains(char::is_whitespace) || bare_v6;
    match port.parse::<u16>() {
        Ok(port) if port > 0 && !blank => Ok(()),
        _ => Err(problem()),
    }
}

impl From<CnState> for pb::cn::State {
    fn from(state: CnState) -> Self {
        match state {
            CnState::Pending => Self::Pending,
            CnState::Working => Self::Working,
            CnState::Draining => Self::Draining,
            CnState::Drained => Self::Drained,
        }
    }
}

impl From<Health> for pb::cn::Health {
    fn from(health: Health) -> Self {
        match health {
            Health::Unknown => Self::Unknown,
            Health::Up => Self::Up,
            Health::Down => Self::Down,
        }
    }
}

impl From<pb::cn::Health> for Health {
    fn from(health: pb::cn::Health) -> Self {
        match health {
            pb::cn::Health::Unknown => Self::Unknown,
            pb::cn::Health::Up => Self::Up,
            pb::cn::Health::Down => Self::Down,
        }
    }
}

/// As stored: without what is output only.
impl From<&Cn> for pb::Cn {
    fn from(cn: &Cn) -> Self {
        Self {
            name: cn.name.to_string(),
            address: cn.address.clone(),
            group: cn.group.clone().unwrap_or_default(),
            own_labels: labels_to_pb(&cn.own_labels),
            zone: cn.zone.clone(),
            weight: cn.weight,
            state: pb::cn::State::from(cn.state).into(),
            remove_when_empty: cn.remove_when_empty,
            drain: cn.drain.map(Into::into),
            ..Self::default()
        }
    }
}

impl TryFrom<&pb::Cn> for Cn {
    type Error = Invalid;

    fn try_from(cn: &pb::Cn) -> Result<Self, Invalid> {
        check_address("cn.address", &cn.address)?;
        let group = if cn.group.is_empty() { None } else { Some(name("cn.group", &cn.group)?) };
        if cn.zone.len() > 63 || cn.zone.contains(char::is_control) {
            return Err(Invalid::new("cn.zone", "is longer than 63 bytes or not printable"));
        }
        if cn.weight > 10_000 {
            return Err(Invalid::new("cn.weight", format!("{} is over 10000", cn.weight)));
        }
        let state = match pb::cn::State::try_from(cn.state) {
            Ok(pb::cn::State::Unspecified | pb::cn::State::Working) => CnState::Working,
            Ok(pb::cn::State::Pending) => CnState::Pending,
            Ok(pb::cn::State::Draining) => CnState::Draining,
            Ok(pb::cn::State::Drained) => CnState::Drained,
            Err(_) => return Err(Invalid::new("cn.state", format!("{} is unknown", cn.state))),
        };
        Ok(Self {
            name: CnId::new(&cn.name).map_err(|problem| Invalid::new("cn.name", problem))?,
            address: cn.address.clone(),
            group,
            own_labels: labels_from_pb("cn.own_labels", &cn.own_labels)?,
            zone: cn.zone.clone(),
            weight: if cn.weight == 0 { DEFAULT_WEIGHT } else { cn.weight },
            state,
            remove_when_empty: cn.remove_when_empty,
            drain: cn.drain.as_ref().map(Drain::try_from).transpose()?,
        })
    }
}

/// The longest that a drain may take to be given up, or forced.
const LONGEST_DRAIN: Duration = Duration::from_secs(30 * 24 * 3600);

impl From<Drain> for pb::cn::Drain {
    fn from(drain: Drain) -> Self {
        let on_timeout =
            if drain.force { pb::cn::drain::OnTimeout::Force } else { pb::cn::drain::OnTimeout::Hold };
        Self {
            timeout: drain.timeout.and_then(|timeout| prost_types::Duration::try_from(timeout).ok()),
            on_timeout: on_timeout.into(),
        }
    }
}

impl TryFrom<&pb::cn::Drain> for Drain {
    type Error = Invalid;

    fn try_from(drain: &pb::cn::Drain) -> Result<Self, Invalid> {
        let timeout = drain.timeout.map(Duration::try_from).transpose();
        let timeout = timeout.ok().filter(|timeout| timeout.is_none_or(|timeout| timeout <= LONGEST_DRAIN));
        let timeout =
            timeout.ok_or_else(|| Invalid::new("cn.drain.timeout", "is not between 0 and 30 days"))?;
        let force = match pb::cn::drain::OnTimeout::try_from(drain.on_timeout) {
            Ok(pb::cn::drain::OnTimeout::Hold) => false,
            Ok(pb::cn::drain::OnTimeout::Force) => true,
            Err(_) => return Err(Invalid::new("cn.drain.on_timeout", "is unknown")),
        };
        if force && timeout.is_none() {
            return Err(Invalid::new(
                "cn.drain.timeout",
                "is needed where what is left then is to be closed",
            ));
        }
        Ok(Self { timeout, force })
    }
}

/// As stored: without what is output only.
impl From<&CnGroup> for pb::CnGroup {
    fn from(group: &CnGroup) -> Self {
        Self {
            name: group.name.clone(),
            labels: labels_to_pb(&group.labels),
            tenant: group.tenant.clone().unwrap_or_default(),
            replicas: group.replicas,
            ..Self::default()
        }
    }
}

impl TryFrom<&pb::CnGroup> for CnGroup {
    type Error = Invalid;

    fn try_from(group: &pb::CnGroup) -> Result<Self, Invalid> {
        if group.tenant.len() > 63 || group.tenant.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Invalid::new("group.tenant", "is longer than 63 bytes or not printable"));
        }
        Ok(Self {
            name: name("group.name", &group.name)?,
            labels: full_labels_from_pb("group.labels", &group.labels)?,
            tenant: Some(group.tenant.clone()).filter(|tenant| !tenant.is_empty()),
            replicas: group.replicas,
        })
    }
}

/// As stored: without what is output only.
impl From<&Tenant> for pb::Tenant {
    fn from(tenant: &Tenant) -> Self {
        Self {
            name: tenant.name.clone(),
            default_labels: labels_to_pb(&tenant.default_labels),
            allow: tenant.allow.iter().map(ToString::to_string).collect(),
            max_sessions: tenant.max_sessions,
            on_no_match: match tenant.on_no_match {
                OnNoMatch::Unlabelled => pb::tenant::OnNoMatch::Unlabelled,
                OnNoMatch::Reject => pb::tenant::OnNoMatch::Reject,
            }
            .into(),
            suspended: tenant.suspended,
            ..Self::default()
        }
    }
}

impl TryFrom<&pb::Tenant> for Tenant {
    type Error = Invalid;

    fn try_from(tenant: &pb::Tenant) -> Result<Self, Invalid> {
        let on_no_match = match pb::tenant::OnNoMatch::try_from(tenant.on_no_match) {
            Ok(pb::tenant::OnNoMatch::Unlabelled) => OnNoMatch::Unlabelled,
            Ok(pb::tenant::OnNoMatch::Reject) => OnNoMatch::Reject,
            Err(_) => return Err(Invalid::new("tenant.on_no_match", "is unknown")),
        };
        Ok(Self {
            name: name("tenant.name", &tenant.name)?,
            default_labels: full_labels_from_pb("tenant.default_labels", &tenant.default_labels)?,
            allow: tenant.allow.iter().map(|net| network(net)).collect::<Result<_, _>>()?,
            max_sessions: tenant.max_sessions,
            on_no_match,
            suspended: tenant.suspended,
        })
    }
}

/// A network, or a single address, as `allow` lists them.
///
/// # Errors
/// [`Invalid`] with the field `tenant.allow`.
pub fn network(text: &str) -> Result<IpNet, Invalid> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .or_else(|_| single())
        .map_err(|_| Invalid::new("tenant.allow", format!("{text:?} is not an address or a network")))
}

impl From<&Policy> for pb::Policy {
    fn from(policy: &Policy) -> Self {
        let duration = |d: Duration| prost_types::Duration::try_from(d).ok();
        Self {
            rebalance: Some(pb::policy::Rebalance {
                moves_per_second: policy.moves_per_second,
                tolerance: policy.tolerance,
            }),
            migrate: Some(pb::policy::Migrate {
                settle_after: duration(policy.settle_after),
                freeze_deadline: duration(policy.freeze_deadline),
                last_result_grace: duration(policy.last_result_grace),
                wait_for_cn: duration(policy.wait_for_cn),
            }),
            etag: String::new(),
        }
    }
}

impl TryFrom<&pb::Policy> for Policy {
    type Error = Invalid;

    /// Absent fields have their defaults.
    fn try_from(policy: &pb::Policy) -> Result<Self, Invalid> {
        let default = Self::default();
        let migrate = policy.migrate.unwrap_or_default();
        let (moves_per_second, tolerance) = match &policy.rebalance {
            Some(pb::policy::Rebalance { moves_per_second: 0, tolerance }) => {
                (default.moves_per_second, *tolerance)
            }
            Some(rebalance) => (rebalance.moves_per_second, rebalance.tolerance),
            None => (default.moves_per_second, default.tolerance),
        };
        if !(1..=100_000).contains(&moves_per_second) {
            return Err(Invalid::new(
                "policy.rebalance.moves_per_second",
                format!("{moves_per_second} is not 1 to 100000"),
            ));
        }
        if !(0.0..=1.0).contains(&tolerance) {
            return Err(Invalid::new(
                "policy.rebalance.tolerance",
                format!("{tolerance} is not between 0 and 1"),
            ));
        }
        Ok(Self {
            moves_per_second,
            tolerance,
            settle_after: duration("settle_after", migrate.settle_after, default.settle_after)?,
            freeze_deadline: duration("freeze_deadline", migrate.freeze_deadline, default.freeze_deadline)?,
            last_result_grace: duration(
                "last_result_grace",
                migrate.last_result_grace,
                default.last_result_grace,
            )?,
            wait_for_cn: duration("wait_for_cn", migrate.wait_for_cn, default.wait_for_cn)?,
        })
    }
}

/// A duration of the policy: at most an hour.
fn duration(
    field: &str,
    value: Option<prost_types::Duration>,
    default: Duration,
) -> Result<Duration, Invalid> {
    let Some(value) = value else { return Ok(default) };
    match Duration::try_from(value) {
        Ok(duration) if duration <= Duration::from_secs(3600) => Ok(duration),
        _ => Err(Invalid::new(&format!("policy.migrate.{field}"), "is not between 0 and 1 h")),
    }
}

impl From<&Version> for pb::Version {
    fn from(version: &Version) -> Self {
        Self { store_id: version.store_id.clone(), revision: version.revision, digest: version.digest }
    }
}

impl From<pb::Version> for Version {
    fn from(version: pb::Version) -> Self {
        Self { store_id: version.store_id, revision: version.revision, digest: version.digest }
    }
}

impl From<&Entry> for pb::Entry {
    fn from(entry: &Entry) -> Self {
        use pb::entry::Value;
        let value = match &entry.object {
            Object::Cn(cn) => Value::Cn(cn.as_ref().into()),
            Object::Group(group) => Value::Group(group.as_ref().into()),
            Object::Tenant(tenant) => Value::Tenant(tenant.as_ref().into()),
            Object::Policy(policy) => Value::Policy(policy.into()),
        };
        Self {
            key: entry.object.key(),
            mod_revision: entry.mod_revision,
            hash: entry.hash,
            value: Some(value),
        }
    }
}

impl TryFrom<&pb::Entry> for Entry {
    type Error = Invalid;

    fn try_from(entry: &pb::Entry) -> Result<Self, Invalid> {
        use pb::entry::Value;
        let object = match &entry.value {
            Some(Value::Cn(cn)) => Object::Cn(Arc::new(cn.try_into()?)),
            Some(Value::Group(group)) => Object::Group(Arc::new(group.try_into()?)),
            Some(Value::Tenant(tenant)) => Object::Tenant(Arc::new(tenant.try_into()?)),
            Some(Value::Policy(policy)) => Object::Policy(policy.try_into()?),
            None => return Err(Invalid::new("entry.value", format!("{} is of an unknown kind", entry.key))),
        };
        if object.key() != entry.key {
            return Err(Invalid::new(
                "entry.key",
                format!("{:?} is not the key of {}", entry.key, object.key()),
            ));
        }
        Ok(Self { object, mod_revision: entry.mod_revision, hash: entry.hash })
    }
}

impl From<&Delta> for pb::Delta {
    fn from(delta: &Delta) -> Self {
        Self {
            from: Some((&delta.from).into()),
            to: Some((&delta.to).into()),
            changed: delta.changed.iter().map(Into::into).collect(),
            removed: delta.removed.clone(),
        }
    }
}

impl TryFrom<pb::Delta> for Delta {
    type Error = Invalid;

    fn try_from(delta: pb::Delta) -> Result<Self, Invalid> {
        let version = |field: &str, version: Option<pb::Version>| {
            version.map(Version::from).ok_or_else(|| Invalid::new(field, "is absent"))
        };
        Ok(Self {
            from: version("delta.from", delta.from)?,
            to: version("delta.to", delta.to)?,
            changed: delta.changed.iter().map(Entry::try_from).collect::<Result<_, _>>()?,
            removed: delta.removed,
        })
    }
}

/// The tenant of a CN shows as its label `tenant` in what people see.
#[must_use]
pub fn shown_labels(labels: &Labels, tenant: Option<&str>) -> LabelMap {
    let mut map = labels_to_pb(labels);
    if let Some(tenant) = tenant {
        let value = prost_types::Value { kind: Some(Kind::StringValue(tenant.to_owned())) };
        map.insert(TENANT_KEY.to_owned(), prost_types::ListValue { values: vec![value] });
    }
    map
}
