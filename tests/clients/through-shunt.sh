#!/usr/bin/env bash
# The nine clients through Shunt: a plain MariaDB server, shunt-standalone in front of it, run.sh.
# With arguments only the clients that they name.
source "$(dirname "${BASH_SOURCE[0]}")/../../deploy/local/lib.sh"
source "$ROOT/deploy/local/shunt-lib.sh"

FOLDER=$(mktemp -d /var/tmp/shunt-clients.XXXXXX)
chmod 755 "$FOLDER"
touch "$FOLDER/$MARKER"
# shellcheck disable=SC2317
finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM
  (stop_shunt "$FOLDER/shunt") || status=1
  "$ROOT/deploy/local/mariadb.sh" down --dir "$FOLDER/cn" || status=1
  (remove_folder "$FOLDER") || status=1
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

build_shunt
cn=$(free_block 1 0)
"$ROOT/deploy/local/mariadb.sh" up --dir "$FOLDER/cn" --port "$cn" --name cn-1 >/dev/null
own=$(free_block 4 0)
mkdir "$FOLDER/shunt"
{
  shunt_settings "$FOLDER/shunt" "$own" $((own + 1)) $((own + 2)) $((own + 3)) "$FOLDER/cn/passwords/shunt"
  cat <<YAML
groups:
  - { name: shared, cns: [ { name: cn-1, address: 127.0.0.1:$cn } ] }
YAML
} >"$FOLDER/shunt/shunt.yaml"
start_shunt "$FOLDER/shunt" $((own + 2)) $((own + 3))

status=0
"$ROOT/tests/clients/run.sh" 127.0.0.1 "$own" app "$(cat "$FOLDER/cn/passwords/app")" shop "$@" || status=$?
if ((status)); then
  echo "--- the last lines of Shunt's log:"
  tail -n 40 "$FOLDER/shunt/log"
  # The last line of all is the count, here too.
  echo "clients: failed"
fi
exit "$status"
