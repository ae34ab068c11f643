//! Runs random sessions and compares what two servers, or two ways to one, answered: packet for
//! packet, but for what cannot be the same.
//!
//! What may differ:
//! - connection ids, ids of statements, salts, the text of COM_STATISTICS, rows of the process list;
//! - the order of tracked variables in an OK, and the time that `SET timestamp = DEFAULT` reports;
//! - an OK's block of items without any item, which says what no block says;
//! - the items of the first OK after a COM_CHANGE_USER was refused: a server resets the session then,
//!   and tells of it only there;
//! - what is told of transactions once a client has changed what it is told of, or such a refusal reset
//!   it: a tracker that was switched on anew begins with how things stand, one that was on tells what is
//!   new;
//! - the bit SERVER_SESSION_STATE_CHANGED in EOF packets, where it says nothing that a client can use;
//! - whether an error names row 0 or row 1: where it names none, it has the number that its connection had last;
//! - by a way on which sessions move: the number of a statement in the text of an error, the number of a row that an
//!   error names, what is said of a KILL by a number of a CN that the session left, what is
//!   told of transactions, everything behind the error that a value was lost with its CN, and whether the
//!   first OK behind an error names the default database again.

use crate::caps::Caps;
use crate::command::{self, com};
use crate::decode::status;
use crate::login::Login;
use crate::mariadb::MariaDb;
use crate::packet::Packet;
use crate::random_session::{ACCOUNTS, Session, Slot, Step};
use crate::random_sql;
use crate::reference::{Role, Shape};
use crate::response::Response;
use crate::session_state::OkParts;
use crate::wire::{Raw, Recorded};
use anyhow::Result;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

/// One packet, with what may differ taken out.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    sequence: u8,
    role: Role,
    payload: Vec<u8>,
}

/// What came back for one step.
#[derive(Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The step, for people.
    pub step: String,
    /// The command byte.
    pub command: u8,
    /// The shape of the response; none if there was no whole response.
    pub shape: Option<Shape>,
    /// Its packets.
    pub packets: Vec<Seen>,
    /// Why there was no whole response.
    pub end: Option<String>,
}

/// Everything that a session was answered.
#[derive(Clone, PartialEq, Eq)]
pub struct Transcript(pub Vec<Exchange>);

/// Makes the accounts of random sessions.
///
/// # Errors
/// The server refused.
pub async fn make_accounts(cn: &MariaDb) -> Result<()> {
    for (user, password) in ACCOUNTS {
        cn.account(user, "%", password).await?;
    }
    Ok(())
}

/// Puts a session's database into the state in which it starts.
///
/// # Errors
/// The server refused.
pub async fn set_up(cn: &MariaDb, session: &Session) -> Result<()> {
    let mut root = cn.root().await?;
    let mut rng = StdRng::seed_from_u64(0);
    let statements: Vec<_> = random_sql::SETUP
        .iter()
        .map(|statement| command::query(random_sql::fill(&mut rng, statement, &session.database)))
        .collect();
    for response in root.pipeline(&statements).await? {
        response.success()?;
    }
    root.quit().await
}

/// Removes a session's database.
///
/// # Errors
/// The server refused.
pub async fn tear_down(cn: &MariaDb, session: &Session) -> Result<()> {
    cn.run(&[&format!("DROP DATABASE IF EXISTS {}", session.database)]).await
}

/// A way to a server.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Where the client connects.
    pub address: SocketAddr,
    /// Asks for nothing that is not among these.
    pub offered: Caps,
    /// How long any one packet is waited for.
    pub patience: Duration,
    /// Sessions may move on it, or are compared with some that do.
    pub moves: bool,
}

/// Runs a session.
pub async fn run(way: Way, session: &Session) -> Transcript {
    run_recorded(way, session).await.0
}

