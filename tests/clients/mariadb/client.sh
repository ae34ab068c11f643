#!/usr/bin/env bash
# The mariadb command line as a client: see ../README.md for the steps.
set -uo pipefail

checks=0 failed=()
table="t_mariadb_$$"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# One run of the program is one session; the password goes by the environment, not the command line.
client() {
  MYSQL_PWD=$SHUNT_PASSWORD timeout 30 mariadb --no-defaults --skip-ssl --host="$SHUNT_HOST" --port="$SHUNT_PORT" \
    --user="$SHUNT_USER" --database="$SHUNT_DB" --default-character-set=utf8mb4 --local-infile=1 \
    --max-allowed-packet=64M --batch --skip-column-names "$@" 2>&1
}

equal() {
  checks=$((checks + 1))
  [[ $2 == "$3" ]] || failed+=("$1: got '${2:0:120}', not '${3:0:120}'")
}

contains() {
  checks=$((checks + 1))
  [[ $2 == *"$3"* ]] || failed+=("$1: got '${2:0:200}', without '$3'")
}

text() {
  equal "text: row" "$(client -e "SELECT 42, -9223372036854775808, 1.50, 'grüße, 東京 🐬', NULL,
    DATE '2024-02-29', TIMESTAMP '2024-02-29 12:34:56', HEX(CAST(x'00ff10' AS BINARY))")" \
    $'42\t-9223372036854775808\t1.50\tgrüße, 東京 🐬\tNULL\t2024-02-29\t2024-02-29 12:34:56\t00FF10'
  equal "text: no rows" "$(client -e 'SELECT 1 FROM DUAL WHERE 1 = 0')" ""
  equal "text: several statements" "$(client -e 'SELECT 1; SELECT 2; DO 3; SELECT 4')" $'1\n2\n4'
  equal "text: in a file" "$(printf 'DELIMITER //\nSELECT 1; SELECT 2//\nDELIMITER ;\nSELECT 3;\n' | client)" $'1\n2\n3'
}

prepared() {
  equal "prepared: rows" "$(client -e "PREPARE s FROM 'SELECT ? + 1, CONCAT(?, ''!''), ?';
    SET @a = 1, @b = 'grüße', @c = NULL; EXECUTE s USING @a, @b, @c;
    SET @a = -5, @b = ''; EXECUTE s USING @a, @b, @c;
    SET @a = 1099511627776, @b = REPEAT('x', 3); EXECUTE s USING @a, @b, @c; DEALLOCATE PREPARE s")" \
    $'2\tgrüße!\tNULL\n-4\t!\tNULL\n1099511627777\txxx!\tNULL'
}

transaction() {
  equal "transaction: rolled back" "$(client -e "START TRANSACTION; INSERT INTO $table VALUES (1, 'gone');
    SELECT COUNT(*) FROM $table; ROLLBACK; SELECT COUNT(*) FROM $table")" $'1\n0'
  equal "transaction: committed" "$(client -e "START TRANSACTION; INSERT INTO $table VALUES (1, 'a'), (2, 'b');
    COMMIT; SELECT name FROM $table ORDER BY id")" $'a\nb'
}

error() {
  local out
  # --force goes on after an error, and works on standard input only. By the same connection, as its
  # id shows.
  out=$(client --force <<SQL
SELECT CONNECTION_ID() INTO @id;
SELEC 1;
INSERT INTO $table VALUES (1, 'again');
SELECT * FROM no_such_table;
SELECT 'alive', @id = CONNECTION_ID();
SQL
  )
  contains "error: 1064" "$out" "ERROR 1064 (42000) at line 2: You have an error in your SQL syntax"
  contains "error: 1062" "$out" "ERROR 1062 (23000) at line 3: Duplicate entry '1' for key"
  contains "error: 1146" "$out" "ERROR 1146 (42S02) at line 4: Table"
  contains "error: lives on" "$out" $'alive\t1'
}

big() {
  local file="$folder/big"
  client --raw -e "SELECT REPEAT('0123456789abcdef', 17 * 1024 * 1024 / 16)" >"$file"
  # The row and its line's end.
  equal "big: row's size" "$(wc -c <"$file")" $((17 * 1024 * 1024 + 1))
  equal "big: row" "$(sha256sum <"$file")" "$( (yes 0123456789abcdef | head -n $((17 * 65536)) | tr -d '\n'; echo) | sha256sum)"
  client -e "SELECT seq, REPEAT(CHAR(97 + seq % 26 USING utf8mb4), 500) FROM seq_1_to_10000 ORDER BY seq" >"$file"
  equal "big: rows" "$(awk -F '\t' '
    BEGIN { for (i = 0; i < 26; i++) { s = ""; c = sprintf("%c", 97 + i); for (j = 0; j < 500; j++) s = s c; want[i] = s } }
    $1 == NR && $2 == want[NR % 26] { good++ } END { print good + 0, NR }' "$file")" "10000 10000"
}

load() {
  local file="$folder/load.tsv" i
  for ((i = 1001; i <= 2000; i++)); do printf '%s\tname %s\n' "$i" "$i"; done >"$file"
  equal "load: count and sum" "$(client -e "LOAD DATA LOCAL INFILE '$file' INTO TABLE $table; SELECT ROW_COUNT();
    SELECT COUNT(*), SUM(id), MAX(name) FROM $table WHERE id > 1000")" $'1000\n1000\t1500500\tname 2000'
}

reconnect() {
  local ids
  # The command line's own `connect` closes the session and opens another.
  ids=$(client -e "SELECT CONNECTION_ID(); SET @left_behind = 1; connect; SELECT CONNECTION_ID(), @left_behind;
    SELECT COUNT(*) FROM $table")
  ids=$(grep -E '^[0-9]' <<<"$ids")
  checks=$((checks + 1))
  [[ $(sed -n 1p <<<"$ids") != "$(sed -n 2p <<<"$ids" | cut -f 1)" ]] || failed+=("reconnect: the same id")
  equal "reconnect: no old variable" "$(sed -n 2p <<<"$ids" | cut -f 2)" NULL
  equal "reconnect: the data" "$(sed -n 3p <<<"$ids")" 1002
}

said=$(client -e "CREATE TABLE $table (id INT PRIMARY KEY, name VARCHAR(100))") || failed+=("create: $said")
for step in text prepared transaction error big load reconnect; do $step; done
said=$(client -e "DROP TABLE $table") || failed+=("drop: $said")

json_string() { printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/\\t/g' | tr '\n' ' '; }
list=''
for line in ${failed[@]+"${failed[@]}"}; do list+="${list:+, }\"$(json_string "$line")\""; done
printf '{"client": "mariadb", "checks": %d, "errors": %d, "failed": [%s]}\n' "$checks" "${#failed[@]}" "$list"
((${#failed[@]} == 0))
