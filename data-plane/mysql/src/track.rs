//! Session-state changes, as OK packets carry them, and which of them a client is shown.
//!
//! A CN is asked to report everything, for the mirror. A client sees what it would see without Shunt: nothing where it
//! did not ask for session tracking, else what its own subscription names.

use crate::packet::{Fields, Malformed, write_lenenc, write_lenenc_bytes};
use crate::sql::Hints;

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// A system variable has a new value (type 0).
    Variable {
        /// Its name.
        name: &'a [u8],
        /// Its value, as text.
        value: &'a [u8],
    },
    /// The default database (type 1).
    Schema(&'a [u8]),
    /// Something of the state changed (type 2).
    State,
    /// What would set the next transaction's characteristics (type 4). It is SQL.
    Characteristics(&'a [u8]),
    /// Eight letters that tell what the transaction did (type 5).
    Transaction(&'a [u8]),
    /// Of a type that is not known here.
    Unknown(u64),
}

/// One item with its encoding.
#[derive(Clone, Copy, Debug)]
struct Item<'a> {
    kind: u64,
    data: &'a [u8],
}

fn items(changes: &[u8]) -> impl Iterator<Item = Result<Item<'_>, Malformed>> {
    let mut fields = Fields::new(changes);
    std::iter::from_fn(move || {
        if fields.is_empty() {
            return None;
        }
        let item = (|| {
            let kind = fields.lenenc("type of change")?;
            Ok(Item { kind, data: fields.lenenc_bytes("change")? })
        })();
        if item.is_err() {
            // Nothing behind it can be told apart.
            fields = Fields::new(&[]);
        }
        Some(item)
    })
}

impl<'a> Item<'a> {
    /// Calls `each` for each change in it: an item of variables may hold several.
    fn read(&self, mut each: impl FnMut(Change<'a>)) -> Result<(), Malformed> {
        let mut fields = Fields::new(self.data);
        match self.kind {
            0 => {
                while !fields.is_empty() {
                    let name = fields.lenenc_bytes("name of variable")?;
                    each(Change::Variable { name, value: fields.lenenc_bytes("value of variable")? });
                }
            }
            1 => each(Change::Schema(fields.lenenc_bytes("schema")?)),
            2 => each(Change::State),
            4 => each(Change::Characteristics(fields.lenenc_bytes("characteristics")?)),
            5 => each(Change::Transaction(fields.lenenc_bytes("transaction state")?)),
            kind => each(Change::Unknown(kind)),
        }
        Ok(())
    }
}

/// Calls `each` for every change.
///
/// # Errors
/// [`Malformed`]; what came before it was given.
pub fn read<'a>(changes: &'a [u8], mut each: impl FnMut(Change<'a>)) -> Result<(), Malformed> {
    for item in items(changes) {
        item?.read(&mut each)?;
    }
    Ok(())
}

/// What a client is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The names of variables, or all.
    pub variables: Variables,
    /// The default database.
    pub schema: bool,
    /// That something changed.
    pub state: bool,
    /// Transactions.
    pub transaction: Transaction,
}

/// Which variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variables {
    /// `*`
    All,
    /// A list, lower case, in order.
    Named(Vec<Vec<u8>>),
}

/// What is shown of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// Nothing.
    Off,
    /// The state only.
    State,
    /// The state, and what would set the next one's characteristics.
    Characteristics,
}

/// The values of a session's trackers, as text.
#[derive(Clone, Copy, Debug)]
pub struct Trackers<'a> {
    /// `session_track_system_variables`
    pub variables: &'a [u8],
    /// `session_track_schema`
    pub schema: &'a [u8],
    /// `session_track_state_change`
    pub state: &'a [u8],
    /// `session_track_transaction_info`
    pub transaction: &'a [u8],
}

impl Trackers<'_> {
    /// Whether they tell everything.
    #[must_use]
    pub fn tell_all(&self) -> bool {
        let all = Variables::parse(self.variables) == Variables::All;
        let transaction = Transaction::parse(self.transaction) == Transaction::Characteristics;
        all && transaction && is_on(self.schema) && is_on(self.state)
    }
}

/// The default of MariaDB 10.11 and of MySQL 8.
impl Default for Subscription {
    fn default() -> Self {
        Self {
            variables: Variables::parse(
                b"autocommit,character_set_client,character_set_connection,character_set_results,time_zone",
            ),
            schema: true,
            state: false,
            transaction: Transaction::Off,
        }
    }
}

impl Variables {
    /// Reads a value of `session_track_system_variables`.
    #[must_use]
    pub fn parse(list: &[u8]) -> Self {
        let names: Vec<Vec<u8>> = list
            .split(|byte| *byte == b',')
            .map(|name| name.trim_ascii().to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        if names.iter().any(|name| name == b"*") { Self::All } else { Self::Named(names) }
    }

    fn has(&self, name: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|named| named.eq_ignore_ascii_case(name)),
        }
    }
}

impl Transaction {
    /// Reads a value of `session_track_transaction_info`.
    #[must_use]
    pub fn parse(value: &[u8]) -> Self {
        match value.to_ascii_uppercase().as_slice() {
            b"CHARACTERISTICS" | b"2" => Self::Characteristics,
            b"STATE" | b"1" => Self::State,
            _ => Self::Off,
        }
    }
}

/// Whether a value of a boolean variable is on.
#[must_use]
pub fn is_on(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"ON") || value == b"1"
}

