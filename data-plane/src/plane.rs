//! What all sessions of a data plane share.

use crate::accounts::Accounts;
use crate::code::Code;
use crate::config::Config;
use crate::engine::mysql::catalog::Catalogs;
use crate::ids::SessionIds;
use crate::kill::Elsewhere;
use crate::metrics::Metrics;
use crate::newest::Newest;
use crate::rebalance::plan::Asks;
use crate::routing::Routing;
use crate::service::Service;
use crate::session::inbox::{Farewell, Order};
use crate::sessions::Which;
use crate::worker::Workers;
use shunt_proto::snapshot::{Object, RoutingSnapshot};
use std::sync::Arc;

/// What all sessions share. Nothing in it is touched by a session that only forwards.
pub(crate) struct Plane {
    pub(crate) config: Config,
    /// The data plane's own id.
    pub(crate) id: String,
    pub(crate) routing: Arc<Routing>,
    pub(crate) accounts: Accounts,
    pub(crate) service: Service,
    pub(crate) newest: Newest,
    /// Whether there is code on the CNs that may touch a session's state unseen.
    pub(crate) code: Code,
    pub(crate) ids: SessionIds,
    pub(crate) workers: Workers,
    pub(crate) elsewhere: Elsewhere,
    /// Plans of moves, for operators.
    pub(crate) rebalance: Asks,
    pub(crate) metrics: Metrics,
    /// The session variables of CNs, as they were asked.
    pub(crate) catalogs: Catalogs,
}

impl Plane {
    /// Closes the sessions of each tenant that `snapshot` suspends, at their next safe point.
    pub(crate) async fn close_suspended(&self, snapshot: &RoutingSnapshot) {
        let suspended = snapshot.entries().filter_map(|(_, entry)| match &entry.object {
            Object::Tenant(tenant) if tenant.suspended => Some(tenant.name.clone()),
            _ => None,
        });
        for tenant in suspended {
            let which = Which { tenant: tenant.clone(), ..Which::default() };
            let order = Order::Close(Farewell::Suspended(tenant.clone()));
            let sessions = self.workers.order(&which, &order).await;
            if sessions > 0 {
                tracing::info!(tenant, sessions, "tenant is suspended: its sessions are closed");
            }
        }
    }
}
