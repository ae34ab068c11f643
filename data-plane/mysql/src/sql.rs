//! What is read of SQL text: a KILL, and words that hint at state which no tracker shows.
//!
//! Nothing here decides what a statement means. A hint says that the CN must be asked; one too many costs a question,
//! and one too few is what the trackers and the questions are there for.

mod single;

use single::is_end;
pub use single::{BySql, begins_transaction, by_sql, is_plain};

/// What a KILL ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillKind {
    /// The connection.
    Connection,
    /// The statement that it runs.
    Query,
}

/// A `KILL` with the number of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The connection.
    pub id: u64,
    /// What of it.
    pub kind: KillKind,
}

/// Whether the first word of `text` is `KILL`, comments before it left aside.
#[must_use]
pub fn begins_with_kill(text: &[u8]) -> bool {
    // Nearly every statement is told apart here.
    match text.first() {
        Some(b'k' | b'K' | b'/' | b'-' | b'#') => {}
        Some(byte) if byte.is_ascii_whitespace() => {}
        _ => return false,
    }
    next_word(text).is_some_and(|(word, _)| word.eq_ignore_ascii_case(b"KILL"))
}

/// Reads `KILL [HARD | SOFT] [CONNECTION | QUERY] number`. `None` for everything else, `KILL QUERY ID` and
/// `KILL USER` included: these are the CN's.
#[must_use]
pub fn kill(text: &[u8]) -> Option<Kill> {
    if text.windows(3).any(|three| three == b"/*!") {
        return plain_kill(&unwrapped(text)?);
    }
    plain_kill(text)
}

/// `text` without the marks of `/*!50000 … */`, in which old clients write QUERY. `None` where servers differ in whether
/// they read what is inside, or the text is longer than any KILL.
fn unwrapped(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut rest = (text.len() <= 1024).then_some(text)?;
    while let Some(at) = memchr::memmem::find(rest, b"/*!") {
        plain.extend_from_slice(&rest[..at]);
        let inside = &rest[at + 3..];
        let digits = inside.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let version: u32 = std::str::from_utf8(&inside[..digits]).ok()?.parse().unwrap_or(0);
        let end = memchr::memmem::find(inside, b"*/").filter(|_| version <= 50_600)?;
        plain.push(b' ');
        plain.extend_from_slice(&inside[digits..end]);
        plain.push(b' ');
        rest = &inside[end + 2..];
    }
    plain.extend_from_slice(rest);
    Some(plain)
}

fn plain_kill(text: &[u8]) -> Option<Kill> {
    let (word, mut rest) = next_word(text)?;
    if !word.eq_ignore_ascii_case(b"KILL") {
        return None;
    }
    let mut kind = KillKind::Connection;
    loop {
        let (word, behind) = next_word(rest)?;
        rest = behind;
        if word.eq_ignore_ascii_case(b"HARD") || word.eq_ignore_ascii_case(b"SOFT") {
            continue;
        }
        if word.eq_ignore_ascii_case(b"CONNECTION") {
            kind = KillKind::Connection;
        } else if word.eq_ignore_ascii_case(b"QUERY") {
            kind = KillKind::Query;
        } else {
            let id = std::str::from_utf8(word).ok()?.parse().ok()?;
            return is_end(rest).then_some(Kill { id, kind });
        }
    }
}

/// Skips white space and comments. A `/*!` comment is SQL.
fn skip(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        let line = text.starts_with(b"#")
            || (text.starts_with(b"--") && text.get(2).is_none_or(u8::is_ascii_whitespace));
        if line {
            let end = memchr::memchr(b'\n', text).map_or(text.len(), |at| at + 1);
            text = &text[end..];
        } else if text.starts_with(b"/*") && !matches!(text.get(2), Some(b'!' | b'M')) {
            match memchr::memmem::find(&text[2..], b"*/") {
                Some(at) => text = &text[at + 4..],
                None => return &[],
            }
        } else {
            return text;
        }
    }
}

fn next_word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = skip(text);
    let end = text.iter().position(|byte| !is_word(*byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

const fn is_word(byte: u8) -> bool {
    IS_WORD[byte as usize]
}

/// Letters, digits and the underscore.
const IS_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric() || byte as u8 == b'_';
        byte += 1;
    }
    table
};

/// Kinds of state that a text may touch without a tracker's saying so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints(u32);

