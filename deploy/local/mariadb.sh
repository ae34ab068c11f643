#!/usr/bin/env bash
# One plain MariaDB server on loopback, for tests: up in a second or two, gone without a trace.
#
#   mariadb.sh up   --dir DIR --port P [--name NAME] [--arg --SETTING=VALUE]…
#   mariadb.sh down --dir DIR
#   mariadb.sh stop --dir DIR          SIGTERM; the data stays
#   mariadb.sh kill --dir DIR          SIGKILL; the data stays
#
# `up` on a folder whose server was stopped starts it again on the same data. It prints
#   dir=… port=… socket=… pid=…
# Passwords are in DIR/passwords/{shunt,app,admin}; a database `shop` exists; root comes in by the
# socket. With --name the server says it as @@wsrep_node_name, so that tests can ask where they are.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/mariadb-lib.sh"

usage() { sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

command=${1:-}; shift || true
dir='' port='' name='' settings=()
while (($#)); do
  (($# >= 2)) || usage
  case $1 in
    --dir) dir=$2 ;;
    --port) port=$2 ;;
    --name) name=$2 ;;
    --arg) settings+=("$2") ;;
    *) usage ;;
  esac
  shift 2
done
[[ -n $dir ]] || usage
check_folder "$dir"

write_settings() {
  {
    common_settings "$dir" "$port"
    [[ -z $name ]] || echo "wsrep_node_name = $name"
  } >"$dir/my.cnf"
}

up() {
  [[ $port =~ ^[0-9]+$ ]] || usage
  need mariadbd mariadb mariadb-install-db setsid
  make_folder "$dir"
  local fresh=no
  if ! runs "$(pid_of "$dir/pid")" "$dir/my.cnf"; then
    port_used "$port" && die "port $port is in use"
    mkdir -p "$dir/data" "$dir/tmp" "$dir/passwords"
    chmod 755 "$dir"
    write_settings
    [[ -e $dir/data/mysql ]] || { fill_from_template "$dir/data"; fresh=yes; }
    touch "$dir/error.log"
    own "$dir/data" "$dir/tmp" "$dir/error.log"
    # The server makes its socket in the folder, which is otherwise ours.
    if ((EUID == 0)); then chown mysql "$dir"; fi
    start_server "$dir" ${settings[@]+"${settings[@]}"}
  fi
  wait_server "$dir" 60
  [[ $fresh == no && -s $dir/passwords/admin ]] || accounts "$dir" "$dir/passwords"
  echo "dir=$dir port=$port socket=$dir/mysqld.sock pid=$(pid_of "$dir/pid")"
}

down() { stop_group "$dir/pid" "$dir" "${1:-20}"; }

case $command in
  up) up ;;
  down) down 10; remove_folder "$dir" ;;
  stop) down 20 ;;
  kill)
    pid=$(pid_of "$dir/pid")
    if runs "$pid" "$dir/my.cnf"; then
      kill -KILL "$pid"
      wait_until 10 gone "$pid" "$dir/my.cnf" || die "pid $pid cannot be killed"
    fi
    down 1
    ;;
  *) usage ;;
esac
