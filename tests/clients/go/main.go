// go-sql-driver/mysql as a client: see ../README.md for the steps.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

const words = "grüße, 東京 🐬"

type client struct {
	Client string   `json:"client"`
	Checks int      `json:"checks"`
	Errors int      `json:"errors"`
	Failed []string `json:"failed"`

	table string
	ctx   context.Context
}

func (c *client) equal(what string, got, want interface{}) {
	c.Checks++
	if got != want {
		c.Failed = append(c.Failed, fmt.Sprintf("%s: got %.120v, not %.120v", what, got, want))
	}
}

// Every step runs on one connection: a pool would hide which one an error left behind.
func connect(ctx context.Context) (*sql.DB, *sql.Conn, error) {
	config := mysql.NewConfig()
	config.Net = "tcp"
	config.Addr = os.Getenv("SHUNT_HOST") + ":" + os.Getenv("SHUNT_PORT")
	config.User = os.Getenv("SHUNT_USER")
	config.Passwd = os.Getenv("SHUNT_PASSWORD")
	config.DBName = os.Getenv("SHUNT_DB")
	config.Timeout = 20 * time.Second
	config.ParseTime = true
	config.Collation = "utf8mb4_general_ci"
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, nil, err
	}
	pool := sql.OpenDB(connector)
	conn, err := pool.Conn(ctx)
	return pool, conn, err
}

func (c *client) one(conn *sql.Conn, query string) (value sql.NullString, err error) {
	err = conn.QueryRowContext(c.ctx, query).Scan(&value)
	return
}

func (c *client) values(row *sql.Row, step string) error {
	var integer, smallest int64
	var decimal, text, repeated string
	var none sql.NullString
	var date, at time.Time
	var bytes []byte
	err := row.Scan(&integer, &smallest, &decimal, &text, &none, &date, &at, &bytes, &repeated)
	c.equal(step+": integer", integer, int64(42))
	c.equal(step+": smallest integer", smallest, int64(math.MinInt64))
	c.equal(step+": decimal", decimal, "1.50")
	c.equal(step+": words", text, words)
	c.equal(step+": null", none.Valid, false)
	c.equal(step+": date", date.Format("2006-01-02"), "2024-02-29")
	c.equal(step+": time", at.Format("2006-01-02 15:04:05"), "2024-02-29 12:34:56")
	c.equal(step+": bytes", string(bytes), "\x00\xff\x10")
	c.equal(step+": 400 bytes", repeated, strings.Repeat("ab", 200))
	return err
}

const typed = "SELECT 42, -9223372036854775808, 1.50, '" + words + "', NULL, DATE '2024-02-29', " +
	"TIMESTAMP '2024-02-29 12:34:56', CAST(x'00ff10' AS BINARY), REPEAT('ab', 200)"

func (c *client) text(conn *sql.Conn) error {
	if err := c.values(conn.QueryRowContext(c.ctx, typed), "text"); err != nil {
		return err
	}
	_, err := c.one(conn, "SELECT 1 FROM DUAL WHERE 1 = 0")
	c.equal("text: no rows", err, sql.ErrNoRows)
	return nil
}

func (c *client) prepared(conn *sql.Conn) error {
	statement, err := conn.PrepareContext(c.ctx, "SELECT ? + 1, CONCAT(?, '!'), ?")
	if err != nil {
		return err
	}
	defer statement.Close()
	for _, value := range []struct {
		number int64
		words  string
	}{{1, words}, {-5, ""}, {1 << 40, strings.Repeat("x", 300)}} {
		var sum int64
		var joined string
		var none sql.NullString
		if err := statement.QueryRowContext(c.ctx, value.number, value.words, nil).Scan(&sum, &joined, &none); err != nil {
			return err
		}
		c.equal("prepared: number", sum, value.number+1)
		c.equal("prepared: words", joined, value.words+"!")
		c.equal("prepared: null", none.Valid, false)
	}
	again, err := conn.PrepareContext(c.ctx, typed)
	if err != nil {
		return err
	}
	defer again.Close()
	return c.values(again.QueryRowContext(c.ctx), "prepared")
}

