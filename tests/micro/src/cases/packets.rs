//! What clients and CNs say, as bytes: sysbench's statements, and MariaDB's answers to them.

use mysql_wire::command;
use mysql_wire::packet::{self, write_lenenc_bytes};
use mysql_wire::reply::{self, AUTOCOMMIT, IN_TRANS, STATE_CHANGED};

/// How results end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With an OK packet: the client deprecated EOF.
    Ok,
    /// With EOF packets, behind definitions too.
    Eof,
}

/// In which protocol rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// Of COM_QUERY.
    Text,
    /// Of COM_STMT_EXECUTE.
    Binary,
}

/// A point select.
pub(super) const POINT: &str = "SELECT c FROM sbtest1 WHERE id=504215";

/// An INSERT of 4 KiB.
pub(super) fn insert() -> String {
    let row = "(0, 504215, '31451373586-15688153734-79729593694', '67847967377-48000963322-62604785301'), ";
    let mut text = "INSERT INTO sbtest1 (id, k, c, pad) VALUES ".to_owned() + &row.repeat(50);
    text.truncate(4096);
    text
}

fn one(seq: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    packet::write(&mut out, seq, payload);
    out
}

/// An answer of several packets.
fn several(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    payloads.iter().fold(1, |seq, payload| packet::write(&mut out, seq, payload));
    out
}

/// COM_QUERY.
pub(super) fn query(text: &str) -> Vec<u8> {
    one(0, &[&[command::QUERY], text.as_bytes()].concat())
}

/// COM_STMT_PREPARE.
pub(super) fn prepare() -> Vec<u8> {
    one(0, &[&[command::STMT_PREPARE], &b"SELECT c FROM sbtest1 WHERE id=?"[..]].concat())
}

/// COM_STMT_EXECUTE of statement 1: no cursor, once, no NULL, types follow: one BIGINT.
pub(super) fn execute() -> Vec<u8> {
    one(0, &[command::STMT_EXECUTE, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 8, 0, 0x97, 0xB1, 7, 0, 0, 0, 0, 0])
}

/// The point select in this protocol.
pub(super) fn point(row: Row) -> Vec<u8> {
    match row {
        Row::Text => query(POINT),
        Row::Binary => execute(),
    }
}

fn definition(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for text in ["def", "sbtest", "sbtest1", "sbtest1", name, name] {
        write_lenenc_bytes(&mut out, text.as_bytes());
    }
    // CHAR(120), utf8mb4, NOT NULL.
    out.extend_from_slice(&[0x0C, 45, 0, 0xE0, 1, 0, 0, 0xFE, 1, 0, 0, 0, 0]);
    out
}

const EOF: [u8; 5] = [reply::EOF, 0, 0, 2, 0];

/// The answer to [`prepare`]: statement 1, one column, one parameter.
pub(super) fn prepared(end: End) -> Vec<u8> {
    let mut payloads = vec![vec![reply::OK, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]];
    for name in ["?", "c"] {
        payloads.push(definition(name));
        payloads.extend((end == End::Eof).then(|| EOF.to_vec()));
    }
    several(&payloads)
}

/// A result of `n` rows with one column of 119 characters.
pub(super) fn result(row: Row, n: usize, end: End) -> Vec<u8> {
    let mut text = match row {
        Row::Text => Vec::new(),
        // No column is NULL.
        Row::Binary => vec![0, 0],
    };
    write_lenenc_bytes(&mut text, &[b'7'; 119]);
    let mut payloads = vec![vec![1], definition("c")];
    payloads.extend((end == End::Eof).then(|| EOF.to_vec()));
    payloads.extend(std::iter::repeat_n(text, n));
    payloads.push(match end {
        End::Ok => ok(reply::EOF, &[]),
        End::Eof => EOF.to_vec(),
    });
    several(&payloads)
}

fn ok(header: u8, changes: &[u8]) -> Vec<u8> {
    let changed = if changes.is_empty() { 0 } else { STATE_CHANGED | IN_TRANS };
    let status = AUTOCOMMIT | changed;
    reply::Ok { header, affected: 0, insert_id: 0, status, warnings: 0, info: b"", changes }.write()
}

/// An OK with no changes, or with three: a variable that clients are shown by default, the mark that something changed,
/// and what the transaction did.
pub(super) fn done(with_changes: bool) -> Vec<u8> {
    let mut changes = Vec::new();
    if with_changes {
        let mut variable = Vec::new();
        write_lenenc_bytes(&mut variable, b"time_zone");
        write_lenenc_bytes(&mut variable, b"Europe/Berlin");
        for (kind, data) in [(0, &variable[..]), (2, b"1"), (5, b"\x08T_______")] {
            changes.push(kind);
            write_lenenc_bytes(&mut changes, data);
        }
    }
    one(1, &ok(reply::OK, &changes))
}

/// An ERR.
pub(super) fn err() -> Vec<u8> {
    reply::Err::new(1146, "42S02", "Table 'sbtest.sbtest9' doesn't exist").packet(1)
}
