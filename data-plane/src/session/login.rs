//! Logging in: from the greeting to a CN that let the client in.
//!
//! A password that is known for certain (because the client's answer fits a hash of the CN's) lets the data plane log in
//! to any CN of the match. Else the client logs in itself, through an auth switch of the CN's own, so that a refusal and
//! its words are the CN's. Either way the CN is the authority.
//!
//! Must not know: what happens to a session after its login.

pub(crate) mod user;

use crate::accounts::Checked;
use crate::cn::{self, CnConnection, CnError, Identity, Password, RelayError};
use crate::plane::Plane;
use crate::routing::{Place, TenantPlace};
use crate::service::READY;
use crate::socket::By;
use crate::wire::{Peer, ReadError};
use mysql_wire::capability::{CLIENT_MYSQL, DEPRECATE_EOF, PLUGIN_AUTH, SESSION_TRACK};
use mysql_wire::native::{self, Stage1};
use mysql_wire::reply;
use mysql_wire::track::{Subscription, Transaction, Variables};
use shunt_proto::cn::{CnId, RoutedCn};
use shunt_proto::tenant::{Refusal, Request};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use user::Names;

/// Switches every tracker on.
pub(crate) const TRACK: &str = "SET SESSION session_track_schema=ON, session_track_state_change=ON, \
     session_track_transaction_info='CHARACTERISTICS', session_track_system_variables='*'";

/// The same, and asks for the variables that the meaning of a text depends on: their assignment to themselves reports
/// them, and leaves FOUND_ROWS, LAST_INSERT_ID and warnings as they are, which a SELECT would not.
pub(crate) const TRACK_AND_ASK: &str = "SET SESSION session_track_schema=ON, session_track_state_change=ON, \
     session_track_transaction_info='CHARACTERISTICS', session_track_system_variables='*', \
     sql_mode=@@sql_mode, character_set_client=@@character_set_client, \
     collation_connection=@@collation_connection";

const SET: &str = "SET SESSION ";

/// Only asks.
pub(crate) const ASK: &str = "SET SESSION sql_mode=@@sql_mode, character_set_client=@@character_set_client, \
     collation_connection=@@collation_connection";

/// Who asks to be let in, and how far the password is known.
pub(crate) struct Asked {
    pub(crate) names: Names,
    pub(crate) identity: Identity,
    pub(crate) proof: Proof,
    pub(crate) client: SocketAddr,
    /// Where the client connected to, for the PROXY header.
    pub(crate) listener: SocketAddr,
    /// What the connection to the CN is waited for by: as the client's.
    pub(crate) by: By,
    /// The tenant for which the session is counted already.
    pub(crate) counted_for: Option<String>,
}

/// How a CN is convinced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    /// With the password's first hash, or without a password.
    Password(Password),
    /// By the client itself. `true`: it sent some password.
    Relay(bool),
    /// Not at all: a client that cannot be asked again gave an answer that fits nothing. The CN refuses it.
    Hopeless,
}

/// A login that came to its end.
pub(crate) struct Admitted {
    pub(crate) connection: CnConnection,
    pub(crate) cn: Arc<RoutedCn>,
    pub(crate) place: Place,
    /// Absent where the session was counted for the tenant before.
    pub(crate) tenant: Option<TenantPlace>,
    pub(crate) facts: crate::sessions::Facts,
    /// What the client is shown of changes.
    pub(crate) shown: Option<Subscription>,
    /// Set where every login to this CN must switch the trackers on.
    pub(crate) tracks_itself: bool,
    /// The OK that says what the session's first statements are parsed by; absent where it may not ask.
    pub(crate) parse: Option<Vec<u8>>,
    pub(crate) password: Option<Password>,
}

/// A login that was refused, or left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    /// The client is told this.
    #[error("{} ({})", String::from_utf8_lossy(&.0.message), .0.code)]
    Told(reply::Err),
    /// The client left.
    #[error("client: {0}")]
    Client(ReadError),
}

impl From<&Refusal> for Denied {
    fn from(refusal: &Refusal) -> Self {
        Self::Told(reply::Err::new(refusal.code(), refusal.sqlstate(), refusal.to_string()))
    }
}

