//! A fake CN that takes the database out of the measurement: it greets as MariaDB 10.11 does, lets everybody in whose
//! password is their own name, and answers every COM_QUERY at once.
//!
//! What Shunt asks for itself it answers like a CN of `make up`: account hashes, trackers, `DO 1`. What is asked in a move
//! it has from a real server ([`Alike`]), where it is given one.

use crate::alike::{Alike, CONNECTION_ID};
use anyhow::{Result, bail};
use clap::Args;
use sha1::{Digest as _, Sha1};
use shunt_harness::Caps;
use shunt_harness::command::{com, lenenc, lenenc_bytes};
use shunt_harness::login::{Handshake, NATIVE, native};
use shunt_harness::packet::{MAX_PAYLOAD, Packet, split};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Where to be a CN.
#[derive(Args, Clone, Debug)]
pub(crate) struct Fake {
    /// Where to listen.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Answer everything as this MariaDB did when that was asked for the first time.
    #[arg(long)]
    pub(crate) like: Option<SocketAddr>,
}

/// Is a CN until the process ends.
///
/// # Errors
/// The address is taken.
pub(crate) fn run(fake: &Fake) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = listen(fake.listen)?;
        serve(listener, fake.like.map(|server| Arc::new(Alike::new(server)))).await
    })
}

/// Listens, with room for many who come at once.
///
/// # Errors
/// The address is taken.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket.listen(4096)?)
}

/// Accepts for ever.
///
/// # Errors
/// Accepting failed: no more files.
pub(crate) async fn serve(listener: TcpListener, alike: Option<Arc<Alike>>) -> Result<()> {
    for id in 1_u32.. {
        let (stream, _) = listener.accept().await?;
        let alike = alike.clone();
        // Who leaves is no error of the fake's.
        tokio::spawn(async move {
            match alike {
                Some(alike) => session_alike(stream, &alike).await.unwrap_or_default(),
                None => session(stream, id).await.unwrap_or_default(),
            }
        });
    }
    Ok(())
}

/// A session that is answered like one of a real server.
async fn session_alike(mut stream: TcpStream, alike: &Alike) -> Result<()> {
    stream.set_nodelay(true)?;
    let Some(caps) = log_in(&mut stream, CONNECTION_ID).await? else { return Ok(()) };
    let mut held = Vec::with_capacity(4096);
    let mut answers = Vec::new();
    while stream.read_buf(&mut held).await? > 0 {
        let mut at = 0;
        while let Some(payload) = packet(&held[at..])? {
            at += 4 + payload.len();
            if payload.first() == Some(&com::QUIT) {
                return Ok(());
            }
            answers.extend_from_slice(&alike.answer(caps, payload).await?[..]);
        }
        held.drain(..at);
        stream.write_all(&answers).await?;
        answers.clear();
    }
    Ok(())
}

async fn session(mut stream: TcpStream, id: u32) -> Result<()> {
    stream.set_nodelay(true)?;
    let Some(caps) = log_in(&mut stream, id).await? else { return Ok(()) };
    let canned = result(&[&["k"]], 1, caps);
    let mut large = None;
    let mut held = Vec::with_capacity(4096);
    let mut answers = Vec::new();
    loop {
        if stream.read_buf(&mut held).await? == 0 {
            return Ok(());
        }
        let mut at = 0;
        while let Some(payload) = packet(&held[at..])? {
            at += 4 + payload.len();
            match payload.split_first() {
                Some((&com::QUIT, _)) => return Ok(()),
                Some((&com::QUERY, statement)) if statement.starts_with(LARGE) => {
                    stream.write_all(&answers).await?;
                    answers.clear();
                    stream.write_all(large.get_or_insert_with(large_row)).await?;
                }
                Some((&com::QUERY, statement)) => match special(statement, caps) {
                    Some(answer) => answers.extend_from_slice(&answer),
                    None => answers.extend_from_slice(&canned),
                },
                Some((&(com::PING | com::RESET_CONNECTION), _)) => push(&mut answers, 1, &OK),
                _ => push(&mut answers, 1, b"\xFF\x17\x04#08S01Unknown command"),
            }
        }
        held.drain(..at);
        stream.write_all(&answers).await?;
        answers.clear();
    }
}

