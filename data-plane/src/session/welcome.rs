//! The beginning of a session: greeting, the client's login packet, and the OK at the end of a login.

use super::close::CloseReason;
use super::login::{self, Admitted, Asked, Denied, Proof, user::Names};
use super::mirror::Mirror;
use crate::cn::Identity;
use crate::plane::Plane;
use crate::routing::TenantPlace;
use crate::sessions::View;
use crate::wire::{PacketStream, ReadError};
use mysql_wire::capability::{self, Capabilities};
use mysql_wire::greeting::Greeting;
use mysql_wire::login::{First, Login, MAX_LOGIN};
use mysql_wire::native;
use mysql_wire::packet;
use mysql_wire::reply;
use mysql_wire::response::{Answered as _, Responses};
use mysql_wire::track;
use shunt_proto::tenant::{Refusal, Request};
use std::net::{SocketAddr, TcpStream};

/// The most that a CN takes of connection attributes: with more it takes the handshake for broken.
const MAX_ATTRIBUTES: usize = 65_535;

/// What of a login a later one needs: of the same client, or of the same session to another CN.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Who it is. The database is the session's own to tell.
    pub(crate) identity: Identity,
    /// What it asked for.
    pub(crate) request: Request,
    pub(crate) listener: SocketAddr,
}

impl Kept {
    /// Of a login that asked so.
    pub(crate) fn of(asked: Asked) -> Self {
        let Asked { identity, names, listener, .. } = asked;
        let request = Request { tenant: names.tenant, labels: names.labels };
        Self { identity: Identity { database: None, ..identity }, request, listener }
    }

    /// What the client asked for in its first login, and was offered.
    pub(crate) const fn capabilities(&self) -> Capabilities {
        self.identity.capabilities
    }
}

/// A session at the moment its client sees OK.
pub(crate) struct Welcomed {
    pub(crate) admitted: Admitted,
    pub(crate) tenant: TenantPlace,
    pub(crate) login: Box<Kept>,
    pub(crate) responses: Responses,
    pub(crate) mirror: Mirror,
}

/// Tells a client that there is no room, and closes. Never waits.
pub(crate) fn refuse_full(mut socket: TcpStream) {
    let err = reply::Err::new(1040, "08004", "Too many connections");
    // Who does not read this has left.
    let _ = std::io::Write::write(&mut socket, &err.packet(0));
}

/// Greets the client and lets it log in.
pub(crate) async fn log_in(
    plane: &Plane,
    client: &mut PacketStream,
    view: &View,
) -> Result<Welcomed, CloseReason> {
    let greeting = greeting(plane, view.id);
    client.write(0, &greeting.write()).await.map_err(|_| CloseReason::ClientGone)?;
    let limits = &plane.config.limits;
    let (login, mut seq) = match tokio::time::timeout(limits.first_packet, first(client)).await {
        Ok(first) => first?,
        Err(_) => return Err(tell(client, 2, timed_out()).await),
    };
    let log_in = authenticate(plane, client, view, &greeting, login, &mut seq);
    match tokio::time::timeout(limits.login, log_in).await {
        Ok(Ok(welcomed)) => Ok(welcomed),
        Ok(Err(Denied::Told(err))) => Err(tell(client, seq, err).await),
        Ok(Err(Denied::Client(error))) => Err(CloseReason::InLogin(error)),
        Err(_) => Err(tell(client, seq, timed_out()).await),
    }
}

fn timed_out() -> reply::Err {
    reply::Err::new(1159, "08S01", "Got timeout reading communication packets")
}

async fn tell(client: &mut PacketStream, seq: u8, err: reply::Err) -> CloseReason {
    // A client that does not read its refusal must not hold the session.
    let payload = err.write();
    let write = client.write(seq, &payload);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), write).await;
    CloseReason::Denied(err)
}

fn greeting(plane: &Plane, id: u32) -> Greeting {
    let baseline = plane.routing.any_baseline();
    let (version, collation, capabilities) = match &baseline {
        Some(baseline) => (baseline.version.clone(), baseline.collation, baseline.capabilities),
        None => (plane.config.server_version.clone().into_bytes(), 45, u64::MAX),
    };
    Greeting {
        version,
        connection_id: id,
        salt: native::salt(rand::random()),
        capabilities: capability::OFFERED & capabilities,
        collation,
        status: reply::AUTOCOMMIT,
        plugin: native::PLUGIN.to_vec(),
    }
}

/// The client's first packet, and the sequence number of the answer.
async fn first(client: &mut PacketStream) -> Result<(Box<Login>, u8), CloseReason> {
    let packet = match client.read(MAX_LOGIN).await {
        Ok(packet) => packet,
        Err(ReadError::TooLong(_)) => {
            let err = reply::Err::new(1153, "08S01", "Got a packet bigger than any login is");
            return Err(tell(client, 2, err).await);
        }
        Err(error) => return Err(CloseReason::InLogin(error)),
    };
    let seq = packet.seq.wrapping_add(1);
    match First::read(&packet.payload) {
        Ok(First::Login(login)) if login.attributes_len() > MAX_ATTRIBUTES => {
            let err = reply::Err::new(1105, "HY000", "connection attributes take more than 64 KiB");
            Err(tell(client, seq, err).await)
        }
        Ok(First::Login(login)) => Ok((login, seq)),
        Ok(First::SslRequest) => {
            let err = reply::Err::new(3159, "HY000", "TLS is not offered here: connect without it");
            Err(tell(client, seq, err).await)
        }
        Err(error) => {
            let err = reply::Err::new(1043, "08S01", format!("Bad handshake: {error}"));
            Err(tell(client, seq, err).await)
        }
    }
}

