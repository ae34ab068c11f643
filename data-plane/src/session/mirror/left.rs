//! What a session's last statement left, and what its CN counts of it.
//!
//! Must not know: packets, sockets.

use mysql_wire::sql::Hints;

/// What a CN counts of a session: what its counters say, or should say where nothing happened that was not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// `Com_create_temporary_table`
    pub(crate) temporary_tables: u32,
    /// `Com_prepare_sql`
    pub(crate) prepared: u32,
    /// `Com_dealloc_sql`
    pub(crate) deallocated: u32,
}

/// What a statement left for the next one to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// ROW_COUNT() counts rows.
    rows: bool,
    /// There are warnings, or an error, as far as is known.
    warnings: bool,
    /// There were some since the CN was asked.
    warned: bool,
    /// It had rows: ROW_COUNT() is -1.
    selected: bool,
    /// Variables that it changed for itself alone are reported by a later OK.
    late: bool,
}

impl Left {
    /// Whether a question takes away what nothing can put back.
    pub(crate) const fn is_precious(self) -> bool {
        self.rows || self.warnings
    }

    /// Whether ROW_COUNT() counts rows, which nothing can put back.
    pub(crate) const fn counts_rows(self) -> bool {
        self.rows
    }

    /// Whether there may be warnings: to ask for them takes FOUND_ROWS away, which cannot be put back beside them.
    pub(crate) const fn has_warnings(self) -> bool {
        self.warnings
    }

    /// Whether something is yet to be told to a client that is told of changes.
    pub(crate) const fn is_late(self) -> bool {
        self.late
    }

    /// A statement is sent that changes variables for itself alone.
    pub(super) const fn will_report(&mut self) {
        self.late = true;
    }

    /// A report came.
    pub(super) const fn reported(&mut self) {
        self.late = false;
    }

    /// The session is on another CN now: what could not be carried is gone.
    pub(super) const fn moved(&mut self) {
        *self = Self { rows: false, warnings: false, warned: false, selected: self.selected, late: false };
    }

    /// Whether the CN must be asked for warnings before anything else.
    pub(crate) const fn may_have_warnings(self) -> bool {
        self.warned
    }

    /// Whether it had rows.
    pub(crate) const fn selected(self) -> bool {
        self.selected
    }

    /// A statement ended: with warnings or not, with tables that it used, with rows that it changed, with rows that it
    /// gave.
    pub(super) const fn behind(&mut self, warnings: bool, tables: bool, rows: bool, selected: bool) {
        self.rows = rows;
        self.selected = selected;
        self.warnings = warnings || (self.warnings && !tables);
        self.warned |= warnings;
    }

    /// The CN says whether there are warnings.
    pub(super) const fn found_warnings(&mut self, any: bool) {
        self.warnings = any;
        self.warned = any;
    }

    /// Whether none of it is there for whoever comes after a statement of these hints.
    pub(super) const fn is_overwritten_by(self, hints: Hints) -> bool {
        !hints.has(Hints::READS_LAST) && (!self.warnings || hints.has(Hints::TABLES))
    }
}
