use super::left::Counted;
use super::statements::MOST_TEXT;
use super::statements::Under;
use super::*;
use mysql_wire::command::Shape;
use mysql_wire::reply::STATE_CHANGED;
use mysql_wire::request::Requested;
use mysql_wire::response::Answered;
use mysql_wire::track::Change;

fn command(code: u8, body: &[u8]) -> Command<'_> {
    Command { code, body, whole: true }
}

fn pending(code: u8, statement: u32) -> Pending {
    Pending { code, shape: Shape::Results, statement, seen: true }
}

fn ok(status: u16) -> reply::Ok<'static> {
    reply::Ok { header: 0, affected: 0, insert_id: 0, status, warnings: 0, info: b"", changes: b"" }
}

fn words(mirror: &Mirror) -> Vec<&'static str> {
    PinReason::words_of(mirror.pins())
}

#[test]
fn a_transaction_pins_and_after_an_err_nothing_is_known_of_it() {
    let mut mirror = Mirror::new(None);
    let query = pending(command::QUERY, 0);
    mirror.ok(&query, &ok(IN_TRANS));
    assert_eq!(words(&mirror), ["transaction"]);
    mirror.err(Some(&query), 1062);
    assert_eq!(words(&mirror), ["unknown state"]);
    mirror.ok(&query, &ok(0));
    assert!(words(&mirror).is_empty());
}

#[test]
fn text_hints_pin_where_no_tracker_would_tell() {
    for (text, pin) in [
        ("SELECT GET_LOCK('a', 1)", "user lock"),
        ("CREATE TEMPORARY TABLE t SELECT 1", "temporary table"),
        ("HANDLER t OPEN", "handler"),
        ("FLUSH TABLES WITH READ LOCK", "locked tables"),
        ("CALL p()", "unknown state"),
    ] {
        let mut mirror = Mirror::new(None);
        mirror.command(command(command::QUERY, text.as_bytes()));
        assert_eq!(words(&mirror), [pin], "{text}");
    }
}

#[test]
fn a_cursor_pins_until_its_last_row_and_long_data_until_it_is_used() {
    let mut mirror = Mirror::new(None);
    mirror.command(command(command::STMT_PREPARE, b"SELECT ?"));
    mirror.prepared(7, 1, 1);
    mirror.command(command(command::STMT_SEND_LONG_DATA, &[7, 0, 0, 0, 0, 0, b'x']));
    assert_eq!(words(&mirror), ["long data"]);
    mirror.command(command(command::STMT_EXECUTE, &[7, 0, 0, 0, 1, 1, 0, 0, 0]));
    mirror.ok(&pending(command::STMT_EXECUTE, 7), &ok(CURSOR_EXISTS));
    assert_eq!(words(&mirror), ["cursor"]);
    mirror.ok(&pending(command::STMT_FETCH, 7), &ok(CURSOR_EXISTS));
    assert_eq!(words(&mirror), ["cursor"]);
    mirror.ok(&pending(command::STMT_FETCH, 7), &ok(LAST_ROW_SENT));
    assert!(words(&mirror).is_empty());
}

#[test]
fn statements_are_kept_with_their_text_and_what_they_were_prepared_under() {
    let mut mirror = Mirror::new(None);
    mirror.command(Command { code: command::STMT_PREPARE, body: b"SEL", whole: false });
    mirror.more(b"ECT 1");
    mirror.change(Change::Schema(b"other"));
    mirror.prepared(1, 1, 0);
    let first = &mirror.statements.by_id[&1];
    assert_eq!(first.text.as_deref(), Some(&b"SELECT 1"[..]));
    assert_eq!(first.context.database.as_deref(), Some(&b"other"[..]));
    // One that fails takes no place from the next.
    mirror.command(command(command::STMT_PREPARE, b"BAD"));
    mirror.command(command(command::STMT_PREPARE, b"SELECT 2"));
    mirror.err(Some(&pending(command::STMT_PREPARE, 0)), 1064);
    mirror.prepared(2, 1, 0);
    assert_eq!(mirror.statements.by_id[&2].text.as_deref(), Some(&b"SELECT 2"[..]));
    mirror.command(command(command::STMT_CLOSE, &[1, 0, 0, 0]));
    mirror.command(command(command::STMT_CLOSE, &[2, 0, 0, 0]));
    assert_eq!((mirror.statements.by_id.len(), mirror.statements.text_kept), (0, 0));
}

