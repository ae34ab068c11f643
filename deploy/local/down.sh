#!/usr/bin/env bash
# Ends what up.sh and up-ha.sh started and removes their data. Does nothing where nothing is up.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/shunt-lib.sh"

dir="$STATE/up"
if [[ -d $dir ]]; then
  lock "$dir/lock"
  stop_shunt "$dir"
fi
"$ROOT/deploy/local/cluster.sh" down --dir "$VAR/up" 8>&-
rm -rf -- "$dir" "$STATE/client.cnf"

ha="$STATE/up-ha"
if [[ -d $ha ]]; then
  lock "$ha/lock"
  stop_programs "$ha"
fi
"$ROOT/deploy/local/cluster.sh" down --dir "$VAR/up-ha" 8>&-
rm -rf -- "$ha" "$STATE/client-ha.cnf"
rmdir "$VAR" 2>/dev/null || true
