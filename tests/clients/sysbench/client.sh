#!/usr/bin/env bash
# sysbench as a client: the steps of ../README.md by its SQL driver (steps.lua), then the workload
# oltp_read_write, four sessions at once, with prepared statements and without. Its own count of
# errors and reconnects decides, and what is left in the tables: it deletes and inserts equally.
set -uo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
checks=0 failed=()
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

bench() {
  timeout 40 sysbench "$@" --db-driver=mysql --mysql-host="$SHUNT_HOST" --mysql-port="$SHUNT_PORT" \
    --mysql-user="$SHUNT_USER" --mysql-password="$SHUNT_PASSWORD" --mysql-db="$SHUNT_DB" --mysql-ssl=off 2>&1
}

# sysbench names these tables itself: two runs in one database at the same time would share them.
oltp() { local verb=$1; shift; bench oltp_read_write --tables=2 --table-size=1000 --rand-type=uniform "$@" "$verb"; }

client() {
  MYSQL_PWD=$SHUNT_PASSWORD timeout 20 mariadb --no-defaults --skip-ssl --host="$SHUNT_HOST" --port="$SHUNT_PORT" \
    --user="$SHUNT_USER" --database="$SHUNT_DB" --batch --skip-column-names -e "$1" 2>&1
}

that() {
  checks=$((checks + 1))
  [[ $2 == yes ]] || failed+=("$1")
}

steps() {
  local out
  for ((i = 1001; i <= 2000; i++)); do printf '%s\tname %s\n' "$i" "$i"; done >"$folder/load.tsv"
  out=$(SHUNT_TABLE="t_sysbench_$$" SHUNT_FILE="$folder/load.tsv" bench "$here/steps.lua" \
    --mysql-ignore-errors=1062,1064,1146 --events=1 --threads=1 --time=40 run)
  while read -r verdict what; do
    case $verdict in
      ok) that "$what" yes ;;
      FAIL | FATAL:) that "$what" no ;;
    esac
  done <<<"$out"
  that "steps: reached the end" "$(grep -qx 'ok the end' <<<"$out" && echo yes)"
}

# The number after a name in sysbench's report.
field() { sed -n "s/^ *$1: *\([0-9]*\).*/\1/p" <<<"$2" | head -n 1; }

drive() {
  local way=$1 out ended=yes; shift
  out=$(oltp run --threads=4 --time=4 "$@") || ended=no
  that "$way: ended: $(tail -n 3 <<<"$out")" $ended
  that "$way: no FATAL: $(grep -m 1 FATAL <<<"$out")" "$(grep -q FATAL <<<"$out" || echo yes)"
  that "$way: transactions" "$( (($(field transactions "$out") + 0 > 0)) && echo yes)"
  that "$way: writes" "$( (($(field write "$out") + 0 > 0)) && echo yes)"
  that "$way: no reconnects" "$( [[ $(field reconnects "$out") == 0 ]] && echo yes)"
}

workload() {
  local said counts
  client 'DROP TABLE IF EXISTS sbtest1, sbtest2' >/dev/null
  said=$(oltp prepare)
  that "prepare: $(tail -n 3 <<<"$said")" "$(grep -q FATAL <<<"$said" || echo yes)"
  drive "prepared" --db-ps-mode=auto
  drive "text" --db-ps-mode=disable
  counts=$(client 'SELECT COUNT(*) FROM sbtest1; SELECT COUNT(*) FROM sbtest2')
  that "rows: $counts" "$( [[ $counts == $'1000\n1000' ]] && echo yes)"
  said=$(oltp cleanup)
  that "cleanup: $(tail -n 3 <<<"$said")" "$(grep -q FATAL <<<"$said" || echo yes)"
}

steps
workload

list=''
for line in ${failed[@]+"${failed[@]}"}; do
  line=$(printf '%s' "$line" | tr '\n\t' '  ' | sed 's/\\/\\\\/g; s/"/\\"/g')
  list+="${list:+, }\"$line\""
done
printf '{"client": "sysbench", "checks": %d, "errors": %d, "failed": [%s]}\n' "$checks" "${#failed[@]}" "$list"
((${#failed[@]} == 0))
