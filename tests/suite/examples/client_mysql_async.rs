//! mysql_async as a client: see tests/clients/README.md for the steps.
//!
//! Knows nothing of Shunt: it talks to whatever answers at `SHUNT_HOST`, `SHUNT_PORT`.

use std::env;
use std::fmt::Debug;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, stream};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Row, TxOpts, Value};
use serde_json::json;

const TEXT: &str = "grüße, 東京 🐬";
const MANY: &str =
    "SELECT seq, REPEAT(CHAR(97 + seq % 26 USING utf8mb4), 500) FROM seq_1_to_10000 ORDER BY seq";

/// What was compared and what differed.
struct Client {
    table: String,
    checks: usize,
    failed: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut client =
        Client { table: format!("t_rust_{}", std::process::id()), checks: 0, failed: Vec::new() };
    if let Err(unexpected) = client.run().await {
        client.failed.push(format!("{unexpected:#}"));
    }
    let Client { checks, failed, .. } = client;
    println!(
        "{}",
        json!({"client": "mysql_async", "checks": checks, "errors": failed.len(), "failed": failed})
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn connect() -> Result<Conn> {
    let word = |name: &str| env::var(name).with_context(|| format!("read {name}"));
    let opts = OptsBuilder::default()
        .ip_or_hostname(word("SHUNT_HOST")?)
        .tcp_port(word("SHUNT_PORT")?.parse()?)
        .user(Some(word("SHUNT_USER")?))
        .pass(Some(word("SHUNT_PASSWORD")?))
        .db_name(Some(word("SHUNT_DB")?))
        .prefer_socket(false)
        .max_allowed_packet(Some(64 << 20));
    Ok(Conn::new(Opts::from(opts)).await?)
}

impl Client {
    fn equal<T: PartialEq + Debug>(&mut self, what: &str, got: T, want: T) {
        self.checks += 1;
        if got != want {
            let brief = |value: T| format!("{value:?}").chars().take(120).collect::<String>();
            self.failed.push(format!("{what}: got {}, not {}", brief(got), brief(want)));
        }
    }

    async fn run(&mut self) -> Result<()> {
        let mut conn = connect().await?;
        let table = self.table.clone();
        conn.query_drop(format!("CREATE TABLE {table} (id INT PRIMARY KEY, name VARCHAR(100))")).await?;
        self.text(&mut conn).await.context("text")?;
        self.prepared(&mut conn).await.context("prepared")?;
        self.transaction(&mut conn).await.context("transaction")?;
        self.error(&mut conn).await.context("error")?;
        self.big(&mut conn).await.context("big")?;
        self.load(&mut conn).await.context("load")?;
        let mut conn = self.reconnect(conn).await.context("reconnect")?;
        conn.query_drop(format!("DROP TABLE {table}")).await?;
        conn.disconnect().await?;
        Ok(())
    }

    async fn text(&mut self, conn: &mut Conn) -> Result<()> {
        let row: Row = one(conn, &typed()).await?;
        self.equal("text: date", row.get(5), Some(Value::from("2024-02-29")));
        self.equal("text: time", row.get(6), Some(Value::from("2024-02-29 12:34:56")));
        self.values("text", row);
        let none: Option<u8> = conn.query_first("SELECT 1 FROM DUAL WHERE 1 = 0").await?;
        self.equal("text: no rows", none, None);
        Ok(())
    }

    fn values(&mut self, step: &str, row: Row) {
        self.equal(&format!("{step}: integer"), row.get(0), Some(42));
        self.equal(&format!("{step}: smallest integer"), row.get(1), Some(i64::MIN));
        self.equal(&format!("{step}: decimal"), row.get(2), Some("1.50".to_owned()));
        self.equal(&format!("{step}: words"), row.get(3), Some(TEXT.to_owned()));
        self.equal(&format!("{step}: null"), row.get(4), Some(Value::NULL));
        self.equal(&format!("{step}: bytes"), row.get(7), Some(vec![0_u8, 0xff, 0x10]));
        self.equal(&format!("{step}: 400 bytes"), row.get(8), Some("ab".repeat(200)));
    }

    async fn prepared(&mut self, conn: &mut Conn) -> Result<()> {
        let statement = conn.prep("SELECT ? + 1, CONCAT(?, '!'), ?").await?;
        for (number, words) in [(1_i64, TEXT.to_owned()), (-5, String::new()), (1 << 40, "x".repeat(300))] {
            let row: Option<(i64, String, Option<String>)> =
                conn.exec_first(&statement, (number, &words, Value::NULL)).await?;
            self.equal("prepared: row", row, Some((number + 1, format!("{words}!"), None)));
        }
        conn.close(statement).await?;
        let row: Option<Row> = conn.exec_first(typed(), ()).await?;
        let row = row.context("read a row")?;
        self.equal("prepared: date", row.get(5), Some(Value::Date(2024, 2, 29, 0, 0, 0, 0)));
        self.equal("prepared: time", row.get(6), Some(Value::Date(2024, 2, 29, 12, 34, 56, 0)));
        self.values("prepared", row);
        Ok(())
    }

    async fn transaction(&mut self, conn: &mut Conn) -> Result<()> {
        let count = format!("SELECT COUNT(*) FROM {}", self.table);
        let insert = format!("INSERT INTO {} VALUES (?, ?)", self.table);
        let mut transaction = conn.start_transaction(TxOpts::default()).await?;
        transaction.exec_drop(&insert, (1, "rolled back")).await?;
        let own: Option<u32> = transaction.query_first(&count).await?;
        self.equal("transaction: sees its own", own, Some(1));
        transaction.rollback().await?;
        self.equal("transaction: rolled back", one::<u32>(conn, &count).await?, 0);
        let mut transaction = conn.start_transaction(TxOpts::default()).await?;
        transaction.exec_batch(&insert, [(1, "a"), (2, "b")]).await?;
        self.equal("transaction: affected", transaction.affected_rows(), 2);
        transaction.commit().await?;
        let names: Vec<String> = conn.query(format!("SELECT name FROM {} ORDER BY id", self.table)).await?;
        self.equal("transaction: committed", names.join(","), "a,b".to_owned());
        Ok(())
    }

    async fn error(&mut self, conn: &mut Conn) -> Result<()> {
        let twice = format!("INSERT INTO {} VALUES (1, 'again')", self.table);
        for (sql, code, state, words) in [
            ("SELEC 1", 1064, "42000", "You have an error in your SQL syntax"),
            (twice.as_str(), 1062, "23000", "Duplicate entry '1' for key"),
            ("SELECT * FROM no_such_table", 1146, "42S02", "no_such_table' doesn't exist"),
        ] {
            for raised in [conn.query_drop(sql).await, conn.exec_drop(sql, ()).await] {
                let Err(Error::Server(raised)) = raised else {
                    bail!("{code} was not raised: {raised:?}");
                };
                self.equal("error: code", raised.code, code);
                self.equal("error: state", raised.state.as_str(), state);
                self.equal(&raised.message, raised.message.contains(words), true);
            }
            self.equal("error: lives on", one::<String>(conn, "SELECT 'alive'").await?, "alive".to_owned());
        }
        Ok(())
    }

    async fn big(&mut self, conn: &mut Conn) -> Result<()> {
        let part = 17 * 65_536;
        let row: String = one(conn, &format!("SELECT REPEAT('0123456789abcdef', {part})")).await?;
        self.equal("big: row", row == "0123456789abcdef".repeat(part), true);
        let rows: Vec<(u32, String)> = conn.query(MANY).await?;
        self.equal("big: every row", good(&rows), 10_000);
        let rows: Vec<(u32, String)> = conn.exec(MANY, ()).await?;
        self.equal("big: every row prepared", good(&rows), 10_000);
        Ok(())
    }

    async fn load(&mut self, conn: &mut Conn) -> Result<()> {
        let lines: String = (1001..=2000).map(|i| format!("{i}\tname {i}\n")).collect();
        conn.set_infile_handler(async move { Ok(stream::iter([Ok(lines.into())]).boxed()) });
        conn.query_drop(format!("LOAD DATA LOCAL INFILE 'lines' INTO TABLE {}", self.table)).await?;
        self.equal("load: affected", conn.affected_rows(), 1000);
        let sql = format!(
            "SELECT COUNT(*), CAST(SUM(id) AS SIGNED), MAX(name) FROM {} WHERE id > 1000",
            self.table
        );
        let sums: (u32, u64, String) = one(conn, &sql).await?;
        self.equal("load: count, sum, name", sums, (1000, 1_500_500, "name 2000".to_owned()));
        Ok(())
    }

    async fn reconnect(&mut self, mut conn: Conn) -> Result<Conn> {
        conn.query_drop("SET @left_behind = 1").await?;
        let before = conn.id();
        conn.disconnect().await?;
        let mut again = connect().await?;
        self.equal("reconnect: another id", again.id() != before, true);
        let left: Option<String> = one(&mut again, "SELECT @left_behind").await?;
        self.equal("reconnect: no old variable", left, None);
        let count = one::<u32>(&mut again, &format!("SELECT COUNT(*) FROM {}", self.table)).await?;
        self.equal("reconnect: the data", count, 1002);
        Ok(again)
    }
}

/// The first row of a text query, which must have one.
async fn one<T: mysql_async::prelude::FromRow + Send + 'static>(conn: &mut Conn, sql: &str) -> Result<T> {
    conn.query_first(sql).await?.context("read a row")
}

fn typed() -> String {
    format!(
        "SELECT 42, -9223372036854775808, 1.50, '{TEXT}', NULL, DATE '2024-02-29', \
         TIMESTAMP '2024-02-29 12:34:56', CAST(x'00ff10' AS BINARY), REPEAT('ab', 200)"
    )
}

/// How many of the rows are what `MANY` asks for.
fn good(rows: &[(u32, String)]) -> usize {
    let letter = |i: u32| char::from(b'a' + u8::try_from(i % 26).expect("below 26"));
    (1..)
        .zip(rows)
        .filter(|(i, (number, text))| number == i && *text == letter(*i).to_string().repeat(500))
        .count()
}
