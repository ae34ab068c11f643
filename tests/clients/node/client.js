// mysql2 as a client: see ../README.md for the steps. NODE_PATH names the folder of mysql2.
'use strict';

const fs = require('fs');
const os = require('os');
const path = require('path');
const mysql = require('mysql2/promise');

const TEXT = 'grüße, 東京 🐬';
const table = `t_mysql2_${process.pid}`;
const failed = [];
let checks = 0;

function equal(what, got, want) {
  checks += 1;
  if (got !== want) failed.push(`${what}: got ${String(got).slice(0, 120)}, not ${String(want).slice(0, 120)}`);
}

function connect() {
  return mysql.createConnection({
    host: process.env.SHUNT_HOST,
    port: Number(process.env.SHUNT_PORT),
    user: process.env.SHUNT_USER,
    password: process.env.SHUNT_PASSWORD,
    database: process.env.SHUNT_DB,
    charset: 'utf8mb4',
    supportBigNumbers: true,
    dateStrings: true,
    connectTimeout: 20000,
  });
}

async function rows(connection, sql) {
  const [result] = await connection.query({ sql, rowsAsArray: true });
  return result;
}

async function text(connection) {
  const [row] = await rows(
    connection,
    `SELECT 42, -9223372036854775808, 1.50, '${TEXT}', NULL, DATE '2024-02-29',
     TIMESTAMP '2024-02-29 12:34:56', CAST(x'00ff10' AS BINARY), REPEAT('ab', 200)`
  );
  equal('text: integer', row[0], 42);
  equal('text: smallest integer', row[1], '-9223372036854775808');
  equal('text: decimal', row[2], '1.50');
  equal('text: words', row[3], TEXT);
  equal('text: null', row[4], null);
  equal('text: date', row[5], '2024-02-29');
  equal('text: time', row[6], '2024-02-29 12:34:56');
  equal('text: bytes', row[7].toString('hex'), '00ff10');
  equal('text: 400 bytes', row[8], 'ab'.repeat(200));
  equal('text: no rows', (await rows(connection, 'SELECT 1 FROM DUAL WHERE 1 = 0')).length, 0);
}

async function prepared(connection) {
  const statement = await connection.prepare('SELECT ? + 1, CONCAT(?, \'!\'), ?, CAST(1.50 AS DECIMAL(5, 2)), DATE \'2024-02-29\'');
  for (const [number, words] of [[1, TEXT], [-5, ''], [2 ** 40, 'x'.repeat(300)]]) {
    const [[row]] = await statement.execute([number, words, null]);
    const [sum, joined, none, decimal, date] = Object.values(row);
    equal('prepared: number', Number(sum), number + 1);
    equal('prepared: words', joined, `${words}!`);
    equal('prepared: null', none, null);
    equal('prepared: decimal', decimal, '1.50');
    equal('prepared: date', date, '2024-02-29');
  }
  await statement.close();
}

async function transaction(connection) {
  const count = async () => (await rows(connection, `SELECT COUNT(*) FROM ${table}`))[0][0];
  await connection.beginTransaction();
  await connection.execute(`INSERT INTO ${table} VALUES (?, ?)`, [1, 'rolled back']);
  equal('transaction: sees its own', await count(), 1);
  await connection.rollback();
  equal('transaction: rolled back', await count(), 0);
  await connection.beginTransaction();
  const [inserted] = await connection.query(`INSERT INTO ${table} VALUES (1, 'a'), (2, 'b')`);
  equal('transaction: affected', inserted.affectedRows, 2);
  await connection.commit();
  const names = await rows(connection, `SELECT name FROM ${table} ORDER BY id`);
  equal('transaction: committed', names.join(), 'a,b');
}

