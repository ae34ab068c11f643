//! Asking data planes about sessions, on their streams or through the replica that has theirs, within a deadline.
//!
//! Sessions are not state: nothing of what is asked here is kept.

use crate::blocks;
use crate::cluster::ClusterWatch;
use crate::error::{Error, Kind};
use crate::peers::Peers;
use crate::planes::{Answer, Ask, Planes, Whereabouts};
use futures::future::join_all;
use shunt_proto::pb::{self, killed::Outcome};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a data plane may take to answer.
const ANSWER: Duration = Duration::from_millis(1800);

/// How long a move may take: a session comes to rest within seconds, or does not.
const MOVE: Duration = Duration::from_secs(13);

/// Asks data planes.
#[derive(Clone)]
pub(crate) struct Asking {
    cluster: ClusterWatch,
    planes: Arc<Planes>,
    peers: Arc<Peers>,
}

/// Which sessions are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Empty: of all.
    pub(crate) cn: String,
    /// Empty: of all.
    pub(crate) tenant: String,
}

/// Sessions in the order of their ids.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) sessions: Vec<pb::Session>,
    /// There are more behind the last.
    pub(crate) more: bool,
    /// Data planes that may have sessions and did not say.
    pub(crate) unanswered: Vec<String>,
}

impl Asking {
    pub(crate) fn new(cluster: ClusterWatch, planes: Arc<Planes>) -> Self {
        let peers = Arc::new(Peers::new(cluster.clone()));
        Self { cluster, planes, peers }
    }

    /// At most `size` sessions with ids greater than `after`.
    pub(crate) async fn list(&self, filter: &Filter, after: u32, size: usize) -> Sessions {
        let order = pb::order::ListSessions {
            session_id: 0,
            cn: filter.cn.clone(),
            tenant: filter.tenant.clone(),
            after,
            limit: u32::try_from(size).unwrap_or(u32::MAX),
        };
        let mut unanswered = self.planes.silent();
        let mut parts = Vec::new();
        for (id, answer) in self.ask_all(&Ask::List(order)).await {
            match answer {
                Some(Answer::Sessions { sessions, more }) => parts.push((sessions, more)),
                _ => unanswered.push(id),
            }
        }
        unanswered.sort_unstable();
        let (sessions, more) = merged(parts, after, size);
        Sessions { sessions, more, unanswered }
    }

    /// The session of that id.
    pub(crate) async fn find(&self, session_id: u32) -> Result<pb::Session, Error> {
        let missing = || Error::NotFound(Kind::Session, session_id.to_string());
        let owner = self.owner(session_id).ok_or_else(missing)?;
        let order = pb::order::ListSessions { session_id, ..Default::default() };
        match self.ask(&owner, Ask::List(order)).await {
            Some(Answer::Sessions { sessions, .. }) => {
                sessions.into_iter().find(|session| session.id == session_id).ok_or_else(missing)
            }
            _ => Err(Error::Unanswered(owner)),
        }
    }

    /// Ends a session, or its statement, on the data plane that it lives on. With the name of that data plane.
    pub(crate) async fn kill(&self, order: pb::order::KillOrder) -> (Outcome, String) {
        let Some(owner) = self.owner(order.session_id) else { return (Outcome::Unknown, String::new()) };
        let outcome = match self.ask(&owner, Ask::Kill(order)).await {
            Some(Answer::Killed(outcome)) => outcome,
            _ => Outcome::Unreachable,
        };
        (outcome, owner)
    }

    /// Moves a session, on the data plane that it lives on.
    pub(crate) async fn move_session(&self, order: pb::order::MoveOrder) -> Result<pb::Moved, Error> {
        let gone = || pb::Moved { outcome: pb::moved::Outcome::Gone.into(), ..pb::Moved::default() };
        let Some(owner) = self.owner(order.session_id) else { return Ok(gone()) };
        match self.ask_within(&owner, Ask::Move(order), MOVE).await {
            Some(Answer::Moved(moved)) => Ok(moved),
            _ => Err(Error::Unanswered(owner)),
        }
    }

