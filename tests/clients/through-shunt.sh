#!/usr/bin/env bash
# The nine clients through Shunt: a plain MariaDB server, shunt-standalone in front of it, run.sh.
# With arguments only the clients that they name.
source "$(dirname "${BASH_SOURCE[0]}")/../../deploy/local/lib.sh"
source "$ROOT/deploy/local/shunt-lib.sh"

dir=$(mktemp -d /var/tmp/shunt-clients.XXXXXX)
chmod 755 "$dir"
touch "$dir/$MARKER"
# shellcheck disable=SC2317
finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM
  (stop_shunt "$dir/shunt") || status=1
  "$ROOT/deploy/local/mariadb.sh" down --dir "$dir/cn" || status=1
  (remove_folder "$dir") || status=1
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

build_shunt
cn=$(free_block 1 0)
"$ROOT/deploy/local/mariadb.sh" up --dir "$dir/cn" --port "$cn" --name cn-1 >/dev/null
own=$(free_block 4 0)
mkdir "$dir/shunt"
{
  shunt_settings "$dir/shunt" "$own" $((own + 1)) $((own + 2)) $((own + 3)) "$dir/cn/passwords/shunt"
  cat <<YAML
groups:
  - { name: shared, cns: [ { name: cn-1, address: 127.0.0.1:$cn } ] }
YAML
} >"$dir/shunt/shunt.yaml"
start_shunt "$dir/shunt" $((own + 2)) $((own + 3))

status=0
"$ROOT/tests/clients/run.sh" 127.0.0.1 "$own" app "$(cat "$dir/cn/passwords/app")" shop "$@" || status=$?
if ((status)); then
  echo "--- the last lines of Shunt's log:"
  tail -n 40 "$dir/shunt/log"
  # The last line of all is the count, here too.
  echo "clients: failed"
fi
exit "$status"
