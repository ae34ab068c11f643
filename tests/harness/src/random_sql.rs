//! SQL that random sessions are made of, by what it is good for.
//!
//! Everything here gives the same answer each time it runs on the same data: no clock, no ids of
//! connections, no estimates. `{n}` is any number, `{d}` a small one, `{m}` up to some thousands,
//! `{k}` a length around the limits of length encoding, `{s}` a word, `{db}` the session's database.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// Results of all kinds.
pub(crate) const ROWS: &[&str] = &[
    "SELECT {n}",
    "SELECT {n} AS a, '{s}' AS b, NULL AS c, {n}.5, 1e{d}, -{n}",
    "SELECT * FROM t",
    "SELECT * FROM t ORDER BY id DESC LIMIT {d}",
    "SELECT id, s FROM t WHERE id > {d}",
    "SELECT COUNT(*), SUM(n), MAX(s), AVG(f) FROM t",
    "SELECT seq, REPEAT('{s}', seq % 7) FROM seq_1_to_{m}",
    "SELECT 1 FROM t WHERE 1 = 0",
    "SELECT REPEAT('x', {k})",
    "SELECT REPEAT('x', {k}), NULL, REPEAT('y', {k}) UNION ALL SELECT '', '', NULL",
    "SELECT NULL",
    "SHOW TABLES",
    "SHOW CREATE TABLE t",
    "SHOW COLUMNS FROM t",
    "DESCRIBE u",
    "SHOW VARIABLES LIKE 'sql_mode'",
    "SELECT x'00FF', _binary 'a\\0b', b'101'",
    "SELECT DATE'2020-01-01', TIME'10:11:12', TIMESTAMP'2020-02-03 04:05:06.789'",
    "SELECT JSON_OBJECT('a', {n})",
    "(SELECT {d}) UNION ALL (SELECT {n})",
    "WITH RECURSIVE r AS (SELECT 1 a UNION ALL SELECT a + 1 FROM r WHERE a < {d}) SELECT * FROM r",
    "VALUES (1, '{s}'), (3, '4')",
    "SELECT /* comment */ {n}",
    "/* lead */ SELECT {n} # tail",
    "SELECT {n} -- tail",
    "  \n\tSELECT {n}",
    "SELECT CURRENT_USER(), DATABASE(), USER()",
    "SELECT @@autocommit, @@sql_mode, @@time_zone, @@tx_isolation, @@sql_select_limit",
    "SELECT @@character_set_client, @@character_set_connection, @@character_set_results, @@collation_connection",
    "SELECT 'ä€😀', _latin1 x'E4', CHAR_LENGTH('ä€😀')",
    "SELECT SQL_CALC_FOUND_ROWS id FROM t LIMIT 1",
    "INSERT INTO t (s) VALUES ('{s}'), ('r') RETURNING id, s",
    "DELETE FROM u WHERE id = {d} RETURNING *",
    "SET STATEMENT sql_select_limit = 1 FOR SELECT id FROM t",
    "CHECKSUM TABLE u",
    "CHECK TABLE u",
    "EXECUTE IMMEDIATE 'SELECT {n}'",
];

/// Statements without a result.
pub(crate) const WRITES: &[&str] = &[
    "INSERT INTO t (n, s) VALUES ({n}, '{s}')",
    "INSERT INTO t (n, s) VALUES ({n}, '{s}'), ({d}, 'two'), (NULL, NULL)",
    "INSERT INTO t (id, s) VALUES (1000 + {d}, '{s}')",
    "INSERT IGNORE INTO u VALUES ({d}, {d}), (1, 1)",
    "INSERT INTO u VALUES (100 + {n}, {n}) ON DUPLICATE KEY UPDATE v = v + 1",
    "REPLACE INTO u VALUES ({d}, 50 + {d})",
    "UPDATE t SET n = {n} WHERE id < {d}",
    "UPDATE t SET n = n",
    "UPDATE u SET v = v + 100 ORDER BY id DESC",
    "DELETE FROM t WHERE id = {d}",
    "INSERT INTO t (n, s) SELECT seq, '{s}' FROM seq_1_to_{d}",
    "INSERT INTO t (b, ts, e) VALUES (x'00FF', '2020-01-01 00:00:00.5', 'y')",
    "TRUNCATE u",
    "CREATE TABLE IF NOT EXISTS w (a INT)",
    "DROP TABLE IF EXISTS w, nope",
    "ALTER TABLE u COMMENT '{s}'",
    "CREATE OR REPLACE VIEW v AS SELECT id FROM t",
    "DO {n}",
    "DO SLEEP(0), @a := {n}",
    "FLUSH STATUS",
    "ANALYZE NO_WRITE_TO_BINLOG TABLE w",
];