/// Whether `answer` to `salt` is right for `user`, as far as the CNs' hashes can tell.
pub(crate) async fn prove(plane: &Plane, user: &[u8], salt: &[u8], answer: &[u8]) -> Option<Stage1> {
    match plane.accounts.check(user, salt, answer) {
        Checked::Right(stage1) => Some(stage1),
        Checked::None { ask: false } => None,
        Checked::None { ask: true } => look_up(plane, user, salt, answer).await,
    }
}

/// What is behind an answer that a CN took for right. Asked for however lately the user was asked for: no guesser
/// gets here.
async fn recover(plane: &Plane, user: &[u8], salt: &[u8], answer: &[u8]) -> Option<Stage1> {
    match plane.accounts.check(user, salt, answer) {
        Checked::Right(stage1) => Some(stage1),
        Checked::None { .. } => look_up(plane, user, salt, answer).await,
    }
}

async fn look_up(plane: &Plane, user: &[u8], salt: &[u8], answer: &[u8]) -> Option<Stage1> {
    if !plane.service.has_account() {
        return None;
    }
    // A CN that cannot be asked says nothing about the user: the next one may.
    for cn in plane.routing.any().into_iter().take(3) {
        match plane.service.hashes(cn.name(), user).await {
            Ok(hashes) => {
                plane.accounts.learn(user, hashes);
                break;
            }
            Err(error) => tracing::debug!(cn = %cn.name(), %error, "look up hashes"),
        }
    }
    match plane.accounts.check(user, salt, answer) {
        Checked::Right(stage1) => Some(stage1),
        Checked::None { .. } => None,
    }
}

/// Lets a client in to a CN of its match, or says why not. `seq` is the sequence number of the next packet to the
/// client.
///
/// # Errors
/// [`Denied`].
pub(crate) async fn admit(
    plane: &Plane,
    asked: &Asked,
    client: &mut Peer<'_>,
    seq: &mut u8,
) -> Result<Admitted, Denied> {
    let Some(snapshot) = plane.routing.snapshot() else {
        return Err(told(1105, "08004", "the data plane has no routing state yet"));
    };
    let tenant = snapshot.tenant(&asked.names.tenant);
    if tenant.suspended {
        let refusal = Refusal::Suspended { tenant: tenant.name.clone() };
        return Err(refuse_once_proven(plane, asked, client, seq, &refusal).await);
    }
    let counted = asked.counted_for.as_deref() == Some(tenant.name.as_str());
    let entered = (!counted).then(|| plane.routing.enter(&tenant)).transpose();
    let entered = entered.map_err(|refusal| Denied::from(&refusal))?;
    let request = Request { tenant: asked.names.tenant.clone(), labels: asked.names.labels.clone() };
    let mut tried: Vec<CnId> = Vec::new();
    let mut last: Option<reply::Err> = None;
    loop {
        let placed = match plane.routing.place(&request, &tried) {
            Ok(placed) => placed,
            Err(refusal) if tried.is_empty() => {
                return Err(refuse_once_proven(plane, asked, client, seq, &refusal).await);
            }
            Err(refusal) => return Err(last.map_or_else(|| Denied::from(&refusal), Denied::Told)),
        };
        let began = *seq;
        match log_in(plane, asked, &placed.cn, client, seq).await {
            Ok((connection, password)) => {
                let cn = placed.cn;
                let First { connection, shown, tracks_itself, parse } =
                    match first_answer(plane, asked, &cn, connection).await {
                        Ok(ready) => ready,
                        Err(error) => {
                            let again = matches!(asked.proof, Proof::Password(_)) && began == *seq;
                            last = failed(plane, &cn, error, again)?;
                            tried.push(cn.name().clone());
                            continue;
                        }
                    };
                let tier = placed.tier;
                let mut facts =
                    facts(asked, &cn, &connection, plane.config.cn_proxy_protocol, password.is_none());
                let labels = asked.names.labels.with_defaults(&tenant.default_labels);
                facts.why = format!("labels {labels}: {tier}");
                let place_on_cn = placed.place;
                return Ok(Admitted {
                    connection,
                    cn,
                    place: place_on_cn,
                    tenant: entered,
                    facts,
                    shown,
                    tracks_itself,
                    parse,
                    password,
                });
            }
            Err(RelayError::Client(error)) => return Err(Denied::Client(error)),
            // A client that was asked for its password by one CN cannot be asked again by another.
            Err(RelayError::Cn(error)) => last = failed(plane, &placed.cn, error, began == *seq)?,
        }
        tried.push(placed.cn.name().clone());
    }
}

