//! The prepared statements of a session, and what each was prepared under.
//!
//! A statement means what it meant where it was prepared: under a database, and under the variables that its text was
//! parsed by. Prepared again under anything else it may read another table or be another statement. So these are kept
//! with it, as the CN says them: a tracker only tells that they changed, and what it tells of a value may be the
//! temporary one of a SET STATEMENT.
//!
//! Must not know: packets, what else the mirror knows.

use mysql_wire::sql::Hints;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Text of prepared statements that is kept, for all of a session's. With more the session is `too large` to move.
pub(super) const MOST_TEXT: usize = 4 << 20;

/// Prepared statements that are kept.
const MOST_STATEMENTS: usize = 16_384;

/// The id by which clients may call the statement that was prepared last.
pub(super) const LAST_PREPARED: u32 = u32::MAX;

/// The variables that parsing depends on, as the CN said them. `character_set_connection` is the collation's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parse {
    pub(crate) sql_mode: Box<[u8]>,
    pub(crate) character_set_client: Box<[u8]>,
    pub(crate) collation_connection: Box<[u8]>,
}

/// What is known of the variables now.
#[derive(Debug, Default)]
enum Now {
    /// Nothing since they changed.
    #[default]
    Unknown,
    /// The CN said this, and nothing has happened since that could have changed it.
    Known(Rc<Parse>),
    /// The CN said this, and something happened since that may have changed it unseen.
    Suspected(Rc<Parse>),
}

/// What a statement was prepared under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    /// The default database; `None` where there was none.
    pub(crate) database: Option<Rc<[u8]>>,
    /// The variables.
    pub(crate) parse: Under,
}

/// The variables that a statement was prepared under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Under {
    /// These.
    Known(Rc<Parse>),
    /// Those of now, which the CN is yet to be asked for.
    Waiting,
    /// Nobody can say any more.
    Lost,
}

/// A prepared statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Its text; `None` where it was too long to be kept.
    pub(crate) text: Option<Box<[u8]>>,
    /// What it was prepared under.
    pub(crate) context: Context,
    /// Long data was sent, and not used up.
    long_data: bool,
    /// Its cursor is open.
    cursor: bool,
    /// What its text hints at.
    hints: Hints,
}

/// The default database.
#[derive(Debug)]
enum Database {
    Known(Option<Rc<[u8]>>),
    /// It may have been dropped, or changed, unseen.
    Unknown,
}

/// All of a session's statements.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) by_id: BTreeMap<u32, Statement>,
    database: Database,
    now: Now,
    /// Statements that wait for the variables of now.
    waiting: Vec<u32>,
    /// Statements of which nobody can say any more what they were prepared under.
    lost: u32,
    /// Statements with an open cursor.
    cursors: u32,
    /// Statements with long data that was not used up.
    long_data: u32,
    pub(super) text_kept: usize,
    /// One was not kept whole.
    too_large: bool,
    /// The statement that was prepared last, which has a second name.
    last: u32,
}

impl Statements {
    /// None, in a session whose default database is `database`.
    pub(super) fn new(database: Option<&[u8]>) -> Self {
        Self {
            by_id: BTreeMap::new(),
            database: Database::Known(database.map(Into::into)),
            now: Now::Unknown,
            waiting: Vec::new(),
            lost: 0,
            cursors: 0,
            long_data: 0,
            text_kept: 0,
            too_large: false,
            last: 0,
        }
    }

    /// All are gone; the database stays.
    pub(super) fn reset(&mut self) {
        let database = std::mem::replace(&mut self.database, Database::Unknown);
        *self = Self { database, ..Self::new(None) };
    }

    pub(super) const fn is_too_large(&self) -> bool {
        self.too_large
    }

    pub(super) const fn has_cursor(&self) -> bool {
        self.cursors > 0
    }

    pub(super) const fn has_long_data(&self) -> bool {
        self.long_data > 0
    }

    /// Whether one cannot be prepared again as it was.
    pub(super) const fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Whether it is worth a question what the variables are: they changed, or a statement waits for them.
    pub(super) fn is_to_ask(&self) -> bool {
        match self.now {
            Now::Unknown => true,
            Now::Known(_) => false,
            Now::Suspected(_) => !self.waiting.is_empty(),
        }
    }

