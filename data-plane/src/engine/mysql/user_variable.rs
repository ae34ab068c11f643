//! A session's user variables (`@name`): names, types, collations and bytes.

use super::{UNBENT, ascii, literal};
use crate::cn::Column;

/// User variables that are carried, and bytes of their values; a session with more is `too large`.
const MOST: usize = 500;
const MOST_BYTES: usize = 1 << 20;

/// As long as a value may be before its length must be asked for: the CN shows so many characters of it.
const SHOWN: u64 = 1900;

/// The type of a user variable, which it keeps also where it is NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Int,
    Unsigned,
    Decimal,
    Double,
    Text,
}

/// A user variable as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    name: String,
    of: Type,
    character_set: String,
}

/// A user variable and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserVariable {
    listed: Listed,
    collation: String,
    value: Column,
}

/// Why user variables cannot be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    TooLarge,
    Unreadable,
}

/// Asks which there are.
pub(super) fn list() -> Vec<u8> {
    super::query(&format!(
        "{UNBENT}SELECT HEX(CONVERT(variable_name USING utf8mb4)), variable_type, character_set_name, \
         CHAR_LENGTH(variable_value) FROM information_schema.user_variables"
    ))
}

/// Reads which there are.
pub(super) fn listed(rows: &[Vec<Column>]) -> Result<Vec<Listed>, Problem> {
    if rows.len() > MOST {
        return Err(Problem::TooLarge);
    }
    rows.iter().map(|row| one(row)).collect()
}

fn one(row: &[Column]) -> Result<Listed, Problem> {
    let [Some(name), Some(of), character_set, length] = row else { return Err(Problem::Unreadable) };
    let name = literal::from_hex(&ascii(name)).and_then(|name| String::from_utf8(name).ok());
    let of = match ascii(of).as_slice() {
        b"INT" => Type::Int,
        b"INT UNSIGNED" => Type::Unsigned,
        b"DECIMAL" => Type::Decimal,
        b"DOUBLE" => Type::Double,
        b"VARCHAR" => Type::Text,
        _ => return Err(Problem::Unreadable),
    };
    let length = length.as_deref().map(ascii);
    let length = length.as_deref().and_then(literal::number).and_then(|text| text.parse::<u64>().ok());
    if of == Type::Text && length.is_some_and(|length| length > SHOWN) {
        return Err(Problem::TooLarge);
    }
    let character_set = identifier(character_set.as_deref().unwrap_or(b"binary"));
    Ok(Listed {
        name: name.ok_or(Problem::Unreadable)?,
        of,
        character_set: character_set.ok_or(Problem::Unreadable)?,
    })
}