#[test]
fn what_is_kept_of_texts_is_bounded() {
    let mut mirror = Mirror::new(None);
    for id in 0..6 {
        mirror.command(command(command::STMT_PREPARE, &vec![b'x'; 1 << 20]));
        mirror.prepared(id, 0, 0);
    }
    assert!(mirror.statements.text_kept <= MOST_TEXT);
    assert!(mirror.pins() & PinReason::TooLarge.bit() != 0);
}

/// Only what may have switched trackers is asked about: a question costs a round trip.
#[test]
fn trackers_are_touched_by_name_or_by_what_was_not_seen() {
    let mut mirror = Mirror::new(None);
    let query = pending(command::QUERY, 0);
    let unseen = Pending { seen: false, ..query };
    let changed = |mirror: &mut Mirror, pending: &Pending, change: bool| {
        if change {
            mirror.change(Change::State);
        }
        mirror.ok(pending, &ok(0));
        mirror.take_trackers_touched()
    };
    assert!(!changed(&mut mirror, &query, true));
    assert!(!changed(&mut mirror, &unseen, false));
    assert!(changed(&mut mirror, &unseen, true));
    assert!(!changed(&mut mirror, &query, false));
    mirror.command(command(command::QUERY, b"SET session_track_schema = OFF"));
    assert!(mirror.take_trackers_touched());
    assert_eq!(mirror.take_trackers_named(), Hints::TRACKED_SCHEMA);

    mirror.command(command(command::STMT_PREPARE, b"SET session_track_system_variables = ?"));
    mirror.prepared(3, 0, 1);
    assert!(!mirror.take_trackers_touched());
    for id in [[3, 0, 0, 0], [0xFF; 4]] {
        mirror.command(command(command::STMT_EXECUTE, &id));
        assert!(mirror.take_trackers_touched());
    }
}

#[test]
fn the_statement_that_was_prepared_last_has_a_second_name() {
    let mut mirror = Mirror::new(None);
    mirror.command(command(command::STMT_PREPARE, b"SELECT ?"));
    // Which one that is will be known later.
    mirror.command(command(command::STMT_SEND_LONG_DATA, &[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, b'x']));
    mirror.prepared(9, 1, 1);
    assert_eq!(words(&mirror), ["unknown state"]);
    let mut mirror = Mirror::new(None);
    mirror.command(command(command::STMT_PREPARE, b"SELECT ?"));
    mirror.prepared(9, 1, 1);
    mirror.command(command(command::STMT_SEND_LONG_DATA, &[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, b'x']));
    assert_eq!(words(&mirror), ["long data"]);
    mirror.command(command(command::STMT_EXECUTE, &[0xFF, 0xFF, 0xFF, 0xFF, 1, 1, 0, 0, 0]));
    mirror.ok(&pending(command::STMT_EXECUTE, u32::MAX), &ok(CURSOR_EXISTS));
    assert_eq!(words(&mirror), ["cursor"]);
    mirror.command(command(command::STMT_CLOSE, &[0xFF; 4]));
    assert!(words(&mirror).is_empty() && mirror.statements.by_id.is_empty());
}

#[test]
fn a_reset_leaves_only_the_database() {
    let mut mirror = Mirror::new(Some(b"shop"));
    mirror.command(command(command::QUERY, b"SELECT GET_LOCK('a', 1), @x := 1"));
    mirror.change(Change::Variable { name: b"sql_mode", value: b"ANSI" });
    mirror.reset();
    assert!(words(&mirror).is_empty() && mirror.changed.is_empty());
    mirror.command(command(command::STMT_PREPARE, b"SELECT 1"));
    mirror.prepared(1, 1, 0);
    let context = &mirror.statements.by_id[&1].context;
    assert_eq!((context.database.as_deref(), &context.parse), (Some(&b"shop"[..]), &Under::Waiting));
}

