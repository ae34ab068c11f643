//! Texts that are one statement of a kind that a session must know of: a statement prepared by SQL, and the beginning of
//! a transaction. What is not plainly that, is not read: the CN is asked then, or the session does not move.

use super::{next_word, skip};

/// What a text does to the statements that a session prepared by SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BySql<'a> {
    /// `PREPARE name FROM '…'`.
    Prepare(&'a [u8]),
    /// `DEALLOCATE PREPARE name`.
    Deallocate(&'a [u8]),
}

/// Reads a text that is one `PREPARE name FROM 'literal'`, or `{DEALLOCATE | DROP} PREPARE name`, and nothing else. The
/// name is what stands between its backticks, if it has any. `None` for everything else: a statement out of a variable
/// or an expression, one of several, and where it depends on the session's `sql_mode` where the literal ends.
#[must_use]
pub fn by_sql(text: &[u8]) -> Option<BySql<'_>> {
    let (word, rest) = next_word(text)?;
    if word.eq_ignore_ascii_case(b"PREPARE") {
        let (name, rest) = name(rest)?;
        let (word, rest) = next_word(rest)?;
        let rest = word.eq_ignore_ascii_case(b"FROM").then(|| skip(rest))?;
        let ends = |behind| is_end(&rest[behind..]);
        let escaped = literal(rest, true).is_some_and(ends);
        let plain = !rest.contains(&b'\\') || literal(rest, false).is_some_and(ends);
        return (escaped && plain).then_some(BySql::Prepare(name));
    }
    if !word.eq_ignore_ascii_case(b"DEALLOCATE") && !word.eq_ignore_ascii_case(b"DROP") {
        return None;
    }
    let (word, rest) = next_word(rest)?;
    let (name, rest) = word.eq_ignore_ascii_case(b"PREPARE").then(|| name(rest)).flatten()?;
    is_end(rest).then_some(BySql::Deallocate(name))
}

/// A name, in backticks or not, and what follows it. Only ASCII: which others are the same in another case, the CN knows.
fn name(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = skip(text);
    if text.first() == Some(&b'`') {
        let end = 1 + memchr::memchr(b'`', &text[1..])?;
        let name = &text[1..end];
        let plain = name.is_ascii() && !name.is_empty() && text.get(end + 1) != Some(&b'`');
        return plain.then(|| (name, &text[end + 1..]));
    }
    let (word, rest) = next_word(text)?;
    // What follows may be a part of the name that is no letter here.
    let ends = rest.first().is_none_or(|byte| byte.is_ascii() && *byte != b'$');
    ends.then_some((word, rest))
}

/// Where the string at the front of `text` ends.
fn literal(text: &[u8], escapes: bool) -> Option<usize> {
    let quote = *text.first().filter(|byte| matches!(byte, b'\'' | b'"'))?;
    let mut at = 1;
    loop {
        let byte = *text.get(at)?;
        at += 1;
        if byte == b'\\' && escapes {
            at += 1;
        } else if byte == quote {
            if text.get(at) != Some(&quote) {
                return Some(at);
            }
            at += 1;
        }
    }
}

/// Whether nothing but a semicolon follows.
pub(super) fn is_end(text: &[u8]) -> bool {
    let rest = skip(text);
    rest.is_empty() || (rest[0] == b';' && skip(&rest[1..]).is_empty())
}

/// Whether `text` is one `BEGIN` or `START TRANSACTION`, which ends a transaction that is open.
#[must_use]
pub fn begins_transaction(text: &[u8]) -> bool {
    let Some((word, rest)) = next_word(text) else { return false };
    let semicolon = memchr::memchr(b';', text);
    if semicolon.is_some_and(|at| !is_end(&text[at..])) {
        return false;
    }
    if word.eq_ignore_ascii_case(b"BEGIN") {
        // `BEGIN NOT ATOMIC` begins a block of code.
        return match next_word(rest) {
            Some((work, rest)) => work.eq_ignore_ascii_case(b"WORK") && is_end(rest),
            None => is_end(rest),
        };
    }
    let then = next_word(rest).filter(|_| word.eq_ignore_ascii_case(b"START"));
    then.is_some_and(|(word, _)| word.eq_ignore_ascii_case(b"TRANSACTION"))
}