impl Subscription {
    /// Takes a change of the tracking variables in. True where it was one.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        match name {
            b"session_track_system_variables" => self.variables = Variables::parse(value),
            b"session_track_schema" => self.schema = is_on(value),
            b"session_track_state_change" => self.state = is_on(value),
            b"session_track_transaction_info" => self.transaction = Transaction::parse(value),
            _ => return false,
        }
        true
    }

    /// Takes in what the trackers of a session are found to be after its client named those of `named`, on a connection
    /// where Shunt had set all of them to tell everything. Whatever tells less is the client's doing. Whatever tells
    /// everything is Shunt's, or else it was reported ([`Self::set`]) - but not by a statement that also cut the list of
    /// variables short.
    pub fn found(&mut self, trackers: &Trackers<'_>, named: Hints) {
        let Trackers { variables, schema, state, transaction } = trackers;
        let variables = Variables::parse(variables);
        let unreported = variables != Variables::All;
        if unreported {
            self.variables = variables;
        }
        let flag = |shown: &mut bool, is_on: bool, name: Hints| {
            if !is_on || (unreported && named.has(name)) {
                *shown = is_on;
            }
        };
        flag(&mut self.schema, is_on(schema), Hints::TRACKED_SCHEMA);
        flag(&mut self.state, is_on(state), Hints::TRACKED_STATE);
        let transaction = Transaction::parse(transaction);
        let less = transaction != Transaction::Characteristics;
        if less || (unreported && named.has(Hints::TRACKED_TRANSACTION)) {
            self.transaction = transaction;
        }
    }

    /// Those of `changes` that the subscription names, encoded again, in their order.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn filter(&self, changes: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::new();
        for item in items(changes) {
            let item = item?;
            match item.kind {
                0 => self.filter_variables(&item, &mut out)?,
                1 if self.schema => item.write(&mut out),
                2 if self.state => item.write(&mut out),
                4 if self.transaction == Transaction::Characteristics => item.write(&mut out),
                5 if self.transaction != Transaction::Off => item.write(&mut out),
                1 | 2 | 4 | 5 => {}
                // Not switched on by Shunt, so it is the client's own.
                _ => item.write(&mut out),
            }
        }
        Ok(out)
    }

    fn filter_variables(&self, item: &Item<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut kept = Vec::new();
        item.read(|change| {
            if let Change::Variable { name, value } = change
                && self.variables.has(name)
            {
                write_lenenc_bytes(&mut kept, name);
                write_lenenc_bytes(&mut kept, value);
            }
        })?;
        if !kept.is_empty() {
            Item { kind: 0, data: &kept }.write(out);
        }
        Ok(())
    }
}

impl Item<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        write_lenenc(out, self.kind);
        write_lenenc_bytes(out, self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn variable(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut inner = Vec::new();
        write_lenenc_bytes(&mut inner, name);
        write_lenenc_bytes(&mut inner, value);
        let mut out = Vec::new();
        Item { kind: 0, data: &inner }.write(&mut out);
        out
    }

    #[test]
    fn a_client_sees_what_it_subscribed_to() {
        let changes = [
            variable(b"autocommit", b"OFF"),
            variable(b"sql_mode", b"ANSI"),
            // The state change is one raw byte, not a nested string.
            vec![2, 1, b'1'],
            vec![1, 3, 2, b'd', b'b'],
            vec![5, 9, 8, b'T', b'_', b'_', b'_', b'_', b'_', b'_', b'_'],
        ]
        .concat();
        let mut subscription = Subscription::default();
        let shown = [variable(b"autocommit", b"OFF"), vec![1, 3, 2, b'd', b'b']].concat();
        assert_eq!(subscription.filter(&changes).unwrap(), shown);

        assert!(subscription.set(b"session_track_system_variables", b"SQL_MODE, nothing"));
        assert!(subscription.set(b"session_track_state_change", b"ON"));
        assert!(subscription.set(b"session_track_schema", b"OFF"));
        assert!(!subscription.set(b"sql_mode", b""));
        let shown = [variable(b"sql_mode", b"ANSI"), vec![2, 1, b'1']].concat();
        assert_eq!(subscription.filter(&changes).unwrap(), shown);

        subscription.set(b"session_track_system_variables", b"*");
        subscription.set(b"session_track_schema", b"1");
        subscription.set(b"session_track_transaction_info", b"STATE");
        assert_eq!(subscription.filter(&changes).unwrap(), changes);
    }

    #[test]
    fn only_what_the_client_did_to_the_trackers_counts() {
        let ours = Trackers { variables: b"*", schema: b"1", state: b"1", transaction: b"CHARACTERISTICS" };
        assert!(ours.tell_all());
        let before = Subscription::default();
        let after = |trackers: Trackers<'_>, named: Hints| {
            let mut subscription = before.clone();
            subscription.found(&trackers, named);
            subscription
        };
        let all_named = Hints::TRACKED_SCHEMA.with(Hints::TRACKED_STATE).with(Hints::TRACKED_TRANSACTION);
        // A question about the trackers changes nothing.
        assert_eq!(after(ours, all_named), before);
        let narrowed = Trackers { variables: b"sql_mode", ..ours };
        assert!(!narrowed.tell_all());
        let expected = Subscription { variables: Variables::parse(b"sql_mode"), ..before.clone() };
        assert_eq!(after(narrowed, Hints::TRACKED_VARIABLES), expected);
        let with_state = Subscription { state: true, ..expected };
        assert_eq!(after(narrowed, Hints::TRACKED_VARIABLES.with(Hints::TRACKED_STATE)), with_state);
        let off = after(Trackers { schema: b"OFF", ..ours }, Hints::none());
        assert_eq!(off, Subscription { schema: false, ..before.clone() });
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_loop(bytes: Vec<u8>) {
            let mut count = 0;
            let _ = read(&bytes, |_| count += 1);
            prop_assert!(count <= bytes.len());
            let _ = Subscription::default().filter(&bytes);
        }
    }
}
