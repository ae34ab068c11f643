# Building, configuring, starting and stopping Shunt's programs, and etcd; shared by demo.sh, up.sh,
# up-ha.sh and the tests' scripts. Sourced, never run. Knows of Shunt what its operators know: the configuration,
# /readyz and the programs' names.
# shellcheck shell=bash

# Where cargo puts what it builds.
BIN="${CARGO_TARGET_DIR:-$ROOT/target}/debug"

# build PROGRAM…
build() {
  need cargo
  (cd "$ROOT" && cargo build --locked --quiet "${@/#/--package=}") || die "the build failed"
}

build_shunt() { build shunt-standalone shuntctl; }

# http_ok PORT PATH: whether a GET is answered with 200 within two seconds. Without curl, which a
# fresh machine lacks.
http_ok() {
  local line
  line=$(timeout 2 bash -c '
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" "$2" >&3
    head -n 1 <&3' - "$1" "$2" 2>/dev/null) || return 1
  [[ $line == 'HTTP/1.1 200'* ]]
}

# shunt_settings DIR MYSQL_PORT API_PORT CONTROL_PORT DATA_PORT PASSWORD_FILE: the part of the
# configuration that is the same for everybody; groups and tenants are the caller's.
shunt_settings() {
  cat <<YAML
mysql: { listen: 127.0.0.1:$2 }
api: { listen: 127.0.0.1:$3 }
admin: { control: 127.0.0.1:$4, data: 127.0.0.1:$5 }
store: { embedded: $1/store }
cn_account: { user: shunt, password_file: $6 }
YAML
}

shunt_runs() { runs "$(pid_of "$1/pid")" "$1/shunt.yaml"; }

# start_program CONFIG PIDFILE LOG PROGRAM PORT…: it is ready when /readyz of each PORT says so.
start_program() {
  local config=$1 pid=$2 log=$3 program=$4; shift 4
  program_runs() { runs "$(pid_of "$pid")" "$config"; }
  program_runs && return
  setsid "$BIN/$program" --config "$config" </dev/null >>"$log" 2>&1 8>&- &
  echo $! >"$pid"
  disown $!
  all_ready() { local port; for port in "$@"; do http_ok "$port" /readyz || return 1; done; }
  ready_or_dead() { ! program_runs || all_ready "$@"; }
  if ! wait_until 30 ready_or_dead "$@" || ! program_runs; then
    say "--- the last lines of $log:"
    tail -n 25 "$log" >&2 || true
    die "$program did not become ready"
  fi
}

# start_shunt DIR CONTROL_PORT DATA_PORT: DIR/shunt.yaml is its configuration, DIR/log what it says.
start_shunt() { start_program "$1/shunt.yaml" "$1/pid" "$1/log" shunt-standalone "$2" "$3"; }

# shop_groups PORT: groups and tenants of three CNs on PORT and the two behind it.
shop_groups() {
  cat <<YAML
groups:
  - { name: tp, labels: { workload: tp }, tenant: acme, replicas: 2,
      cns: [ { name: cn-1, address: 127.0.0.1:$1 }, { name: cn-2, address: 127.0.0.1:$(($1 + 1)) } ] }
  - { name: shared, cns: [ { name: cn-3, address: 127.0.0.1:$(($1 + 2)) } ] }
tenants:
  - { name: acme, default_labels: { workload: tp } }
YAML
}

# client_settings FILE PORT PASSWORD_FILE: so that nobody needs to type a password, `mariadb --defaults-file=FILE`.
client_settings() {
  (umask 077 && cat >"$1" <<CNF
[client]
host = 127.0.0.1
port = $2
user = app
password = $(cat "$3")
database = shop
skip-ssl
CNF
  )
}

# Its own limit for ending in order is 30 s.
stop_shunt() { stop_group "$1/pid" "$1/shunt.yaml" 40; }

# --- several programs in one folder -------------------------------------------

# start_etcd DIR N MEMBERS: member N of three, with clients on port 2390+N and its peers on 2400+N.
start_etcd() {
  local dir=$1 n=$2 members=$3 name=etcd-$2
  need etcd
  ! runs "$(pid_of "$dir/$name.pid")" "$dir/$name.data" || return 0
  ! port_used $((2390 + n)) || die "port $((2390 + n)) is in use"
  # Debian's unit sets ETCD_… for its own etcd. An hour of history is enough to look back.
  env -i PATH="$PATH" setsid etcd --name "$name" --data-dir "$dir/$name.data" --logger zap \
    --listen-client-urls "http://127.0.0.1:$((2390 + n))" --advertise-client-urls "http://127.0.0.1:$((2390 + n))" \
    --listen-peer-urls "http://127.0.0.1:$((2400 + n))" --initial-advertise-peer-urls "http://127.0.0.1:$((2400 + n))" \
    --initial-cluster "$members" --auto-compaction-retention 1h </dev/null >>"$dir/$name.log" 2>&1 8>&- &
  echo $! >"$dir/$name.pid"
  disown $!
}

etcd_answers() { http_ok $((2390 + $1)) /health; }

# stop_programs DIR: data planes first, etcd last.
stop_programs() {
  local dir=$1 name
  for name in data-1 data-2 control-1 control-2 control-3; do
    stop_group "$dir/$name.pid" "$dir/$name.yaml" 40
  done
  for name in etcd-1 etcd-2 etcd-3; do
    stop_group "$dir/$name.pid" "$dir/$name.data" 10
  done
}