#[test]
fn errors_of_an_unwell_cn_are_told_once() {
    let mut mirror = Mirror::new(None);
    mirror.err(None, 1053);
    assert_eq!((mirror.take_suspect(), mirror.take_suspect()), (Some(1053), None));
    mirror.err(None, 1062);
    assert_eq!(mirror.take_suspect(), None);
}

#[test]
fn texts_of_prepares_that_nobody_answers_are_bounded() {
    let mut mirror = Mirror::new(None);
    for _ in 0..8 {
        mirror.command(Command { code: command::STMT_PREPARE, body: &vec![b'x'; 1 << 20], whole: false });
        mirror.more(&vec![b'x'; 1 << 20]);
    }
    let kept: usize = mirror.preparing.iter().filter_map(|one| one.text.as_ref()).map(Vec::len).sum();
    assert!(kept <= MOST_TEXT && kept == mirror.preparing_text, "{kept}");
    for id in 0..8 {
        mirror.prepared(id, 0, 0);
    }
    assert_eq!((mirror.preparing_text, mirror.preparing.len()), (0, 0));
}

#[test]
fn an_err_in_a_transaction_leaves_it_open_as_far_as_is_known() {
    let mut mirror = Mirror::new(None);
    let query = pending(command::QUERY, 0);
    mirror.err(Some(&query), 1064);
    assert!(!mirror.may_be_in_transaction());
    mirror.ok(&query, &ok(IN_TRANS));
    mirror.err(Some(&query), 1062);
    assert!(mirror.may_be_in_transaction());
    mirror.ok(&query, &ok(0));
    assert!(!mirror.may_be_in_transaction());
}

/// What a session's CN says to [`crate::session::login::ASK`], as MariaDB 10.11 writes it.
fn parsed_by(sql_mode: &[u8]) -> Vec<u8> {
    let mut changes = Vec::new();
    let variables: [(&[u8], &[u8]); 3] = [
        (b"collation_connection", b"latin1_swedish_ci"),
        (b"character_set_client", b"latin1"),
        (b"sql_mode", sql_mode),
    ];
    for (name, value) in variables {
        let mut item = vec![name.len() as u8];
        item.extend_from_slice(name);
        item.push(value.len() as u8);
        item.extend_from_slice(value);
        changes.extend_from_slice(&[0, item.len() as u8]);
        changes.extend_from_slice(&item);
    }
    changes.extend_from_slice(&[2, 1, b'1']);
    changes
}

/// An OK that reports something.
fn reports(status: u16) -> reply::Ok<'static> {
    reply::Ok { changes: &[2, 1, b'1'], ..ok(status) }
}

#[test]
fn what_texts_are_parsed_by_is_asked_for_once_it_changed() {
    let mut mirror = Mirror::new(None);
    let query = pending(command::QUERY, 0);
    let answer = parsed_by(b"ANSI");
    mirror.learn(&reply::Ok { changes: &answer, ..ok(0) });
    mirror.ok(&query, &reports(0));
    assert!(!mirror.take_ask(), "nothing changed");
    mirror.change(Change::Variable { name: b"character_set_client", value: b"utf8mb4" });
    mirror.ok(&query, &reports(0));
    assert!(mirror.take_ask() && !mirror.take_ask(), "once");
    mirror.learn(&reply::Ok { changes: &answer, ..ok(0) });
    mirror.command(command(command::STMT_PREPARE, b"SELECT 1"));
    mirror.prepared(1, 1, 0);
    let Under::Known(parse) = &mirror.statements.by_id[&1].context.parse else { panic!() };
    assert_eq!((&*parse.sql_mode, &*parse.collation_connection), (&b"ANSI"[..], &b"latin1_swedish_ci"[..]));
}

