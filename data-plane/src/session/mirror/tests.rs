use super::*;
use mysql_wire::command::Shape;

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
    assert_eq!(mirror.statements[&1].text.as_deref(), Some(&b"SELECT 1"[..]));
    assert_eq!(mirror.statements[&1].context.schema_changes, 1);
    // One that fails takes no place from the next.
    mirror.command(command(command::STMT_PREPARE, b"BAD"));
    mirror.command(command(command::STMT_PREPARE, b"SELECT 2"));
    mirror.err(Some(&pending(command::STMT_PREPARE, 0)), 1064);
    mirror.prepared(2, 1, 0);
    assert_eq!(mirror.statements[&2].text.as_deref(), Some(&b"SELECT 2"[..]));
    mirror.command(command(command::STMT_CLOSE, &[1, 0, 0, 0]));
    mirror.command(command(command::STMT_CLOSE, &[2, 0, 0, 0]));
    assert_eq!((mirror.statements.len(), mirror.text_kept), (0, 0));
}

#[test]
fn what_is_kept_of_texts_is_bounded() {
    let mut mirror = Mirror::new(None);
    for id in 0..6 {
        mirror.command(command(command::STMT_PREPARE, &vec![b'x'; 1 << 20]));
        mirror.prepared(id, 0, 0);
    }
    assert!(mirror.text_kept <= MOST_TEXT);
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
    assert!(words(&mirror).is_empty() && mirror.statements.is_empty());
}

#[test]
fn a_reset_leaves_only_the_database() {
    let mut mirror = Mirror::new(Some(b"shop"));
    mirror.command(command(command::QUERY, b"SELECT GET_LOCK('a', 1), @x := 1"));
    mirror.change(Change::Variable { name: b"sql_mode", value: b"ANSI" });
    mirror.reset();
    assert!(words(&mirror).is_empty() && mirror.changed.is_empty());
    assert_eq!(mirror.database.as_deref(), Some(&b"shop"[..]));
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
    let kept: usize = mirror.preparing.iter().flatten().map(Vec::len).sum();
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
