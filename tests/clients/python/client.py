"""PyMySQL and mysql-connector-python as clients: see ../README.md for the steps.

Usage: client.py pymysql | mysql-connector-python
"""

import datetime
import decimal
import json
import os
import sys
import tempfile

HOST = os.environ["SHUNT_HOST"]
PORT = int(os.environ["SHUNT_PORT"])
LOGIN = {
    "host": HOST,
    "port": PORT,
    "user": os.environ["SHUNT_USER"],
    "password": os.environ["SHUNT_PASSWORD"],
    "database": os.environ["SHUNT_DB"],
}
MIB = 1024 * 1024
TEXT = "grüße, 東京 🐬"


class PyMySql:
    name = "pymysql"

    def __init__(self):
        import pymysql

        self.Error = pymysql.err.MySQLError

    def connect(self):
        import pymysql

        return pymysql.connect(
            **LOGIN, charset="utf8mb4", local_infile=True, ssl_disabled=True, max_allowed_packet=64 * MIB
        )

    def prepared(self, connection, values):
        """Runs the statement once for each of the values; PyMySQL can only prepare by text."""
        rows = []
        with connection.cursor() as cursor:
            cursor.execute("PREPARE s FROM 'SELECT ? + 1, CONCAT(?, ''!''), ?'")
            for number, text, none in values:
                cursor.execute("SET @a = %s, @b = %s, @c = %s", (number, text, none))
                cursor.execute("EXECUTE s USING @a, @b, @c")
                rows.append(cursor.fetchone())
            cursor.execute("DEALLOCATE PREPARE s")
        return rows

    def thread(self, connection):
        return connection.thread_id()

    def code(self, error):
        return error.args[0], error.args[1]


class Connector:
    name = "mysql-connector-python"

    def __init__(self):
        import mysql.connector

        self.Error = mysql.connector.Error

    def connect(self):
        import mysql.connector

        # The pure one: the other is the C library, which no longer knows mysql_native_password.
        return mysql.connector.connect(
            **LOGIN, use_pure=True, charset="utf8mb4", collation="utf8mb4_general_ci",
            ssl_disabled=True, allow_local_infile=True, connection_timeout=20,
        )

    def prepared(self, connection, values):
        """Runs the statement once for each of the values, by the binary protocol."""
        rows = []
        with connection.cursor(prepared=True) as cursor:
            for value in values:
                cursor.execute("SELECT ? + 1, CONCAT(?, '!'), ?", value)
                rows.append(cursor.fetchone())
        return rows

    def thread(self, connection):
        return connection.connection_id

    def code(self, error):
        return error.errno, error.msg


class Checks:
    def __init__(self):
        self.count = 0
        self.failed = []

    def equal(self, what, got, want):
        self.count += 1
        if got != want:
            self.failed.append(f"{what}: got {str(got)[:120]!r}, not {str(want)[:120]!r}")

    def that(self, what, true):
        self.equal(what, bool(true), True)


def query(connection, sql, values=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, values) if values else cursor.execute(sql)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def as_bytes(value):
    """A BLOB: the two drivers differ in the type that they return."""
    return value if isinstance(value, (bytes, bytearray)) else value.encode("latin-1")


def text(driver, connection, checks, table):
    row = query(
        connection,
        "SELECT 42, -9223372036854775808, 1.50, %s, NULL, DATE '2024-02-29', "
        "TIMESTAMP '2024-02-29 12:34:56', CAST(x'00ff10' AS BINARY), REPEAT('ab', 200)",
        (TEXT,),
    )[0]
    checks.equal("text: integer", row[0], 42)
    checks.equal("text: smallest integer", row[1], -(2**63))
    checks.equal("text: decimal", row[2], decimal.Decimal("1.50"))
    checks.equal("text: words", row[3], TEXT)
    checks.equal("text: null", row[4], None)
    checks.equal("text: date", row[5], datetime.date(2024, 2, 29))
    checks.equal("text: time", row[6], datetime.datetime(2024, 2, 29, 12, 34, 56))
    checks.equal("text: bytes", bytes(as_bytes(row[7])), b"\x00\xff\x10")
    checks.equal("text: 400 bytes", row[8], "ab" * 200)
    checks.equal("text: no rows", list(query(connection, "SELECT 1 FROM DUAL WHERE 1 = 0")), [])


def prepared(driver, connection, checks, table):
    rows = driver.prepared(connection, [(1, TEXT, None), (-5, "", None), (2**40, "x" * 300, None)])
    for got, (number, words) in zip(rows, [(2, TEXT), (-4, ""), (2**40 + 1, "x" * 300)]):
        # A user variable is a longlong or a decimal, by the server's rules: compared as numbers.
        checks.equal("prepared: number", int(got[0]), number)
        checks.equal("prepared: words", got[1], words + "!")
        checks.equal("prepared: null", got[2], None)