/// Neither in a transaction, nor where it would destroy what the last statement left, nor where it would swallow what is
/// the client's to see.
#[test]
fn the_question_waits_until_it_costs_the_client_nothing() {
    let query = pending(command::QUERY, 0);
    for (what, text, answer) in [
        ("in a transaction", "SET sql_mode=''", reports(IN_TRANS)),
        ("another result follows", "SET sql_mode=''; SELECT 1", reports(MORE_RESULTS)),
        ("rows were changed", "INSERT INTO t SELECT f()", reply::Ok { affected: 3, ..reports(0) }),
        ("a result set ended", "SELECT f()", reply::Ok { header: reply::EOF, ..reports(0) }),
        ("more is reported later", "SET STATEMENT sql_mode='ANSI' FOR DO 1", reports(0)),
        ("nothing is reported", "DO 1", ok(0)),
    ] {
        let mut mirror = Mirror::new(None);
        mirror.command(command(command::QUERY, text.as_bytes()));
        mirror.ok(&query, &answer);
        assert!(!mirror.take_ask(), "{what}");
        mirror.command(command(command::QUERY, b"SET @a = 1"));
        mirror.ok(&query, &reports(0));
        assert!(mirror.take_ask(), "later: {what}");
    }
    // What came behind it counts.
    let mut mirror = Mirror::new(None);
    mirror.ok(&query, &reports(0));
    mirror.eof(&query, 0, 0);
    assert!(!mirror.take_ask());
    mirror.ok(&query, &reports(0));
    mirror.err(Some(&query), 1064);
    assert!(!mirror.take_ask());
}

#[test]
fn a_statement_whose_variables_nobody_can_tell_any_more_pins() {
    let mut mirror = Mirror::new(None);
    let query = pending(command::QUERY, 0);
    mirror.command(command(command::STMT_PREPARE, b"SELECT 1"));
    mirror.prepared(1, 1, 0);
    assert!(words(&mirror).is_empty());
    mirror.change(Change::Variable { name: b"sql_mode", value: b"ANSI" });
    mirror.ok(&query, &reports(IN_TRANS));
    mirror.ok(&query, &reports(0));
    assert_eq!(words(&mirror), ["unknown state"]);
    mirror.command(command(command::STMT_CLOSE, &[1, 0, 0, 0]));
    assert!(words(&mirror).is_empty());
}

/// An EOF that announces changes brings none of them.
#[test]
fn changes_that_are_announced_and_not_sent_are_doubted() {
    let mut mirror = Mirror::new(None);
    let query = pending(command::QUERY, 0);
    let (ansi, other) = (parsed_by(b"ANSI"), parsed_by(b""));
    mirror.learn(&reply::Ok { changes: &ansi, ..ok(0) });
    mirror.eof(&query, STATE_CHANGED, 0);
    mirror.command(command(command::STMT_PREPARE, b"SELECT 1"));
    mirror.prepared(1, 1, 0);
    mirror.ok(&query, &reports(0));
    assert!(mirror.take_ask());
    mirror.learn(&reply::Ok { changes: &other, ..ok(0) });
    assert_eq!(words(&mirror), ["unknown state"]);
}

