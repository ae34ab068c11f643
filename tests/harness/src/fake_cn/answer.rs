//! What a fake CN says: answers, and the bytes they are.

use crate::caps::Caps;
use crate::command::{com, lenenc, lenenc_bytes};
use crate::decode::ErrPacket;
use crate::fake_cn::Received;
use crate::login::NATIVE;
use std::collections::HashMap;
use std::time::Duration;

/// How a connection goes on after an answer was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It stays open, and nothing more is said.
    Hang,
    /// It closes.
    Close,
    /// It is reset.
    Reset,
}

/// An answer to a command.
#[derive(Clone, Debug)]
pub enum Answer {
    /// OK.
    Ok,
    /// ERR.
    Err(ErrPacket),
    /// A text result: column names, rows.
    Rows(Vec<String>, Vec<Vec<Option<String>>>),
    /// A text result of one value, of any bytes.
    Bytes(Vec<u8>),
    /// These payloads.
    Payloads(Vec<Vec<u8>>),
    /// The first so many bytes of this answer, headers counted, and then the end.
    Cut(Box<Self>, usize, End),
    /// This answer after a while.
    After(Duration, Box<Self>),
    /// Nothing: for commands without a response.
    Nothing,
}

impl Answer {
    /// A text result of one row.
    pub fn row(columns: &[&str], values: &[&str]) -> Self {
        let values = values.iter().map(|value| Some((*value).to_owned())).collect();
        Self::Rows(columns.iter().map(|name| (*name).to_owned()).collect(), vec![values])
    }

    /// ERR.
    pub fn err(code: u16, sqlstate: &str, message: &str) -> Self {
        Self::Err(error(code, sqlstate, message))
    }

    pub(super) fn payloads(&self, caps: Caps) -> Vec<Vec<u8>> {
        match self {
            Self::Ok => vec![ok(0x00)],
            Self::Err(err) => vec![err_payload(err)],
            Self::Rows(columns, rows) => result(columns, rows, caps),
            Self::Bytes(value) => result(&["value".into()], &[vec![Some(value)]], caps),
            Self::Payloads(payloads) => payloads.clone(),
            Self::Cut(whole, ..) | Self::After(_, whole) => whole.payloads(caps),
            Self::Nothing => Vec::new(),
        }
    }
}

/// An error, for `Door` and `Answer`.
pub fn error(code: u16, sqlstate: &str, message: &str) -> ErrPacket {
    ErrPacket { code, sqlstate: sqlstate.into(), message: message.into() }
}

/// Answers to commands that every server knows.
pub(super) fn usual(received: &Received) -> Option<Answer> {
    match received.command() {
        com::PING | com::RESET_CONNECTION => Some(Answer::Ok),
        com::STMT_CLOSE | com::STMT_SEND_LONG_DATA => Some(Answer::Nothing),
        _ => None,
    }
}

/// Answers to what a proxy asks of a CN for itself.
pub(super) fn housekeeping(received: &Received, passwords: &HashMap<String, String>) -> Option<Answer> {
    let text = received.text();
    if received.command() != com::QUERY {
        return None;
    }
    if ["SET ", "DO ", "KILL "].iter().any(|start| text.starts_with(start)) {
        return Some(Answer::Ok);
    }
    if text.starts_with("SHOW GLOBAL VARIABLES LIKE") {
        return Some(Answer::Rows(vec!["Variable_name".into(), "Value".into()], Vec::new()));
    }
    if text.starts_with("SHOW GRANTS") {
        return Some(Answer::row(&["Grants"], &["GRANT ALL PRIVILEGES ON *.* TO `shunt`@`%`"]));
    }
    if text.contains("global_priv") {
        // By its name, or by a hexadecimal literal of it.
        let hex = |user: &str| user.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let named = |user: &&String| {
            text.contains(&format!("'{user}'")) || text.contains(&format!("'{}'", hex(user)))
        };
        let hash = |user: &String| Some(account_json(passwords.get(user)?));
        let rows = passwords.keys().filter(named).map(|user| vec![hash(user)]).collect();
        return Some(Answer::Rows(vec!["Priv".into()], rows));
    }
    if text.starts_with("SELECT (EXISTS(SELECT 1 FROM mysql.proc") {
        // There is no stored code here.
        return Some(Answer::row(&["stored code"], &["0"]));
    }
    if text.starts_with("SELECT @@") {
        let columns: Vec<String> =
            text["SELECT ".len()..].split(',').map(|name| name.trim().to_owned()).collect();
        let values = vec![Some(String::new()); columns.len()];
        return Some(Answer::Rows(columns, vec![values]));
    }
    None
}