async function error(connection) {
  const id = (await rows(connection, 'SELECT CONNECTION_ID()'))[0][0];
  for (const [sql, errno, sqlState, words] of [
    ['SELEC 1', 1064, '42000', 'You have an error in your SQL syntax'],
    [`INSERT INTO ${table} VALUES (1, 'again')`, 1062, '23000', "Duplicate entry '1' for key"],
    ['SELECT * FROM no_such_table', 1146, '42S02', "no_such_table' doesn't exist"],
    // What Shunt says of a CN that was lost.
    ["SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'rolled back'", 1213, '40001', 'rolled back'],
    ["SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1180, MESSAGE_TEXT = 'is unknown'", 1180, 'HY000', 'is unknown'],
  ]) {
    for (const way of ['query', 'execute']) {
      try {
        await connection[way](sql);
        equal(`error ${errno}: raised by ${way}`, false, true);
      } catch (raised) {
        equal(`error ${errno}: code`, raised.errno, errno);
        equal(`error ${errno}: state`, raised.sqlState, sqlState);
        equal(`error ${errno}: message ${raised.message}`, raised.message.includes(words), true);
      }
      equal(`error ${errno}: lives on`, (await rows(connection, 'SELECT CONNECTION_ID()'))[0][0], id);
    }
  }
}

async function big(connection) {
  const part = 17 * 65536;
  for (const way of ['query', 'execute']) {
    const [result] = await connection[way](`SELECT REPEAT('0123456789abcdef', ${part}) AS a, 'after' AS b`);
    equal(`big: row by ${way}`, result[0].a === '0123456789abcdef'.repeat(part), true);
    equal(`big: after the row by ${way}`, result[0].b, 'after');
    const [many] = await connection[way](
      'SELECT seq AS n, REPEAT(CHAR(97 + seq % 26 USING utf8mb4), 500) AS w FROM seq_1_to_10000 ORDER BY seq'
    );
    equal(`big: rows by ${way}`, many.length, 10000);
    const good = many.filter(({ n, w }, i) => Number(n) === i + 1 && w === String.fromCharCode(97 + ((i + 1) % 26)).repeat(500));
    equal(`big: every row by ${way}`, good.length, 10000);
  }
}

async function load(connection) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'shunt-'));
  const file = path.join(folder, 'load.tsv');
  const lines = Array.from({ length: 1000 }, (_, i) => `${i + 1001}\tname ${i + 1001}\n`);
  fs.writeFileSync(file, lines.join(''));
  try {
    const [result] = await connection.query({
      sql: `LOAD DATA LOCAL INFILE '${file}' INTO TABLE ${table}`,
      infileStreamFactory: (name) => fs.createReadStream(name),
    });
    equal('load: affected', result.affectedRows, 1000);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
  const [[count, sum, name]] = await rows(connection, `SELECT COUNT(*), SUM(id), MAX(name) FROM ${table} WHERE id > 1000`);
  equal('load: count', count, 1000);
  equal('load: sum', Number(sum), 1500500);
  equal('load: name', name, 'name 2000');
}

async function reconnect(connection) {
  await connection.query('SET @left_behind = 1');
  const before = connection.threadId;
  await connection.end();
  const again = await connect();
  equal('reconnect: another id', again.threadId !== before, true);
  equal('reconnect: no old variable', (await rows(again, 'SELECT @left_behind'))[0][0], null);
  equal('reconnect: the data', (await rows(again, `SELECT COUNT(*) FROM ${table}`))[0][0], 1002);
  return again;
}

async function run() {
  let connection = await connect();
  await connection.query(`CREATE TABLE ${table} (id INT PRIMARY KEY, name VARCHAR(100))`);
  for (const step of [text, prepared, transaction, error, big, load]) await step(connection);
  connection = await reconnect(connection);
  await connection.query(`DROP TABLE ${table}`);
  await connection.end();
}

run()
  .catch((unexpected) => failed.push(String(unexpected).slice(0, 300)))
  .then(() => {
    console.log(JSON.stringify({ client: 'mysql2', checks, errors: failed.length, failed }));
    process.exit(failed.length ? 1 : 0);
  });