/// Runs a session: what was answered, what was negotiated, and the packets after the login.
pub async fn run_recorded(way: Way, session: &Session) -> (Transcript, Caps, Vec<Recorded>) {
    let Way { address, offered, patience, moves } = way;
    let (user, password) = ACCOUNTS[0];
    let login = Login::user(user).password(password).database(&session.database).patience(patience);
    let login = login
        .caps(Caps::MARIADB_BULK, offered.has(Caps::MARIADB_BULK))
        .deprecate_eof(session.deprecate_eof)
        .session_track(session.session_track);
    let mut player = match Raw::login(address, &login).await {
        Ok(raw) => {
            let (ids, exchanges) = (HashMap::new(), Vec::new());
            Player { raw, ids, exchanges, refused: false, failed: false, subscribed: false, moves }
        }
        Err(error) => {
            let broken = Transcript(vec![Exchange::broken("LOGIN".into(), 0, &error)]);
            return (broken, Caps::NONE, Vec::new());
        }
    };
    player.raw.record();
    player.welcome();
    for step in &session.steps {
        if !player.step(step).await {
            break;
        }
    }
    (Transcript(player.exchanges), player.raw.caps, player.raw.recorded())
}

struct Player {
    raw: Raw,
    ids: HashMap<Slot, u32>,
    exchanges: Vec<Exchange>,
    /// A COM_CHANGE_USER was refused, and no OK came since.
    refused: bool,
    /// An ERR came, and no OK since.
    failed: bool,
    /// The client has changed what it is told of.
    subscribed: bool,
    /// Sessions may move.
    moves: bool,
}

impl Player {
    /// The OK of the login. Its number depends on how the login went.
    fn welcome(&mut self) {
        let packet = Packet { sequence: 0, ..self.raw.welcome.clone() };
        let payload = self.masked(0, Role::Ok, &packet.payload);
        self.exchanges.push(Exchange {
            step: "LOGIN".into(),
            command: 0,
            shape: Some(Shape::Ok),
            packets: vec![Seen { sequence: 0, role: Role::Ok, payload }],
            end: None,
        });
    }

    /// Whether the session goes on.
    async fn step(&mut self, step: &Step) -> bool {
        let sql = match step {
            Step::Command(payload) => String::from_utf8_lossy(payload),
            Step::Upload(sql, _) => sql.into(),
            _ => "".into(),
        };
        self.subscribed |= sql.contains("session_track_");
        match step {
            Step::Quit => self.quit().await,
            Step::Pipeline(payloads) => self.pipeline(payloads).await,
            Step::Upload(sql, file) => self.exchange(step, &command::query(sql), file, "").await,
            Step::Command(payload) => {
                let goes_on = self.exchange(step, payload, &[], "").await;
                if self.moves {
                    // Nobody uses it.
                    self.mask_prepared(0);
                }
                goes_on
            }
            Step::Prepare(slot, sql) => {
                let goes_on = self.exchange(step, &command::prepare(sql), &[], "").await;
                self.ids.remove(slot);
                if let Some(id) = self.last_prepared() {
                    self.ids.insert(*slot, id);
                }
                self.mask_prepared(*slot);
                goes_on
            }
            Step::ChangeUser { user, password, database, plugin } => {
                let mut login = Login::user(*user).password(*password).plugin(*plugin);
                login.database = database.clone();
                let payload = login.change_user(self.raw.caps, self.raw.salt());
                let goes_on = self.exchange(step, &payload, &[], password).await;
                if !self.refused {
                    // The statements are gone, and their ids may be given again.
                    self.ids.clear();
                }
                goes_on
            }
            Step::Execute(slot, ..)
            | Step::Bulk(slot, _)
            | Step::LongData(slot, ..)
            | Step::Fetch(slot, _)
            | Step::Reset(slot)
            | Step::Close(slot) => {
                // The statement could not be prepared.
                let Some(id) = self.ids.get(slot).copied() else { return true };
                let payload = match step {
                    Step::Execute(_, params, how) => command::execute(id, params, *how),
                    Step::Bulk(_, rows) => command::bulk_execute(id, rows),
                    Step::LongData(_, parameter, data) => command::long_data(id, *parameter, data),
                    Step::Fetch(_, rows) => command::fetch(id, *rows),
                    Step::Reset(_) => command::about_statement(com::STMT_RESET, id),
                    _ => command::about_statement(com::STMT_CLOSE, id),
                };
                self.exchange(step, &payload, &[], "").await
            }
        }
    }