func (c *client) transaction(conn *sql.Conn) error {
	count := func() string {
		value, err := c.one(conn, "SELECT COUNT(*) FROM "+c.table)
		if err != nil {
			return err.Error()
		}
		return value.String
	}
	tx, err := conn.BeginTx(c.ctx, nil)
	if err != nil {
		return err
	}
	if _, err = tx.ExecContext(c.ctx, "INSERT INTO "+c.table+" VALUES (?, ?)", 1, "rolled back"); err != nil {
		return err
	}
	var own int
	if err = tx.QueryRowContext(c.ctx, "SELECT COUNT(*) FROM "+c.table).Scan(&own); err != nil {
		return err
	}
	c.equal("transaction: sees its own", own, 1)
	if err = tx.Rollback(); err != nil {
		return err
	}
	c.equal("transaction: rolled back", count(), "0")
	if tx, err = conn.BeginTx(c.ctx, nil); err != nil {
		return err
	}
	result, err := tx.ExecContext(c.ctx, "INSERT INTO "+c.table+" VALUES (1, 'a'), (2, 'b')")
	if err != nil {
		return err
	}
	affected, err := result.RowsAffected()
	if err != nil {
		return err
	}
	c.equal("transaction: affected", affected, int64(2))
	if err = tx.Commit(); err != nil {
		return err
	}
	names, err := c.one(conn, "SELECT GROUP_CONCAT(name ORDER BY id) FROM "+c.table)
	c.equal("transaction: committed", names.String, "a,b")
	return err
}

func (c *client) error(conn *sql.Conn) error {
	id, err := c.one(conn, "SELECT CONNECTION_ID()")
	if err != nil {
		return err
	}
	for _, want := range []struct {
		query  string
		number uint16
		state  string
		words  string
	}{
		{"SELEC 1", 1064, "42000", "You have an error in your SQL syntax"},
		{"INSERT INTO " + c.table + " VALUES (1, 'again')", 1062, "23000", "Duplicate entry '1' for key"},
		{"SELECT * FROM no_such_table", 1146, "42S02", "no_such_table' doesn't exist"},
		// What Shunt says of a CN that was lost.
		{"SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'rolled back'", 1213, "40001", "rolled back"},
		{"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1180, MESSAGE_TEXT = 'is unknown'", 1180, "HY000", "is unknown"},
	} {
		what := fmt.Sprintf("error %d", want.number)
		_, err := conn.ExecContext(c.ctx, want.query)
		var raised *mysql.MySQLError
		if !errors.As(err, &raised) {
			return fmt.Errorf("%s: got %v", what, err)
		}
		c.equal(what+": number", raised.Number, want.number)
		c.equal(what+": state", string(raised.SQLState[:]), want.state)
		c.equal(what+": message "+raised.Message, strings.Contains(raised.Message, want.words), true)
		alive, err := c.one(conn, "SELECT CONNECTION_ID()")
		if err != nil {
			return err
		}
		c.equal(what+": lives on", alive.String, id.String)
	}
	return nil
}

func (c *client) big(conn *sql.Conn) error {
	const part = 17 * 65536
	row, err := c.one(conn, fmt.Sprintf("SELECT REPEAT('0123456789abcdef', %d)", part))
	if err != nil {
		return err
	}
	c.equal("big: row", row.String == strings.Repeat("0123456789abcdef", part), true)
	const many = "SELECT seq, REPEAT(CHAR(97 + seq % 26 USING utf8mb4), 500) FROM seq_1_to_10000 WHERE seq > ? ORDER BY seq"
	rows, err := conn.QueryContext(c.ctx, strings.Replace(many, "?", "0", 1))
	if err != nil {
		return err
	}
	good, err := goodRows(rows)
	c.equal("big: every row", good, 10000)
	if err != nil {
		return err
	}
	// With an argument the driver prepares, and reads binary rows.
	if rows, err = conn.QueryContext(c.ctx, many, 0); err != nil {
		return err
	}
	good, err = goodRows(rows)
	c.equal("big: every row prepared", good, 10000)
	return err
}

