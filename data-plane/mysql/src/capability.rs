//! Capability flags: what they are, which are offered to clients, and what is asked of a CN for a client.
//!
//! The lower 32 bits are MySQL's; the upper 32 are MariaDB's extended ones, which travel in four bytes of the
//! greeting's and the login's filler where `CLIENT_MYSQL` (bit 0) is not set.

/// A set of capability flags.
pub type Capabilities = u64;

/// Not MariaDB: the extended flags are not looked at. (`CLIENT_LONG_PASSWORD` in MySQL's words.)
pub const CLIENT_MYSQL: u64 = 1;
/// Counts found rows, not changed ones.
pub const FOUND_ROWS: u64 = 1 << 1;
/// Long column flags.
pub const LONG_FLAG: u64 = 1 << 2;
/// A database is named in the login.
pub const CONNECT_WITH_DB: u64 = 1 << 3;
/// Refuses `db.table.column`.
pub const NO_SCHEMA: u64 = 1 << 4;
/// zlib compression.
pub const COMPRESS: u64 = 1 << 5;
/// An ODBC client.
pub const ODBC: u64 = 1 << 6;
/// LOAD DATA LOCAL.
pub const LOCAL_FILES: u64 = 1 << 7;
/// Spaces before `(`.
pub const IGNORE_SPACE: u64 = 1 << 8;
/// The protocol of MySQL 4.1, without which nothing here works.
pub const PROTOCOL_41: u64 = 1 << 9;
/// `interactive_timeout` in place of `wait_timeout`.
pub const INTERACTIVE: u64 = 1 << 10;
/// TLS.
pub const SSL: u64 = 1 << 11;
/// The client ignores SIGPIPE.
pub const IGNORE_SIGPIPE: u64 = 1 << 12;
/// Knows transaction flags in the status.
pub const TRANSACTIONS: u64 = 1 << 13;
/// 4.1 authentication.
pub const SECURE_CONNECTION: u64 = 1 << 15;
/// Several statements in a COM_QUERY.
pub const MULTI_STATEMENTS: u64 = 1 << 16;
/// Several results of a COM_QUERY.
pub const MULTI_RESULTS: u64 = 1 << 17;
/// Several results of a COM_STMT_EXECUTE.
pub const PS_MULTI_RESULTS: u64 = 1 << 18;
/// Names an authentication plugin.
pub const PLUGIN_AUTH: u64 = 1 << 19;
/// Connection attributes.
pub const CONNECT_ATTRS: u64 = 1 << 20;
/// The authentication data has a length-encoded length.
pub const PLUGIN_AUTH_LENENC: u64 = 1 << 21;
/// Can handle an expired password.
pub const EXPIRED_PASSWORDS: u64 = 1 << 22;
/// Session-state changes in OK packets.
pub const SESSION_TRACK: u64 = 1 << 23;
/// Results end with an OK packet in place of an EOF packet.
pub const DEPRECATE_EOF: u64 = 1 << 24;
/// MariaDB: bulk execution of prepared statements (COM_STMT_BULK_EXECUTE).
pub const MARIADB_BULK: u64 = 1 << 34;
/// MariaDB: extended type information in column definitions.
pub const MARIADB_EXTENDED_METADATA: u64 = 1 << 35;

/// What is offered to clients, where the CNs have it too.
///
/// Each flag here is understood by the trackers, or changes nothing that they look at. Not offered, and why:
/// - `COMPRESS` and zstd: packet boundaries would be hidden;
/// - `SSL`: not built yet;
/// - `CLIENT_QUERY_ATTRIBUTES`, `OPTIONAL_RESULTSET_METADATA`, `MULTI_FACTOR_AUTHENTICATION`: change layouts, and
///   MariaDB has them not;
/// - MariaDB's `PROGRESS`: sends packets that begin with 0xFF in the middle of a response;
/// - MariaDB's `CACHE_METADATA`: leaves out column definitions, depending on what this very CN sent before;
/// - MariaDB's `COM_MULTI`: withdrawn by MariaDB itself;
/// - MariaDB's `BULK_UNIT_RESULTS` (from 11.5 on): not needed by 10.11, whose CNs do not have it.
pub const OFFERED: Capabilities = FOUND_ROWS
    | LONG_FLAG
    | CONNECT_WITH_DB
    | NO_SCHEMA
    | ODBC
    | LOCAL_FILES
    | IGNORE_SPACE
    | PROTOCOL_41
    | INTERACTIVE
    | IGNORE_SIGPIPE
    | TRANSACTIONS
    | SECURE_CONNECTION
    | MULTI_STATEMENTS
    | MULTI_RESULTS
    | PS_MULTI_RESULTS
    | PLUGIN_AUTH
    | CONNECT_ATTRS
    | PLUGIN_AUTH_LENENC
    | EXPIRED_PASSWORDS
    | SESSION_TRACK
    | DEPRECATE_EOF
    | MARIADB_BULK
    | MARIADB_EXTENDED_METADATA;

/// What a CN must have for anything to work.
pub const REQUIRED_OF_CN: Capabilities =
    PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH | SESSION_TRACK | CONNECT_WITH_DB | DEPRECATE_EOF;

/// What is asked of a CN for a client that asked for `client`: the same, and session tracking. The login's own parts
/// (plugin name, attributes, database) are always written in the newest form, whatever the client's form was.
#[must_use]
pub const fn for_cn(client: Capabilities, cn: Capabilities) -> Capabilities {
    let always = PROTOCOL_41
        | SECURE_CONNECTION
        | TRANSACTIONS
        | PLUGIN_AUTH
        | PLUGIN_AUTH_LENENC
        | CONNECT_ATTRS
        | SESSION_TRACK;
    let asked = (client & OFFERED & !CONNECT_WITH_DB) | always;
    asked & (cn | CLIENT_MYSQL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cn_is_asked_for_what_the_client_chose() {
        let cn = !CLIENT_MYSQL;
        let old_client = PROTOCOL_41 | SECURE_CONNECTION;
        assert_eq!(for_cn(old_client, cn) & DEPRECATE_EOF, 0);
        assert_ne!(for_cn(old_client, cn) & SESSION_TRACK, 0);
        assert_ne!(for_cn(old_client | DEPRECATE_EOF, cn) & DEPRECATE_EOF, 0);
        let greedy = u64::MAX;
        assert_eq!(for_cn(greedy, cn) & (COMPRESS | SSL | (1 << 32) | (1 << 36)), 0);
    }
}
