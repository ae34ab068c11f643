//! CNs that say nothing any more, or say that they cannot serve: their sessions are told to see for themselves.
//!
//! A CN that is stopped, or whose host has gone silent, closes no connection. That nobody gets a word out of it is known
//! by the checks ([`crate::health`]); whether a session's own connection still works, only the session can tell.
//!
//! Must not know: what a session does about it.

use crate::plane::Plane;
use crate::session::inbox::Order;
use crate::sessions::Which;
use shunt_proto::cn::CnId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks.
const ROUND: Duration = Duration::from_millis(500);

/// How often the sessions of a CN that stays so are told again.
const AGAIN: Duration = Duration::from_secs(5);

/// Waits until nobody gets a word out of `cn`.
pub(crate) async fn until_silent(plane: &Plane, cn: &CnId) {
    loop {
        tokio::time::sleep(ROUND).await;
        let useless = plane.routing.useless(plane.config.limits.cn_connect);
        if useless.iter().any(|(one, is_silent)| one == cn && *is_silent) {
            return;
        }
    }
}

/// Tells the sessions of such CNs, as long as the process lives.
pub(crate) async fn run(plane: Arc<Plane>) {
    let mut told: HashMap<CnId, Instant> = HashMap::new();
    let mut rounds = tokio::time::interval(ROUND);
    loop {
        rounds.tick().await;
        let useless = plane.routing.useless(plane.config.limits.cn_connect);
        told.retain(|cn, _| useless.iter().any(|(now, _)| now == cn));
        for (cn, is_silent) in useless {
            let last = told.get(&cn).copied();
            if last.is_some_and(|at| at.elapsed() < AGAIN) {
                continue;
            }
            told.insert(cn.clone(), Instant::now());
            let which = Which { cn: cn.to_string(), ..Which::default() };
            let order = Order::CnIsUseless { cn: cn.clone(), is_silent };
            let sessions = plane.workers.order(&which, &order).await;
            if sessions > 0 && last.is_none() {
                tracing::info!(%cn, is_silent, sessions, "cn is of no use: its sessions look for another");
            }
        }
    }
}