    async fn exchange(&mut self, step: &Step, payload: &[u8], file: &[Vec<u8>], password: &str) -> bool {
        let command = payload.first().copied().unwrap_or(0xFF);
        let sent = self.raw.send(payload).await;
        let answered = match sent {
            Ok(()) if self.raw.waits() => self.raw.receive_with(file, password).await.map(Some),
            Ok(()) => Ok(None),
            Err(error) => Err(error),
        };
        let step = describe(step);
        let exchange = match answered {
            Ok(Some(response)) => self.seen(step, &response),
            Ok(None) => Exchange { step, command, shape: Some(Shape::None), packets: Vec::new(), end: None },
            Err(error) => Exchange::broken(step, command, &error),
        };
        let goes_on = exchange.end.is_none();
        // An EOF of five bytes tells nothing.
        let tells =
            |p: &Seen| matches!(p.role, Role::Ok | Role::ResultEnd | Role::Eof) && p.payload.len() != 5;
        let told = exchange.packets.iter().any(tells);
        let refused = exchange.shape == Some(Shape::SwitchErr);
        self.refused = refused || self.refused && !told;
        self.failed = exchange.packets.iter().any(|p| p.role == Role::Err) || self.failed && !told;
        // The trackers were switched on anew, too.
        self.subscribed |= refused;
        self.exchanges.push(exchange);
        goes_on
    }

    async fn pipeline(&mut self, payloads: &[Vec<u8>]) -> bool {
        match self.raw.pipeline(payloads).await {
            Ok(responses) => {
                for (payload, response) in payloads.iter().zip(&responses) {
                    let seen = self.seen(format!("pipelined {}", describe_payload(payload)), response);
                    self.exchanges.push(seen);
                }
                true
            }
            Err(error) => {
                self.exchanges.push(Exchange::broken("pipeline".into(), com::QUERY, &error));
                false
            }
        }
    }

    async fn quit(&mut self) -> bool {
        let sent = self.raw.send(&[com::QUIT]).await;
        let closed = match sent {
            Ok(()) => self.raw.closed().await,
            Err(error) => Err(error),
        };
        let end = closed.err().map(|error| cause(&error));
        let step = "QUIT".into();
        self.exchanges.push(Exchange {
            step,
            command: com::QUIT,
            shape: Some(Shape::None),
            packets: Vec::new(),
            end,
        });
        false
    }

    fn seen(&self, step: String, response: &Response) -> Exchange {
        let command = response.command;
        let mut packets = Vec::new();
        for (role, packet) in response.roles.iter().zip(&response.packets) {
            if command == com::PROCESS_INFO && *role == Role::Row {
                continue;
            }
            let payload = self.masked(command, *role, &packet.payload);
            packets.push(Seen { sequence: packet.sequence, role: *role, payload });
        }
        if command == com::PROCESS_INFO {
            packets.iter_mut().for_each(|packet| packet.sequence = 0);
        }
        Exchange { step, command, shape: Some(response.shape), packets, end: None }
    }

    /// Whether an item of session state must be the same.
    fn compares(&self, item: &[u8]) -> bool {
        let transaction = matches!(item.first(), Some(4 | 5));
        // A statement that was prepared in another database goes there and back, which an ERR does not tell.
        let database = item.first() == Some(&1) && self.moves && self.failed;
        !(self.refused || database || (self.subscribed || self.moves) && transaction)
    }