/// What becomes of a CN's failure: `Ok` where another may be tried.
fn failed(
    plane: &Plane,
    cn: &RoutedCn,
    error: CnError,
    may_try_another: bool,
) -> Result<Option<reply::Err>, Denied> {
    let of_the_cn = error.is_of_the_cn();
    if error.puts_cn_down() {
        plane.routing.failed(cn.name(), &cn.cn.address, &error.to_string());
    }
    if matches!(error, CnError::Slow(_)) {
        plane.routing.doubt(cn.name(), &cn.cn.address, &error.to_string());
    }
    match error {
        CnError::Refused(err) | CnError::OnlyTheClient(err) if of_the_cn && may_try_another => Ok(Some(err)),
        CnError::Refused(err) | CnError::OnlyTheClient(err) => Err(Denied::Told(err)),
        _ if may_try_another => Ok(None),
        _ => Err(told(1105, "08004", "the CN closed in the middle of the login")),
    }
}

fn facts(
    asked: &Asked,
    cn: &RoutedCn,
    connection: &CnConnection,
    proxied: bool,
    credentials_unknown: bool,
) -> crate::sessions::Facts {
    let own_port = || connection.stream.socket.local_addr().map_or(0, |address| address.port());
    crate::sessions::Facts {
        tenant: asked.names.tenant.clone(),
        user: String::from_utf8_lossy(&asked.names.user).into_owned(),
        cn: cn.name().to_string(),
        cn_connection_id: connection.greeting.connection_id,
        cn_sees_port: if proxied { asked.client.port() } else { own_port() },
        why: String::new(),
        credentials_unknown,
        moved: false,
        labels: asked.names.labels.clone(),
    }
}

fn told(code: u16, sqlstate: &str, message: &str) -> Denied {
    Denied::Told(reply::Err::new(code, sqlstate, message))
}

/// Logs in to `cn`, within what is left of the login's time. Gives the password where it is known now.
async fn log_in(
    plane: &Plane,
    asked: &Asked,
    cn: &RoutedCn,
    client: &mut Peer<'_>,
    seq: &mut u8,
) -> Result<(CnConnection, Option<Password>), RelayError> {
    // A CN that greets and then says nothing costs no more than one that does not greet.
    let limit = plane.config.limits.cn_connect;
    let greeted = dial(plane, asked, cn).await?;
    let log_in = async |greeted: cn::Greeted, password| {
        let login = greeted.log_in(&asked.identity, password);
        tokio::time::timeout(limit, login).await.unwrap_or(Err(CnError::Slow(limit)))
    };
    match asked.proof {
        Proof::Password(password) => match log_in(greeted, password).await {
            Ok(connection) => Ok((connection, Some(password))),
            // The answer fits a hash of the user's, and the CN chose another account of the same name.
            Err(CnError::OnlyTheClient(_)) if asked.identity.capabilities & PLUGIN_AUTH != 0 => {
                let greeted = dial(plane, asked, cn).await?;
                relay(plane, asked, greeted, matches!(password, Password::Known(_)), client, seq).await
            }
            Err(error) => Err(error.into()),
        },
        Proof::Hopeless => {
            let nonsense = Password::Known(Stage1::of(&rand::random::<[u8; 20]>()));
            Ok((log_in(greeted, nonsense).await?, None))
        }
        Proof::Relay(with_password) => relay(plane, asked, greeted, with_password, client, seq).await,
    }
}