/// What a client binds by the second name of a statement that has no id yet is the statement's all the same.
#[test]
fn types_are_kept_with_their_statement() {
    let execute = |id: u32, new: u8, types: &[u8]| {
        let mut body = id.to_le_bytes().to_vec();
        body.extend_from_slice(&[0, 1, 0, 0, 0, 0, new]);
        body.extend_from_slice(types);
        body
    };
    let bound = |mirror: &Mirror, id: u32| mirror.statements.by_id[&id].types.clone();
    let mut mirror = Mirror::new(None);
    mirror.command(command(command::STMT_PREPARE, b"SELECT ?"));
    mirror.command(command(command::STMT_EXECUTE, &execute(u32::MAX, 1, &[8, 0])));
    assert_eq!(mirror.prepared(9, 1, 1), 9);
    assert_eq!(bound(&mirror, 9).as_deref(), Some(&[8, 0][..]));
    assert!(words(&mirror).is_empty());
    // Later executes go by them, until others are sent.
    mirror.command(command(command::STMT_EXECUTE, &execute(9, 0, b"x")));
    assert_eq!(bound(&mirror, 9).as_deref(), Some(&[8, 0][..]));
    mirror.command(command(command::STMT_EXECUTE, &execute(9, 1, &[253, 0])));
    assert_eq!(bound(&mirror, 9).as_deref(), Some(&[253, 0][..]));
    assert_eq!(mirror.look(9), 1 + 9 + 1 + 1 + 2);
    // Nobody saw what was bound to this one.
    mirror.command(command(command::STMT_PREPARE, b"SELECT ?, ?"));
    mirror.command(command(command::STMT_EXECUTE, &execute(u32::MAX, 1, &[8])));
    mirror.prepared(10, 2, 2);
    assert_eq!(words(&mirror), ["unknown state"]);
}

/// On another CN a statement has another id, and the client goes on with its own.
#[test]
fn ids_are_the_client_s_wherever_the_session_is() {
    let mut mirror = Mirror::new(None);
    for id in [1, 2] {
        mirror.command(command(command::STMT_PREPARE, b"SELECT 1"));
        assert_eq!(mirror.prepared(id, 1, 0), id);
    }
    let close = |id: u32| id.to_le_bytes();
    mirror.moved(Counted::default(), |id, _| match id {
        1 => Ok(2),
        _ => Err(reply::Err::new(1146, "42S02", "gone")),
    });
    assert_eq!(mirror.command(command(command::STMT_EXECUTE, &close(1))), Some(2));
    assert_eq!(mirror.command(command(command::STMT_EXECUTE, &close(u32::MAX))), None);
    // The one that could not be prepared, and one that nobody prepared, are no other one of the session's.
    assert_eq!(mirror.refusal(2).map(|err| err.code), Some(1146));
    for id in [2, 2 | 0x4000_0000] {
        let on_cn = mirror.command(command(command::STMT_RESET, &close(id)));
        assert!(on_cn.unwrap_or(id) != 2, "{on_cn:?}");
    }
    mirror.command(command(command::STMT_PREPARE, b"SELECT 2"));
    assert_eq!(mirror.prepared(3, 1, 0), 3);
    mirror.command(command(command::STMT_PREPARE, b"SELECT 3"));
    assert_eq!(mirror.prepared(4, 1, 0), 4);
    assert_eq!(mirror.command(command(command::STMT_CLOSE, &close(1))), Some(2));
    assert_eq!(mirror.command(command(command::STMT_EXECUTE, &close(4))), Some(4));
}

/// What a statement left is precious until nobody can read it any more.
#[test]
fn what_the_last_statement_left_is_known() {
    let query = pending(command::QUERY, 0);
    let mut mirror = Mirror::new(None);
    let mut ran = |text: &str, end: reply::Ok<'static>| {
        mirror.command(command(command::QUERY, text.as_bytes()));
        mirror.ok(&query, &end);
        mirror.done(&query);
        mirror.left()
    };
    let changed = |affected| reply::Ok { affected, ..ok(AUTOCOMMIT) };
    let warned = |warnings| reply::Ok { warnings, ..ok(AUTOCOMMIT) };
    let rows = reply::Ok { header: reply::EOF, ..ok(AUTOCOMMIT) };
    assert!(!ran("DO 1", changed(0)).is_precious());
    assert!(ran("UPDATE t SET a = 1", changed(2)).is_precious());
    let left = ran("SELECT 1", rows);
    assert!(!left.is_precious() && left.selected());
    assert!(ran("SELECT 1 / 0", warned(1)).is_precious());
    // Without a table the warnings of the one before stay.
    assert!(ran("SELECT 1", rows).is_precious());
    let left = ran("SELECT a FROM t", rows);
    assert!(!left.is_precious() && left.may_have_warnings());
    mirror.err(Some(&query), 1064);
    assert!(mirror.left().is_precious());
    for (text, takes_it_away) in
        [("SELECT a FROM t", true), ("SELECT 1", false), ("SHOW WARNINGS", false), ("DELETE FROM t", true)]
    {
        let next = command(command::QUERY, text.as_bytes());
        assert_eq!(mirror.is_overwritten_by(next), takes_it_away, "{text}");
    }
}