/// What fails, each in its own way.
pub(crate) const ERRORS: &[&str] = &[
    "",
    " ",
    ";",
    "nonsense",
    "SELECT",
    "SELECT nope",
    "SELECT * FROM nope",
    "SELECT * FROM nope.nope",
    "SELECT nope()",
    "SELECT (SELECT id FROM t)",
    "INSERT INTO u VALUES (1, 1), (1, 2)",
    "INSERT INTO u VALUES (900, NULL)",
    "INSERT INTO t (s) VALUES (REPEAT('x', 200))",
    "INSERT INTO t (n) VALUES (99999999999999)",
    "UPDATE t SET nope = 1",
    "SET nope = 1",
    "SET sql_mode = 'NOPE'",
    "SET GLOBAL autocommit_nope = 1",
    "USE nope_db",
    "CALL nope()",
    "CREATE TABLE t (a INT)",
    "DROP TABLE nope",
    "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{s}', MYSQL_ERRNO = 4321",
    "SIGNAL SQLSTATE '01234' SET MESSAGE_TEXT = 'a warning'",
    "SIGNAL SQLSTATE '08004' SET MESSAGE_TEXT = 'looks like a lost connection', MYSQL_ERRNO = 1040",
    "SIGNAL SQLSTATE '40001' SET MESSAGE_TEXT = 'looks like a deadlock', MYSQL_ERRNO = 1213",
    "KILL 4000000000",
    "KILL QUERY 4000000000",
    "EXECUTE nope",
    "DEALLOCATE PREPARE nope",
    "ROLLBACK TO SAVEPOINT nope",
    "SELECT 1 INTO @a, @b",
    "LOAD DATA LOCAL INFILE 'x' INTO TABLE nope",
    "SELECT * FROM t PROCEDURE nope()",
    "RESIGNAL",
    "SELECT 1 FROM t HAVING nope = 1",
    "BINLOG 'nope'",
];

/// Results that are cut by an error after some rows.
pub(crate) const CUT: &[&str] = &[
    "SELECT id, (SELECT v FROM u WHERE u.id <= t.id) FROM t ORDER BY id",
    "SELECT seq, (SELECT 1 FROM seq_1_to_2 x WHERE x.seq > 2 OR s.seq > {m}) FROM seq_1_to_4000 s",
    "SELECT seq, EXP(seq * 100) FROM seq_1_to_20",
    "SELECT REPEAT('z', 1000), POW(seq, 500) FROM seq_1_to_30",
];

/// What depends on the statement before, or on state.
pub(crate) const AFTER: &[&str] = &[
    "SHOW WARNINGS",
    "SHOW ERRORS",
    "SHOW COUNT(*) WARNINGS",
    "SELECT @@warning_count, @@error_count",
    "GET DIAGNOSTICS @diag = NUMBER",
    "SELECT FOUND_ROWS()",
    "SELECT ROW_COUNT()",
    "SELECT LAST_INSERT_ID()",
    "SELECT @a, @b, @diag, @out",
    "SELECT ROW_COUNT(), FOUND_ROWS(), LAST_INSERT_ID()",
    "SELECT DATABASE(), CURRENT_USER(), CURRENT_ROLE()",
    "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM information_schema.USER_VARIABLES ORDER BY 1",
    "SELECT @@in_transaction, @@autocommit, @@last_insert_id, @@identity",
    "SELECT IS_USED_LOCK('{db}') IS NULL",
];

/// What makes warnings.
pub(crate) const WARNINGS: &[&str] = &[
    "SELECT 1 / 0, CAST('{s}' AS INT)",
    "SELECT CAST('12x' AS SIGNED), CAST('y' AS DECIMAL) FROM t",
    "DROP TABLE IF EXISTS nope1, nope2",
    "CREATE TABLE IF NOT EXISTS t (a INT)",
    "INSERT IGNORE INTO u VALUES (1, 1), (2, NULL)",
    "INSERT IGNORE INTO t (s, n) VALUES (REPEAT('x', 200), 99999999999999)",
    "SET SESSION max_error_count = {d}",
    "SELECT 'a' = 0 FROM seq_1_to_{m}",
];

