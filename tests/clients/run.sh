#!/usr/bin/env bash
# Runs the nine clients one after the other: see README.md. Each is given a minute; one that is not
# installed has failed. The last line reads `clients: 9 of 9`, and only then is the exit status 0.
#
#   run.sh HOST PORT USER PASSWORD DATABASE [CLIENT…]
#
# With CLIENT… only these, for a look at one; the last line then counts these.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)
(($# >= 5)) || { sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
export SHUNT_HOST=$1 SHUNT_PORT=$2 SHUNT_USER=$3 SHUNT_PASSWORD=$4 SHUNT_DB=$5
shift 5
# A proxy of the environment, an option file or a history of whoever runs this must not matter.
export MYSQL_HISTFILE=/dev/null MYSQL_HOME=/nonexistent

all=(mariadb pymysql mysql-connector-python mysql2 mariadb-connector-j mysql-connector-j go-sql-driver mysql_async sysbench)
(($#)) || set -- "${all[@]}"

# The command line of a client's program.
program() {
  local state="$root/.shunt"
  case $1 in
    mariadb) command=("$here/mariadb/client.sh") ;;
    pymysql | mysql-connector-python) command=("$state/venv/bin/python" "$here/python/client.py" "$1") ;;
    mysql2) command=(env NODE_PATH="$state/node/node_modules" node "$here/node/client.js") ;;
    mariadb-connector-j | mysql-connector-j)
      command=(java -XX:TieredStopAtLevel=1 -cp "$state/java/*" "$here/java/Client.java" "${1%%-*}") ;;
    go-sql-driver) command=("$state/bin/client-go") ;;
    mysql_async)
      command=("${CARGO_TARGET_DIR:-$root/target}/debug/examples/client_mysql_async")
      [[ $rust_built == yes ]] || command=(false) ;;
    sysbench) command=("$here/sysbench/client.sh") ;;
    *) echo "there is no client $1" >&2; exit 2 ;;
  esac
}

# Compiled here, so that its minute is not spent on that. One built earlier must not stand in for it.
rust_built=yes
if [[ " $* " == *' mysql_async '* ]]; then
  cargo build --quiet --locked --manifest-path "$root/Cargo.toml" -p shunt-suite --example client_mysql_async ||
    rust_built=no
fi

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
good=0
for client in "$@"; do
  program "$client"
  start=$SECONDS
  said=$(timeout --kill-after=5 60 "${command[@]}" 2>"$errors" </dev/null)
  status=$?
  line=$(tail -n 1 <<<"$said")
  case $status in
    0) verdict=ok ;;
    124 | 137) verdict='FAIL (60 s are over)' ;;
    126 | 127) verdict='FAIL (not installed)' ;;
    *) verdict=FAIL ;;
  esac
  # Without its report a client has not run, whatever it says of itself.
  if [[ $verdict == ok && ! ($line =~ \"checks\":\ ?[1-9] && $line =~ \"errors\":\ ?0[,}]) ]]; then
    verdict='FAIL (no report)'
  fi
  echo "$client: $verdict, $((SECONDS - start)) s: $line"
  if [[ $verdict == ok ]]; then
    good=$((good + 1))
  else
    tail -n 15 "$errors"
  fi
done
echo "clients: $good of $#"
((good == $#))
