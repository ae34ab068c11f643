//! The session's place on another CN, made ready while the session works on the old one: chosen, dialled, logged in, and
//! given what holds for a session as it goes on.
//!
//! Must not know: the session's sockets.

use crate::cn::{self, CnConnection, CnError, Identity, Password};
use crate::engine::mysql::catalog::Catalog;
use crate::engine::mysql::dialect::Dialect;
use crate::engine::mysql::write::{self, Fresh, Prepared, Script, ToPrepare, Wrong};
use crate::plane::Plane;
use crate::routing::Placed;
use crate::session::login;
use crate::session::welcome::Kept;
use crate::socket::By;
use crate::worker::Worker;
use mysql_wire::capability::MULTI_STATEMENTS;
use shunt_proto::cn::CnId;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// How long a CN may take to prepare a session's statements.
const TO_PREPARE: Duration = Duration::from_secs(10);

/// What a session has to go elsewhere with.
pub(in crate::session) struct Luggage {
    pub(super) login: Kept,
    pub(super) password: Password,
    pub(super) client: SocketAddr,
    pub(super) by: By,
    /// Not there again; absent where that CN may be back.
    pub(super) from: Option<CnId>,
    pub(super) to: Option<CnId>,
    /// CNs to which it could not move since it did last.
    pub(super) failed: Vec<CnId>,
    /// Whether the client may send several statements at once now; `None`: as in its login.
    pub(super) several_statements: Option<bool>,
    pub(super) statements: Vec<ToPrepare>,
}

