//! Which CNs every data plane is to avoid: those that are down for some. One that failed did so on behalf of a client, and
//! spares the others theirs.
//!
//! Where less than half of a group looks healthy, what was found out is doubted before the fleet: a data plane whose own
//! network is cut says so of everything. What a data plane finds out itself counts for itself all the same.
//!
//! Must not know: streams, the store.

use crate::cluster::ClusterWatch;
use crate::planes::Planes;
use shunt_proto::snapshot::RoutingSnapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long what is heard is gathered: a CN that dies is told of by all data planes at once.
const GATHERED: Duration = Duration::from_millis(20);

/// Keeps `avoided` up until `over`.
pub(crate) async fn run(
    cluster: ClusterWatch,
    planes: Arc<Planes>,
    avoided: watch::Sender<Arc<BTreeSet<String>>>,
    over: CancellationToken,
) -> anyhow::Result<()> {
    let (mut changes, mut snapshots) = (planes.changes(), cluster.snapshots());
    let mut edges = planes.edges();
    loop {
        let now = to_avoid(&snapshots.borrow_and_update(), &planes.down());
        avoided.send_if_modified(|avoided| {
            let is_new = **avoided != now;
            if is_new {
                tracing::info!(cns = ?now, "data planes avoid these");
                *avoided = Arc::new(now);
            }
            is_new
        });
        loop {
            tokio::select! {
                () = over.cancelled() => return Ok(()),
                changed = snapshots.changed() => changed?,
                changed = changes.changed() => changed?,
            }
            let newest = planes.edges();
            if newest != edges || snapshots.has_changed()? {
                edges = newest;
                break;
            }
        }
        tokio::time::sleep(GATHERED).await;
    }
}

/// Those of `down` that are to be avoided.
fn to_avoid(snapshot: &RoutingSnapshot, down: &BTreeSet<String>) -> BTreeSet<String> {
    if down.is_empty() {
        return BTreeSet::new();
    }
    let mut groups: BTreeMap<Option<&str>, (usize, Vec<&str>)> = BTreeMap::new();
    for cn in snapshot.cns() {
        let (all, avoided) = groups.entry(cn.cn.group.as_deref()).or_default();
        *all += 1;
        if down.contains(cn.name().as_str()) {
            avoided.push(cn.name().as_str());
        }
    }
    let trusted = groups.into_values().filter(|(all, avoided)| avoided.len() * 2 <= *all);
    trusted.flat_map(|(_, avoided)| avoided).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_proto::cn::{Cn, CnGroup, CnId, CnState};
    use shunt_proto::label::Labels;
    use shunt_proto::snapshot::{Entry, Object, Version, digest};

    fn snapshot(cns: &[(&str, &str)]) -> RoutingSnapshot {
        let groups: BTreeSet<&str> = cns.iter().map(|(_, group)| *group).collect();
        let entry = |object| Entry { object, mod_revision: 1, hash: 1 };
        let group = |name: &&str| {
            let group = shunt_proto::pb::CnGroup { name: (*name).into(), ..Default::default() };
            entry(Object::Group(Arc::new(CnGroup::try_from(&group).unwrap())))
        };
        let cn = |(name, group): &(&str, &str)| {
            entry(Object::Cn(Arc::new(Cn {
                name: CnId::new(name).unwrap(),
                address: "127.0.0.1:1".into(),
                group: Some((*group).into()),
                own_labels: Labels::new(),
                zone: String::new(),
                weight: 100,
                state: CnState::Working,
                remove_when_empty: false,
                drain: None,
            })))
        };
        let entries: Vec<Entry> = groups.iter().map(group).chain(cns.iter().map(cn)).collect();
        let version = Version { store_id: "s".into(), revision: 1, digest: digest(&entries) };
        RoutingSnapshot::from_entries(version, entries).unwrap()
    }

    #[test]
    fn half_of_a_group_is_believed_and_more_is_not() {
        let fleet = snapshot(&[("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")]);
        for (down, avoided) in [
            (&[][..], &[][..]),
            (&["a1"], &["a1"]),
            (&["a1", "a2"], &[]),
            (&["a1", "a2", "b1"], &["b1"]),
            (&["b1", "b2"], &[]),
            (&["c1"], &[]),
            (&["of another time"], &[]),
        ] {
            let down = down.iter().map(|cn| (*cn).to_owned()).collect();
            let expected: BTreeSet<String> = avoided.iter().map(|cn| (*cn).to_owned()).collect();
            assert_eq!(to_avoid(&fleet, &down), expected, "{down:?}");
        }
    }
}
