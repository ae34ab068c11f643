//! The prepared statements of a session, and what each was prepared under.
//!
//! A statement means what it meant where it was prepared: under a database, and under the variables that its text was
//! parsed by. Prepared again under anything else it may read another table or be another statement. So these are kept
//! with it, as the CN says them: a tracker only tells that they changed, and what it tells of a value may be the
//! temporary one of a SET STATEMENT.
//!
//! A client knows a statement by the id that it was given. The CN knows it by the same one, until the session moves: the
//! new CN gives ids of its own, and from then on each statement has two.
//!
//! Must not know: packets, what else the mirror knows.

use mysql_wire::reply;
use mysql_wire::sql::{self, Hints};
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
    /// The id that the CN knows it by.
    pub(crate) cn_id: u32,
    /// Tells it from another one that had its id before, and from itself as it was bound before: what was made of it ahead
    /// of a move would read later executes by the types of then.
    pub(crate) serial: u32,
    /// Those with a lower one were prepared before it.
    order: u64,
    /// Its name, where it was prepared by SQL; `text` is that SQL then.
    pub(crate) name: Option<Box<[u8]>>,
    /// How many parameters it has.
    pub(crate) params: u16,
    /// How many columns its result has.
    pub(crate) columns: u16,
    /// The types of its parameters as they were bound last, which later executes go by; `None`: none were.
    pub(crate) types: Option<Box<[u8]>>,
    /// The CN of now would not prepare it: what it said, which is what an execute gets.
    pub(crate) refused: Option<Box<reply::Err>>,
    /// Its client bound types that no CN has: an execute must bring its own.
    lacks_types: bool,
    /// What was bound to it was not seen.
    unsure: bool,
    /// Long data was sent, and not used up.
    long_data: bool,
    /// Its cursor is open.
    cursor: bool,
    /// What its text hints at.
    hints: Hints,
}

/// What a statement waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// The variables of now.
    Variables,
    /// The default database to be what it was.
    Database,
    /// The variables to be what they were, where something failed that hardly can have changed them.
    Confirmation,
}

/// The default database.
#[derive(Debug)]
enum Database {
    Known(Option<Rc<[u8]>>),
    /// It was this, and may have been dropped, or changed, unseen.
    Suspected(Option<Rc<[u8]>>),
}

impl Database {
    const fn name(&self) -> &Option<Rc<[u8]>> {
        match self {
            Self::Known(name) | Self::Suspected(name) => name,
        }
    }
}

/// All of a session's statements.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) by_id: BTreeMap<u32, Statement>,
    database: Database,
    now: Now,
    /// Statements that wait for an answer of the CN.
    waiting: Vec<(u32, For)>,
    /// Something failed since the CN was asked: what it may have changed before it failed is not likely, and shows when
    /// the CN is asked the next time.
    has_failed: bool,
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
    /// The CN's ids are not the client's.
    translates: bool,
    /// The highest id that the client was given.
    highest: u32,
    /// How many were prepared.
    order: u64,
    /// The serial that was given last.
    serial: u32,
    /// Statements of which something that was bound was not seen.
    unsure: u32,
    /// Some were not prepared by the CN of now.
    refused: bool,
}

/// A prepare that awaits its answer.
#[derive(Debug, Default)]
pub(super) struct Preparing {
    /// Its text; `None`: too long.
    pub(super) text: Option<Vec<u8>>,
    /// Its name, where it is prepared by SQL.
    pub(super) name: Option<Box<[u8]>>,
    /// What an execute sent that named it before it had an id.
    pub(super) executed: Option<Vec<u8>>,
    /// Something was sent for it that cannot be kept.
    pub(super) unsure: bool,
}

/// Ids of statements that were prepared by SQL, which no client names by an id.
const NAMED: u32 = 0x8000_0000;

/// More than any id that a server has come to give: stands for one that the CN does not know.
pub(super) const UNKNOWN: u32 = 0x4000_0000;

/// The types within what an execute sends behind its number, where it sends any.
fn types(body: &[u8], params: u16) -> Option<&[u8]> {
    let params = usize::from(params);
    let at = 9 + params.div_ceil(8);
    (params > 0 && body.get(at) == Some(&1)).then(|| body.get(at + 1..at + 1 + 2 * params)).flatten()
}

/// The same of an execute with several rows (MariaDB).
fn bulk_types(body: &[u8], params: u16) -> Option<&[u8]> {
    const SENDS_TYPES: u8 = 128;
    let sends = body.get(4).is_some_and(|flags| flags & SENDS_TYPES != 0);
    sends.then(|| body.get(6..6 + 2 * usize::from(params))).flatten()
}

