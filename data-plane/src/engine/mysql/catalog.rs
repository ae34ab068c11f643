//! The session variables that a CN has.
//!
//! Asked for once for each CN: a new release, or a plugin, brings others.

use super::ascii;
use super::dialect::Dialect;
use crate::cn::Column;
use crate::cn::converse::Said;
use parking_lot::Mutex;
use shunt_proto::cn::CnId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What a variable's value is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A number.
    Number,
    /// A string.
    Text,
}

/// A session variable of a CN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: Box<str>,
    pub(crate) kind: Kind,
    /// It is not simply asked for by its name and put back by its value.
    is_apart: bool,
}

/// A collation of a CN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collation {
    pub(crate) name: Box<str>,
    pub(crate) character_set: Box<str>,
}

/// All of a CN's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    dialect: Dialect,
    /// In the order of their names.
    variables: Vec<Variable>,
    /// By their numbers.
    collations: BTreeMap<u16, Collation>,
}

impl Catalog {
    /// What asks a CN for it. `fresh`: in a session that did nothing yet, where collations may be asked for too.
    pub(crate) fn questions(dialect: Dialect, fresh: bool) -> Vec<Vec<u8>> {
        dialect.catalog(fresh).iter().map(|sql| super::query(sql)).collect()
    }

    /// Reads the answers. `None` where they are none.
    pub(crate) fn read(dialect: Dialect, said: &[Said]) -> Option<Self> {
        let [Said::Rows(variables, _), more @ ..] = said else { return None };
        let collations = more.iter().find_map(|said| match said {
            Said::Rows(rows, _) => Some(read_collations(rows)),
            _ => None,
        });
        let variables = read_variables(dialect, variables)?;
        let catalog = Self { dialect, variables, collations: collations.unwrap_or_default() };
        (catalog.is_whole() || more.is_empty()).then_some(catalog)
    }

    /// Whether it has the collations too, which a session that is put on the CN needs.
    pub(crate) fn is_whole(&self) -> bool {
        !self.collations.is_empty()
    }

    /// How the CN is asked.
    pub(crate) const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The collation of this number.
    pub(super) fn collation(&self, number: u16) -> Option<&Collation> {
        self.collations.get(&number)
    }

    /// Whether the CN has a variable of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub(super) fn find(&self, name: &str) -> Option<&Variable> {
        let at = self.variables.binary_search_by(|variable| (*variable.name).cmp(name)).ok()?;
        self.variables.get(at)
    }

    /// Those that are asked for together, and put back each by its value.
    pub(super) fn plain(&self) -> impl Iterator<Item = &Variable> {
        self.variables.iter().filter(|variable| !variable.is_apart)
    }
}

fn read_variables(dialect: Dialect, rows: &[Vec<Column>]) -> Option<Vec<Variable>> {
    let mut variables = Vec::with_capacity(rows.len());
    for row in rows {
        let [Some(name), of @ ..] = &row[..] else { return None };
        let name = ascii(name);
        let name = std::str::from_utf8(&name).ok()?.to_ascii_lowercase();
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if plain
            && !name.is_empty()
            && let Some(kind) = dialect.kind(&name, of)
        {
            variables.push(Variable { is_apart: dialect.is_apart(&name), name: name.into(), kind });
        }
    }
    variables.sort_by(|a, b| a.name.cmp(&b.name));
    (!variables.is_empty()).then_some(variables)
}

fn read_collations(rows: &[Vec<Column>]) -> BTreeMap<u16, Collation> {
    let word = |column: &Column| {
        let text = String::from_utf8(ascii(column.as_deref()?)).ok()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (plain && !text.is_empty()).then(|| Box::from(text.as_str()))
    };
    let read = |row: &Vec<Column>| {
        let [number, name, character_set] = &row[..] else { return None };
        let number = String::from_utf8(ascii(number.as_deref()?)).ok()?.parse().ok()?;
        Some((number, Collation { name: word(name)?, character_set: word(character_set)? }))
    };
    rows.iter().filter_map(read).collect()
}

/// The catalogs of CNs that were asked, each with the version that its CN said then.
#[derive(Debug, Default)]
pub(crate) struct Catalogs {
    asked: Mutex<HashMap<CnId, Asked>>,
    /// When it was told last that users lack a grant.
    told: Mutex<Option<Instant>>,
}

/// How often that is told.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// The version that a CN said, and its catalog.
type Asked = (Vec<u8>, Arc<Catalog>);

