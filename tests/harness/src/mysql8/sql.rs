//! The SQL that a scripted MySQL 8 understands: tokens, expressions and SELECTs, read as MySQL reads them, whatever
//! their wording is. What it does not know is a syntax error, as MariaDB's own statements are in MySQL.

use super::value::Value;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::VecDeque;

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    /// A name in backticks.
    Name(String),
    Text(Vec<u8>),
    Hex(Vec<u8>),
    Number(String),
    /// `@name`
    User(String),
    /// `@@name`
    System(String),
    /// Inside `/*+ */`.
    Hint(String),
    Sign(&'static str),
}

const SIGNS: [&str; 14] = ["<=>", "<>", "!=", ":=", "=", "(", ")", ",", ".", "-", "+", "*", "?", ";"];

/// Takes a text apart.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        if let Some(hint) = rest.strip_prefix("/*+") {
            let (hint, behind) = hint.split_once("*/").context("a hint without an end")?;
            all.push(Token::Hint(hint.to_owned()));
            rest = behind;
        } else if rest.starts_with("@@") {
            let n = rest[2..].find(|c| !is_word(c) && c != '.').unwrap_or(rest.len() - 2);
            all.push(Token::System(rest[2..2 + n].to_ascii_lowercase()));
            rest = &rest[2 + n..];
        } else if let Some(name) = rest.strip_prefix('@') {
            if name.starts_with('`') {
                let (name, behind) = quoted(name, '`')?;
                all.push(Token::User(name));
                rest = behind;
            } else {
                let n = name.find(|c| !is_word(c)).unwrap_or(name.len());
                all.push(Token::User(name[..n].to_owned()));
                rest = &name[n..];
            }
        } else if first == '`' {
            let (name, behind) = quoted(rest, '`')?;
            all.push(Token::Name(name));
            rest = behind;
        } else if first == '\'' {
            let (text, behind) = quoted(rest, '\'')?;
            all.push(Token::Text(text.into_bytes()));
            rest = behind;
        } else if rest.starts_with("X'") || rest.starts_with("x'") {
            let (digits, behind) = quoted(&rest[1..], '\'')?;
            all.push(Token::Hex(from_hex(&digits)?));
            rest = behind;
        } else if first.is_ascii_digit() {
            let mut n = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            if rest[n..].starts_with(['e', 'E']) {
                let signed = usize::from(rest[n + 1..].starts_with(['-', '+']));
                let digits = &rest[n + 1 + signed..];
                n += 1 + signed + digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            }
            all.push(Token::Number(rest[..n].to_owned()));
            rest = &rest[n..];
        } else if is_word(first) {
            let n = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            all.push(Token::Word(rest[..n].to_owned()));
            rest = &rest[n..];
        } else {
            let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
            let sign = sign.with_context(|| format!("near '{rest}'"))?;
            all.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        }
        rest = rest.trim_start();
    }
    Ok(all)
}

/// What is between the quotes that `text` begins with, and what is behind.
fn quoted(text: &str, quote: char) -> Result<(String, &str)> {
    let mut inside = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            inside.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            inside.push(quote);
        } else {
            return Ok((inside, &text[at + 1..]));
        }
    }
    bail!("a quote without an end: {text}")
}

fn from_hex(digits: &str) -> Result<Vec<u8>> {
    ensure!(digits.len().is_multiple_of(2), "hexadecimal digits: {digits}");
    (0..digits.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&digits[at..at + 2], 16)?)).collect()
}

/// An expression.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    Value(Value),
    /// The default of whatever is set.
    Default,
    User(String),
    System(String),
    Column(String),
    /// A parameter of a prepared statement.
    Param,
    Call(String, Vec<Self>),
    /// CAST(… AS type), with the type's words.
    Cast(Box<Self>, Vec<String>),
    Convert(Box<Self>, String),
    Collate(Box<Self>, String),
    Select(Box<Select>),
    Binary(String, Box<Self>, Box<Self>),
    In(Box<Self>, Vec<Self>),
    Not(Box<Self>),
}

/// What rows come from.
#[derive(Clone, Debug)]
pub(super) enum From {
    Dual,
    Table(String),
    /// JSON_TABLE of an array with so many members.
    Numbers(usize),
}