    /// Takes out of a packet what may differ.
    fn masked(&self, command: u8, role: Role, payload: &[u8]) -> Vec<u8> {
        let mut payload = payload.to_vec();
        match role {
            Role::Text if command == com::STATISTICS => payload = b"statistics".to_vec(),
            Role::AuthSwitch => payload.truncate(1),
            Role::Err => payload = self.mask_ids(&payload),
            Role::Row if self.moves && is_of_unknown_statement(&payload) => {
                payload = b"a warning with the CN's number of a statement".to_vec();
            }
            Role::Ok | Role::ResultEnd | Role::DefinitionsEnd | Role::Eof if payload.len() == 5 => {
                payload[4] &= !((status::SESSION_STATE_CHANGED >> 8) as u8);
            }
            Role::Ok | Role::ResultEnd | Role::Eof => {
                payload = sort_variables(payload, self.raw.caps, |item| self.compares(item));
            }
            _ => {}
        }
        payload
    }

    /// `(17)` in an error's text becomes `(slot 2)`.
    fn mask_ids(&self, payload: &[u8]) -> Vec<u8> {
        let code = u16::from_le_bytes([payload[1], payload[2]]);
        if self.moves {
            return mask_moved(payload);
        }
        if ![1243, 1421].contains(&code) {
            // An argument of a CALL has the row of whatever its connection did before: of none, or of a question.
            return match payload.strip_suffix(b"at row 0") {
                Some(before) => [before, b"at row 1"].concat(),
                None => payload.to_vec(),
            };
        }
        let (head, text) = payload.split_at(payload.len().min(9)); // code and SQLSTATE
        let mut text = String::from_utf8_lossy(text).into_owned();
        for (slot, id) in &self.ids {
            text = text.replace(&format!("({id})"), &format!("(slot {slot})"));
        }
        [head, text.as_bytes()].concat()
    }

    fn last_prepared(&self) -> Option<u32> {
        let first = self.exchanges.last()?.packets.first()?;
        let id: [u8; 4] = first.payload.get(1..5)?.try_into().ok()?;
        (first.role == Role::Prepared).then(|| u32::from_le_bytes(id))
    }

    fn mask_prepared(&mut self, slot: Slot) {
        let last = self.exchanges.last_mut().and_then(|exchange| exchange.packets.first_mut());
        if let Some(packet) = last.filter(|packet| packet.role == Role::Prepared) {
            packet.payload[1..5].copy_from_slice(&(slot as u32).to_le_bytes());
        }
    }
}

/// A row of SHOW WARNINGS that tells of a statement by its number.
fn is_of_unknown_statement(row: &[u8]) -> bool {
    let text = b"Unknown prepared statement handler (";
    // No row of a warning is longer, and there are rows of many megabytes.
    row.len() < 1024 && row.windows(text.len()).any(|window| window == text)
}

/// An ERR, without what differs where sessions move.
fn mask_moved(payload: &[u8]) -> Vec<u8> {
    let (head, text) = payload.split_at(payload.len().min(9)); // code and SQLSTATE
    let text = String::from_utf8_lossy(text);
    let text = without_row(text.split(" (the session has moved").next().unwrap_or_default());
    let parts = text.split('(').map(|part| {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.starts_with(')') { format!("id{rest}") } else { part.to_owned() }
    });
    [head, parts.collect::<Vec<_>>().join("(").as_bytes()].concat()
}

