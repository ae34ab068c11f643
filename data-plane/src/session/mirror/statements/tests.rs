use super::*;

fn parse(sql_mode: &str) -> Parse {
    Parse {
        sql_mode: sql_mode.as_bytes().into(),
        character_set_client: (*b"utf8mb4").into(),
        collation_connection: (*b"utf8mb4_bin").into(),
    }
}

fn prepare(statements: &mut Statements, id: u32) {
    let preparing = Preparing { text: Some(b"SELECT 1".to_vec()), ..Preparing::default() };
    statements.prepared(id, preparing, Hints::none(), (1, 0));
}

fn under(statements: &Statements, id: u32) -> (Option<String>, String) {
    let context = &statements.by_id[&id].context;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let parse = match &context.parse {
        Under::Known(parse) => text(&parse.sql_mode),
        other => format!("{other:?}"),
    };
    (context.database.as_deref().map(text), parse)
}

#[test]
fn each_is_kept_with_what_it_was_prepared_under() {
    let mut statements = Statements::new(Some(b"shop"));
    statements.learn(parse("ANSI"));
    prepare(&mut statements, 1);
    statements.use_database(b"other");
    prepare(&mut statements, 2);
    statements.parse_changed();
    prepare(&mut statements, 3);
    statements.use_database(b"");
    prepare(&mut statements, 4);
    assert_eq!(under(&statements, 3), (Some("other".into()), "Waiting".into()));
    statements.learn(parse(""));
    prepare(&mut statements, 5);
    for (id, database, sql_mode) in [
        (1, Some("shop"), "ANSI"),
        (2, Some("other"), "ANSI"),
        (3, Some("other"), ""),
        (4, None, ""),
        (5, None, ""),
    ] {
        assert_eq!(under(&statements, id), (database.map(str::to_owned), sql_mode.to_owned()), "{id}");
    }
    assert!(!statements.has_lost() && !statements.is_to_ask());
}

#[test]
fn what_changed_before_anybody_asked_is_lost_until_the_statement_is_closed() {
    let mut statements = Statements::new(None);
    prepare(&mut statements, 1);
    assert!(statements.is_to_ask());
    statements.parse_changed();
    prepare(&mut statements, 2);
    statements.learn(parse("ANSI"));
    assert_eq!(under(&statements, 1).1, "Lost");
    assert_eq!(under(&statements, 2).1, "ANSI");
    assert!(statements.has_lost());
    statements.forget(1);
    assert!(!statements.has_lost());
}

#[test]
fn a_doubt_is_settled_by_the_same_answer_and_by_no_other() {
    for (answer, found) in [("ANSI", "ANSI"), ("", "Lost")] {
        let mut statements = Statements::new(None);
        statements.learn(parse("ANSI"));
        statements.doubt_parse();
        assert!(!statements.is_to_ask(), "nothing waits for it");
        prepare(&mut statements, 1);
        assert!(statements.is_to_ask());
        statements.learn(parse(answer));
        assert_eq!(under(&statements, 1).1, found);
    }
    // Two doubts with a statement between them: there and back again would not show.
    let mut statements = Statements::new(None);
    statements.learn(parse("ANSI"));
    statements.doubt_parse();
    prepare(&mut statements, 1);
    statements.doubt_parse();
    statements.learn(parse("ANSI"));
    assert_eq!(under(&statements, 1).1, "Lost");
    // Unknown and then doubted: the answer may be about what came between.
    let mut statements = Statements::new(None);
    prepare(&mut statements, 1);
    statements.doubt_parse();
    statements.learn(parse("ANSI"));
    assert_eq!(under(&statements, 1).1, "Lost");
}

#[test]
fn a_failure_that_hardly_can_have_changed_anything_is_looked_into_all_the_same() {
    for (answer, found) in [("ANSI", "ANSI"), ("", "Lost")] {
        let mut statements = Statements::new(None);
        statements.learn(parse("ANSI"));
        prepare(&mut statements, 1);
        statements.failed();
        prepare(&mut statements, 2);
        statements.failed();
        prepare(&mut statements, 3);
        statements.forget(3);
        assert!(!statements.has_lost());
        statements.learn(parse(answer));
        assert_eq!(under(&statements, 1).1, "ANSI");
        assert_eq!(under(&statements, 2).1, found);
    }
}

#[test]
fn a_database_that_may_be_another_is_none_to_go_by() {
    let mut statements = Statements::new(Some(b"shop"));
    statements.learn(parse(""));
    statements.doubt_database();
    prepare(&mut statements, 1);
    statements.use_database(b"shop");
    prepare(&mut statements, 2);
    assert_eq!(under(&statements, 1).1, "Lost");
    assert_eq!(under(&statements, 2).0.as_deref(), Some("shop"));
    // The CN says that it is what it was: nothing happened to it.
    statements.doubt_database();
    prepare(&mut statements, 3);
    statements.found_database(b"shop");
    assert_eq!(under(&statements, 3), (Some("shop".into()), String::new()));
    // Or something did.
    for (doubts, found) in [(1, &b"other"[..]), (2, b"shop")] {
        let mut statements = Statements::new(Some(b"shop"));
        statements.learn(parse(""));
        statements.doubt_database();
        prepare(&mut statements, 4);
        (1..doubts).for_each(|_| statements.doubt_database());
        statements.found_database(found);
        assert_eq!(under(&statements, 4).1, "Lost", "{doubts}");
        statements.forget(4);
        assert!(!statements.has_lost());
    }
}

#[test]
fn an_id_given_again_is_another_statement() {
    let mut statements = Statements::new(None);
    prepare(&mut statements, 1);
    statements.set_cursor(1, true);
    statements.set_long_data(LAST_PREPARED, true);
    assert!(statements.has_cursor() && statements.has_long_data());
    prepare(&mut statements, 1);
    assert!(!statements.has_cursor() && !statements.has_long_data());
    statements.learn(parse(""));
    assert_eq!(statements.waiting.len(), 0);
    assert_eq!(statements.text_kept, 8);
}

/// An execute of a statement with one parameter, as `bind` is given it: with types, or without.
fn execute(types: Option<[u8; 2]>) -> Vec<u8> {
    let mut body = vec![0; 10];
    body.push(u8::from(types.is_some()));
    body.extend(types.iter().flatten());
    body
}

#[test]
fn one_that_is_bound_anew_is_another_to_whoever_prepared_it_ahead_and_keeps_its_place() {
    let mut statements = Statements::new(None);
    for id in [1, 2] {
        let preparing = Preparing { text: Some(b"SELECT ?".to_vec()), ..Preparing::default() };
        statements.prepared(id, preparing, Hints::none(), (1, 1));
    }
    let seen = |statements: &Statements| -> Vec<(u32, u32)> {
        statements.in_order().into_iter().map(|(id, one)| (id, one.serial)).collect()
    };
    let ahead = seen(&statements);
    statements.bind(1, &execute(Some([3, 0])), false);
    let bound = seen(&statements);
    assert!(bound[0].0 == 1 && bound[0].1 != ahead[0].1 && bound[1] == ahead[1], "{ahead:?}, {bound:?}");
    // The same again, or none, tells nothing new.
    statements.bind(1, &execute(Some([3, 0])), false);
    statements.bind(1, &execute(None), false);
    assert_eq!(seen(&statements), bound);
    statements.bind(1, &execute(Some([8, 0])), false);
    assert!(seen(&statements)[0].1 != bound[0].1 && seen(&statements)[1] == ahead[1]);
}