/// The types that an execute binds, with several rows or not.
fn bound(body: &[u8], params: u16, bulk: bool) -> Option<&[u8]> {
    if bulk { bulk_types(body, params) } else { types(body, params) }
}

impl Statements {
    /// None, in a session whose default database is `database`.
    pub(super) fn new(database: Option<&[u8]>) -> Self {
        Self {
            by_id: BTreeMap::new(),
            database: Database::Known(database.map(Into::into)),
            now: Now::Unknown,
            waiting: Vec::new(),
            has_failed: false,
            lost: 0,
            cursors: 0,
            long_data: 0,
            text_kept: 0,
            too_large: false,
            last: 0,
            translates: false,
            highest: 0,
            order: 0,
            serial: 0,
            unsure: 0,
            refused: false,
        }
    }

    /// All are gone; the database stays. Ids go on from where they are where the CN's are others.
    pub(super) fn reset(&mut self) {
        let database = std::mem::replace(&mut self.database, Database::Suspected(None));
        let Self { translates, highest, order, serial, .. } = *self;
        *self = Self { database, translates, highest, order, serial, ..Self::new(None) };
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
        self.lost > 0 || self.unsure > 0
    }

    /// How many are lost, and of how many something was not seen.
    pub(super) const fn lost(&self) -> (u32, u32) {
        (self.lost, self.unsure)
    }

    /// The id that the CN knows statement `id` by, where it is another.
    pub(super) fn on_cn(&self, id: u32) -> Option<u32> {
        // The one that was prepared last is so on every CN.
        if !self.translates || id == LAST_PREPARED {
            return None;
        }
        match self.get(id) {
            Some(Statement { cn_id, refused: None, .. }) => Some(*cn_id),
            // The CN must not take it for another one of the session's.
            _ => self.by_id.values().any(|one| one.cn_id == id).then_some(id | UNKNOWN),
        }
    }

    /// Whether there may be statements that the CN would not prepare.
    pub(super) const fn has_refused(&self) -> bool {
        self.refused
    }

    /// What the CN said to statement `id` where it would not prepare it.
    pub(super) fn refusal(&self, id: u32) -> Option<&reply::Err> {
        self.get(id)?.refused.as_deref()
    }

    /// How much of an execute of `id` tells what it binds, its number included.
    pub(super) fn look(&self, id: u32) -> usize {
        let params = self.get(id).map_or(0, |statement| usize::from(statement.params));
        if params == 0 { 0 } else { 1 + 9 + params.div_ceil(8) + 1 + 2 * params }
    }

    /// Takes in what an execute of `id` binds. False where that cannot be read: it brings no types, and those of before are
    /// gone.
    pub(super) fn bind(&mut self, id: u32, body: &[u8], bulk: bool) -> bool {
        let serial = self.serial.wrapping_add(1);
        let Some(statement) = self.get_mut(id) else { return true };
        let Some(types) = bound(body, statement.params, bulk) else { return !statement.lacks_types };
        statement.lacks_types = false;
        if statement.types.as_deref() != Some(types) {
            statement.types = Some(types.into());
            statement.serial = serial;
            self.serial = serial;
        }
        true
    }

    /// An execute of `id` goes to no CN: with it, types that later ones go by, which then would be read by others.
    pub(super) fn throws_away(&mut self, id: u32, body: &[u8], whole: bool, bulk: bool) {
        let Some(statement) = self.get_mut(id) else { return };
        let cut = !whole
            && body.len()
                < 9 + usize::from(statement.params.div_ceil(8)) + 1 + 2 * usize::from(statement.params);
        let binds = bound(body, statement.params, bulk)
            .is_some_and(|types| statement.types.as_deref() != Some(types));
        statement.lacks_types |= statement.params > 0 && (binds || cut);
    }

    /// Statements of now, by the ids that the client knows them by, in the order in which they were prepared.
    pub(super) fn in_order(&self) -> Vec<(u32, &Statement)> {
        let mut all: Vec<(u32, &Statement)> = self.by_id.iter().map(|(id, one)| (*id, one)).collect();
        all.sort_unstable_by_key(|(_, statement)| statement.order);
        all
    }

    /// A statement was prepared by SQL under `name`, in place of the one that had it before.
    pub(super) fn prepared_by_sql(&mut self, name: &[u8], sql: Vec<u8>) {
        self.forget_named(name);
        let preparing = Preparing { text: Some(sql), name: Some(name.into()), ..Preparing::default() };
        let id = NAMED | self.serial;
        self.insert(id, id, preparing, Hints::none(), (0, 0));
    }