async fn dial(plane: &Plane, asked: &Asked, cn: &RoutedCn) -> Result<cn::Greeted, CnError> {
    let header = plane.config.cn_proxy_protocol.then_some((asked.client, asked.listener));
    let greeted = cn::dial(&cn.cn.address, plane.config.limits.cn_connect, header, asked.by).await?;
    plane.routing.greeted(cn.name(), &greeted.greeting);
    Ok(greeted)
}

/// Lets the client log in itself. Gives the password where its answer to the CN gives it away.
async fn relay(
    plane: &Plane,
    asked: &Asked,
    greeted: cn::Greeted,
    with_password: bool,
    client: &mut Peer<'_>,
    seq: &mut u8,
) -> Result<(CnConnection, Option<Password>), RelayError> {
    let limit = plane.config.limits.cn_connect;
    let (connection, asked_native) =
        greeted.relay_login(&asked.identity, with_password, client, seq, limit).await?;
    let password = match asked_native {
        Some((_, answer)) if answer.is_empty() => Some(Password::Empty),
        Some((salt, answer)) => {
            recover(plane, &asked.identity.user, &salt, &answer).await.map(Password::Known)
        }
        None => None,
    };
    Ok((connection, password))
}

/// A CN that gave its first answers after a login.
struct First {
    connection: CnConnection,
    shown: Option<Subscription>,
    tracks_itself: bool,
    parse: Option<Vec<u8>>,
}

/// The CN's first answers after the login: only then is it known that its `init_connect` did not fail, and that it
/// serves. Switches the trackers on, and the role that was asked for.
async fn first_answer(
    plane: &Plane,
    asked: &Asked,
    cn: &RoutedCn,
    mut connection: CnConnection,
) -> Result<First, CnError> {
    let limit = plane.config.limits.cn_connect;
    let baseline = plane.routing.baseline(cn.name());
    let global = baseline.as_ref().and_then(|baseline| baseline.subscription.clone());
    let may_be_galera = baseline.is_none_or(|baseline| baseline.may_be_galera);
    let tracks_itself = !global.as_ref().is_some_and(is_whole);
    let answer = async {
        let mut ask = connection.ask(deprecates_eof(asked.identity.capabilities));
        // A Galera node out of its primary component lets everybody in, and says no only to the second of these.
        let both = [&*track_and_ask(global.as_ref()), READY];
        let due = if may_be_galera { &both[..] } else { &both[..1] };
        // A password that expired: the client may change it, and do nothing else.
        let parse = ask.run(due, |err| err.code == 1820).await?;
        if let Some(role) = &asked.names.role {
            ask.execute(&format!("SET ROLE `{}`", role.replace('`', "``"))).await?;
        }
        Ok::<_, CnError>((connection, parse))
    };
    let answered = tokio::time::timeout(limit, answer).await.map_err(|_| CnError::Slow(limit))?;
    let (connection, parse) = answered?;
    let shown = (asked.identity.capabilities & SESSION_TRACK != 0).then(|| global.unwrap_or_default());
    Ok(First { connection, shown, tracks_itself, parse })
}

/// The first words with a CN that a session is to move to: switches the trackers on that its globals do not. Says whether
/// any had to be.
pub(crate) async fn first_words(
    plane: &Plane,
    identity: &Identity,
    cn: &CnId,
    mut connection: CnConnection,
) -> Result<(CnConnection, bool), CnError> {
    let baseline = plane.routing.baseline(cn);
    let global = baseline.and_then(|baseline| baseline.subscription.clone());
    let tracks_itself = !global.as_ref().is_some_and(is_whole);
    let mut ask = connection.ask(deprecates_eof(identity.capabilities));
    // What it was let in for: a node out of its cluster says yes to everything but this.
    let due = [TRACK, READY];
    ask.run(if tracks_itself { &due[..] } else { &due[1..] }, |_| false).await?;
    Ok((connection, tracks_itself))
}