/// Without the number of a row: a CALL's argument has that of whatever its connection did before.
fn without_row(text: &str) -> String {
    match text.rsplit_once("at row ") {
        Some((before, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{before}at row")
        }
        _ => text.to_owned(),
    }
}

/// Brings an OK's tracked variables into an order, and keeps only some of the items. The items of variables have
/// one variable each; those of other types stay where they are, behind them. A block without any item
/// says what no block says.
fn sort_variables(payload: Vec<u8>, caps: Caps, keep: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let Some(OkParts { head, info, items }) = OkParts::of(&payload, caps) else { return payload };
    let (mut variables, others): (Vec<_>, Vec<_>) =
        items.into_iter().filter(|item| keep(item)).partition(|item| item.first() == Some(&0));
    if variables.is_empty() && others.is_empty() {
        return OkParts { head, info, items: Vec::new() }.without_items();
    }
    for variable in &mut variables {
        // `SET timestamp = DEFAULT` reports the time.
        if variable[2..].starts_with(b"\x09timestamp") {
            *variable = b"timestamp".to_vec();
        }
    }
    variables.sort();
    [head, info, variables.concat(), others.concat()].concat()
}

impl Exchange {
    /// It was asked for what was lost with a CN, and said so: what the session is from here on, it need not be.
    fn is_of_what_was_lost(&self) -> bool {
        let text = b"was lost with the CN that knew it";
        let says = |packet: &Seen| packet.payload.windows(text.len()).any(|window| window == text);
        self.packets.iter().any(|packet| packet.role == Role::Err && says(packet))
    }

    fn broken(step: String, command: u8, error: &anyhow::Error) -> Self {
        Self { step, command, shape: None, packets: Vec::new(), end: Some(cause(error)) }
    }
}

/// How a step ends when the server has closed.
const CLOSED: &str = "closed";

/// The part of an error that is the same on both ways: which end it was, not the words around it.
fn cause(error: &anyhow::Error) -> String {
    if let Some(refused) = error.downcast_ref::<crate::ErrPacket>() {
        return refused.to_string();
    }
    match error.downcast_ref::<std::io::Error>() {
        Some(_) => CLOSED.into(),
        None => format!("{error:#}"),
    }
}

fn describe_payload(payload: &[u8]) -> String {
    let first = payload.first().copied().unwrap_or(0xFF);
    let text = String::from_utf8_lossy(&payload[1.min(payload.len())..payload.len().min(400)]).into_owned();
    format!("{} {text:?} ({} bytes)", command::name(first), payload.len())
}

fn describe(step: &Step) -> String {
    match step {
        Step::Command(payload) => describe_payload(payload),
        Step::LongData(slot, parameter, data) => {
            format!("LongData({slot}, {parameter}, {} bytes)", data.len())
        }
        Step::Upload(sql, file) => format!("QUERY {sql:?} with a file of {} chunks", file.len()),
        other => format!("{other:?}").chars().take(500).collect(),
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:3} {:?} {} bytes: ", self.sequence, self.role, self.payload.len())?;
        let shown = &self.payload[..self.payload.len().min(160)];
        shown.iter().try_for_each(|byte| write!(f, "{byte:02x} "))?;
        write!(f, "{:?}", String::from_utf8_lossy(shown))
    }
}

impl Transcript {
    /// A step that was never answered, if there is one. Two sessions that hang alike are no success.
    pub fn unanswered(&self) -> Option<String> {
        let ends = self.0.iter().filter_map(|exchange| Some((&exchange.step, exchange.end.as_ref()?)));
        ends.filter(|(_, end)| *end != CLOSED).map(|(step, end)| format!("{step}: {end}")).next()
    }

    /// The first difference to another transcript of the same session, for people; none if there is
    /// none.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (ours, theirs) = (&self.0, &other.0);
        let at = (0..ours.len().max(theirs.len())).find(|i| ours.get(*i) != theirs.get(*i))?;
        if theirs.get(at).is_some_and(Exchange::is_of_what_was_lost) {
            return None;
        }
        let mut text = format!("at step {at}");
        for before in &ours[at.saturating_sub(6)..at.min(ours.len())] {
            let _ = write!(text, "\n      {} -> {:?}", before.step, before.shape);
        }
        for (name, exchange) in [("directly", ours.get(at)), ("by the other way", theirs.get(at))] {
            let Some(exchange) = exchange else {
                let _ = write!(text, "\n  {name}: no such step");
                continue;
            };
            let _ = write!(text, "\n  {name}: {} -> {:?} {:?}", exchange.step, exchange.shape, exchange.end);
            let counterpart = if name == "directly" { theirs.get(at) } else { ours.get(at) };
            let same = |i: usize| counterpart.and_then(|c| c.packets.get(i)) == exchange.packets.get(i);
            let first = (0..exchange.packets.len()).find(|i| !same(*i)).unwrap_or(exchange.packets.len());
            for packet in exchange.packets.iter().skip(first.saturating_sub(2)).take(5) {
                let _ = write!(text, "\n      {packet:?}");
            }
        }
        Some(text)
    }
}
