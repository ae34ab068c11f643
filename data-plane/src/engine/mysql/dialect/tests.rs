use super::*;
use proptest::prelude::*;

#[test]
fn a_cn_is_what_it_greets_as() {
    for (version, capabilities, is) in [
        ("5.5.5-10.11.6-MariaDB", 0, MariaDb),
        ("11.4.2-MariaDB-log", 0, MariaDb),
        // As an operator made it say.
        ("8.0.36", 0, MariaDb),
        ("8.0.36-mariadb", CLIENT_MYSQL, MariaDb),
        ("8.0.36", CLIENT_MYSQL, MySql),
        ("8.4.3-commercial", CLIENT_MYSQL, MySql),
        ("9.1.0", CLIENT_MYSQL, MySql),
        ("5.7.44-log", CLIENT_MYSQL, MariaDb),
        ("80", CLIENT_MYSQL, MariaDb),
        ("", CLIENT_MYSQL, MariaDb),
    ] {
        assert_eq!(Dialect::of(version.as_bytes(), capabilities), is, "{version}");
    }
}

#[test]
fn nothing_of_mariadb_s_own_is_asked_of_mysql() {
    let mut all = MySql.catalog(true);
    all.extend([MySql.facts(), MySql.settings(), MySql.locks(7), MySql.witness().unwrap()]);
    all.extend([MySql.counters(), MySql.last().into(), MySql.find(3, "t"), MySql.user_variables()]);
    all.extend([MySql.accounts("61"), MySql.code(), MySql.select_all("1"), MySql.select_unhindered("1")]);
    for sql in all {
        assert!(sql.is_ascii(), "{sql}");
        for word in [
            "SET STATEMENT",
            "system_variables",
            "information_schema.user_variables",
            "metadata_lock_info",
            "session_status",
            "global_priv",
            "mysql.proc",
            "max_statement_time",
            "gtid_seq_no",
            "rand_seed",
            "EXECUTE IMMEDIATE",
            "SQL_CALC_FOUND_ROWS",
            "warning_count",
        ] {
            assert!(!sql.contains(word), "{word}: {sql}");
        }
    }
}

/// What MariaDB is asked is what was measured.
#[test]
fn mariadb_is_asked_what_it_was() {
    let unbent = "SET STATEMENT sql_select_limit=DEFAULT, sql_big_selects=1, max_statement_time=0 FOR ";
    assert_eq!(
        MariaDb.facts(),
        format!(
            "{unbent}SELECT HEX(CONVERT(DATABASE() USING utf8mb4)), HEX(CONVERT(CURRENT_ROLE() USING utf8mb4)), \
             LAST_INSERT_ID(), @@insert_id, @@timestamp, @@rand_seed1, @@rand_seed2, @@pseudo_thread_id, \
             @@gtid_seq_no, @@autocommit"
        )
    );
    assert_eq!(
        MariaDb.settings(),
        "SET STATEMENT sql_select_limit=1 FOR \
         SELECT @@sql_big_selects, @@max_statement_time, HEX(@@character_set_results)"
    );
    assert_eq!(MariaDb.last(), "SELECT FOUND_ROWS(), @@warning_count");
    assert_eq!(MariaDb.find(3, "t"), "SELECT SQL_CALC_FOUND_ROWS 1 FROM t LIMIT 0");
    assert_eq!(MariaDb.witness(), None);
    assert_eq!(
        MariaDb.accounts("61"),
        "SELECT Priv FROM mysql.global_priv WHERE User = '' OR User = CONVERT(x'61' USING utf8mb4)"
    );
    assert!(MariaDb.is_apart("transaction_isolation") && !MariaDb.is_apart("tx_isolation"));
}

#[test]
fn roles_are_read_out_of_what_mysql_says() {
    let role = |said: &str| MySql.role(Some(said.as_bytes().to_vec()));
    assert_eq!(role("NONE"), Some(None));
    assert_eq!(role("`b`@`%`,`a`@`10.%`"), Some(Some(b"`a`@`10.%`,`b`@`%`".to_vec())));
    assert_eq!(role("`o``x,`@`%`"), Some(Some(b"`o``x,`@`%`".to_vec())));
    for broken in ["", "a", "`a`", "`a`@", "`a`@`%", "`a`@`%`,", "`a`@`%`;DROP", "`a`@`%`, `b`@`%`"] {
        assert_eq!(role(broken), None, "{broken}");
    }
    assert_eq!(MariaDb.role(Some(b"a`b".to_vec())), Some(Some(b"a`b".to_vec())));
    assert_eq!(MariaDb.set_role("a`b"), "`a``b`");
}

#[test]
fn what_does_not_tell_all_locks_is_no_witness() {
    let row = |values: [Option<&str>; 7]| -> Vec<Column> {
        values.into_iter().map(|value| value.map(|value| value.as_bytes().to_vec())).collect()
    };
    let [yes, most] = [Some("YES"), Some("18446744073709551615")];
    let good = [yes, yes, yes, Some("0"), Some("USR_default"), most, Some("1")];
    assert!(MySql.is_witnessed(&row(good)));
    assert!(MySql.is_witnessed(&row([yes, yes, yes, Some("0"), None, Some("4294967295"), Some("1")])));
    for (at, value) in [
        (0, Some("NO")),
        (0, None),
        (1, Some("NO")),
        (2, None),
        (3, Some("1")),
        (3, None),
        (4, Some("batch")),
        // The hints were not taken.
        (5, Some("1000")),
        (5, None),
        (6, Some("0")),
    ] {
        let mut bad = good;
        bad[at] = value;
        assert!(!MySql.is_witnessed(&row(bad)), "{at} {value:?}");
    }
    assert!(!MySql.is_witnessed(&[]));
}

#[test]
fn a_gtid_that_a_session_owns_is_seen() {
    let hex = |text: &str| vec![Some(literal::hex(text.as_bytes()).into_bytes())];
    assert_eq!(MySql.is_gtid_free(&hex("AUTOMATIC")), Some(true));
    assert_eq!(MySql.is_gtid_free(&hex("3E11FA47-71CA-11E1-9E33-C80AA9429562:23")), Some(false));
    assert_eq!(MySql.is_gtid_free(&[]), None);
    assert_eq!(MariaDb.is_gtid_free(&[]), Some(true));
}

#[test]
fn names_that_are_not_ascii_are_sent_only_where_they_are_read_right() {
    assert_eq!(MySql.in_any_client("SELECT @`ü`", b"utf8mb4"), Some("SELECT @`ü`".into()));
    assert_eq!(MySql.in_any_client("SELECT @`ü`", b"latin1"), None);
    assert_eq!(MySql.in_any_client("SELECT @u", b"latin1"), Some("SELECT @u".into()));
    assert!(MariaDb.in_any_client("SELECT @`ü`", b"latin1").unwrap().starts_with("EXECUTE IMMEDIATE"));
}

proptest! {
    #[test]
    fn no_roles_make_it_panic(said: String) {
        let _ = MySql.role(Some(said.into_bytes()));
    }
}