/// A SELECT.
#[derive(Clone, Debug)]
pub(super) struct Select {
    /// Variables that a hint sets for the statement.
    pub(super) hints: Vec<(String, String)>,
    pub(super) columns: Vec<(String, Expr)>,
    pub(super) from: From,
    pub(super) filter: Option<Expr>,
    pub(super) limit: Option<usize>,
}

/// Reads tokens.
pub(super) struct Parser {
    rest: VecDeque<Token>,
    /// Parameters that were read.
    pub(super) params: usize,
}

impl Parser {
    pub(super) fn new(text: &str) -> Result<Self> {
        Ok(Self { rest: tokens(text)?.into(), params: 0 })
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn peek(&self) -> Option<&Token> {
        self.rest.front()
    }

    pub(super) fn next(&mut self) -> Result<Token> {
        self.rest.pop_front().context("the text ends too early")
    }

    /// Whether the next token is this word; it is read then.
    pub(super) fn word(&mut self, word: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Word(next)) if next.eq_ignore_ascii_case(word));
        if is {
            self.rest.pop_front();
        }
        is
    }

    pub(super) fn sign(&mut self, sign: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Sign(next)) if *next == sign);
        if is {
            self.rest.pop_front();
        }
        is
    }

    pub(super) fn expect(&mut self, sign: &str) -> Result<()> {
        ensure!(self.sign(sign), "'{sign}' expected near {:?}", self.rest);
        Ok(())
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Result<()> {
        ensure!(self.word(word), "{word} expected near {:?}", self.rest);
        Ok(())
    }

    pub(super) fn name(&mut self) -> Result<String> {
        match self.next()? {
            Token::Word(name) | Token::Name(name) => Ok(name),
            Token::Text(name) => Ok(String::from_utf8(name)?),
            other => bail!("a name expected, not {other:?}"),
        }
    }

    pub(super) fn done(&self) -> Result<()> {
        ensure!(self.is_at_end() || self.rest == [Token::Sign(";")], "near {:?}", self.rest);
        Ok(())
    }

    /// A SELECT, whose first word was read.
    pub(super) fn select(&mut self) -> Result<Select> {
        let mut hints = Vec::new();
        while let Some(Token::Hint(_)) = self.peek() {
            let Token::Hint(hint) = self.next()? else { continue };
            for one in hint.split("SET_VAR(").skip(1) {
                let (inside, _) = one.split_once(')').context("a hint without an end")?;
                let (name, value) = inside.split_once('=').context("a hint without a value")?;
                hints.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let mut columns = Vec::new();
        loop {
            let title = format!("{:?}", self.peek());
            columns.push((title, self.condition()?));
            if !self.sign(",") {
                break;
            }
        }
        let from = if self.word("FROM") { self.from()? } else { From::Dual };
        let filter = if self.word("WHERE") { Some(self.condition()?) } else { None };
        if self.word("ORDER") {
            self.expect_word("BY")?;
            self.expression()?;
        }
        let limit = if self.word("LIMIT") {
            let Token::Number(limit) = self.next()? else { bail!("a limit that is no number") };
            Some(limit.parse()?)
        } else {
            None
        };
        Ok(Select { hints, columns, from, filter, limit })
    }

    fn from(&mut self) -> Result<From> {
        let mut name = self.name()?;
        if name.eq_ignore_ascii_case("dual") {
            return Ok(From::Dual);
        }
        if name.eq_ignore_ascii_case("json_table") {
            self.expect("(")?;
            let Token::Text(json) = self.next()? else { bail!("JSON_TABLE of what?") };
            while !self.sign(")") {
                if self.sign("(") {
                    while !self.sign(")") {
                        self.next()?;
                    }
                } else {
                    self.next()?;
                }
            }
            // A derived table has a name.
            self.name()?;
            return Ok(From::Numbers(serde_json::from_slice::<Vec<i64>>(&json)?.len()));
        }
        if self.sign(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(From::Table(name.to_ascii_lowercase()))
    }

    pub(super) fn condition(&mut self) -> Result<Expr> {
        let mut left = self.and()?;
        while self.word("OR") {
            left = Expr::Binary("or".into(), left.into(), self.and()?.into());
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr> {
        let mut left = self.not()?;
        while self.word("AND") {
            left = Expr::Binary("and".into(), left.into(), self.not()?.into());
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr> {
        if self.word("NOT") {
            return Ok(Expr::Not(self.not()?.into()));
        }
        let left = self.expression()?;
        for sign in ["<=>", "<>", "!=", "="] {
            if self.sign(sign) {
                return Ok(Expr::Binary(sign.into(), left.into(), self.expression()?.into()));
            }
        }
        if self.word("LIKE") {
            return Ok(Expr::Binary("like".into(), left.into(), self.expression()?.into()));
        }
        let not_in = self.word("NOT");
        if self.word("IN") {
            self.expect("(")?;
            let within = Expr::In(left.into(), self.list()?);
            return Ok(if not_in { Expr::Not(within.into()) } else { within });
        }
        Ok(left)
    }

    /// Expressions up to the parenthesis that ends them, the one that begins them being read.
    fn list(&mut self) -> Result<Vec<Expr>> {
        let mut all = Vec::new();
        if self.sign(")") {
            return Ok(all);
        }
        loop {
            all.push(self.condition()?);
            if self.sign(")") {
                return Ok(all);
            }
            self.expect(",")?;
        }
    }

    pub(super) fn expression(&mut self) -> Result<Expr> {
        let mut one = self.primary()?;
        while self.word("COLLATE") {
            one = Expr::Collate(one.into(), self.name()?);
        }
        // Nothing that is read needs sums; they are only read over.
        while self.sign("-") || self.sign("+") {
            one = Expr::Binary("sum".into(), one.into(), self.primary()?.into());
        }
        Ok(one)
    }

    fn primary(&mut self) -> Result<Expr> {
        Ok(match self.next()? {
            Token::Number(number) => Expr::Value(Value::number(&number)),
            Token::Sign("-") => {
                let Token::Number(number) = self.next()? else { bail!("the negative of what?") };
                Expr::Value(Value::number(&format!("-{number}")))
            }
            Token::Sign("?") => {
                self.params += 1;
                Expr::Param
            }
            Token::Sign("(") => {
                let inside =
                    if self.word("SELECT") { Expr::Select(self.select()?.into()) } else { self.condition()? };
                self.expect(")")?;
                inside
            }
            Token::Text(text) => Expr::Value(Value::text(text, "utf8mb4_0900_ai_ci")),
            Token::Hex(bytes) => Expr::Value(Value::text(bytes, "binary")),
            Token::User(name) => Expr::User(name),
            Token::System(name) => Expr::System(name),
            Token::Name(name) => Expr::Column(name),
            Token::Word(word) => self.after_word(&word)?,
            other => bail!("near {other:?}"),
        })
    }

    fn after_word(&mut self, word: &str) -> Result<Expr> {
        if let Some(character_set) = word.strip_prefix('_')
            && let Some(Token::Hex(bytes) | Token::Text(bytes)) = self.peek().cloned()
        {
            self.next()?;
            let collation = super::value::default_collation(character_set).context("introducer")?;
            return Ok(Expr::Value(Value::text(bytes, collation)));
        }
        match word.to_ascii_uppercase().as_str() {
            "NULL" => return Ok(Expr::Value(Value::null())),
            "TRUE" | "FALSE" => {
                return Ok(Expr::Value(Value::number(if word.len() == 4 { "1" } else { "0" })));
            }
            "DEFAULT" => return Ok(Expr::Default),
            _ => {}
        }
        if !self.sign("(") {
            return Ok(Expr::Column(word.to_owned()));
        }
        match word.to_ascii_uppercase().as_str() {
            "CAST" => {
                let of = self.expression()?;
                self.expect_word("AS")?;
                let mut words = Vec::new();
                while !self.sign(")") {
                    match self.next()? {
                        Token::Word(word) => words.push(word.to_ascii_uppercase()),
                        Token::Sign("(") => {
                            while !self.sign(")") {
                                self.next()?;
                            }
                        }
                        other => bail!("a type near {other:?}"),
                    }
                }
                Ok(Expr::Cast(of.into(), words))
            }
            "CONVERT" => {
                let of = self.expression()?;
                self.expect_word("USING")?;
                let character_set = self.name()?;
                self.expect(")")?;
                Ok(Expr::Convert(of.into(), character_set))
            }
            "EXISTS" => {
                self.expect_word("SELECT")?;
                let select = self.select()?;
                self.expect(")")?;
                Ok(Expr::Call("EXISTS".into(), vec![Expr::Select(select.into())]))
            }
            name => Ok(Expr::Call(name.to_owned(), self.list()?)),
        }
    }
}
