//! KILL across CNs and data planes: who may kill what, and how it reaches the CN.
//!
//! On the asking session's own CN the CN itself is asked by that session. Everywhere else the service account kills,
//! after what the CN would check was checked: the same tenant and user, or a user that may kill others.
//!
//! Must not know: how sessions are served.

use crate::plane::Plane;
use crate::service::Target;
use shunt_proto::cn::CnId;
use shunt_proto::pb;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long another data plane may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A session as a KILL needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) tenant: String,
    pub(crate) user: String,
    pub(crate) cn: String,
    pub(crate) connection_id: u32,
    pub(crate) port: u16,
}

/// What came of a KILL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done.
    Done,
    /// There is no such session.
    Unknown,
    /// It is not the asker's.
    Denied,
    /// It could not be reached.
    Unreachable(String),
}

impl Outcome {
    pub(crate) const fn to_pb(&self) -> pb::killed::Outcome {
        match self {
            Self::Done => pb::killed::Outcome::Done,
            Self::Unknown => pb::killed::Outcome::Unknown,
            Self::Denied => pb::killed::Outcome::Denied,
            Self::Unreachable(_) => pb::killed::Outcome::Unreachable,
        }
    }

    pub(crate) fn from_pb(outcome: pb::killed::Outcome) -> Self {
        match outcome {
            pb::killed::Outcome::Done => Self::Done,
            pb::killed::Outcome::Unknown => Self::Unknown,
            pb::killed::Outcome::Denied => Self::Denied,
            pb::killed::Outcome::Unreachable | pb::killed::Outcome::Unspecified => {
                Self::Unreachable("its data plane or its CN did not answer".to_owned())
            }
        }
    }
}

/// Whether `asker` may kill `target`, by the rule of the CNs. An operator may.
fn may(asker: Option<&pb::Asker>, target: &Found) -> bool {
    let same = |asker: &pb::Asker| asker.tenant == target.tenant && asker.user == target.user;
    asker.is_none_or(|asker| asker.may_kill_others || same(asker))
}

/// Kills a session of this data plane by the service account.
pub(crate) async fn here(
    plane: &Plane,
    target: &Found,
    query_only: bool,
    asker: Option<&pb::Asker>,
) -> Outcome {
    if !may(asker, target) {
        return Outcome::Denied;
    }
    let Ok(cn) = CnId::new(&target.cn) else { return Outcome::Unknown };
    let on_cn = Target { connection_id: target.connection_id, port: target.port, query_only };
    match plane.service.kill(&cn, on_cn).await {
        Ok(true) => Outcome::Done,
        Ok(false) => Outcome::Unknown,
        Err(error) => Outcome::Unreachable(error.to_string()),
    }
}

/// A KILL on its way to another data plane.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) session_id: u32,
    pub(crate) query_only: bool,
    pub(crate) asker: pb::Asker,
    pub(crate) answer: oneshot::Sender<Outcome>,
}

/// The way to other data planes: through the control plane.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    asked: mpsc::Sender<Asked>,
}

impl Elsewhere {
    /// The way, and its other end, which the routing client reads.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (asked, to_send) = mpsc::channel(256);
        (Self { asked }, to_send)
    }

    /// Asks for a KILL of a session of another data plane.
    pub(crate) async fn kill(&self, session_id: u32, query_only: bool, asker: pb::Asker) -> Outcome {
        let (answer, answered) = oneshot::channel();
        if self.asked.try_send(Asked { session_id, query_only, asker, answer }).is_err() {
            return Outcome::Unreachable("too many wait".to_owned());
        }
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(outcome)) => outcome,
            _ => Outcome::Unreachable("no control plane answers".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_may_kill_its_own_and_a_privileged_one_all() {
        let target =
            Found { tenant: "acme".into(), user: "app".into(), cn: "cn-1".into(), connection_id: 1, port: 1 };
        let asker = |tenant: &str, user: &str, may_kill_others| pb::Asker {
            tenant: tenant.into(),
            user: user.into(),
            may_kill_others,
        };
        assert!(may(None, &target));
        assert!(may(Some(&asker("acme", "app", false)), &target));
        assert!(!may(Some(&asker("other", "app", false)), &target));
        assert!(!may(Some(&asker("acme", "root", false)), &target));
        assert!(may(Some(&asker("other", "root", true)), &target));
    }
}