    /// Has every data plane even out its sessions, or say what that would be.
    pub(crate) async fn rebalance(&self, order: pb::order::Rebalance) -> pb::RebalancePlan {
        let mut plan = pb::RebalancePlan { dry_run: order.dry_run, ..pb::RebalancePlan::default() };
        plan.unanswered = self.planes.silent();
        for (id, answer) in self.ask_all(&Ask::Rebalance(order)).await {
            match answer {
                Some(Answer::Plan(part)) => {
                    plan.parts.extend(part.parts);
                    plan.left_out = plan.left_out.saturating_add(part.left_out);
                }
                _ => plan.unanswered.push(id),
            }
        }
        plan.unanswered.sort_unstable();
        plan
    }

    fn owner(&self, session_id: u32) -> Option<String> {
        blocks::owner(&self.cluster.view(), session_id).map(str::to_owned)
    }

    /// What each that is connected answers.
    async fn ask_all(&self, ask: &Ask) -> Vec<(String, Option<Answer>)> {
        let asked = self.planes.connected().into_iter().map(async |id| {
            let answer = self.ask(&id, ask.clone()).await;
            (id, answer)
        });
        join_all(asked).await
    }

    async fn ask(&self, id: &str, ask: Ask) -> Option<Answer> {
        self.ask_within(id, ask, ANSWER).await
    }

    async fn ask_within(&self, id: &str, ask: Ask, limit: Duration) -> Option<Answer> {
        match self.planes.whereabouts(id) {
            Whereabouts::Here => timeout(limit, self.planes.ask(id, ask)?).await.ok()?.ok(),
            Whereabouts::Elsewhere(replica) => self.peers.ask(&replica, id, ask, limit).await,
            Whereabouts::Nowhere => None,
        }
    }
}

/// The first `size` sessions after `after` of all `parts`, and whether there are more. A part that says that it has
/// more is complete up to its last session only; behind that, other parts' sessions wait for the next page.
fn merged(parts: Vec<(Vec<pb::Session>, bool)>, after: u32, size: usize) -> (Vec<pb::Session>, bool) {
    let mut more = false;
    let mut known_up_to = u32::MAX;
    let mut all = Vec::new();
    for (sessions, has_more) in parts {
        // Only what was asked for: a part that says more without it leads nowhere.
        let last = sessions.iter().map(|session| session.id).max().filter(|&last| last > after);
        if let Some(last) = last.filter(|_| has_more) {
            known_up_to = known_up_to.min(last);
            more = true;
        }
        all.extend(sessions);
    }
    all.retain(|session| session.id > after && session.id <= known_up_to);
    all.sort_unstable_by_key(|session| session.id);
    all.dedup_by_key(|session| session.id);
    more |= all.len() > size;
    all.truncate(size);
    (all, more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sessions(ids: &[u32]) -> Vec<pb::Session> {
        ids.iter().map(|&id| pb::Session { id, ..Default::default() }).collect()
    }

    /// What a data plane with these sessions answers, a few at a time.
    fn answer(all: &[u32], after: u32, limit: usize) -> (Vec<pb::Session>, bool) {
        let rest: Vec<u32> = all.iter().copied().filter(|&id| id > after).collect();
        let cut = rest.len().min(limit);
        (sessions(&rest[..cut]), rest.len() > cut)
    }

    proptest! {
        #[test]
        fn pages_make_all_sessions(
            one in prop::collection::btree_set(1_u32..100, 0..30),
            two in prop::collection::btree_set(100_u32..200, 0..30),
            three in prop::collection::btree_set(1_u32..200, 0..30),
            size in 1_usize..12, frame in 1_usize..12,
        ) {
            let planes: Vec<Vec<u32>> = [one, two, three].map(|ids| ids.into_iter().collect()).to_vec();
            let mut expected: Vec<u32> = planes.concat();
            expected.sort_unstable();
            expected.dedup();
            let (mut seen, mut after) = (Vec::new(), 0);
            loop {
                let parts = planes.iter().map(|ids| answer(ids, after, size.min(frame))).collect();
                let (page, more) = merged(parts, after, size);
                seen.extend(page.iter().map(|session| session.id));
                if !more {
                    break;
                }
                prop_assert!(!page.is_empty(), "a page that leads nowhere");
                after = page.last().unwrap().id;
            }
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_part_that_promises_more_of_nothing_ends() {
        assert_eq!(merged(vec![(vec![], true)], 0, 10), (vec![], false));
        assert_eq!(merged(vec![(sessions(&[3]), true)], 5, 10), (vec![], false));
    }
}