/// The first statement of a session: [`TRACK_AND_ASK`] without the trackers that the CN's globals switch on.
fn track_and_ask(global: Option<&Subscription>) -> Cow<'static, str> {
    let Some(Subscription { variables, schema, state, transaction }) = global else {
        return TRACK_AND_ASK.into();
    };
    let trackers = [
        (*schema, "session_track_schema=ON, "),
        (*state, "session_track_state_change=ON, "),
        (*transaction == Transaction::Characteristics, "session_track_transaction_info='CHARACTERISTICS', "),
        (*variables == Variables::All, "session_track_system_variables='*', "),
    ];
    let off = trackers.into_iter().filter(|(is_on, _)| !is_on);
    let assignments = ASK.strip_prefix(SET).expect("it is a SET");
    [SET].into_iter().chain(off.map(|(_, tracker)| tracker)).chain([assignments]).collect::<String>().into()
}

/// Whether a CN's globals switch every tracker on.
fn is_whole(subscription: &Subscription) -> bool {
    let Subscription { variables, schema, state, transaction } = subscription;
    *variables == Variables::All && *schema && *state && *transaction == Transaction::Characteristics
}

/// A refusal that only those may hear whose password is right: where that is not known yet, any CN says it.
async fn refuse_once_proven(
    plane: &Plane,
    asked: &Asked,
    client: &mut Peer<'_>,
    seq: &mut u8,
    refusal: &Refusal,
) -> Denied {
    if let Proof::Password(Password::Known(_)) = asked.proof {
        return refusal.into();
    }
    // The database is no part of the question: it may not be there.
    let nowhere = Asked {
        identity: Identity { database: None, ..asked.identity.clone() },
        names: asked.names.clone(),
        counted_for: None,
        ..*asked
    };
    for cn in plane.routing.any().into_iter().take(3) {
        let began = *seq;
        match log_in(plane, &nowhere, &cn, client, seq).await {
            Ok((connection, _)) => {
                connection.quit().await;
                return refusal.into();
            }
            Err(RelayError::Client(error)) => return Denied::Client(error),
            Err(RelayError::Cn(error)) => match failed(plane, &cn, error, began == *seq) {
                Ok(_) => {}
                Err(denied) => return denied,
            },
        }
    }
    told(1105, "08004", "no CN is up that could check the password")
}

/// Whether results end with OK packets for a client of these capabilities.
pub(crate) const fn deprecates_eof(capabilities: u64) -> bool {
    capabilities & DEPRECATE_EOF != 0
}

/// What a client sent as its answer to our salt, and what that is worth.
pub(crate) async fn proof_of(
    plane: &Plane,
    user: &[u8],
    salt: &[u8; native::SALT],
    plugin: Option<&[u8]>,
    answer: &[u8],
) -> Proof {
    if plugin.is_some_and(|plugin| plugin != native::PLUGIN) {
        // Made for another plugin: it says nothing, and the CN asks again.
        return Proof::Relay(!answer.is_empty());
    }
    if answer.is_empty() {
        return Proof::Password(Password::Empty);
    }
    match prove(plane, user, salt, answer).await {
        Some(stage1) => Proof::Password(Password::Known(stage1)),
        None => Proof::Relay(true),
    }
}

/// What a CN is told of the capabilities of a client: those that were offered to it.
pub(crate) const fn offered(client: u64, offered: u64) -> u64 {
    client & (offered | CLIENT_MYSQL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_switches_on_what_its_cn_does_not() {
        let by_default = Subscription::default();
        let statement = track_and_ask(Some(&by_default));
        assert!(!statement.contains("schema") && statement.contains("state_change=ON"), "{statement}");
        assert!(statement.ends_with(ASK.strip_prefix(SET).unwrap()), "{statement}");
        let whole = Subscription {
            variables: Variables::All,
            schema: true,
            state: true,
            transaction: Transaction::Characteristics,
        };
        assert_eq!(track_and_ask(Some(&whole)), ASK);
        let none = Subscription {
            variables: Variables::Named(Vec::new()),
            schema: false,
            state: false,
            transaction: Transaction::State,
        };
        assert_eq!(track_and_ask(Some(&none)), TRACK_AND_ASK);
        assert_eq!(track_and_ask(None), TRACK_AND_ASK);
    }
}