#[test]
fn statements_prepared_by_sql_come_and_go_with_their_answers() {
    let query = pending(command::QUERY, 0);
    let mut mirror = Mirror::new(None);
    let names = |mirror: &Mirror| {
        let all = mirror.statements();
        all.iter().filter_map(|(_, one)| one.name.as_deref().map(<[u8]>::to_vec)).collect::<Vec<_>>()
    };
    let send = |mirror: &mut Mirror, text: &str| {
        mirror.command(command(command::QUERY, text.as_bytes()));
    };
    let done = |mirror: &mut Mirror| {
        mirror.ok(&query, &ok(AUTOCOMMIT));
        mirror.done(&query);
    };
    // Two in one burst.
    send(&mut mirror, "PREPARE one FROM 'SELECT 1'");
    send(&mut mirror, "PREPARE Two FROM 'SELECT 2'");
    assert!(names(&mirror).is_empty());
    done(&mut mirror);
    done(&mut mirror);
    assert_eq!(names(&mirror), [b"one".to_vec(), b"two".to_vec()]);
    assert!(mirror.agrees(Counted { prepared: 2, ..Counted::default() }));
    // One that fails takes the one of its name away, too.
    send(&mut mirror, "PREPARE ONE FROM 'nonsense'");
    mirror.err(Some(&query), 1064);
    mirror.done(&query);
    assert_eq!(names(&mirror), [b"two".to_vec()]);
    send(&mut mirror, "DEALLOCATE PREPARE two");
    done(&mut mirror);
    assert!(names(&mirror).is_empty());
    // What was not seen shows in the CN's counters.
    send(&mut mirror, "PREPARE three FROM @v");
    done(&mut mirror);
    assert!(!mirror.agrees(Counted { prepared: 4, deallocated: 1, ..Counted::default() }));
}