impl Hints {
    /// User variables.
    pub const USER_VARIABLES: Self = Self(1);
    /// Temporary tables.
    pub const TEMPORARY_TABLES: Self = Self(1 << 1);
    /// `GET_LOCK`.
    pub const USER_LOCKS: Self = Self(1 << 2);
    /// `LOCK TABLES`, `FLUSH TABLES WITH READ LOCK`, `BACKUP`.
    pub const LOCKED_TABLES: Self = Self(1 << 3);
    /// `HANDLER`.
    pub const HANDLERS: Self = Self(1 << 4);
    /// `PREPARE` and its like, as text.
    pub const TEXT_STATEMENTS: Self = Self(1 << 5);
    /// `LAST_INSERT_ID`, set or generated.
    pub const LAST_INSERT_ID: Self = Self(1 << 6);
    /// Values of sequences.
    pub const SEQUENCES: Self = Self(1 << 7);
    /// `XA`.
    pub const XA: Self = Self(1 << 8);
    /// System variables, in ways that the trackers miss: a temporary value, a fixed clock, a one-shot.
    pub const VARIABLES: Self = Self(1 << 9);
    /// What the last statement left: warnings, FOUND_ROWS, ROW_COUNT.
    pub const LAST_RESULT: Self = Self(1 << 10);
    /// Code on the CN ran that is not seen here: anything may have been touched.
    pub const HIDDEN: Self = Self(1 << 11);

    /// The tracker of variables.
    pub const TRACKED_VARIABLES: Self = Self(1 << 12);
    /// The tracker of the default database.
    pub const TRACKED_SCHEMA: Self = Self(1 << 13);
    /// The tracker of any change of state.
    pub const TRACKED_STATE: Self = Self(1 << 14);
    /// The tracker of transactions.
    pub const TRACKED_TRANSACTION: Self = Self(1 << 15);

    /// Reads what the statement before it left: warnings, FOUND_ROWS, ROW_COUNT. Not about state of its own.
    pub const READS_LAST: Self = Self(1 << 16);
    /// Names FOUND_ROWS. Not about state.
    pub const NAMES_FOUND_ROWS: Self = Self(1 << 19);
    /// Names warnings or errors of the statement before it. Not about state.
    pub const NAMES_WARNINGS: Self = Self(1 << 20);
    /// Assigns to something, as far as can be told: a user variable that it names may be it. Not about state.
    pub const ASSIGNS: Self = Self(1 << 22);
    /// Names ROW_COUNT. Not about state.
    pub const NAMES_ROW_COUNT: Self = Self(1 << 21);
    /// Sets variables, as far as can be told. Not about state: the trackers tell.
    pub const SETS: Self = Self(1 << 18);
    /// Uses tables, so that the warnings of the statement before it are gone. Not about state.
    pub const TABLES: Self = Self(1 << 17);

    /// None.
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// All of them, but the trackers.
    #[must_use]
    pub const fn all() -> Self {
        Self((1 << 12) - 1)
    }

    /// Those of these that are about trackers.
    #[must_use]
    pub const fn trackers(self) -> Self {
        Self(self.0 & 0xF000)
    }

    /// Those of these that are about state which no tracker shows.
    #[must_use]
    pub const fn state(self) -> Self {
        Self(self.0 & Self::all().0)
    }