    /// The statement of this name is gone.
    pub(super) fn forget_named(&mut self, name: &[u8]) {
        let named = self.by_id.range(NAMED..).find(|(_, statement)| statement.name.as_deref() == Some(name));
        if let Some(id) = named.map(|(id, _)| *id) {
            self.forget(id);
        }
    }

    /// None of them is there under its second name any more.
    pub(super) const fn forget_last(&mut self) {
        self.last = 0;
    }

    /// Whether the statement that was prepared last is there under its second name.
    pub(super) fn has_last(&self) -> bool {
        self.by_id.contains_key(&self.last)
    }

    /// They are on another CN from now on, which knows each by the id that `on_cn` gives, or said why not.
    pub(super) fn moved(&mut self, mut on_cn: impl FnMut(u32, u32) -> Result<u32, reply::Err>) {
        self.translates = true;
        self.refused = false;
        for (id, statement) in &mut self.by_id {
            if statement.name.is_some() {
                continue;
            }
            match on_cn(*id, statement.serial) {
                Ok(cn_id) => (statement.cn_id, statement.refused) = (cn_id, None),
                Err(err) => {
                    self.refused = true;
                    statement.refused = Some(Box::new(err));
                }
            }
        }
    }

    /// Whether it is worth a question what the variables are: they changed, or a statement waits for them.
    pub(super) fn is_to_ask(&self) -> bool {
        match self.now {
            Now::Unknown => true,
            Now::Known(_) => false,
            Now::Suspected(_) => self.waiting.iter().any(|(_, what)| *what == For::Variables),
        }
    }

    /// The statement that a command is about.
    const fn about(&self, id: u32) -> u32 {
        if id == LAST_PREPARED { self.last } else { id }
    }

