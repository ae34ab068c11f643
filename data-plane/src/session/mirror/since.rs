//! What happened to a session since its state was known whole, and what was lost with a CN.
//!
//! A CN that died cannot be asked. What is known of its sessions is what they were when they were asked last, and that
//! nothing has touched them since. Most texts touch nothing but tables.
//!
//! Must not know: packets, sockets.

use mysql_wire::sql::Hints;

/// What happened since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Since {
    /// Texts ran. Code on the CN that they use (a trigger, a stored function) is not seen, and may have touched state.
    texts: bool,
    /// State was touched.
    state: bool,
    /// LAST_INSERT_ID may be another.
    insert_id: bool,
    /// Whether something holds for the next transaction only, as the tracker said last; `None`: it said nothing.
    next_transaction: Option<bool>,
    /// The answer that is being read tells of a change that is known without asking.
    is_explained: bool,
}

/// Hints at state that only the CN knows.
const TOUCHING: Hints =
    Hints::all().without(Hints::LAST_INSERT_ID).without(Hints::LAST_RESULT).without(Hints::USER_VARIABLES);

impl Since {
    /// A text of these hints runs.
    pub(super) const fn runs(&mut self, hints: Hints) {
        self.texts = true;
        // To read a user variable touches nothing.
        let sets = hints.has(Hints::USER_VARIABLES.with(Hints::ASSIGNS));
        self.state |= sets || hints.touches(TOUCHING);
        self.insert_id |= hints.has(Hints::LAST_INSERT_ID);
    }

    /// Something that is not a text may have touched state.
    pub(super) const fn touched(&mut self) {
        self.state = true;
    }

    /// A text failed: whatever it did before that, no tracker tells. `may_set`: it may have set variables; `tables`: it
    /// may have generated ids.
    pub(super) const fn failed(&mut self, may_set: bool, tables: bool) {
        self.texts = true;
        self.state |= may_set;
        self.insert_id |= tables;
    }

    /// An id was generated, or given.
    pub(super) const fn generated(&mut self) {
        self.insert_id = true;
    }

    /// A tracker tells of a change of what is known anyway: the default database, autocommit.
    pub(super) const fn explained(&mut self) {
        self.is_explained = true;
    }

    /// A tracker tells that state changed, behind all that tell which.
    pub(super) const fn changed(&mut self) {
        self.state |= !self.is_explained;
    }

    /// The answer was read.
    pub(super) const fn read(&mut self) {
        self.is_explained = false;
    }

    /// The tracker says whether something holds for the next transaction only.
    pub(super) const fn next_transaction(&mut self, holds: bool) {
        self.next_transaction = Some(holds);
    }

    /// Whether the CN must be asked, outside a transaction, so that its death costs nothing. `code`: there is code on it
    /// that is not seen.
    pub(crate) const fn is_unsettled(self, code: bool) -> bool {
        self.state || (self.texts && code) || matches!(self.next_transaction, Some(true))
    }

    /// Whether the CN has anything to say that is not known.
    pub(crate) const fn is_to_ask(self, code: bool) -> bool {
        self.insert_id || self.is_unsettled(code)
    }

    /// Whether only what a client seldom reads is not known.
    pub(crate) const fn has_new_insert_id(self) -> bool {
        self.insert_id
    }

    /// Whether nothing but tables can have been touched, where the session is in a transaction or is not. `Err`: what.
    pub(crate) const fn harmless(self, code: bool, in_transaction: bool) -> Result<(), &'static str> {
        if self.state {
            return Err("its state was touched since its CN was asked for it");
        }
        if self.texts && code {
            return Err("stored code may have touched its state since its CN was asked for it");
        }
        if matches!(self.next_transaction, Some(true)) && !in_transaction {
            return Err("something was set for its next transaction");
        }
        Ok(())
    }

    /// Whether there is nothing to be said against it.
    #[cfg(test)]
    pub(crate) const fn is_harmless(self, code: bool, in_transaction: bool) -> bool {
        self.harmless(code, in_transaction).is_ok()
    }

    /// Whether what held for the next transaction only was used up, or taken back.
    pub(crate) const fn used_next_transaction(self) -> bool {
        self.next_transaction.is_some()
    }

    /// Whether anything ran at all.
    pub(crate) const fn ran(self) -> bool {
        self.texts
    }
}

/// What a client can no longer read, because it was lost with its CN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The warnings of its last statement.
    pub(crate) warnings: bool,
    /// Its ROW_COUNT, which counted rows.
    pub(crate) rows: bool,
    /// FOUND_ROWS.
    pub(crate) found_rows: bool,
    /// LAST_INSERT_ID.
    pub(crate) insert_id: bool,
}

impl Lost {
    /// Whether nothing was.
    pub(crate) const fn is_nothing(self) -> bool {
        !self.warnings && !self.rows && !self.found_rows && !self.insert_id
    }

    /// What a text of these hints would read of it, in words.
    pub(crate) fn read_by(self, hints: Hints) -> Option<&'static str> {
        let all = [
            (self.warnings, Hints::NAMES_WARNINGS, "what the last statement warned of"),
            (self.rows, Hints::NAMES_ROW_COUNT, "ROW_COUNT()"),
            (self.found_rows, Hints::NAMES_FOUND_ROWS, "FOUND_ROWS()"),
            (self.insert_id, Hints::LAST_INSERT_ID, "LAST_INSERT_ID()"),
        ];
        all.into_iter().find(|(lost, names, _)| *lost && hints.has(*names)).map(|(_, _, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_harmless_where_no_code_is_behind_them() {
        let mut since = Since::default();
        assert!(since.is_harmless(true, false), "nothing ran");
        since.runs(Hints::TABLES.with(Hints::SETS).with(Hints::LAST_INSERT_ID));
        assert!(since.is_harmless(false, false) && !since.is_harmless(true, false));
        assert!(since.has_new_insert_id() && !since.is_unsettled(false) && since.is_unsettled(true));
        since.runs(Hints::USER_VARIABLES);
        assert!(since.is_harmless(false, false), "it is read");
        since.runs(Hints::USER_VARIABLES.with(Hints::ASSIGNS));
        assert!(!since.is_harmless(false, false) && since.is_unsettled(false));
    }

    #[test]
    fn a_change_is_explained_only_within_its_answer() {
        let mut since = Since::default();
        since.explained();
        since.changed();
        since.read();
        assert!(since.is_harmless(false, false));
        since.changed();
        assert!(!since.is_harmless(false, false));
    }

    #[test]
    fn what_holds_for_the_next_transaction_is_used_up_by_it() {
        let mut since = Since::default();
        since.next_transaction(true);
        assert!(since.is_unsettled(false) && !since.is_harmless(false, false));
        assert!(since.is_harmless(false, true), "the transaction took it");
        since.next_transaction(false);
        assert!(since.is_harmless(false, false) && since.used_next_transaction());
    }

    #[test]
    fn only_what_was_lost_cannot_be_read() {
        let lost = Lost { warnings: true, ..Lost::default() };
        assert!(lost.read_by(Hints::NAMES_WARNINGS.with(Hints::TABLES)).is_some());
        assert!(lost.read_by(Hints::NAMES_FOUND_ROWS).is_none());
        assert!(lost.read_by(Hints::LAST_INSERT_ID).is_none() && lost.read_by(Hints::TABLES).is_none());
    }
}
