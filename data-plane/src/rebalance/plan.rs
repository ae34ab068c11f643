//! What an operator who asks for it is told that would be moved, and why: the same decisions, all CNs filled up.
//!
//! Must not know: how a session moves, the stream to the control plane.

use super::decide::{Fill, Seen, Why, filling, leaving};
use shunt_proto::cn::CnId;
use shunt_proto::pb;
use shunt_proto::snapshot::RoutingSnapshot;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::{mpsc, oneshot};

/// Questions that may wait.
const QUEUE: usize = 16;

/// Parts that are told: an answer stays well below what gRPC takes.
const PARTS: usize = 1000;

/// An operator's question.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Only the plan.
    pub(crate) is_dry_run: bool,
    pub(crate) answer: oneshot::Sender<pb::order::Plan>,
}

/// Asks for a plan, and for it to be carried out.
#[derive(Clone, Debug)]
pub(crate) struct Asks(mpsc::Sender<Asked>);

impl Asks {
    /// And where the questions come out.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (asks, asked) = mpsc::channel(QUEUE);
        (Self(asks), asked)
    }

    /// What would move, and unless it is a dry run, what moves from now on. `None` before there is any routing state.
    pub(crate) async fn rebalance(&self, is_dry_run: bool) -> Option<pb::order::Plan> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Asked { is_dry_run, answer }).await.ok()?;
        answered.await.ok()
    }
}

/// Sessions that go the same way for the same reason.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    sessions: u32,
    pinned: u32,
}

/// What is to move, in parts, and the CNs that are filled by it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    parts: BTreeMap<(String, Option<CnId>, Why), Part>,
    pub(super) filled: BTreeSet<CnId>,
}

/// Plans it for these sessions.
pub(super) fn plan(snapshot: &RoutingSnapshot, is_down: impl Fn(&CnId) -> bool, sessions: &[Seen]) -> Plan {
    let leaving = leaving(snapshot, &is_down, sessions);
    let go = leaving.iter().map(|(id, _)| *id).collect();
    let filling = filling(snapshot, &is_down, sessions, Fill::All, &go);
    let by_id: HashMap<u32, &Seen> = sessions.iter().map(|seen| (seen.id, seen)).collect();
    let mut plan = Plan::default();
    let leaving = leaving.into_iter().map(|(id, why)| (id, None, why));
    for (id, to, why) in leaving.chain(filling.into_iter().map(|(id, to, why)| (id, Some(to), why))) {
        plan.filled.extend(to.clone());
        let Some(seen) = by_id.get(&id) else { continue };
        let part = plan.parts.entry((seen.cn.clone(), to, why)).or_default();
        part.sessions += 1;
        part.pinned += u32::from(seen.is_pinned);
    }
    plan
}

impl Plan {
    /// As it is told: the largest parts, and how many sessions are in the others.
    pub(super) fn to_pb(&self, data_plane: &str) -> pb::order::Plan {
        let mut parts: Vec<pb::rebalance_plan::Part> = self
            .parts
            .iter()
            .map(|((from, to, why), part)| pb::rebalance_plan::Part {
                data_plane: data_plane.to_owned(),
                from: from.clone(),
                to: to.as_ref().map_or_else(String::new, ToString::to_string),
                sessions: part.sessions,
                pinned: part.pinned,
                why: why.to_string(),
            })
            .collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.sessions));
        let rest = parts.split_off(parts.len().min(PARTS));
        pb::order::Plan { parts, left_out: rest.iter().map(|part| part.sessions).sum() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{UP, session, snapshot};
    use super::*;
    use shunt_proto::cn::CnState::{Draining, Working};

    #[test]
    fn a_plan_says_how_many_go_where_and_why() {
        let cns = [
            ("one", "w=a", Working),
            ("two", "w=a", Working),
            ("gone", "w=a", Draining),
            ("bare", "", Working),
            ("other", "w=b", Working),
        ];
        let mut sessions: Vec<Seen> = (0..12).map(|n| session(n, "w=a", "one", true)).collect();
        sessions.extend((12..14).map(|n| session(n, "w=a", "two", true)));
        sessions.extend((14..17).map(|n| session(n, "w=a", "gone", n != 16)));
        sessions.push(session(17, "w=a", "bare", true));
        sessions.push(session(18, "w=a", "other", true));
        sessions[16].is_pinned = true;
        let plan = plan(&snapshot(&cns), UP, &sessions);
        let told: Vec<String> = plan
            .to_pb("dp")
            .parts
            .iter()
            .map(|part| {
                assert_eq!(part.data_plane, "dp");
                let pb::rebalance_plan::Part { from, to, sessions, pinned, why, .. } = part;
                format!("{sessions} ({pinned} pinned) {from}>{to}: {why}")
            })
            .collect();
        assert_eq!(
            told,
            [
                "5 (0 pinned) one>two: the other CN has 2 sessions, and its share is 7",
                "3 (1 pinned) gone>: the CN is draining",
                "1 (0 pinned) bare>: the CN was a fallback, and a CN with the labels and no tenant is up",
                "1 (0 pinned) other>: the CN carries w=b",
            ]
        );
        assert_eq!(plan.filled, BTreeSet::from([CnId::new("two").unwrap()]));
    }

    #[test]
    fn an_even_fleet_needs_no_plan() {
        let cns = [("one", "", Working), ("two", "", Working), ("three", "", Working)];
        let sessions: Vec<Seen> =
            (0..8).map(|n| session(n, "", ["one", "two", "three"][n as usize % 3], true)).collect();
        assert_eq!(plan(&snapshot(&cns), UP, &sessions), Plan::default());
    }
}