/// Whether `text` is plainly one SELECT, INSERT, UPDATE, DELETE or REPLACE: it ends no transaction by succeeding.
#[must_use]
pub fn is_plain(text: &[u8]) -> bool {
    const PLAIN: [&[u8]; 5] = [b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"REPLACE"];
    let Some((word, _)) = next_word(text) else { return false };
    let semicolon = memchr::memchr(b';', text);
    PLAIN.iter().any(|plain| word.eq_ignore_ascii_case(plain))
        && semicolon.is_none_or(|at| is_end(&text[at..]))
        // What is in there may be anything.
        && memchr::memmem::find(text, b"/*!").is_none()
        && memchr::memmem::find(text, b"/*M!").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_statements_are_told_from_all_others() {
        for (text, plain) in [
            ("SELECT 1", true),
            ("/* app */ update t SET a = 1 ;", true),
            ("INSERT INTO t VALUES (1) -- done", true),
            ("REPLACE INTO t VALUES (1)", true),
            ("delete from t", true),
            ("SELECT 1; COMMIT", false),
            ("SELECT ';'", false),
            ("SELECT 1 /*!; COMMIT */", false),
            ("SELECTED", false),
            ("COMMIT", false),
            ("CALL p()", false),
            ("(SELECT 1)", false),
            ("WITH a AS (SELECT 1) DELETE FROM a", false),
            ("", false),
        ] {
            assert_eq!(is_plain(text.as_bytes()), plain, "{text}");
        }
    }

    #[test]
    fn statements_prepared_by_sql_are_read_where_they_are_plain() {
        use BySql::{Deallocate, Prepare};
        for (text, read) in [
            ("PREPARE s FROM 'SELECT 1'", Some(Prepare(b"s"))),
            ("prepare `S 1` from \"SELECT ''\" ; -- done", Some(Prepare(b"S 1"))),
            ("/* why */ PREPARE s FROM 'SELECT ''a'''", Some(Prepare(b"s"))),
            (r"PREPARE s FROM 'SELECT \'a\''", None),
            (r"PREPARE s FROM 'SELECT \n1'", Some(Prepare(b"s"))),
            (r"PREPARE s FROM 'a\'; DROP TABLE t; -- '", None),
            ("PREPARE s FROM @v", None),
            ("PREPARE s FROM CONCAT('a', 'b')", None),
            ("PREPARE s FROM 'a' 'b'", None),
            ("PREPARE s FROM 'SELECT 1'; SELECT 2", None),
            ("PREPARE s FROM _utf8'SELECT 1'", None),
            ("PREPARE s FROM 'SELECT 1", None),
            ("PREPARE s\u{e9} FROM 'SELECT 1'", None),
            ("PREPARE `a``b` FROM 'SELECT 1'", None),
            ("DEALLOCATE PREPARE s;", Some(Deallocate(b"s"))),
            ("DROP PREPARE `s`", Some(Deallocate(b"s"))),
            ("DROP TABLE s", None),
            ("DEALLOCATE PREPARE s; SELECT 1", None),
            ("XA PREPARE 'x'", None),
        ] {
            assert_eq!(by_sql(text.as_bytes()), read, "{text}");
        }
    }

    #[test]
    fn what_begins_a_transaction_and_nothing_else() {
        for text in
            ["BEGIN", "begin work;", "START TRANSACTION READ ONLY", "/* a */ start /* b */ transaction"]
        {
            assert!(begins_transaction(text.as_bytes()), "{text}");
        }
        for text in
            ["BEGIN NOT ATOMIC SELECT 1; END", "BEGIN; SELECT 1", "START SLAVE", "SELECT 1", "BEGINNING"]
        {
            assert!(!begins_transaction(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: Vec<u8>) {
            let _ = (by_sql(&text), begins_transaction(&text));
        }
    }
}