def transaction(driver, connection, checks, table):
    query(connection, "START TRANSACTION")
    query(connection, f"INSERT INTO {table} (id, name) VALUES (1, 'rolled back')")
    checks.equal("transaction: sees its own", query(connection, f"SELECT COUNT(*) FROM {table}")[0][0], 1)
    connection.rollback()
    checks.equal("transaction: rolled back", query(connection, f"SELECT COUNT(*) FROM {table}")[0][0], 0)
    connection.rollback()
    query(connection, "START TRANSACTION")
    checks.equal("transaction: affected", query(connection, f"INSERT INTO {table} VALUES (1, 'a'), (2, 'b')"), 2)
    connection.commit()
    names = query(connection, f"SELECT name FROM {table} ORDER BY id")
    checks.equal("transaction: committed", [name for (name,) in names], ["a", "b"])
    connection.rollback()


def error(driver, connection, checks, table):
    alive = query(connection, "SELECT CONNECTION_ID()")
    for sql, code, words in [
        ("SELEC 1", 1064, "You have an error in your SQL syntax"),
        (f"INSERT INTO {table} VALUES (1, 'again')", 1062, "Duplicate entry '1' for key"),
        ("SELECT * FROM no_such_table", 1146, "no_such_table' doesn't exist"),
        # What Shunt says of a CN that was lost.
        ("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'rolled back'", 1213, "rolled back"),
        ("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1180, MESSAGE_TEXT = 'is unknown'", 1180, "is unknown"),
    ]:
        try:
            query(connection, sql)
            checks.that(f"error {code}: raised", False)
        except driver.Error as raised:
            got, message = driver.code(raised)
            checks.equal(f"error {code}: code", got, code)
            checks.that(f"error {code}: message {message!r}", words in message)
        checks.equal(f"error {code}: lives on", query(connection, "SELECT CONNECTION_ID()"), alive)
    connection.rollback()


def big(driver, connection, checks, table):
    row = query(connection, f"SELECT REPEAT('0123456789abcdef', {17 * MIB // 16}), 'after'")[0]
    checks.equal("big: row", row[0], "0123456789abcdef" * (17 * MIB // 16))
    checks.equal("big: after the row", row[1], "after")
    rows = query(connection, "SELECT seq, REPEAT(CHAR(97 + seq % 26 USING utf8mb4), 500) FROM seq_1_to_10000 ORDER BY seq")
    checks.equal("big: rows", len(rows), 10000)
    checks.that("big: every row", all(w == chr(97 + n % 26) * 500 and n == i + 1 for i, (n, w) in enumerate(rows)))


def load(driver, connection, checks, table):
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", delete=False) as file:
        file.writelines(f"{i}\tname {i}\n" for i in range(1001, 2001))
    try:
        affected = query(connection, f"LOAD DATA LOCAL INFILE '{file.name}' INTO TABLE {table}")
        connection.commit()
    finally:
        os.unlink(file.name)
    checks.equal("load: affected", affected, 1000)
    count, total, name = query(
        connection, f"SELECT COUNT(*), CAST(SUM(id) AS SIGNED), MAX(name) FROM {table} WHERE id > 1000"
    )[0]
    checks.equal("load: count", count, 1000)
    checks.equal("load: sum", int(total), sum(range(1001, 2001)))
    checks.equal("load: name", name, "name 2000")
    connection.rollback()


def reconnect(driver, connection, checks, table):
    query(connection, "SET @left_behind = 1")
    before = driver.thread(connection)
    connection.close()
    again = driver.connect()
    checks.that("reconnect: another id", driver.thread(again) != before)
    checks.equal("reconnect: no old variable", query(again, "SELECT @left_behind")[0][0], None)
    checks.equal("reconnect: the data", query(again, f"SELECT COUNT(*) FROM {table}")[0][0], 1002)
    return again


def main():
    driver = {"pymysql": PyMySql, "mysql-connector-python": Connector}[sys.argv[1]]()
    checks = Checks()
    table = f"t_{driver.name.replace('-', '_')}_{os.getpid()}"
    try:
        connection = driver.connect()
        query(connection, f"CREATE TABLE {table} (id INT PRIMARY KEY, name VARCHAR(100))")
        for step in (text, prepared, transaction, error, big, load):
            step(driver, connection, checks, table)
        connection = reconnect(driver, connection, checks, table)
        query(connection, f"DROP TABLE {table}")
        connection.close()
    except Exception as unexpected:  # Whatever it is, it is an error of this run.
        checks.failed.append(f"{type(unexpected).__name__}: {str(unexpected)[:300]}")
    print(json.dumps({
        "client": driver.name, "checks": checks.count, "errors": len(checks.failed), "failed": checks.failed,
    }, ensure_ascii=False))
    sys.exit(1 if checks.failed else 0)


main()
