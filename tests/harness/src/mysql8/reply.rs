//! The bytes of a scripted MySQL 8's answers: results, and OK packets with what the trackers report.

use super::eval::Rows;
use super::session::{Report, Session};
use super::value::{Kind, Value, character_set, named, number_of, recode};
use crate::caps::Caps;
use crate::command::{lenenc, lenenc_bytes};
use crate::decode::status;

/// What this session's trackers tell, taken from what is to be reported.
fn changes(session: &mut Session) -> Vec<u8> {
    let list = session.word("session_track_system_variables");
    let tells = |name: &str| list.split(',').any(|one| one.trim() == "*" || one.trim() == name);
    let transaction = session.word("session_track_transaction_info");
    let (schema, state) =
        (session.is_on("session_track_schema"), session.is_on("session_track_state_change"));
    let mut out = Vec::new();
    let mut item = |kind: u8, parts: &[&str]| {
        let mut data = Vec::new();
        parts.iter().for_each(|part| lenenc_bytes(&mut data, part.as_bytes()));
        out.push(kind);
        lenenc_bytes(&mut out, &data);
    };
    let mut changed = false;
    for report in session.reports.drain(..) {
        match &report {
            Report::Variable(name, value) if tells(name) => item(0, &[name, value]),
            Report::Schema(name) if schema => item(1, &[name]),
            Report::State => changed = state,
            Report::Characteristics(sql) if transaction == "CHARACTERISTICS" => item(4, &[sql]),
            Report::Transaction(letters) if transaction != "OFF" => item(5, &[letters]),
            _ => {}
        }
    }
    if changed {
        // A bare character, by itself.
        out.extend([2, 1, b'1']);
    }
    out
}

/// An OK; header 0xFE at the end of a result.
pub(super) fn ok(session: &mut Session, caps: Caps, header: u8, affected: u64, insert_id: u64) -> Vec<u8> {
    let changes = if caps.has(Caps::SESSION_TRACK) { changes(session) } else { Vec::new() };
    let mut payload = vec![header];
    lenenc(&mut payload, affected);
    lenenc(&mut payload, insert_id);
    let flag = if changes.is_empty() { 0 } else { status::SESSION_STATE_CHANGED };
    payload.extend((session.status() | flag).to_le_bytes());
    payload.extend(session.state.warnings.to_le_bytes());
    if !changes.is_empty() {
        payload.push(0);
        lenenc_bytes(&mut payload, &changes);
    }
    payload
}

fn eof(session: &Session) -> Vec<u8> {
    let mut payload = vec![0xFE];
    payload.extend(session.state.warnings.to_le_bytes());
    payload.extend(session.status().to_le_bytes());
    payload
}

/// The definition of a column whose values are like `like`.
fn definition(session: &Session, title: &str, like: &Value, binary: bool) -> Vec<u8> {
    let mut payload = Vec::new();
    for field in ["def", "", "", "", title, ""] {
        lenenc_bytes(&mut payload, field.as_bytes());
    }
    let (kind, flags) = if binary { (253, 0) } else { like.column() };
    let own = number_of(&like.collation);
    // Where results are converted, it is that of results.
    let collation = if like.collation == "binary" { own } else { session.state.results.unwrap_or(own) };
    payload.push(0x0C);
    payload.extend(collation.to_le_bytes());
    payload.extend(1024_u32.to_le_bytes());
    payload.push(kind);
    payload.extend(u16::to_le_bytes(flags));
    payload.extend([0, 0, 0]);
    payload
}

/// A value in the character set of results.
fn sent(session: &Session, value: &Value) -> Option<Vec<u8>> {
    let bytes = value.bytes.clone()?;
    let Some(results) = session.state.results.and_then(named).filter(|_| value.kind == Kind::Text) else {
        return Some(bytes);
    };
    Some(recode(&bytes, character_set(&value.collation), character_set(results)).unwrap_or(bytes))
}

/// A result, of text or (of an execute) binary, in which every column is a string.
pub(super) fn rows(session: &mut Session, caps: Caps, rows: &Rows, binary: bool) -> Vec<Vec<u8>> {
    let mut count = Vec::new();
    lenenc(&mut count, rows.columns.len() as u64);
    let mut payloads = vec![count];
    let null = Value::null();
    for (n, title) in rows.columns.iter().enumerate() {
        let like = rows.rows.first().and_then(|row| row.get(n)).unwrap_or(&null);
        payloads.push(definition(session, title, like, binary));
    }
    if !caps.has(Caps::DEPRECATE_EOF) {
        payloads.push(eof(session));
    }
    for row in &rows.rows {
        let values: Vec<_> = row.iter().map(|value| sent(session, value)).collect();
        payloads.push(if binary { binary_row(&values) } else { text_row(&values) });
    }
    payloads.push(if caps.has(Caps::DEPRECATE_EOF) { ok(session, caps, 0xFE, 0, 0) } else { eof(session) });
    payloads
}

fn text_row(values: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut payload = Vec::new();
    for value in values {
        match value {
            Some(value) => lenenc_bytes(&mut payload, value),
            None => payload.push(0xFB),
        }
    }
    payload
}

fn binary_row(values: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut nulls = vec![0_u8; (values.len() + 9) / 8];
    let mut payload = Vec::new();
    for (n, value) in values.iter().enumerate() {
        match value {
            Some(value) => lenenc_bytes(&mut payload, value),
            None => nulls[(n + 2) / 8] |= 1 << ((n + 2) % 8),
        }
    }
    [vec![0], nulls, payload].concat()
}

/// The answer to COM_STMT_PREPARE.
pub(super) fn prepared(
    session: &Session,
    caps: Caps,
    id: u32,
    columns: usize,
    params: usize,
) -> Vec<Vec<u8>> {
    let mut first = vec![0];
    first.extend(id.to_le_bytes());
    first.extend((columns as u16).to_le_bytes());
    first.extend((params as u16).to_le_bytes());
    first.extend([0, 0, 0]);
    let mut payloads = vec![first];
    for definitions in [params, columns].into_iter().filter(|n| *n > 0) {
        let one = definition(session, "?", &Value::null(), true);
        payloads.extend(vec![one; definitions]);
        if !caps.has(Caps::DEPRECATE_EOF) {
            payloads.push(eof(session));
        }
    }
    payloads
}