/// Session variables and user variables.
pub(crate) const SETS: &[&str] = &[
    "SET @a = {n}",
    "SET @a = '{s}', @b = @a",
    "SELECT @a := {n}, @b := '{s}'",
    "SELECT {n}, '{s}' INTO @a, @b",
    "SET @b = x'00FF', @a = 1.5e10",
    "SET time_zone = '+0{d}:00'",
    "SET time_zone = 'SYSTEM'",
    "SET sql_mode = ''",
    "SET sql_mode = 'ANSI'",
    "SET sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES'",
    "SET sql_mode = DEFAULT",
    "SET NAMES utf8mb4",
    "SET NAMES latin1",
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "SET CHARACTER SET latin1",
    "SET character_set_results = NULL",
    "SET character_set_results = ucs2",
    "SET character_set_results = utf8mb4",
    "SET collation_connection = latin1_german2_ci",
    "SET autocommit = 0",
    "SET autocommit = 1",
    "SET sql_select_limit = {d}",
    "SET sql_select_limit = DEFAULT",
    "SET SESSION group_concat_max_len = 1{d}00, max_sort_length = 6{d}",
    "SET foreign_key_checks = 0, unique_checks = 0",
    "SET wait_timeout = 1{d}00, lock_wait_timeout = 2{d}",
    "SET insert_id = 7{d}",
    "SET last_insert_id = {n}",
    "SET timestamp = 1600000000",
    "SET timestamp = DEFAULT",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET TRANSACTION READ ONLY",
    "SET tx_isolation = 'REPEATABLE-READ'",
    "SET ROLE NONE",
    "SET optimizer_switch = 'mrr=on'",
    "SET sql_auto_is_null = 1",
    "SET rand_seed1 = 1{d}, rand_seed2 = 2",
    "SET rand_seed1 = 1{d}, rand_seed2 = 5; SELECT RAND(), RAND(3)",
    "SET lc_time_names = 'de_DE'",
    "SET default_week_format = 1",
    "SET div_precision_increment = {d}",
    "SET completion_type = 0",
    "SET profiling = 0",
];

/// Transactions.
pub(crate) const TRANSACTIONS: &[&str] = &[
    "BEGIN",
    "START TRANSACTION",
    "START TRANSACTION READ ONLY",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "ROLLBACK AND NO CHAIN",
    "SAVEPOINT sp",
    "ROLLBACK TO SAVEPOINT sp",
    "RELEASE SAVEPOINT sp",
    "XA START '{db}'",
    "XA END '{db}'",
    "XA COMMIT '{db}' ONE PHASE",
    "XA ROLLBACK '{db}'",
    "INSERT INTO t (n) VALUES ({n})",
    "SELECT COUNT(*) FROM t",
    "SELECT id FROM t WHERE id < {d} FOR UPDATE",
    "INSERT INTO u VALUES (1, 1)",
];

/// Stored procedures and functions.
pub(crate) const CALLS: &[&str] = &[
    "CALL p_none()",
    "CALL p_many({d})",
    "CALL p_many(0)",
    "CALL p_rows(50)",
    "CALL p_error()",
    "CALL p_then_error({d})",
    "CALL p_cut()",
    "CALL p_out(@out)",
    "CALL p_set({d})",
    "CALL p_transaction()",
    "CALL p_warn()",
    "CALL p_temporary()",
    "CALL p_prepare()",
    "SELECT f_set({n})",
    "SELECT f_double(n) FROM t",
];

