//! A session's user variables (`@name`): names, types, collations and bytes.

use super::dialect::Dialect;
use super::{ascii, literal};
use crate::cn::Column;
use crate::cn::converse::Definition;

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

/// Reads which there are. `client` is the client's character set.
pub(super) fn listed(
    dialect: Dialect,
    rows: &[Vec<Column>],
    client: Option<&Column>,
) -> Result<Vec<Listed>, Problem> {
    if rows.len() > MOST {
        return Err(Problem::TooLarge);
    }
    let all: Vec<Listed> = match dialect {
        Dialect::MariaDb => rows.iter().map(|row| one(row)).collect::<Result<_, _>>()?,
        Dialect::MySql => untyped(rows)?,
    };
    let client = client.and_then(Option::as_deref).unwrap_or_default();
    let may_ask = all.is_empty() || values(dialect, &all, client).is_some();
    if may_ask { Ok(all) } else { Err(Problem::Unreadable) }
}

/// MySQL lists names and lengths in bytes; types come with the values ([`typed`]).
fn untyped(rows: &[Vec<Column>]) -> Result<Vec<Listed>, Problem> {
    let mut bytes = 0_u64;
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let [Some(name), length] = &row[..] else { return Err(Problem::Unreadable) };
        let name = literal::from_hex(&ascii(name)).and_then(|name| String::from_utf8(name).ok());
        let length = match length.as_deref().map(ascii) {
            Some(length) => literal::number(&length).and_then(|text| text.parse::<u64>().ok()),
            // Of NULL.
            None => Some(0),
        };
        bytes = bytes.saturating_add(length.ok_or(Problem::Unreadable)?);
        all.push(Listed {
            name: name.ok_or(Problem::Unreadable)?,
            of: Type::Text,
            character_set: String::new(),
        });
    }
    if bytes > MOST_BYTES as u64 { Err(Problem::TooLarge) } else { Ok(all) }
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

/// Asks for their values. `None` where a client of this character set cannot name them.
pub(super) fn values(dialect: Dialect, all: &[Listed], client: &[u8]) -> Option<Vec<u8>> {
    let columns: Vec<String> = all
        .iter()
        .map(|one| {
            let name = literal::name(&one.name);
            match one.of {
                _ if dialect == Dialect::MySql => {
                    format!("@{name}, CAST(@{name} AS BINARY), CHARSET(@{name}), COLLATION(@{name})")
                }
                Type::Text => format!("CAST(@{name} AS BINARY), COLLATION(@{name})"),
                _ => format!("@{name}"),
            }
        })
        .collect();
    let sql = dialect.select(&columns.join(", "));
    // The names are read by the character set of the client, whatever that is now.
    dialect.in_any_client(&sql, client).map(|sql| super::query(&sql))
}

/// As they were listed.
pub(super) fn listed_again(all: &[UserVariable]) -> Vec<Listed> {
    all.iter().map(|one| one.listed.clone()).collect()
}