    /// These without those.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Whether all of `others` are among these.
    #[must_use]
    pub const fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether any of `others` is among these.
    #[must_use]
    pub const fn touches(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Words, and what they hint at. In the order of their first letters.
const WORDS: &[(&[u8], Hints)] = &[
    (b"ALTER", Hints::TABLES),
    (b"BACKUP", Hints::LOCKED_TABLES),
    (b"CALL", Hints::HIDDEN.with(Hints::READS_LAST)),
    (b"CREATE", Hints::TABLES),
    (b"DEALLOCATE", Hints::TEXT_STATEMENTS),
    (b"DELETE", Hints::TABLES),
    (b"DIAGNOSTICS", Hints::READS_LAST.with(Hints::NAMES_WARNINGS).with(Hints::ASSIGNS)),
    (b"DROP", Hints::TABLES),
    (b"ERRORS", Hints::READS_LAST.with(Hints::NAMES_WARNINGS)),
    (b"ERROR_COUNT", Hints::READS_LAST.with(Hints::NAMES_WARNINGS)),
    (b"EXECUTE", Hints::HIDDEN.with(Hints::READS_LAST)),
    (b"FLUSH", Hints::LOCKED_TABLES),
    (b"FOUND_ROWS", Hints::READS_LAST.with(Hints::NAMES_FOUND_ROWS)),
    (b"FROM", Hints::TABLES),
    (b"GET_LOCK", Hints::USER_LOCKS),
    (b"HANDLER", Hints::HANDLERS),
    (b"IDENTITY", Hints::LAST_INSERT_ID),
    (b"INSERT", Hints::TABLES),
    (b"INTO", Hints::ASSIGNS),
    (b"LASTVAL", Hints::SEQUENCES),
    (b"LAST_INSERT_ID", Hints::LAST_INSERT_ID),
    (b"LOAD", Hints::TABLES.with(Hints::ASSIGNS)),
    (b"LOCK", Hints::LOCKED_TABLES),
    (b"NEXTVAL", Hints::SEQUENCES),
    (b"NEXT", Hints::SEQUENCES),
    (b"PREPARE", Hints::TEXT_STATEMENTS),
    (b"RELEASE_LOCK", Hints::USER_LOCKS),
    (b"RELEASE_ALL_LOCKS", Hints::USER_LOCKS),
    (b"REPLACE", Hints::TABLES),
    // Of an INSERT that has rows no OK tells the id.
    (b"RETURNING", Hints::LAST_INSERT_ID),
    (b"ROW_COUNT", Hints::READS_LAST.with(Hints::NAMES_ROW_COUNT)),
    (b"SESSION_TRACK_SCHEMA", Hints::TRACKED_SCHEMA),
    (b"SESSION_TRACK_STATE_CHANGE", Hints::TRACKED_STATE),
    (b"SESSION_TRACK_SYSTEM_VARIABLES", Hints::TRACKED_VARIABLES),
    (b"SESSION_TRACK_TRANSACTION_INFO", Hints::TRACKED_TRANSACTION),
    (b"SET", Hints::SETS.with(Hints::ASSIGNS)),
    (b"SETVAL", Hints::SEQUENCES),
    (b"STATEMENT", Hints::VARIABLES),
    (b"SQL_CALC_FOUND_ROWS", Hints::LAST_RESULT),
    (b"TEMPORARY", Hints::TEMPORARY_TABLES),
    (b"TIMESTAMP", Hints::VARIABLES),
    (b"TRUNCATE", Hints::TABLES),
    (b"UNLOCK", Hints::LOCKED_TABLES),
    (b"UPDATE", Hints::TABLES),
    (b"WARNINGS", Hints::READS_LAST.with(Hints::NAMES_WARNINGS)),
    (b"WARNING_COUNT", Hints::READS_LAST.with(Hints::NAMES_WARNINGS)),
    (b"XA", Hints::XA),
];

/// What `text` hints at. A text that is not `whole` hints at everything, for the rest is not seen; at trackers only
/// where it names them.
#[must_use]
pub fn hints(text: &[u8], whole: bool) -> Hints {
    let mut hints = if whole { Hints::none() } else { Hints::all().with(Hints::SETS) };
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        if byte == b'@' {
            // `@@x` is a system variable, which the trackers know.
            let system = text.get(at + 1) == Some(&b'@');
            if !system {
                hints = hints.with(Hints::USER_VARIABLES);
            }
            at += if system { 2 } else { 1 };
        } else if byte == b':' && text.get(at + 1) == Some(&b'=') {
            hints = hints.with(Hints::ASSIGNS);
            at += 2;
        } else if is_word(byte) {
            let end = text[at..].iter().position(|byte| !is_word(*byte)).map_or(text.len(), |n| at + n);
            hints = hints.with(word_hint(&text[at..end]));
            at = end;
        } else {
            at += 1;
        }
    }
    hints
}

/// Whether `text` may be a `FLUSH`, of whatever.
#[must_use]
pub fn may_flush(text: &[u8]) -> bool {
    text.split(|byte| !is_word(*byte)).any(|word| word.eq_ignore_ascii_case(b"FLUSH"))
}

/// Where the words of each letter begin in [`WORDS`], and where those of the last one end: nearly every word of a
/// statement is told apart by its first letter.
const BY_LETTER: [u8; 27] = {
    let mut begins = [0; 27];
    let mut letter = 0;
    let mut at = 0;
    while letter < 26 {
        while at < WORDS.len() && WORDS[at].0[0] < b'A' + letter as u8 {
            at += 1;
        }
        begins[letter] = at as u8;
        letter += 1;
    }
    begins[26] = WORDS.len() as u8;
    begins
};

fn word_hint(word: &[u8]) -> Hints {
    let letter = usize::from(word[0].to_ascii_uppercase().wrapping_sub(b'A'));
    let [Some(begin), Some(end)] = [letter, letter + 1].map(|letter| BY_LETTER.get(letter)) else {
        return Hints::none();
    };
    let words = &WORDS[usize::from(*begin)..usize::from(*end)];
    let known = words.iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
    known.map_or(Hints::none(), |(_, hint)| *hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kills_are_read() {
        use KillKind::{Connection, Query};
        for (text, read) in [
            ("KILL 7", Some((7, Connection))),
            ("kill query 7", Some((7, Query))),
            ("KILL /*!50000 QUERY */ 7", Some((7, Query))),
            ("KILL /*! QUERY*//*c*/7 /*!*/", Some((7, Query))),
            ("KILL /*!99999 QUERY */ 7", None),
            ("KILL /*!50000 QUERY 7", None),
            ("KILL /*M! QUERY */ 7", None),
            (" /* why */ KILL\n-- x\n HARD CONNECTION 1073741824 ; ", Some((1_073_741_824, Connection))),
            ("kill soft query 7 # now", Some((7, Query))),
            ("KILL/**/7", Some((7, Connection))),
            ("KILL 7 8", None),
            ("KILL 7; SELECT 1", None),
            ("KILL QUERY ID 7", None),
            ("KILL USER app", None),
            ("KILL CONNECTION_ID()", None),
            ("KILLER 7", None),
            ("SELECT 7", None),
            ("KILL", None),
            ("KILL 99999999999999999999999", None),
            ("/* KILL 7", None),
        ] {
            let found = kill(text.as_bytes()).map(|kill| (kill.id, kill.kind));
            assert_eq!(found, read, "{text}");
            assert!(found.is_none() || begins_with_kill(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn words_hint_at_state() {
        for (text, hint) in [
            ("SELECT 1", Hints::none()),
            ("SELECT c FROM sbtest1 WHERE id=4711", Hints::TABLES),
            ("show count(*) warnings", Hints::READS_LAST.with(Hints::NAMES_WARNINGS)),
            ("SELECT @@version", Hints::none()),
            ("SELECT @a", Hints::USER_VARIABLES),
            ("SELECT @a:=1", Hints::USER_VARIABLES.with(Hints::ASSIGNS)),
            ("select get_lock('x',1)", Hints::USER_LOCKS),
            ("CREATE TEMPORARY TABLE t SELECT 1", Hints::TEMPORARY_TABLES.with(Hints::TABLES)),
            ("CALL p()", Hints::HIDDEN.with(Hints::READS_LAST)),
            ("SELECT locked FROM t", Hints::TABLES),
            ("xa start 'a'", Hints::XA),
            ("SET session_track_schema=0", Hints::TRACKED_SCHEMA.with(Hints::SETS).with(Hints::ASSIGNS)),
        ] {
            assert_eq!(hints(text.as_bytes(), true), hint, "{text}");
        }
        assert_eq!(hints(b"SELECT 1", false).state(), Hints::all());
        let cut = hints(b"SET session_track_system_variables = '...", false);
        assert_eq!(cut.trackers(), Hints::TRACKED_VARIABLES);
    }

    #[test]
    fn every_word_is_found_in_every_case() {
        assert!(WORDS.is_sorted_by_key(|(word, _)| word[0]), "words are found by their first letter");
        for (word, hint) in WORDS {
            assert!(word.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'_'));
            for text in [word.to_vec(), word.to_ascii_lowercase(), [b"0 ", *word, b"("].concat()] {
                assert_eq!(hints(&text, true), *hint, "{}", String::from_utf8_lossy(&text));
            }
            for text in [[*word, b"X"].concat(), [b"_", *word].concat(), word[1..].to_vec()] {
                assert!(!hints(&text, true).has(*hint), "{}", String::from_utf8_lossy(&text));
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: Vec<u8>) {
            let _ = (kill(&text), begins_with_kill(&text), hints(&text, true), is_plain(&text));
        }
    }
}