func goodRows(rows *sql.Rows) (good int, err error) {
	defer rows.Close()
	for i := 1; rows.Next(); i++ {
		var number int
		var text string
		if err = rows.Scan(&number, &text); err != nil {
			return
		}
		if number == i && text == strings.Repeat(string(rune(97+i%26)), 500) {
			good++
		}
	}
	return good, rows.Err()
}

func (c *client) load(conn *sql.Conn) error {
	mysql.RegisterReaderHandler("lines", func() io.Reader {
		var lines strings.Builder
		for i := 1001; i <= 2000; i++ {
			fmt.Fprintf(&lines, "%d\tname %d\n", i, i)
		}
		return strings.NewReader(lines.String())
	})
	result, err := conn.ExecContext(c.ctx, "LOAD DATA LOCAL INFILE 'Reader::lines' INTO TABLE "+c.table)
	if err != nil {
		return err
	}
	affected, err := result.RowsAffected()
	if err != nil {
		return err
	}
	c.equal("load: affected", affected, int64(1000))
	sums, err := c.one(conn, "SELECT CONCAT_WS(' ', COUNT(*), SUM(id), MAX(name)) FROM "+c.table+" WHERE id > 1000")
	c.equal("load: count, sum, name", sums.String, "1000 1500500 name 2000")
	return err
}

func (c *client) reconnect(pool *sql.DB, conn *sql.Conn) (*sql.DB, *sql.Conn, error) {
	if _, err := conn.ExecContext(c.ctx, "SET @left_behind = 1"); err != nil {
		return nil, nil, err
	}
	before, err := c.one(conn, "SELECT CONNECTION_ID()")
	if err != nil {
		return nil, nil, err
	}
	conn.Close()
	pool.Close()
	pool, conn, err = connect(c.ctx)
	if err != nil {
		return nil, nil, err
	}
	after, err := c.one(conn, "SELECT CONNECTION_ID()")
	c.equal("reconnect: another id", err == nil && after.String != before.String, true)
	left, err := c.one(conn, "SELECT @left_behind")
	c.equal("reconnect: no old variable", err == nil && !left.Valid, true)
	count, err := c.one(conn, "SELECT COUNT(*) FROM "+c.table)
	c.equal("reconnect: the data", count.String, "1002")
	return pool, conn, err
}

func (c *client) run() error {
	pool, conn, err := connect(c.ctx)
	if err != nil {
		return err
	}
	if _, err = conn.ExecContext(c.ctx, "CREATE TABLE "+c.table+" (id INT PRIMARY KEY, name VARCHAR(100))"); err != nil {
		return err
	}
	for _, step := range []func(*sql.Conn) error{c.text, c.prepared, c.transaction, c.error, c.big, c.load} {
		if err = step(conn); err != nil {
			return err
		}
	}
	if pool, conn, err = c.reconnect(pool, conn); err != nil {
		return err
	}
	defer pool.Close()
	defer conn.Close()
	_, err = conn.ExecContext(c.ctx, "DROP TABLE "+c.table)
	return err
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 55*time.Second)
	defer cancel()
	c := &client{Client: "go-sql-driver", Failed: []string{}, table: fmt.Sprintf("t_go_%d", os.Getpid()), ctx: ctx}
	if err := c.run(); err != nil {
		c.Failed = append(c.Failed, err.Error())
	}
	c.Errors = len(c.Failed)
	line, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
	if c.Errors > 0 {
		os.Exit(1)
	}
}