    /// The statement that a command is about.
    const fn about(&self, id: u32) -> u32 {
        if id == LAST_PREPARED { self.last } else { id }
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Statement> {
        let id = self.about(id);
        self.by_id.get_mut(&id)
    }

    /// What the text of statement `id` hints at.
    pub(super) fn hints(&self, id: u32) -> Hints {
        self.by_id.get(&self.about(id)).map_or(Hints::none(), |statement| statement.hints)
    }

    /// The default database is `database` now; an empty name is none.
    pub(super) fn use_database(&mut self, database: &[u8]) {
        self.database = Database::Known((!database.is_empty()).then(|| database.into()));
    }

    /// The default database may be another now.
    pub(super) fn doubt_database(&mut self) {
        self.database = Database::Unknown;
    }

    /// One of the variables has another value.
    pub(super) fn parse_changed(&mut self) {
        self.lose_waiting();
        self.now = Now::Unknown;
    }

    /// Something happened that may have changed the variables, and nobody would tell.
    pub(super) fn doubt_parse(&mut self) {
        // What waits may have been prepared between this and another change, which the next answer would not show.
        self.lose_waiting();
        self.now = match std::mem::take(&mut self.now) {
            Now::Known(parse) | Now::Suspected(parse) => Now::Suspected(parse),
            Now::Unknown => Now::Unknown,
        };
    }

    /// The CN says what the variables are.
    pub(super) fn learn(&mut self, parse: Parse) {
        let before = match &self.now {
            Now::Known(before) | Now::Suspected(before) => Some(Rc::clone(before)),
            Now::Unknown => None,
        };
        let now = match before {
            Some(before) if *before == parse => before,
            // Something changed them, before or behind those that wait.
            Some(_) => {
                self.lose_waiting();
                Rc::new(parse)
            }
            None => Rc::new(parse),
        };
        for id in std::mem::take(&mut self.waiting) {
            if let Some(statement) = self.by_id.get_mut(&id) {
                statement.context.parse = Under::Known(Rc::clone(&now));
            }
        }
        self.now = Now::Known(now);
    }

    fn lose_waiting(&mut self) {
        for id in std::mem::take(&mut self.waiting) {
            if let Some(statement) = self.by_id.get_mut(&id) {
                statement.context.parse = Under::Lost;
                self.lost += 1;
            }
        }
    }

    /// A statement was prepared as `id`, out of `text` where that could be kept until now.
    pub(super) fn prepared(&mut self, id: u32, text: Option<Vec<u8>>, hints: Hints) {
        self.last = id;
        self.forget(id);
        let text = text.filter(|text| self.text_kept + text.len() <= MOST_TEXT);
        self.too_large |= text.is_none() || self.by_id.len() >= MOST_STATEMENTS;
        if self.by_id.len() >= MOST_STATEMENTS {
            return;
        }
        self.text_kept += text.as_ref().map_or(0, Vec::len);
        let context = self.context(id);
        self.lost += u32::from(context.parse == Under::Lost);
        let text = text.map(Vec::into_boxed_slice);
        self.by_id.insert(id, Statement { text, context, long_data: false, cursor: false, hints });
    }

    /// What a statement that is prepared now is prepared under.
    fn context(&mut self, id: u32) -> Context {
        let Database::Known(database) = &self.database else {
            return Context { database: None, parse: Under::Lost };
        };
        let parse = match &self.now {
            Now::Known(parse) => Under::Known(Rc::clone(parse)),
            Now::Suspected(_) | Now::Unknown => {
                self.waiting.push(id);
                Under::Waiting
            }
        };
        Context { database: database.clone(), parse }
    }

    /// A statement is closed.
    pub(super) fn forget(&mut self, id: u32) {
        let id = self.about(id);
        let Some(statement) = self.by_id.remove(&id) else { return };
        self.cursors -= u32::from(statement.cursor);
        self.long_data -= u32::from(statement.long_data);
        self.text_kept -= statement.text.map_or(0, |text| text.len());
        match statement.context.parse {
            Under::Known(_) => {}
            Under::Waiting => self.waiting.retain(|waiting| *waiting != id),
            Under::Lost => self.lost -= 1,
        }
    }

    /// The cursor of statement `id` is open, or is not.
    pub(super) fn set_cursor(&mut self, id: u32, open: bool) {
        let Some(statement) = self.get_mut(id) else { return };
        let was = std::mem::replace(&mut statement.cursor, open);
        self.cursors = self.cursors + u32::from(open) - u32::from(was);
    }

    /// Statement `id` has long data that is not used up, or has none.
    pub(super) fn set_long_data(&mut self, id: u32, sent: bool) {
        let Some(statement) = self.get_mut(id) else { return };
        let was = std::mem::replace(&mut statement.long_data, sent);
        self.long_data = self.long_data + u32::from(sent) - u32::from(was);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(sql_mode: &str) -> Parse {
        Parse {
            sql_mode: sql_mode.as_bytes().into(),
            character_set_client: (*b"utf8mb4").into(),
            collation_connection: (*b"utf8mb4_bin").into(),
        }
    }

    fn prepare(statements: &mut Statements, id: u32) {
        statements.prepared(id, Some(b"SELECT 1".to_vec()), Hints::none());
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
    fn a_database_that_may_be_another_is_none_to_go_by() {
        let mut statements = Statements::new(Some(b"shop"));
        statements.learn(parse(""));
        statements.doubt_database();
        prepare(&mut statements, 1);
        statements.use_database(b"shop");
        prepare(&mut statements, 2);
        assert_eq!(under(&statements, 1).1, "Lost");
        assert_eq!(under(&statements, 2).0.as_deref(), Some("shop"));
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
}