/// The native hash of a password as `mysql.global_priv` has it.
fn account_json(password: &str) -> String {
    use sha1::{Digest as _, Sha1};
    if password.is_empty() {
        return r#"{"access":0,"plugin":"mysql_native_password","authentication_string":""}"#.into();
    }
    let stage2 = Sha1::digest(Sha1::digest(password.as_bytes()));
    let hex: String = stage2.iter().map(|byte| format!("{byte:02X}")).collect();
    format!(r#"{{"access":0,"plugin":"mysql_native_password","authentication_string":"*{hex}"}}"#)
}

pub(super) fn greeting(id: u32, salt: &[u8], caps: Caps) -> Vec<u8> {
    let mut payload = vec![10];
    payload.extend_from_slice(b"5.5.5-10.11.0-MariaDB-fake\0");
    payload.extend(id.to_le_bytes());
    payload.extend_from_slice(&salt[..8]);
    payload.push(0);
    payload.extend(&caps.base().to_le_bytes()[..2]);
    payload.push(45);
    payload.extend(2_u16.to_le_bytes());
    payload.extend(&caps.base().to_le_bytes()[2..]);
    payload.push(21);
    payload.extend([0; 6]);
    payload.extend(caps.extended().to_le_bytes());
    payload.extend_from_slice(&salt[8..]);
    payload.push(0);
    payload.extend_from_slice(NATIVE.as_bytes());
    payload.push(0);
    payload
}

pub(super) fn ok(header: u8) -> Vec<u8> {
    vec![header, 0, 0, 2, 0, 0, 0]
}

pub(crate) fn err_payload(err: &ErrPacket) -> Vec<u8> {
    let mut payload = vec![0xFF];
    payload.extend(err.code.to_le_bytes());
    if !err.sqlstate.is_empty() {
        payload.push(b'#');
        payload.extend_from_slice(err.sqlstate.as_bytes());
    }
    payload.extend_from_slice(err.message.as_bytes());
    payload
}

fn result<T: AsRef<[u8]>>(columns: &[String], rows: &[Vec<Option<T>>], caps: Caps) -> Vec<Vec<u8>> {
    let eof = vec![0xFE, 0, 0, 2, 0];
    let mut count = Vec::new();
    lenenc(&mut count, columns.len() as u64);
    let mut payloads = vec![count];
    payloads.extend(columns.iter().map(|name| definition(name, caps)));
    if !caps.has(Caps::DEPRECATE_EOF) {
        payloads.push(eof.clone());
    }
    for row in rows {
        let mut payload = Vec::new();
        for value in row {
            match value {
                Some(value) => lenenc_bytes(&mut payload, value.as_ref()),
                None => payload.push(0xFB),
            }
        }
        payloads.push(payload);
    }
    payloads.push(if caps.has(Caps::DEPRECATE_EOF) { ok(0xFE) } else { eof });
    payloads
}

/// The definition of a column of text.
fn definition(name: &str, caps: Caps) -> Vec<u8> {
    let mut payload = Vec::new();
    for field in ["def", "", "", "", name, ""] {
        lenenc_bytes(&mut payload, field.as_bytes());
    }
    if caps.has(Caps::MARIADB_EXTENDED_METADATA) {
        payload.push(0);
    }
    payload.extend([0x0C, 45, 0, 0, 4, 0, 0, 0xFD, 0, 0, 0, 0, 0]);
    payload
}