impl Catalogs {
    /// That of `cn`, if it was asked since it said that it is of this version.
    pub(crate) fn of(&self, cn: &CnId, version: &[u8]) -> Option<Arc<Catalog>> {
        let all = self.asked.lock();
        all.get(cn).filter(|(of, _)| of == version).map(|(_, catalog)| Arc::clone(catalog))
    }

    /// `cn`, of this version, said that it has these.
    pub(crate) fn learn(&self, cn: &CnId, version: &[u8], catalog: &Arc<Catalog>) {
        self.asked.lock().insert(cn.clone(), (version.to_vec(), Arc::clone(catalog)));
    }

    /// Whether it is time to tell that a user lacks a grant.
    pub(crate) fn is_to_tell(&self) -> bool {
        let mut told = self.told.lock();
        let is_due = told.is_none_or(|at| at.elapsed() >= TELL_AGAIN);
        if is_due {
            *told = Some(Instant::now());
        }
        is_due
    }

    /// CNs that are gone are forgotten.
    pub(crate) fn retain(&self, is_there: impl Fn(&CnId) -> bool) {
        self.asked.lock().retain(|cn, _| is_there(cn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, kind: &str) -> Vec<Column> {
        vec![Some(name.as_bytes().to_vec()), Some(kind.as_bytes().to_vec())]
    }

    #[test]
    fn a_catalog_is_read_and_what_is_apart_is_left_out() {
        let variables = [
            row("WAIT_TIMEOUT", "BIGINT UNSIGNED"),
            row("SQL_MODE", "SET"),
            row("TIMESTAMP", "DOUBLE"),
            row("SQL_SELECT_LIMIT", "BIGINT UNSIGNED"),
        ];
        let collations = [Some(b"46".to_vec()), Some(b"utf8mb4_bin".to_vec()), Some(b"utf8mb4".to_vec())];
        let older = Said::Err(mysql_wire::reply::Err::new(1109, "42S02", "no such table"));
        let rows = |rows: &[Vec<Column>]| Said::Rows(rows.to_vec(), Vec::new());
        let said = [rows(&variables), older.clone(), rows(&[collations.to_vec(), row("x", "y")])];
        let read = |said: &[Said]| Catalog::read(Dialect::MariaDb, said);
        let catalog = read(&said).unwrap();
        assert_eq!(catalog.collation(46).map(|one| &*one.character_set), Some("utf8mb4"));
        let plain: Vec<_> = catalog.plain().map(|one| (&*one.name, one.kind)).collect();
        assert_eq!(plain, [("sql_mode", Kind::Text), ("wait_timeout", Kind::Number)]);
        assert!(catalog.has("timestamp") && !catalog.has("nothing"));
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[rows(&[vec![None, None]]), rows(&[])]), None);
        assert_eq!(read(&[rows(&variables), older]), None);
        // What is no name of a variable never becomes part of a statement.
        assert_eq!(read(&[rows(&[row("a; DROP TABLE t", "INT")]), rows(&[])]), None);
    }

    #[test]
    fn mysql_s_variables_are_those_that_a_session_can_set() {
        let names =
            ["sql_mode", "innodb_buffer_pool_size", "GTID_NEXT", "transaction_isolation", "of_a_plugin"];
        let names: Vec<Vec<Column>> = names.map(|name| vec![Some(name.as_bytes().to_vec())]).into();
        let names = Said::Rows(names, Vec::new());
        let catalog = Catalog::read(Dialect::MySql, std::slice::from_ref(&names)).unwrap();
        assert!(!catalog.is_whole() && catalog.has("gtid_next"));
        assert!(!catalog.has("innodb_buffer_pool_size") && !catalog.has("of_a_plugin"));
        let plain: Vec<_> = catalog.plain().map(|one| (&*one.name, one.kind)).collect();
        assert_eq!(plain, [("sql_mode", Kind::Text), ("transaction_isolation", Kind::Text)]);
        let collation = ["8", "latin1_swedish_ci", "latin1"].map(|text| Some(text.as_bytes().to_vec()));
        let collations = Said::Rows(vec![collation.into()], Vec::new());
        let whole = [names.clone(), collations, Said::Ok(Vec::new())];
        assert!(Catalog::read(Dialect::MySql, &whole).is_some_and(|catalog| catalog.is_whole()));
        // Asked for, and not told.
        assert_eq!(Catalog::read(Dialect::MySql, &[names, Said::Ok(Vec::new())]), None);
    }
}