/// Temporary tables, locks, handlers, statements prepared as text.
pub(crate) const HOLDS: &[&str] = &[
    "CREATE TEMPORARY TABLE tmp (a INT, b VARCHAR(20))",
    "CREATE TEMPORARY TABLE IF NOT EXISTS tmp (a INT, b VARCHAR(20))",
    "CREATE OR REPLACE TEMPORARY TABLE tmp SELECT {d} AS a, '{s}' AS b",
    "INSERT INTO tmp VALUES ({n}, '{s}')",
    "SELECT * FROM tmp",
    "DROP TEMPORARY TABLE IF EXISTS tmp",
    "DROP TABLE tmp",
    "LOCK TABLES t WRITE, u READ",
    "LOCK TABLES t READ LOCAL",
    "UNLOCK TABLES",
    "SELECT GET_LOCK('{db}', 0)",
    "SELECT RELEASE_LOCK('{db}')",
    "SELECT RELEASE_ALL_LOCKS()",
    "DO GET_LOCK('{db}', 0)",
    "HANDLER t OPEN",
    "HANDLER t READ FIRST",
    "HANDLER t READ NEXT LIMIT {d}",
    "HANDLER t CLOSE",
    "PREPARE ps FROM 'SELECT {n} + ?'",
    "PREPARE ps FROM 'INSERT INTO t (n) VALUES (?)'",
    "EXECUTE ps USING @a",
    "EXECUTE ps",
    "DEALLOCATE PREPARE ps",
    "USE {db}",
    "USE information_schema",
];

/// What a client with SESSION_TRACK subscribes to.
pub(crate) const SUBSCRIPTIONS: &[&str] = &[
    "SET session_track_schema = OFF",
    "SET session_track_schema = ON",
    "SET session_track_state_change = ON",
    "SET session_track_state_change = OFF",
    "SET session_track_system_variables = 'time_zone,sql_mode'",
    "SET session_track_system_variables = ''",
    "SET session_track_system_variables = '*'",
    "SET session_track_system_variables = DEFAULT",
    "SET session_track_transaction_info = 'STATE'",
    "SET session_track_transaction_info = 'CHARACTERISTICS'",
    "SET session_track_transaction_info = OFF",
];

/// To be prepared as binary statements, with how many parameters.
pub(crate) const PREPARED: &[&str] = &[
    "SELECT 1",
    "SELECT ?",
    "SELECT ?, ?, ?",
    "SELECT * FROM t",
    "SELECT * FROM t WHERE id > ? ORDER BY id LIMIT 50",
    // REPEAT of nothing, very often, takes MariaDB very long: bounded.
    "SELECT seq, REPEAT('{s}', MOD(?, 300)) FROM seq_1_to_200",
    "SELECT LENGTH(?), HEX(LEFT(?, 10))",
    "INSERT INTO t (n, s, b) VALUES (?, ?, ?)",
    "INSERT INTO u VALUES (?, ?)",
    "UPDATE t SET s = ? WHERE id = ?",
    "DELETE FROM t WHERE id = ?",
    "DO ?",
    "DO 1",
    "SET @a = ?",
    "SET time_zone = ?",
    "SELECT id, (SELECT v FROM u WHERE u.id <= t.id) FROM t ORDER BY id",
    "SELECT seq, EXP(seq * ?) FROM seq_1_to_20",
    "SHOW TABLES",
    "SHOW WARNINGS",
    "SELECT @a, ?",
    "BEGIN",
    "COMMIT",
    "CREATE TEMPORARY TABLE IF NOT EXISTS tmp2 AS SELECT 1 AS a",
    "SELECT NULL, ?, 1.5, 2e3, 'x', DATE'2020-01-01', TIME'-10:11:12.5', x'00'",
    "INSERT INTO t (s) VALUES (?) RETURNING id, s",
];

/// Calls to be prepared.
pub(crate) const PREPARED_CALLS: &[&str] = &[
    "CALL p_many({d})",
    "CALL p_many(?)",
    "CALL p_then_error({d})",
    "CALL p_then_error(?)",
    "CALL p_cut()",
    "CALL p_out(?)",
    "CALL p_set(?)",
    "CALL p_none()",
    "CALL p_transaction()",
];

/// Results to be prepared, that a cursor can be opened on whatever is bound.
pub(crate) const PREPARED_ROWS: &[&str] = &[
    "SELECT seq, CONCAT(seq, '{s}') FROM seq_1_to_{m}",
    "SELECT * FROM t ORDER BY id",
    "SELECT ? UNION ALL SELECT 2 UNION ALL SELECT 3",
    "SHOW TABLES",
    "SELECT id, (SELECT v FROM u WHERE u.id <= t.id) FROM t ORDER BY id",
    "SELECT 1 FROM t WHERE 1 = 0",
];

/// What cannot be prepared.
pub(crate) const UNPREPARABLE: &[&str] = &[
    "",
    "SELEC ?",
    "SELECT * FROM nope WHERE a = ?",
    "SELECT 1; SELECT 2",
    "PREPARE x FROM 'SELECT 1'",
    "USE nope_db",
    "SELECT ? FROM",
];