/// Tells the mirror of a text and of its answer.
fn runs(mirror: &mut Mirror, text: &str, changes: &[Change<'_>], answer: reply::Ok<'_>) {
    mirror.command(command(command::QUERY, text.as_bytes()));
    for change in changes {
        mirror.change(*change);
    }
    mirror.ok(&pending(command::QUERY, 0), &answer);
    mirror.done(&pending(command::QUERY, 0));
}

fn fails(mirror: &mut Mirror, text: &str) {
    mirror.command(command(command::QUERY, text.as_bytes()));
    mirror.err(Some(&pending(command::QUERY, 0)), 1213);
    mirror.done(&pending(command::QUERY, 0));
}

#[test]
fn what_transactions_do_touches_nothing_but_tables() {
    let autocommit = Change::Variable { name: b"autocommit", value: b"OFF" };
    let begun = Change::Characteristics(b"START TRANSACTION;");
    let ended = Change::Characteristics(b"");
    let mut mirror = Mirror::new(None);
    runs(&mut mirror, "SET autocommit = 0", &[autocommit, Change::State], ok(0));
    for _ in 0..2 {
        runs(&mut mirror, "BEGIN", &[begun], ok(IN_TRANS));
        runs(&mut mirror, "UPDATE t SET a = 1", &[], ok(IN_TRANS));
        assert!(mirror.since().is_harmless(false, mirror.may_be_in_transaction()), "{:?}", mirror.since());
        // An error tells of no tracker, and may have ended the transaction.
        fails(&mut mirror, "UPDATE t SET a = 2");
        assert!(mirror.since().is_harmless(false, mirror.may_be_in_transaction()), "{:?}", mirror.since());
        runs(&mut mirror, "ROLLBACK", &[], ok(0));
        assert!(mirror.since().is_harmless(false, mirror.may_be_in_transaction()), "{:?}", mirror.since());
        runs(&mut mirror, "COMMIT", &[ended], ok(0));
    }
    assert!(!mirror.since().is_unsettled(false) && mirror.since().is_unsettled(true));
}

#[test]
fn what_may_touch_state_makes_it_unknown() {
    let one_shot = Change::Characteristics(b"SET TRANSACTION READ ONLY;");
    let time_zone = Change::Variable { name: b"time_zone", value: b"UTC" };
    let cases: [(&str, &[Change<'_>]); 8] = [
        ("SET @a = 1", &[Change::State]),
        ("SELECT @a := 1", &[]),
        ("SELECT f()", &[Change::State]),
        ("SET time_zone = 'UTC'", &[time_zone, Change::State]),
        ("SET TRANSACTION READ ONLY", &[one_shot]),
        ("CALL p()", &[]),
        ("SELECT GET_LOCK('a', 1)", &[]),
        ("CREATE TEMPORARY TABLE t (a INT)", &[]),
    ];
    for (text, changes) in cases {
        let mut mirror = Mirror::new(None);
        runs(&mut mirror, text, changes, ok(0));
        assert!(!mirror.since().is_harmless(false, false) && mirror.since().is_unsettled(false), "{text}");
        mirror.settled();
        assert!(mirror.since().is_harmless(true, false), "{text}");
    }
    let mut mirror = Mirror::new(None);
    fails(&mut mirror, "SET time_zone = 'UTC', sql_mode = 'nonsense'");
    assert!(!mirror.since().is_harmless(false, false));
}

#[test]
fn what_is_lost_with_a_cn_is_lost_until_it_is_there_anew() {
    let mut mirror = Mirror::new(None);
    runs(&mut mirror, "INSERT INTO t VALUES (1)", &[], reply::Ok { affected: 1, insert_id: 7, ..ok(0) });
    mirror.command(command(command::QUERY, b"SELECT 1"));
    mirror.cut(false);
    mirror.settled();
    let reads = |mirror: &Mirror, text: &str| mirror.reads_lost(command(command::QUERY, text.as_bytes()));
    assert_eq!(reads(&mirror, "SELECT ROW_COUNT()"), Some("ROW_COUNT()"));
    assert_eq!(reads(&mirror, "SELECT LAST_INSERT_ID()"), Some("LAST_INSERT_ID()"));
    assert_eq!(reads(&mirror, "SELECT FOUND_ROWS()"), Some("FOUND_ROWS()"));
    assert_eq!(reads(&mirror, "SELECT * FROM t"), None);
    runs(&mut mirror, "INSERT INTO t VALUES (2)", &[], reply::Ok { affected: 1, insert_id: 8, ..ok(0) });
    assert_eq!(reads(&mirror, "SELECT ROW_COUNT(), LAST_INSERT_ID()"), None);
    assert_eq!(reads(&mirror, "SELECT FOUND_ROWS()"), Some("FOUND_ROWS()"));
    assert!(mirror.again().is_none() && mirror.pins() == 0);
}

#[test]
fn only_what_changes_nothing_is_answered_by_another_cn() {
    for (code, again) in [
        (command::PING, true),
        (command::STMT_PREPARE, true),
        (command::INIT_DB, true),
        (command::QUERY, false),
        (command::STMT_EXECUTE, false),
        (command::STMT_RESET, false),
        (command::SET_OPTION, false),
    ] {
        let mut mirror = Mirror::new(None);
        mirror.command(command(code, b"a\0\0\0"));
        assert_eq!(mirror.again().is_some(), again, "{code}");
        mirror.command(command(command::QUERY, b"SELECT 1"));
        assert!(mirror.again().is_none(), "{code}: it is not alone");
    }
}
