//! What the client says: commands, each of its own, and some of them in one write.
//!
//! Must not know: CNs, moves.

use shunt_harness::packet::split;
use shunt_harness::{Execute, Param, com, command};

/// The statement's number: the first of its session, wherever that is.
pub(crate) const STATEMENT: u32 = 1;

const PREPARED: &str = "SELECT ?, @a, 'prepared'";

/// Whose a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The client's: nobody else says it.
    Own,
    /// The preparation of its statement, which Shunt says again elsewhere.
    Prepare,
    /// The end of it, likewise.
    Close,
    /// Not the client's.
    Other,
}

pub(crate) fn kind(payload: &[u8]) -> Kind {
    let Some((code, body)) = payload.split_first() else { return Kind::Other };
    match *code {
        com::STMT_PREPARE if body == PREPARED.as_bytes() => Kind::Prepare,
        com::STMT_CLOSE => Kind::Close,
        // But for its statement's number.
        com::STMT_EXECUTE => {
            let is_own = groups().iter().flatten().any(|one| one[0] == *code && one[5..] == payload[5..]);
            if is_own { Kind::Own } else { Kind::Other }
        }
        _ if groups().iter().flatten().any(|one| one == payload) => Kind::Own,
        _ => Kind::Other,
    }
}

/// The commands, those together that are sent in one write.
pub(crate) fn groups() -> Vec<Vec<Vec<u8>>> {
    let query = |sql: &str| command::query(sql);
    let execute = |param| command::execute(STATEMENT, &[param], Execute::default());
    vec![
        vec![query("SET @a = 'left'")],
        vec![query("SELECT @a, 1"), query("SELECT 'right'")],
        vec![command::prepare(PREPARED)],
        vec![execute(Param::Long(4711))],
        // The error is behind which nobody knows whether a transaction is open; the OK tells.
        vec![execute(Param::Text("bound".into())), query("SELECT nothing_here"), query("DO 7")],
        vec![query("SELECT 'one'; SELECT 'two'; DO 8")],
        vec![query("UPDATE t SET v = v + 1 WHERE id = 1")],
        vec![query("SELECT seq, REPEAT('x', seq) FROM seq_1_to_7")],
        vec![query("USE information_schema")],
        vec![query("BEGIN"), query("SELECT 3 FROM suite.t"), query("COMMIT")],
        vec![command::about_statement(com::STMT_CLOSE, STATEMENT), query("SELECT @a, DATABASE()")],
    ]
}

/// The group in which the statement is prepared, and that in which it is closed.
pub(crate) const PREPARES: usize = 2;
pub(crate) const CLOSES: usize = 10;

/// The bytes of a group as a client sends them.
pub(crate) fn bytes(group: &[Vec<u8>]) -> Vec<u8> {
    group.iter().flat_map(|payload| split(payload, 0)).flat_map(|packet| packet.bytes()).collect()
}

/// The commands of a group that have answers.
pub(crate) fn answered(group: &[Vec<u8>]) -> impl Iterator<Item = u8> {
    group.iter().map(|payload| payload[0]).filter(|code| *code != com::STMT_CLOSE)
}
