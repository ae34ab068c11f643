#!/usr/bin/env bash
# The main job, seen working: real MariaDB servers that share their data, Shunt in front of them, and
# real clients that read and write. Installs what is missing, builds, shows (demo.py), and removes
# everything it made. Exit status 1 when a line is not what it should be.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/shunt-lib.sh"

here="$ROOT/deploy/local"
# Ports and a folder of its own, so that a cluster that is up and tests do not mind. A name that no
# function has for itself: the trap may run inside one and would see that.
FOLDER=''

# follow COMMAND…: waits for it in a way that a signal interrupts; then `finish` ends it.
child=''
follow() {
  "$@" &
  child=$!
  local status=0
  wait "$child" || status=$?
  child=''
  return "$status"
}

# shellcheck disable=SC2317
finish() {
  local status=$?
  trap - EXIT
  # A second Ctrl-C must not leave servers behind.
  trap '' INT TERM
  if [[ -n $child ]]; then
    kill -TERM "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  if [[ -n $FOLDER ]]; then
    say "stopping and removing everything"
    # Each in a shell of its own: one that fails must not keep the next from being tried.
    (stop_shunt "$FOLDER/shunt") || status=1
    "$here/cluster.sh" down --dir "$FOLDER/cluster" || status=1
    (remove_folder "$FOLDER") || status=1
  fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

follow "$here/install.sh" build servers python
say "building"
follow build_shunt

FOLDER=$(mktemp -d /var/tmp/shunt-demo.XXXXXX)
chmod 755 "$FOLDER"
touch "$FOLDER/$MARKER"
mkdir -p "$FOLDER/shunt"
cns=$(free_block 3 0 100 200 300)
own=$(free_block 4 0)
say "starting three MariaDB servers that share their data"
follow "$here/cluster.sh" up --dir "$FOLDER/cluster" --base-port "$cns" --name "demo-$own" >&2

{
  shunt_settings "$FOLDER/shunt" "$own" $((own + 1)) $((own + 2)) $((own + 3)) "$FOLDER/cluster/passwords/shunt"
  cat <<YAML
groups:
  - { name: tp, labels: { workload: [tp] }, tenant: acme, replicas: 2,
      cns: [ { name: cn-1, address: 127.0.0.1:$cns }, { name: cn-2, address: 127.0.0.1:$((cns + 1)) } ] }
  - { name: shared, cns: [ { name: cn-3, address: 127.0.0.1:$((cns + 2)) } ] }
tenants:
  - { name: acme }
  - { name: strict, on_no_match: reject }
  - { name: closed, suspended: true }
  - { name: fenced, allow: [10.0.0.0/8] }
  - { name: small, max_sessions: 2 }
YAML
} >"$FOLDER/shunt/shunt.yaml"
say "starting Shunt"
start_shunt "$FOLDER/shunt" $((own + 2)) $((own + 3))

status=0
export DEMO_MYSQL=$own DEMO_API="http://127.0.0.1:$((own + 1))" DEMO_CNS=$cns
export DEMO_METRICS="http://127.0.0.1:$((own + 3))/metrics"
export DEMO_CLUSTER="$here/cluster.sh" DEMO_CLUSTER_FOLDER="$FOLDER/cluster"
export DEMO_SHUNTCTL="$BIN/shuntctl" DEMO_PASSWORDS="$FOLDER/cluster/passwords"
follow timeout 300 "$STATE/venv/bin/python" -B "$here/demo.py" || status=$?
if ((status)); then
  say "--- the last lines of Shunt's log:"
  tail -n 30 "$FOLDER/shunt/log" >&2
fi
exit $((status != 0))
