# Starting and stopping one MariaDB server; shared by mariadb.sh and cluster.sh. Sourced, never run.
# Knows nothing of Galera: what differs for a cluster is in the my.cnf that the caller writes.
# shellcheck shell=bash

# A node's folder: data/ my.cnf pid error.log mysqld.sock. Paths of sockets end at 107 bytes.
check_folder() {
  [[ $1 == /* ]] || die "--dir must be an absolute path"
  ((${#1} <= 80)) || die "--dir is too long for the path of a socket: $1"
}

# Owner of the servers: mysql when we are root (a server refuses to run as root, and Galera's state
# transfer fails there), else whoever calls.
as_owner() {
  if ((EUID == 0)); then
    setpriv --reuid mysql --regid mysql --init-groups "$@"
  else
    "$@"
  fi
}

own() { if ((EUID == 0)); then chown -R mysql:mysql "$@"; fi; }

# The same for every server that we start. `shutdown` and `kill -9` must both find the data again,
# a power cut need not: hence flush 2. Two trackers are on for all sessions, as an operator who runs
# Shunt would set them: it spares each login a statement. session_track_system_variables keeps its
# default: MariaDB Connector/J 3.5 logs in with SET session_track_system_variables =
# CONCAT(@@global.session_track_system_variables, ',tx_isolation'), which fails after a global '*'
# with 1193; and a list of all 207 names costs 190 µs a login and breaks that driver's parser.
common_settings() {
  local dir=$1 port=$2
  cat <<CNF
[mariadbd]
datadir = $dir/data
socket = $dir/mysqld.sock
pid-file = $dir/data/server.pid
log-error = $dir/error.log
tmpdir = $dir/tmp
port = $port
bind-address = 127.0.0.1

max_connections = 4000
max_allowed_packet = 64M
local_infile = ON
back_log = 1000
thread_cache_size = 256
skip_networking = OFF
character_set_server = utf8mb4

innodb_buffer_pool_size = 64M
innodb_log_file_size = 64M
innodb_flush_log_at_trx_commit = 2
innodb_fast_shutdown = 1

session_track_schema = ON
session_track_state_change = ON
session_track_transaction_info = CHARACTERISTICS
CNF
}

# A data folder as mariadb-install-db leaves it, made once per version and copied ever after.
# Accounts: root (by the socket, for the user who runs this) and none that is anonymous.
template() {
  local version dir tmp
  version=$(mariadbd --no-defaults --version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)
  dir="$STATE/template-$version-$(id -un)"
  if [[ ! -e $dir/done ]]; then
    mkdir -p "$STATE"
    exec 7>"$STATE/template.lock"
    flock -w 120 7 || die "the template is being made elsewhere for more than 120 s"
    if [[ ! -e $dir/done ]]; then
      tmp=$(mktemp -d /var/tmp/shunt-template.XXXXXX)
      own "$tmp"
      if ! as_owner timeout 120 mariadb-install-db --no-defaults --datadir="$tmp" --skip-test-db \
        --auth-root-authentication-method=socket --auth-root-socket-user="$(id -un)" \
        --innodb-log-file-size=64M >"$STATE/template.log" 2>&1; then
        tail -n 20 "$STATE/template.log" >&2
        rm -rf -- "$tmp"
        die "mariadb-install-db failed"
      fi
      rm -rf -- "$dir"
      cp -a --sparse=always "$tmp" "$dir"
      rm -rf -- "$tmp"
      touch "$dir/done"
    fi
    exec 7>&-
  fi
  echo "$dir"
}

fill_from_template() {
  local from; from=$(template)
  cp -a --sparse=always "$from/." "$1"
  rm -f "$1/done"
}

# start_server DIR [ARG…]: returns at once; the process leads a group of its own.
start_server() {
  local dir=$1; shift
  runs "$(pid_of "$dir/pid")" "$dir/my.cnf" && return
  # A transfer that outlived its server would hold the new one's port.
  stop_group "$dir/pid" "$dir" 1
  if ((EUID == 0)); then
    setsid setpriv --reuid mysql --regid mysql --init-groups \
      mariadbd --defaults-file="$dir/my.cnf" "$@" </dev/null >>"$dir/error.log" 2>&1 7>&- 8>&- &
  else
    setsid mariadbd --defaults-file="$dir/my.cnf" "$@" </dev/null >>"$dir/error.log" 2>&1 7>&- 8>&- &
  fi
  echo $! >"$dir/pid"
  disown $!
}

# sql DIR [ARG…]: as root through the socket. Bounded, so that a server that hangs does not hang us.
sql() {
  local dir=$1; shift
  timeout 20 mariadb --no-defaults --skip-ssl --socket="$dir/mysqld.sock" --user="$(id -un)" \
    --connect-timeout=5 --batch --skip-column-names "$@"
}

show_log() {
  say "--- the last lines of $1/error.log:"
  tail -n 25 "$1/error.log" >&2 || true
}

answers() { sql "$1" --execute 'DO 1' >/dev/null 2>&1; }

answers_or_dead() { answers "$1" || gone "$(pid_of "$1/pid")" "$1"; }

# wait_server DIR SECONDS: until it answers; at once when it died.
wait_server() {
  if ! wait_until "$2" answers_or_dead "$1" || ! answers "$1"; then
    show_log "$1"
    die "the server of $1 did not start"
  fi
}

# accounts DIR PASSWORDS: what Shunt and an application need, and the least of it.
#   shunt  Shunt's own: reads the accounts' hashes, sees and ends sessions, probes. No table of users.
#   app    an application. admin: for tests, everything.
# An anonymous account would win over app@'%' for a client on this machine: there must be none.
accounts() {
  local dir=$1 passwords=$2 name
  for name in shunt app admin; do secret "$passwords/$name"; done
  sql "$dir" <<SQL
DELETE FROM mysql.global_priv WHERE User = '';
FLUSH PRIVILEGES;
CREATE DATABASE IF NOT EXISTS shop;
CREATE OR REPLACE USER shunt@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('$(cat "$passwords/shunt")');
GRANT PROCESS, CONNECTION ADMIN, TRIGGER ON *.* TO shunt@'%';
GRANT SELECT ON mysql.global_priv TO shunt@'%';
GRANT SELECT ON mysql.proc TO shunt@'%';
CREATE OR REPLACE USER app@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('$(cat "$passwords/app")');
GRANT ALL ON shop.* TO app@'%';
CREATE OR REPLACE USER admin@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('$(cat "$passwords/admin")');
GRANT ALL ON *.* TO admin@'%' WITH GRANT OPTION;
SQL
}
