//! The session variables that a CN has.
//!
//! Asked for once for each CN: a new release, or a plugin, brings others.

use super::{BENT, UNBENT, ascii};
use crate::cn::Column;
use crate::cn::converse::Said;
use parking_lot::Mutex;
use shunt_proto::cn::CnId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Variables that are asked for and put back each in its own way, or that are no state of the session's.
const APART: [&str; 26] = [
    // The clock, ids and seeds: some are used up, or run.
    "timestamp",
    "insert_id",
    "last_insert_id",
    "identity",
    "rand_seed1",
    "rand_seed2",
    "pseudo_thread_id",
    "gtid_seq_no",
    "wsrep_gtid_seq_no",
    // Put back last: from then on a transaction may begin.
    "autocommit",
    // The other name of a collation that is carried.
    "character_set_connection",
    "character_set_database",
    "character_set_server",
    // Set on every connection, for the mirror.
    "session_track_schema",
    "session_track_state_change",
    "session_track_system_variables",
    "session_track_transaction_info",
    // What a statement left.
    "error_count",
    "warning_count",
    "in_transaction",
    "last_gtid",
    // Who the user is.
    "external_user",
    "proxy_user",
    // Other names.
    "transaction_isolation",
    "transaction_read_only",
    "storage_engine",
];

/// Variables that a session can change and that cannot be read back.
pub(crate) const UNREADABLE: [&str; 2] = ["gtid_seq_no", "wsrep_gtid_seq_no"];

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
    /// In the order of their names.
    variables: Vec<Variable>,
    /// By their numbers.
    collations: BTreeMap<u16, Collation>,
}

impl Catalog {
    /// What asks for it.
    pub(crate) fn questions() -> Vec<Vec<u8>> {
        let variables = format!(
            "{UNBENT}SELECT variable_name, variable_type FROM information_schema.system_variables \
             WHERE variable_scope LIKE 'SESSION%' AND read_only = 'NO' ORDER BY 1"
        );
        // Collations of several character sets have a number for each; before 10.10 each had one character set.
        let collations = format!(
            "{UNBENT}SELECT id, full_collation_name, character_set_name \
             FROM information_schema.collation_character_set_applicability"
        );
        let before = format!(
            "{UNBENT}SELECT id, collation_name, character_set_name FROM information_schema.collations"
        );
        [variables, collations, before].iter().map(|sql| super::query(sql)).collect()
    }

    /// Reads the answers. `None` where they are none.
    pub(crate) fn read(said: &[Said]) -> Option<Self> {
        let [Said::Rows(variables, _), collations @ ..] = said else { return None };
        let collations = collations.iter().find_map(|said| match said {
            Said::Rows(rows, _) => Some(rows),
            _ => None,
        })?;
        Some(Self { collations: read_collations(collations), ..Self::read_variables(variables)? })
    }

    fn read_variables(rows: &[Vec<Column>]) -> Option<Self> {
        let mut variables = Vec::with_capacity(rows.len());
        for row in rows {
            let [Some(name), Some(kind)] = &row[..] else { return None };
            let (name, kind) = (ascii(name), ascii(kind));
            let name = std::str::from_utf8(&name).ok()?.to_ascii_lowercase();
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let kind = match kind.as_slice() {
                b"ENUM" | b"SET" | b"FLAGSET" | b"VARCHAR" => Kind::Text,
                _ => Kind::Number,
            };
            if plain && !name.is_empty() {
                variables.push(Variable { name: name.into(), kind });
            }
        }
        variables.sort_by(|a, b| a.name.cmp(&b.name));
        (!variables.is_empty()).then_some(Self { variables, collations: BTreeMap::new() })
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
        self.variables
            .iter()
            .filter(|variable| !APART.contains(&&*variable.name) && !BENT.contains(&&*variable.name))
    }
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
pub(crate) struct Catalogs(Mutex<HashMap<CnId, Asked>>);

/// The version that a CN said, and its catalog.
type Asked = (Vec<u8>, Arc<Catalog>);

impl Catalogs {
    /// That of `cn`, if it was asked since it said that it is of this version.
    pub(crate) fn of(&self, cn: &CnId, version: &[u8]) -> Option<Arc<Catalog>> {
        let all = self.0.lock();
        all.get(cn).filter(|(of, _)| of == version).map(|(_, catalog)| Arc::clone(catalog))
    }

    /// `cn`, of this version, said that it has these.
    pub(crate) fn learn(&self, cn: &CnId, version: &[u8], catalog: &Arc<Catalog>) {
        self.0.lock().insert(cn.clone(), (version.to_vec(), Arc::clone(catalog)));
    }

    /// CNs that are gone are forgotten.
    pub(crate) fn retain(&self, is_there: impl Fn(&CnId) -> bool) {
        self.0.lock().retain(|cn, _| is_there(cn));
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
        let catalog = Catalog::read(&said).unwrap();
        assert_eq!(catalog.collation(46).map(|one| &*one.character_set), Some("utf8mb4"));
        let plain: Vec<_> = catalog.plain().map(|one| (&*one.name, one.kind)).collect();
        assert_eq!(plain, [("sql_mode", Kind::Text), ("wait_timeout", Kind::Number)]);
        assert!(catalog.has("timestamp") && !catalog.has("nothing"));
        assert_eq!(Catalog::read(&[]), None);
        assert_eq!(Catalog::read(&[rows(&[vec![None, None]]), rows(&[])]), None);
        assert_eq!(Catalog::read(&[rows(&variables), older]), None);
        // What is no name of a variable never becomes part of a statement.
        assert_eq!(Catalog::read(&[rows(&[row("a; DROP TABLE t", "INT")]), rows(&[])]), None);
    }
}