async fn authenticate(
    plane: &Plane,
    client: &mut PacketStream,
    view: &View,
    greeting: &Greeting,
    login: Box<Login>,
    seq: &mut u8,
) -> Result<Welcomed, Denied> {
    let names = names(plane, &login.user, &login.attributes)?;
    check_address(plane, &names, view.client, true)?;
    let plugin = login.plugin.as_deref();
    let proof = login::proof_of(plane, &names.user, &greeting.salt, plugin, &login.auth).await;
    let listener = client.socket.local_addr().unwrap_or(plane.config.listen);
    let capabilities = login::offered(login.capabilities, greeting.capabilities);
    // A client without auth switches cannot be relayed: its useless answer is, and the CN refuses it in its words.
    let proof = match proof {
        Proof::Relay(_) if capabilities & capability::PLUGIN_AUTH == 0 => Proof::Hopeless,
        proof => proof,
    };
    let asked = Asked {
        identity: Identity {
            user: names.user.clone(),
            database: login.database.clone(),
            collation: login.collation,
            capabilities,
            max_packet: login.max_packet,
            attributes: login.attributes.clone(),
        },
        names,
        proof,
        client: view.client,
        listener,
        by: client.socket.by(),
        counted_for: None,
    };
    let mut admitted = login::admit(plane, &asked, &mut client.peer(), seq).await?;
    let (ok, responses, mirror) = begin(&admitted, &asked.identity)?;
    client.write(*seq, &ok).await.map_err(|error| Denied::Client(error.into()))?;
    *view.facts.borrow_mut() = std::mem::take(&mut admitted.facts);
    let tenant = admitted.tenant.take().expect("a first login is not counted before");
    Ok(Welcomed { admitted, tenant, login: Box::new(Kept::of(asked)), responses, mirror })
}

/// Reads the user name.
pub(crate) fn names(
    plane: &Plane,
    user: &[u8],
    attributes: &mysql_wire::login::Attributes,
) -> Result<Names, Denied> {
    let snapshot = plane.routing.snapshot();
    let is_label_key = |key: &str| snapshot.as_ref().is_some_and(|snapshot| snapshot.is_label_key(key));
    Names::read(user, attributes, is_label_key)
        .map_err(|error| Denied::Told(reply::Err::new(1105, "08004", error.to_string())))
}

/// What a client is told without a password: that it may not come from where it is, or that there is no room.
/// The limit is kept exactly where the session is counted; here it only spares the rest of the login.
pub(crate) fn check_address(
    plane: &Plane,
    names: &Names,
    client: SocketAddr,
    count_towards_limit: bool,
) -> Result<(), Denied> {
    let Some(snapshot) = plane.routing.snapshot() else { return Ok(()) };
    let tenant = snapshot.tenant(&names.tenant);
    if !tenant.allows(client.ip()) {
        let refusal = Refusal::Address { tenant: tenant.name.clone(), address: client.ip().to_canonical() };
        return Err(Denied::from(&refusal));
    }
    if count_towards_limit && let Some(refusal) = plane.routing.is_full(&tenant) {
        return Err(Denied::from(&refusal));
    }
    Ok(())
}

/// The OK for the client, and what follows the session's two directions from here on.
pub(crate) fn begin(
    admitted: &Admitted,
    identity: &Identity,
) -> Result<(Vec<u8>, Responses, Mirror), Denied> {
    let bad = |error| Denied::Told(reply::Err::new(1105, "08004", format!("OK of the CN: {error}")));
    let ok = reply::Ok::read(&admitted.connection.ok).map_err(bad)?;
    let changes = match &admitted.shown {
        Some(shown) => shown.filter(ok.changes).map_err(bad)?,
        None => Vec::new(),
    };
    let mut mirror = Mirror::new(identity.database.as_deref());
    track::read(ok.changes, |change| mirror.change(change)).map_err(bad)?;
    mirror.forget_tracking();
    match &admitted.parse {
        Some(parse) => mirror.learn(&reply::Ok::read(parse).map_err(bad)?),
        // A password that expired: the trackers could not be switched on.
        None => mirror.missed(),
    }
    let payload = reply::Ok { changes: &changes, ..ok }.write();
    let responses = Responses::new(login::deprecates_eof(identity.capabilities), admitted.shown.clone());
    Ok((payload, responses, mirror))
}

/// The packet of an OK or ERR of ours.
pub(crate) fn one_packet(seq: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + packet::HEADER);
    packet::write(&mut bytes, seq, payload);
    bytes
}