    fn get(&self, id: u32) -> Option<&Statement> {
        self.by_id.get(&self.about(id)).filter(|statement| statement.name.is_none())
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Statement> {
        let id = self.about(id);
        self.by_id.get_mut(&id).filter(|statement| statement.name.is_none())
    }

    /// What the text of statement `id` hints at.
    pub(super) fn hints(&self, id: u32) -> Hints {
        self.get(id).map_or(Hints::none(), |statement| statement.hints)
    }

    /// The default database is `database` from now on; an empty name is none.
    pub(super) fn use_database(&mut self, database: &[u8]) {
        self.lose_waiting(For::Database);
        self.database = Database::Known((!database.is_empty()).then(|| database.into()));
    }

    /// The CN says that the default database is `database`; an empty name is none.
    pub(super) fn found_database(&mut self, database: &[u8]) {
        if self.database.name().as_deref().unwrap_or_default() != database {
            return self.use_database(database);
        }
        self.waiting.retain(|(_, what)| *what != For::Database);
        let name = self.database.name().clone();
        self.database = Database::Known(name);
    }

    /// The default database, where it is known.
    pub(super) fn database_now(&self) -> Option<Option<Vec<u8>>> {
        match &self.database {
            Database::Known(name) => {
                Some(name.as_ref().map(|name| name.to_vec()).filter(|name| !name.is_empty()))
            }
            Database::Suspected(_) => None,
        }
    }

    /// Whether the text of statement `id` is plainly one that ends no transaction by succeeding.
    pub(super) fn is_plain(&self, id: u32) -> bool {
        self.get(id).and_then(|one| one.text.as_deref()).is_some_and(sql::is_plain)
    }

    /// The default database may be another now.
    pub(super) fn doubt_database(&mut self) {
        // There and back again would not show.
        self.lose_waiting(For::Database);
        let name = self.database.name().clone();
        self.database = Database::Suspected(name);
    }

    /// Those that wait for `what`, which do so no more.
    fn take_waiting(&mut self, what: For) -> Vec<u32> {
        let (taken, left) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, other)| *other == what);
        self.waiting = left;
        let taken: Vec<(u32, For)> = taken;
        taken.into_iter().map(|(id, _)| id).collect()
    }

    fn lose_waiting(&mut self, what: For) {
        for id in self.take_waiting(what) {
            self.lose(id);
        }
    }

    /// Nobody can say any more what statement `id` was prepared under.
    fn lose(&mut self, id: u32) {
        if let Some(statement) = self.by_id.get_mut(&id)
            && statement.context.parse != Under::Lost
        {
            statement.context.parse = Under::Lost;
            self.lost += 1;
        }
    }

    /// One of the variables has another value.
    pub(super) fn parse_changed(&mut self) {
        self.lose_waiting(For::Variables);
        self.now = Now::Unknown;
    }

    /// Something happened that may have changed the variables, and nobody would tell.
    pub(super) fn doubt_parse(&mut self) {
        // What waits may have been prepared between this and another change, which the next answer would not show.
        self.lose_waiting(For::Variables);
        self.now = match std::mem::take(&mut self.now) {
            Now::Known(parse) | Now::Suspected(parse) => Now::Suspected(parse),
            Now::Unknown => Now::Unknown,
        };
    }

    /// A statement failed that names no variable and runs no code that can be told: a trigger of its, or a function, may
    /// have changed variables before it failed.
    pub(super) const fn failed(&mut self) {
        self.has_failed = true;
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
                self.lose_waiting(For::Variables);
                self.lose_waiting(For::Confirmation);
                Rc::new(parse)
            }
            None => Rc::new(parse),
        };
        for id in self.take_waiting(For::Variables) {
            if let Some(statement) = self.by_id.get_mut(&id)
                && statement.context.parse == Under::Waiting
            {
                statement.context.parse = Under::Known(Rc::clone(&now));
            }
        }
        self.now = Now::Known(now);
        self.has_failed = false;
        self.waiting.retain(|(_, what)| *what != For::Confirmation);
    }

    /// A statement was prepared, which the CN calls `cn_id`, with so many columns and parameters. Gives the id that the
    /// client is to know it by.
    pub(super) fn prepared(
        &mut self,
        cn_id: u32,
        preparing: Preparing,
        hints: Hints,
        shape: (u16, u16),
    ) -> u32 {
        let id = if self.translates { self.highest.wrapping_add(1) } else { cn_id };
        self.insert(id, cn_id, preparing, hints, shape);
        id
    }

    fn insert(&mut self, id: u32, cn_id: u32, preparing: Preparing, hints: Hints, shape: (u16, u16)) {
        let Preparing { text, name, executed, unsure } = preparing;
        let (columns, params) = shape;
        if name.is_none() {
            self.last = id;
            self.highest = self.highest.max(id);
        }
        self.order += 1;
        self.serial = self.serial.wrapping_add(1);
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
        // What was executed before its parameters were known may have been seen only in part.
        let is_cut = executed.as_ref().is_some_and(|body| is_cut(body, params));
        let types = executed.and_then(|body| types(&body, params).map(Into::into));
        let unsure = unsure || is_cut;
        self.unsure += u32::from(unsure);
        let serial = self.serial;
        let statement = Statement {
            text,
            context,
            cn_id,
            serial,
            order: self.order,
            name,
            params,
            columns,
            types,
            refused: None,
            lacks_types: false,
            unsure,
            long_data: false,
            cursor: false,
            hints,
        };
        self.by_id.insert(id, statement);
    }

    /// What a statement that is prepared now is prepared under.
    fn context(&mut self, id: u32) -> Context {
        if matches!(self.database, Database::Suspected(_)) {
            self.waiting.push((id, For::Database));
        }
        let database = self.database.name().clone();
        let parse = match &self.now {
            Now::Known(parse) => {
                if self.has_failed {
                    self.waiting.push((id, For::Confirmation));
                }
                Under::Known(Rc::clone(parse))
            }
            Now::Suspected(_) | Now::Unknown => {
                self.waiting.push((id, For::Variables));
                Under::Waiting
            }
        };
        Context { database, parse }
    }

    /// A statement is closed.
    pub(super) fn forget(&mut self, id: u32) {
        let id = self.about(id);
        let Some(statement) = self.by_id.remove(&id) else { return };
        self.cursors -= u32::from(statement.cursor);
        self.long_data -= u32::from(statement.long_data);
        self.unsure -= u32::from(statement.unsure);
        self.text_kept -= statement.text.map_or(0, |text| text.len());
        self.waiting.retain(|(waiting, _)| *waiting != id);
        self.lost -= u32::from(statement.context.parse == Under::Lost);
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

/// Whether `body`, the beginning of an execute, may end before its types do.
fn is_cut(body: &[u8], params: u16) -> bool {
    let params = usize::from(params);
    let at = 9 + params.div_ceil(8);
    params > 0 && body.get(at).is_none_or(|new| *new == 1 && body.len() < at + 1 + 2 * params)
}

#[cfg(test)]
mod tests;