/// The first whole packet's payload.
fn packet(bytes: &[u8]) -> Result<Option<&[u8]>> {
    let Some((header, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
    if length == MAX_PAYLOAD {
        bail!("more than the fake takes");
    }
    Ok(rest.get(..length))
}

async fn log_in(stream: &mut TcpStream, id: u32) -> Result<Option<Caps>> {
    let salt: Vec<u8> = (0..20_u32).map(|i| b'a' + (id.wrapping_mul(7).wrapping_add(i) % 26) as u8).collect();
    stream.write_all(&Packet { sequence: 0, payload: greeting(id, &salt) }.bytes()).await?;
    let login = Packet::read(stream).await?;
    let handshake = Handshake::decode(&login.payload)?;
    let mut sequence = login.sequence.wrapping_add(1);
    let mut answer = handshake.answer;
    if handshake.caps.has(Caps::PLUGIN_AUTH) && handshake.plugin != NATIVE {
        let switch = [b"\xFE", NATIVE.as_bytes(), b"\0", &salt, b"\0"].concat();
        stream.write_all(&Packet { sequence, payload: switch }.bytes()).await?;
        let packet = Packet::read(stream).await?;
        (answer, sequence) = (packet.payload, packet.sequence.wrapping_add(1));
    }
    let admitted = answer == native(&handshake.user, &salt);
    let payload = if admitted { OK.to_vec() } else { b"\xFF\x15\x04#28000Access denied".to_vec() };
    stream.write_all(&Packet { sequence, payload }.bytes()).await?;
    Ok(admitted.then_some(handshake.caps))
}

const OK: [u8; 7] = [0, 0, 0, 2, 0, 0, 0];
const EOF: [u8; 5] = [0xFE, 0, 0, 2, 0];

/// How a statement begins that is answered by one row of 64 MiB.
pub(crate) const LARGE: &[u8] = b"SELECT REPEAT(";

/// That row, for a client that did not deprecate EOF.
fn large_row() -> Vec<u8> {
    let mut row = Vec::with_capacity((64 << 20) + 9);
    lenenc(&mut row, 64 << 20);
    row.resize(row.len() + (64 << 20), b'x');
    let before = [&[1][..], &definition(Caps::NONE), &EOF];
    let mut bytes = Vec::with_capacity(row.len() + 256);
    for (payload, sequence) in before.into_iter().zip(1..) {
        push(&mut bytes, sequence, payload);
    }
    let packets = split(&row, 4);
    let next = packets.last().map_or(4, |packet| packet.sequence.wrapping_add(1));
    packets.iter().for_each(|packet| push(&mut bytes, packet.sequence, &packet.payload));
    push(&mut bytes, next, &EOF);
    bytes
}

/// The answer to a statement that has no result set, or that a proxy sends for itself; none for all others.
fn special(statement: &[u8], caps: Caps) -> Option<Vec<u8>> {
    let starts =
        |word: &str| statement.get(..word.len()).is_some_and(|s| s.eq_ignore_ascii_case(word.as_bytes()));
    if ["SET ", "DO ", "KILL ", "INSERT "].into_iter().any(starts) {
        let mut answer = Vec::new();
        push(&mut answer, 1, &OK);
        return Some(answer);
    }
    if starts("SELECT Priv ") {
        let hash = account(&asked_user(statement));
        return Some(result(&[&[&hash]], 1, caps));
    }
    if starts("SHOW GLOBAL VARIABLES LIKE 'wsrep_on'") {
        return Some(result(&[&["wsrep_on", "OFF"]], 2, caps));
    }
    if starts("SELECT @@global.session_track") {
        let row = ["autocommit,character_set_client", "ON", "ON", "CHARACTERISTICS"];
        return Some(result(&[&row], row.len(), caps));
    }
    if starts("SELECT @@") {
        let columns = statement.split(|byte| *byte == b',').count();
        return Some(result(&[&vec![""; columns]], columns, caps));
    }
    None
}

/// The user that a look-up names, as a hexadecimal literal.
fn asked_user(statement: &[u8]) -> String {
    let text = String::from_utf8_lossy(statement);
    let hex = text.split("x'").nth(1).and_then(|rest| rest.split('\'').next()).unwrap_or_default();
    let byte = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).filter_map(byte).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An account as `mysql.global_priv` has it, whose password is the user's name.
fn account(user: &str) -> String {
    let hash = Sha1::digest(Sha1::digest(user.as_bytes()));
    let hex: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    format!(r#"{{"access":0,"plugin":"mysql_native_password","authentication_string":"*{hex}"}}"#)
}

/// A text result.
fn result(rows: &[&[&str]], columns: usize, caps: Caps) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sequence = 1_u8;
    let mut next = |payload: &[u8]| {
        push(&mut bytes, sequence, payload);
        sequence = sequence.wrapping_add(1);
    };
    next(&[columns as u8]);
    for _ in 0..columns {
        next(&definition(caps));
    }
    if !caps.has(Caps::DEPRECATE_EOF) {
        next(&EOF);
    }
    for row in rows {
        let mut payload = Vec::new();
        row.iter().for_each(|value| lenenc_bytes(&mut payload, value.as_bytes()));
        next(&payload);
    }
    if caps.has(Caps::DEPRECATE_EOF) {
        next(&[0xFE, 0, 0, 2, 0, 0, 0])
    } else {
        next(&EOF)
    }
    bytes
}

/// The definition of a column of text.
fn definition(caps: Caps) -> Vec<u8> {
    let mut payload = Vec::new();
    for field in ["def", "bench", "sbtest1", "sbtest1", "c", "c"] {
        lenenc_bytes(&mut payload, field.as_bytes());
    }
    if caps.has(Caps::MARIADB_EXTENDED_METADATA) {
        payload.push(0);
    }
    payload.extend([0x0C, 45, 0, 0, 4, 0, 0, 0xFD, 0, 0, 0, 0, 0]);
    payload
}

fn push(into: &mut Vec<u8>, sequence: u8, payload: &[u8]) {
    into.extend_from_slice(&shunt_harness::packet::header(payload.len(), sequence));
    into.extend_from_slice(payload);
}

/// What MariaDB 10.11 offers, without TLS and compression, and without its extended capabilities.
fn greeting(id: u32, salt: &[u8]) -> Vec<u8> {
    let caps = Caps(0x81FF_F7FE).without(Caps::SSL | Caps::COMPRESS);
    let [low0, low1, high0, high1] = caps.base().to_le_bytes();
    let mut payload = vec![10];
    payload.extend_from_slice(b"5.5.5-10.11.0-MariaDB-fake\0");
    payload.extend(id.to_le_bytes());
    payload.extend_from_slice(&salt[..8]);
    payload.extend([0, low0, low1, 45, 2, 0, high0, high1, 21]);
    payload.extend([0; 10]);
    payload.extend_from_slice(&salt[8..]);
    payload.push(0);
    payload.extend_from_slice(NATIVE.as_bytes());
    payload.push(0);
    payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{self, Load};
    use crate::response::Responses;
    use shunt_harness::{Login, Raw};

    /// The fake in this process, on a thread of its own.
    fn start() -> SocketAddr {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, None).await.unwrap();
            });
        });
        told.recv().unwrap()
    }

    fn load(address: SocketAddr) -> Load {
        Load {
            address,
            connections: 16,
            threads: 2,
            seconds: 0,
            statement: "SELECT c FROM sbtest1 WHERE id=1".into(),
            insert_bytes: None,
            login: false,
            logins: None,
        }
    }

    #[test]
    fn the_load_generator_is_answered() {
        let address = start();
        let done = load::run(&load(address)).unwrap();
        assert_eq!(done.queries, 16, "{done:?}");
        assert!(done.seconds > 0.0 && done.p99_ms > 0.0, "{done:?}");
        let timed = Load { seconds: 1, ..load(address) };
        let done = load::run(&timed).unwrap();
        assert!(done.queries > 100 && done.seconds >= 1.0, "{done:?}");
        let logins = Load { login: true, logins: Some(203), ..load(address) };
        assert_eq!(load::run(&logins).unwrap().queries, 203);
        let inserts = Load { connections: 2, insert_bytes: Some(1 << 20), ..load(address) };
        assert_eq!(load::run(&inserts).unwrap().queries, 2);
        let refused = Load { connections: 1, statement: "SELECT 1".repeat(1 << 21), ..load(address) };
        load::run(&refused).unwrap_err();
    }

    #[test]
    fn the_large_row_is_a_whole_response() {
        let bytes = large_row();
        assert!(bytes.len() > 64 << 20);
        let mut responses = Responses::new();
        let ends = bytes.chunks(1 << 20).filter(|piece| responses.push(piece).unwrap()).count();
        assert_eq!(ends, 1);
    }

    #[tokio::test]
    async fn a_strict_client_reads_its_answers_with_and_without_eof() {
        let address = start();
        for deprecate_eof in [false, true] {
            let login = Login::user("shunt").password("shunt").deprecate_eof(deprecate_eof);
            let mut raw = Raw::login(address, &login).await.unwrap();
            raw.run("DO 1").await.unwrap();
            let asks = "SELECT Priv FROM mysql.global_priv WHERE User = '' OR User = CONVERT(x'617070' USING utf8mb4)";
            assert_eq!(raw.value(asks).await.unwrap(), account("app"));
            raw.run("SELECT @@global.session_track_system_variables, @@global.session_track_schema")
                .await
                .unwrap();
            raw.quit().await.unwrap();
        }
        let wrong = Login::user("app").password("other");
        assert!(Raw::login(address, &wrong).await.is_err());
    }
}