/// Reads their values.
pub(super) fn read(
    dialect: Dialect,
    all: Vec<Listed>,
    row: &[Column],
    definitions: &[Definition],
) -> Result<Vec<UserVariable>, Problem> {
    let bytes: usize = row.iter().flatten().map(Vec::len).sum();
    if dialect == Dialect::MySql {
        return typed(all, row, definitions);
    }
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

/// The columns that MySQL is asked for of each.
const COLUMNS: usize = 4;

/// The values with the types of the columns that select them: a variable that is NULL has one too.
fn typed(all: Vec<Listed>, row: &[Column], definitions: &[Definition]) -> Result<Vec<UserVariable>, Problem> {
    if row.len() != COLUMNS * all.len() || definitions.len() != row.len() {
        return Err(Problem::Unreadable);
    }
    let columns = row.chunks_exact(COLUMNS).zip(definitions.chunks_exact(COLUMNS));
    let one = |(listed, (row, definitions)): (Listed, (&[Column], &[Definition]))| {
        let ([value, bytes, character_set, collation], Some(definition)) = (row, definitions.first()) else {
            return None;
        };
        let of = Type::of(*definition)?;
        let word = |column: &Column| column.as_deref().and_then(identifier);
        let (value, character_set, collation) = match of {
            Type::Text => (bytes.clone(), word(character_set)?, word(collation)?),
            _ => (value.as_deref().map(ascii), String::new(), String::new()),
        };
        Some(UserVariable { listed: Listed { of, character_set, ..listed }, collation, value })
    };
    all.into_iter().zip(columns).map(|columns| one(columns).ok_or(Problem::Unreadable)).collect()
}

/// The flag of a column without a sign.
const UNSIGNED: u16 = 1 << 5;

impl Type {
    /// That of a user variable which is selected as such a column ("Column Definition" of the protocol: enum_field_types).
    const fn of(definition: Definition) -> Option<Self> {
        Some(match definition.kind {
            3 | 8 if definition.flags & UNSIGNED != 0 => Self::Unsigned,
            3 | 8 => Self::Int,
            0 | 246 => Self::Decimal,
            4 | 5 => Self::Double,
            15 | 249..=254 => Self::Text,
            _ => return None,
        })
    }
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

    const MARIADB: Dialect = Dialect::MariaDb;

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
            let listed = listed(MARIADB, &[row("x", of, character_set)], None).unwrap();
            let values: Vec<Column> = [Some(value), collation.map(Some)]
                .into_iter()
                .flatten()
                .map(|v| v.and_then(column))
                .collect();
            let read = read(MARIADB, listed, &values, &[]).unwrap();
            let expected = [b"\x03SET @`x`=", set.as_bytes()].concat();
            assert_eq!(
                read[0].set().map(|sql| String::from_utf8(sql).unwrap()),
                Some(String::from_utf8(expected).unwrap())
            );
        }
    }

    #[test]
    fn names_that_are_not_ascii_are_asked_for_in_ascii() {
        let all = listed(MARIADB, &[row("a`b", "INT", "latin1")], None).unwrap();
        assert!(
            String::from_utf8(values(MARIADB, &all, b"latin1").unwrap()).unwrap().ends_with("SELECT @`a``b`")
        );
        let all = listed(MARIADB, &[row("ü", "VARCHAR", "utf8mb4")], None).unwrap();
        let sql = values(MARIADB, &all, b"latin1").unwrap();
        assert!(sql.is_ascii() && sql.starts_with(b"\x03EXECUTE IMMEDIATE"));
    }

    #[test]
    fn what_is_not_as_it_should_be_is_not_carried() {
        assert_eq!(listed(MARIADB, &vec![row("x", "INT", "latin1"); MOST + 1], None), Err(Problem::TooLarge));
        assert_eq!(listed(MARIADB, &[row("x", "GEOMETRY", "latin1")], None), Err(Problem::Unreadable));
        assert_eq!(listed(MARIADB, &[row("x", "INT", "a'b")], None), Err(Problem::Unreadable));
        let mut long = row("x", "VARCHAR", "latin1");
        long[3] = column("2000");
        assert_eq!(listed(MARIADB, &[long], None), Err(Problem::TooLarge));
        let one = || listed(MARIADB, &[row("x", "VARCHAR", "latin1")], None).unwrap();
        assert_eq!(read(MARIADB, one(), &[column("a")], &[]), Err(Problem::Unreadable));
        assert_eq!(read(MARIADB, one(), &[column("a"), column("x y")], &[]), Err(Problem::Unreadable));
        let large = Some(vec![0; MOST_BYTES + 1]);
        assert_eq!(read(MARIADB, one(), &[large, column("latin1_bin")], &[]), Err(Problem::TooLarge));
        let wrong = UserVariable {
            listed: listed(MARIADB, &[row("x", "INT", "latin1")], None).unwrap().remove(0),
            collation: String::new(),
            value: column("a"),
        };
        assert_eq!(wrong.set(), None);
    }

    fn of_type(kind: u8, flags: u16) -> [Definition; COLUMNS] {
        [Definition { collation: 63, kind, flags }; COLUMNS]
    }

    #[test]
    fn mysql_s_are_of_the_types_of_their_columns() {
        for (kind, flags, row, set) in [
            (8, 0, [Some("-5"), Some("-5"), Some("binary"), Some("binary")], "-5"),
            (8, UNSIGNED, [Some("5"), Some("5"), Some("binary"), Some("binary")], "CAST(5 AS UNSIGNED)"),
            (246, 0, [Some("1.50"), Some("1.50"), Some("binary"), Some("binary")], "1.50"),
            (5, 0, [Some("1.5"), Some("1.5"), Some("binary"), Some("binary")], "1.5e0"),
            (
                251,
                0,
                [Some("?"), Some("a"), Some("latin1"), Some("latin1_bin")],
                "_latin1 X'61' COLLATE latin1_bin",
            ),
            (250, 0, [Some("a"), Some("a"), Some("binary"), Some("binary")], "X'61'"),
            (253, 0, [None, None, Some("binary"), Some("binary")], "NULL"),
            (8, 0, [None, None, Some("binary"), Some("binary")], "CAST(NULL AS SIGNED)"),
        ] {
            let name = literal::hex(b"x");
            let all = listed(Dialect::MySql, &[vec![column(&name), column("1")]], None).unwrap();
            let row = row.map(|value| value.and_then(column));
            let read = read(Dialect::MySql, all, &row, &of_type(kind, flags)).unwrap();
            let sql = String::from_utf8(read[0].set().unwrap()).unwrap();
            assert_eq!(sql, format!("\u{3}SET @`x`={set}"));
        }
    }

    #[test]
    fn what_mysql_does_not_tell_is_not_carried() {
        let row = |name: &str, length: Option<&str>| {
            vec![column(&literal::hex(name.as_bytes())), length.and_then(column)]
        };
        let utf8 = column("utf8mb4");
        let of = |rows: &[Vec<Column>], client: Option<&Column>| listed(Dialect::MySql, rows, client);
        assert_eq!(of(&vec![row("x", Some("1")); MOST + 1], None), Err(Problem::TooLarge));
        assert_eq!(of(&[row("x", Some("1048577"))], None), Err(Problem::TooLarge));
        assert_eq!(of(&[row("x", Some("a"))], None), Err(Problem::Unreadable));
        assert_eq!(
            of(&[row("ü", None)], column("latin1").as_ref().map(|_| &utf8)).map(|all| all.len()),
            Ok(1)
        );
        assert_eq!(of(&[row("ü", None)], Some(&column("latin1"))), Err(Problem::Unreadable));
        let one = || of(&[row("x", Some("1"))], None).unwrap();
        let values = [column("a"), column("a"), column("latin1"), column("latin1_bin")];
        let typed = |values: &[Column], kind| read(Dialect::MySql, one(), values, &of_type(kind, 0));
        assert!(typed(&values, 251).is_ok());
        // Of a type that no user variable has, and of no type.
        assert_eq!(typed(&values, 12), Err(Problem::Unreadable));
        assert_eq!(read(Dialect::MySql, one(), &values, &[]), Err(Problem::Unreadable));
        assert_eq!(typed(&values[1..], 251), Err(Problem::Unreadable));
        let odd = [column("a"), column("a"), column("latin1"), column("x y")];
        assert_eq!(typed(&odd, 251), Err(Problem::Unreadable));
    }
}