/// A new session on another CN.
pub(in crate::session) struct Target {
    pub(in crate::session) placed: Placed,
    pub(in crate::session) connection: CnConnection,
    pub(in crate::session) catalog: Arc<Catalog>,
    pub(in crate::session) fresh: Fresh,
    /// What statements are called there that were prepared ahead.
    pub(in crate::session) prepared: Vec<Prepared>,
    pub(in crate::session) tracks_itself: bool,
    pub(in crate::session) is_galera: bool,
    /// As it logged in; `None`: as its client did.
    pub(in crate::session) several_statements: Option<bool>,
    deprecate_eof: bool,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(in crate::session) enum NoTarget {
    /// No CN could be chosen.
    #[error("{0}")]
    NoCn(String),
    /// The CN could not be used.
    #[error("{cn}: {error}")]
    Unusable {
        /// Which.
        cn: CnId,
        /// Why.
        #[source]
        error: CnError,
    },
    /// The CN does not let the user in.
    #[error("{cn} refused the login: {error}")]
    Refused {
        /// Which.
        cn: CnId,
        /// What it said.
        #[source]
        error: CnError,
    },
    /// It said something that it should not have.
    #[error("{cn}: {wrong}")]
    Wrong {
        /// Which.
        cn: CnId,
        /// What.
        #[source]
        wrong: Wrong,
    },
}

/// Makes one ready.
pub(in crate::session) async fn make_ready(
    worker: Rc<Worker>,
    luggage: Luggage,
) -> Result<Box<Target>, NoTarget> {
    let plane = &worker.plane;
    let placed = plane
        .routing
        .place_elsewhere(&luggage.login.request, luggage.from.as_ref(), luggage.to.as_ref(), &luggage.failed)
        .map_err(NoTarget::NoCn)?;
    let cn = placed.cn.name().clone();
    let limit = plane.config.limits.cn_connect;
    let mut identity = luggage.login.identity.clone();
    match luggage.several_statements {
        Some(true) => identity.capabilities |= MULTI_STATEMENTS,
        Some(false) => identity.capabilities &= !MULTI_STATEMENTS,
        None => {}
    }
    let log_in = log_in(plane, &luggage, &identity, &placed);
    let logged_in = tokio::time::timeout(limit * 2, log_in).await.unwrap_or(Err(CnError::Slow(limit * 2)));
    let (connection, tracks_itself) = match logged_in {
        Ok(logged_in) => logged_in,
        Err(error) if error.denies() => return Err(NoTarget::Refused { cn, error }),
        Err(error) => {
            if error.puts_cn_down() {
                plane.routing.failed(&cn, &placed.cn.cn.address, &error.to_string());
            }
            return Err(NoTarget::Unusable { cn, error });
        }
    };
    let is_galera = plane.routing.baseline(&cn).is_none_or(|baseline| baseline.may_be_galera);
    let deprecate_eof = login::deprecates_eof(identity.capabilities);
    let mut target = Box::new(Target {
        placed,
        connection,
        catalog: Arc::default(),
        fresh: Fresh::default(),
        prepared: Vec::new(),
        tracks_itself,
        is_galera,
        several_statements: luggage.several_statements,
        deprecate_eof,
    });
    let furnish = furnish(plane, &mut target, &luggage.statements);
    match tokio::time::timeout(TO_PREPARE, furnish).await {
        Ok(Ok(())) => Ok(target),
        Ok(Err(Furnish::Cn(error))) => Err(NoTarget::Unusable { cn, error }),
        Ok(Err(Furnish::Wrong(wrong))) => {
            target.connection.quit().await;
            Err(NoTarget::Wrong { cn, wrong })
        }
        Err(_) => Err(NoTarget::Unusable { cn, error: CnError::Slow(TO_PREPARE) }),
    }
}

async fn log_in(
    plane: &Plane,
    luggage: &Luggage,
    identity: &Identity,
    placed: &Placed,
) -> Result<(CnConnection, bool), CnError> {
    let header = plane.config.cn_proxy_protocol.then_some((luggage.client, luggage.login.listener));
    let address = &placed.cn.cn.address;
    let greeted = cn::dial(address, plane.config.limits.cn_connect, header, luggage.by).await?;
    plane.routing.greeted(placed.cn.name(), &greeted.greeting);
    let connection = greeted.log_in(identity, luggage.password).await?;
    login::first_words(plane, identity, placed.cn.name(), connection).await
}

/// Why a new session is of no use.
#[derive(Debug, thiserror::Error)]
enum Furnish {
    #[error(transparent)]
    Cn(#[from] CnError),
    #[error(transparent)]
    Wrong(#[from] Wrong),
}

async fn furnish(plane: &Plane, target: &mut Target, statements: &[ToPrepare]) -> Result<(), Furnish> {
    let cn = target.placed.cn.name().clone();
    let greeting = &target.connection.greeting;
    let (version, dialect) =
        (greeting.version.clone(), Dialect::of(&greeting.version, greeting.capabilities));
    let mut ask = target.connection.ask(target.deprecate_eof);
    let catalog = match plane.catalogs.of(&cn, &version) {
        Some(catalog) if catalog.is_whole() => catalog,
        _ => {
            let said = ask.converse(&Catalog::questions(dialect, true)).await?;
            let catalog = catalog(dialect, &said)?;
            plane.catalogs.learn(&cn, &version, &catalog);
            catalog
        }
    };
    let said = ask.converse(&write::ask_fresh(&catalog)).await?;
    target.fresh = write::read_fresh(&catalog, &said).map_err(Wrong::from)?;
    let script = write::prepare(dialect, statements);
    let said = ask.converse(script.commands()).await?;
    target.prepared = script.check(&said)?;
    target.catalog = catalog;
    Ok(())
}

/// The catalog out of what was said to its question.
pub(super) fn catalog(dialect: Dialect, said: &[cn::converse::Said]) -> Result<Arc<Catalog>, Wrong> {
    Catalog::read(dialect, said).map(Arc::new).ok_or_else(|| Wrong::Malformed("session variables".into()))
}

impl NoTarget {
    /// The CN that it is about.
    pub(super) const fn cn(&self) -> Option<&CnId> {
        match self {
            Self::NoCn(_) => None,
            Self::Unusable { cn, .. } | Self::Refused { cn, .. } | Self::Wrong { cn, .. } => Some(cn),
        }
    }
}

impl Target {
    /// Runs `script` within `limit`, and closes the statements in `closed` before.
    pub(super) async fn run(
        &mut self,
        script: &Script,
        closed: &[u32],
        limit: Duration,
    ) -> Result<Vec<cn::converse::Said>, CnError> {
        let run = async {
            if !closed.is_empty() {
                let mut bytes = Vec::new();
                for id in closed {
                    mysql_wire::packet::write(&mut bytes, 0, &write::close(*id));
                }
                self.connection.stream.socket.write_all(&bytes).await?;
            }
            self.connection.ask(self.deprecate_eof).converse(script.commands()).await
        };
        tokio::time::timeout(limit, run).await.unwrap_or(Err(CnError::Timeout(limit)))
    }
}