/// A name of a character set or a collation.
fn identifier(name: &[u8]) -> Option<String> {
    let name = &ascii(name)[..];
    let plain = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    (plain && !name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// Asks for their values.
pub(super) fn values(all: &[Listed]) -> Vec<u8> {
    let columns: Vec<String> = all
        .iter()
        .map(|one| {
            let name = literal::name(&one.name);
            match one.of {
                Type::Text => format!("CAST(@{name} AS BINARY), COLLATION(@{name})"),
                _ => format!("@{name}"),
            }
        })
        .collect();
    let sql = format!("{UNBENT}SELECT {}", columns.join(", "));
    if sql.is_ascii() {
        return super::query(&sql);
    }
    // The names are read by the character set of the client, whatever that is now.
    super::query(&format!("EXECUTE IMMEDIATE CONVERT(X'{}' USING utf8mb4)", literal::hex(sql.as_bytes())))
}

/// Reads their values.
pub(super) fn read(all: Vec<Listed>, row: &[Column]) -> Result<Vec<UserVariable>, Problem> {
    let bytes: usize = row.iter().flatten().map(Vec::len).sum();
    if bytes > MOST_BYTES {
        return Err(Problem::TooLarge);
    }
    let mut row = row.iter();
    let mut read = Vec::with_capacity(all.len());
    for listed in all {
        let value = row.next().ok_or(Problem::Unreadable)?.clone();
        let value = if listed.of == Type::Text { value } else { value.as_deref().map(ascii) };
        let collation = match listed.of {
            Type::Text => {
                row.next().and_then(Option::as_deref).and_then(identifier).ok_or(Problem::Unreadable)?
            }
            _ => String::new(),
        };
        read.push(UserVariable { listed, collation, value });
    }
    if row.next().is_some() { Err(Problem::Unreadable) } else { Ok(read) }
}

impl UserVariable {
    /// What sets it. `None` where its value is not of its type.
    pub(super) fn set(&self) -> Option<Vec<u8>> {
        let name = literal::name(&self.listed.name);
        Some(super::query(&format!("SET @{name}={}", self.expression()?)))
    }

    fn expression(&self) -> Option<String> {
        let Self { listed: Listed { of, character_set, .. }, collation, value } = self;
        let Some(value) = value else {
            return Some(match of {
                Type::Int => "CAST(NULL AS SIGNED)".into(),
                Type::Unsigned => "CAST(NULL AS UNSIGNED)".into(),
                Type::Decimal => "CAST(NULL AS DECIMAL(65,30))".into(),
                Type::Double => "CAST(NULL AS DOUBLE)".into(),
                Type::Text if character_set == "binary" => "NULL".into(),
                Type::Text => format!("CAST(NULL AS CHAR CHARACTER SET {character_set}) COLLATE {collation}"),
            });
        };
        Some(match of {
            Type::Text if character_set == "binary" => format!("X'{}'", literal::hex(value)),
            Type::Text => format!("_{character_set} X'{}' COLLATE {collation}", literal::hex(value)),
            Type::Int => literal::number(value)?.to_owned(),
            Type::Unsigned => format!("CAST({} AS UNSIGNED)", literal::number(value)?),
            Type::Decimal => {
                let text = literal::number(value)?;
                if text.contains('.') { text.to_owned() } else { format!("{text}.") }
            }
            Type::Double => {
                let text = literal::number(value)?;
                if text.contains(['e', 'E']) { text.to_owned() } else { format!("{text}e0") }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(text: &str) -> Column {
        Some(text.as_bytes().to_vec())
    }

    fn row(name: &str, of: &str, character_set: &str) -> Vec<Column> {
        vec![column(&literal::hex(name.as_bytes())), column(of), column(character_set), column("1")]
    }

    #[test]
    fn each_is_set_to_its_value_in_its_type() {
        for (of, character_set, value, collation, set) in [
            ("INT", "latin1", Some("-5"), None, "-5"),
            ("INT UNSIGNED", "latin1", Some("5"), None, "CAST(5 AS UNSIGNED)"),
            ("DECIMAL", "latin1", Some("1.50"), None, "1.50"),
            ("DECIMAL", "latin1", Some("-7"), None, "-7."),
            ("DOUBLE", "latin1", Some("1.5"), None, "1.5e0"),
            ("DOUBLE", "latin1", Some("1e100"), None, "1e100"),
            ("VARCHAR", "binary", Some("a'"), Some("binary"), "X'6127'"),
            ("VARCHAR", "latin1", Some("a"), Some("latin1_bin"), "_latin1 X'61' COLLATE latin1_bin"),
            (
                "VARCHAR",
                "latin1",
                None,
                Some("latin1_bin"),
                "CAST(NULL AS CHAR CHARACTER SET latin1) COLLATE latin1_bin",
            ),
            ("INT", "latin1", None, None, "CAST(NULL AS SIGNED)"),
        ] {
            let listed = listed(&[row("x", of, character_set)]).unwrap();
            let values: Vec<Column> = [Some(value), collation.map(Some)]
                .into_iter()
                .flatten()
                .map(|v| v.and_then(column))
                .collect();
            let read = read(listed, &values).unwrap();
            let expected = [b"\x03SET @`x`=", set.as_bytes()].concat();
            assert_eq!(
                read[0].set().map(|sql| String::from_utf8(sql).unwrap()),
                Some(String::from_utf8(expected).unwrap())
            );
        }
    }

    #[test]
    fn names_that_are_not_ascii_are_asked_for_in_ascii() {
        let all = listed(&[row("a`b", "INT", "latin1")]).unwrap();
        assert!(String::from_utf8(values(&all)).unwrap().ends_with("SELECT @`a``b`"));
        let all = listed(&[row("ü", "VARCHAR", "utf8mb4")]).unwrap();
        let sql = values(&all);
        assert!(sql.is_ascii() && sql.starts_with(b"\x03EXECUTE IMMEDIATE"));
    }

    #[test]
    fn what_is_not_as_it_should_be_is_not_carried() {
        assert_eq!(listed(&vec![row("x", "INT", "latin1"); MOST + 1]), Err(Problem::TooLarge));
        assert_eq!(listed(&[row("x", "GEOMETRY", "latin1")]), Err(Problem::Unreadable));
        assert_eq!(listed(&[row("x", "INT", "a'b")]), Err(Problem::Unreadable));
        let mut long = row("x", "VARCHAR", "latin1");
        long[3] = column("2000");
        assert_eq!(listed(&[long]), Err(Problem::TooLarge));
        let one = || listed(&[row("x", "VARCHAR", "latin1")]).unwrap();
        assert_eq!(read(one(), &[column("a")]), Err(Problem::Unreadable));
        assert_eq!(read(one(), &[column("a"), column("x y")]), Err(Problem::Unreadable));
        let large = Some(vec![0; MOST_BYTES + 1]);
        assert_eq!(read(one(), &[large, column("latin1_bin")]), Err(Problem::TooLarge));
        let wrong = UserVariable {
            listed: listed(&[row("x", "INT", "latin1")]).unwrap().remove(0),
            collation: String::new(),
            value: column("a"),
        };
        assert_eq!(wrong.set(), None);
    }
}