/// A database as every random session finds it. `{db}` is its name.
pub(crate) const SETUP: &[&str] = &[
    "DROP DATABASE IF EXISTS {db}",
    "CREATE DATABASE {db} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
    "USE {db}",
    "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, n INT, s VARCHAR(100), d DECIMAL(10,2) DEFAULT 1.5,
        f DOUBLE DEFAULT 2.5, b BLOB, ts DATETIME(6), e ENUM('x','y') DEFAULT 'x')",
    "CREATE TABLE u (id INT PRIMARY KEY, v INT NOT NULL UNIQUE)",
    "CREATE TABLE l (a INT PRIMARY KEY, s VARCHAR(50))",
    "INSERT INTO t (n, s) VALUES (1, 'one'), (2, 'two'), (3, NULL), (NULL, ''), (5, 'fünf €')",
    "INSERT INTO u VALUES (1, 1), (2, 2), (3, 3)",
    "CREATE PROCEDURE p_none() BEGIN END",
    "CREATE PROCEDURE p_many(n INT) BEGIN SET n = LEAST(n, 8); WHILE n > 0 DO SELECT n, 'row'; SET n = n - 1; END WHILE; END",
    "CREATE PROCEDURE p_rows(n INT) SELECT seq FROM seq_1_to_300 WHERE seq < n",
    "CREATE PROCEDURE p_error() SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'",
    "CREATE PROCEDURE p_then_error(n INT) BEGIN SELECT n; SELECT * FROM t; SIGNAL SQLSTATE '45000'; END",
    "CREATE PROCEDURE p_cut() BEGIN SELECT 1; SELECT seq, EXP(seq * 100) FROM seq_1_to_20; SELECT 2; END",
    "CREATE PROCEDURE p_out(OUT x INT) BEGIN SET x = 42; END",
    "CREATE PROCEDURE p_set(n INT) BEGIN SET time_zone = '+07:00'; SET @a = n; SELECT @@time_zone; SET sql_select_limit = 100; END",
    "CREATE PROCEDURE p_transaction() BEGIN START TRANSACTION; INSERT INTO t (n) VALUES (1); SIGNAL SQLSTATE '45000'; END",
    "CREATE PROCEDURE p_warn() BEGIN SELECT 1/0; DROP TABLE IF EXISTS nope; END",
    "CREATE PROCEDURE p_temporary() CREATE OR REPLACE TEMPORARY TABLE tmp SELECT 1 AS a, 'x' AS b",
    "CREATE PROCEDURE p_prepare() BEGIN PREPARE ps FROM 'SELECT 5 + ?'; EXECUTE ps USING @a; END",
    "CREATE FUNCTION f_set(n INT) RETURNS INT BEGIN SET @a = n; RETURN n; END",
    "CREATE FUNCTION f_double(n INT) RETURNS INT DETERMINISTIC RETURN n * 2",
];

const WORDS: &[&str] =
    &["", "a", "word", "two words", "x\\'y", "ü€😀", "back\\\\slash", "semi;colon", "quote\\\"d"];
const LENGTHS: &[usize] = &[0, 1, 250, 251, 252, 1000, 65_534, 65_535, 65_536, 70_000, 200_000];

/// One of these, filled in.
pub(crate) fn one_of(rng: &mut StdRng, from: &[&str], database: &str) -> String {
    let template = from.choose(rng).expect("no list here is empty");
    fill(rng, template, database)
}

/// Replaces what is in braces.
pub(crate) fn fill(rng: &mut StdRng, template: &str, database: &str) -> String {
    let mut sql = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) = after.split_once('}').expect("every brace is closed");
        sql.push_str(before);
        match name {
            "n" => sql.push_str(&rng.random_range(0..100_000).to_string()),
            "d" => sql.push_str(&rng.random_range(1..9).to_string()),
            "m" => sql.push_str(&rng.random_range(1..3000).to_string()),
            "k" => sql.push_str(&LENGTHS.choose(rng).expect("not empty").to_string()),
            "s" => sql.push_str(WORDS.choose(rng).expect("not empty")),
            "db" => sql.push_str(database),
            other => panic!("unknown placeholder {other}"),
        }
        rest = behind;
    }
    sql.push_str(rest);
    sql
}
