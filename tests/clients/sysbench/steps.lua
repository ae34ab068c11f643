-- The steps of ../README.md by sysbench's own SQL driver (libmariadb). client.sh runs it once, with
-- SHUNT_TABLE and SHUNT_FILE set, and reads the lines that it prints: `ok` or `FAIL` and what.

local TEXT = "grüße, 東京 🐬"
local name = os.getenv("SHUNT_TABLE")
local file = os.getenv("SHUNT_FILE")

local function equal(what, got, want)
   if got == want then
      print("ok " .. what)
   else
      print(string.format("FAIL %s: got %.120s, not %.120s", what, tostring(got), tostring(want)))
   end
end

-- sysbench cannot read rows of a prepared statement: it counts them.
local function prepared(con)
   local statement = con:prepare("SELECT seq, ? + 1, CONCAT(?, '!') FROM seq_1_to_100 WHERE seq > ?")
   local number = statement:bind_create(sysbench.sql.type.BIGINT)
   local words = statement:bind_create(sysbench.sql.type.VARCHAR, 400)
   local from = statement:bind_create(sysbench.sql.type.BIGINT)
   statement:bind_param(number, words, from)
   for _, first in ipairs({0, 10, 99}) do
      number:set(first)
      words:set(first == 0 and TEXT or string.rep("x", 300))
      from:set(first)
      local result = statement:execute()
      equal("prepared: rows", result.nrows, 100 - first)
      result:free()
   end
   statement:close()
end

local function transaction(con)
   con:query("BEGIN")
   con:query("INSERT INTO " .. name .. " VALUES (1, 'rolled back')")
   equal("transaction: sees its own", con:query_row("SELECT COUNT(*) FROM " .. name), "1")
   con:query("ROLLBACK")
   equal("transaction: rolled back", con:query_row("SELECT COUNT(*) FROM " .. name), "0")
   con:query("BEGIN")
   con:query("INSERT INTO " .. name .. " VALUES (1, 'a'), (2, 'b')")
   con:query("COMMIT")
   equal("transaction: committed", con:query_row("SELECT GROUP_CONCAT(name ORDER BY id) FROM " .. name), "a,b")
end

local function raises(con, sql, code, state, words)
   local ok, raised = pcall(con.query, con, sql)
   equal("error " .. code .. ": raised", ok, false)
   equal("error " .. code .. ": code", raised.sql_errno, code)
   equal("error " .. code .. ": state", raised.sql_state, state)
   equal("error " .. code .. ": message", raised.sql_errmsg:find(words, 1, true) ~= nil, true)
   equal("error " .. code .. ": lives on", con:query_row("SELECT 'alive'"), "alive")
end

local function big(con)
   local row = con:query_row("SELECT REPEAT('0123456789abcdef', 17 * 65536)")
   equal("big: row", row == string.rep("0123456789abcdef", 17 * 65536), true)
   local result = con:query("SELECT seq, REPEAT(CHAR(97 + seq % 26 USING utf8mb4), 500) FROM seq_1_to_10000 ORDER BY seq")
   equal("big: rows", result.nrows, 10000)
   local good = 0
   for i = 1, 10000 do
      local number, text = unpack(result:fetch_row(), 1, 2)
      if tonumber(number) == i and text == string.rep(string.char(97 + i % 26), 500) then good = good + 1 end
   end
   equal("big: every row", good, 10000)
end

function event()
   local driver = sysbench.sql.driver()
   local con = driver:connect()
   con:query("CREATE TABLE " .. name .. " (id INT PRIMARY KEY, name VARCHAR(100))")
   local integer, smallest, decimal, words, none, date, repeated = con:query_row(
      "SELECT 42, -9223372036854775808, 1.50, '" .. TEXT .. "', NULL, DATE '2024-02-29', REPEAT('ab', 200)")
   equal("text: integer", integer, "42")
   equal("text: smallest integer", smallest, "-9223372036854775808")
   equal("text: decimal", decimal, "1.50")
   equal("text: words", words, TEXT)
   equal("text: null", none, nil)
   equal("text: date", date, "2024-02-29")
   equal("text: 400 bytes", repeated, string.rep("ab", 200))
   prepared(con)
   transaction(con)
   raises(con, "SELEC 1", 1064, "42000", "You have an error in your SQL syntax")
   raises(con, "INSERT INTO " .. name .. " VALUES (1, 'again')", 1062, "23000", "Duplicate entry '1' for key")
   raises(con, "SELECT * FROM no_such_table", 1146, "42S02", "no_such_table' doesn't exist")
   big(con)
   con:query("LOAD DATA LOCAL INFILE '" .. file .. "' INTO TABLE " .. name)
   equal("load: affected", con:query_row("SELECT ROW_COUNT()"), "1000")
   equal("load: count, sum, name",
      con:query_row("SELECT CONCAT_WS(' ', COUNT(*), SUM(id), MAX(name)) FROM " .. name .. " WHERE id > 1000"),
      "1000 1500500 name 2000")
   con:query("SET @left_behind = 1")
   local before = con:query_row("SELECT CONNECTION_ID()")
   con:disconnect()
   con = driver:connect()
   equal("reconnect: another id", con:query_row("SELECT CONNECTION_ID()") ~= before, true)
   equal("reconnect: no old variable", con:query_row("SELECT @left_behind"), nil)
   equal("reconnect: the data", con:query_row("SELECT COUNT(*) FROM " .. name), "1002")
   con:query("DROP TABLE " .. name)
   con:disconnect()
   print("ok the end")
end
