#!/usr/bin/env bash
# A local cluster that stays: three MariaDB servers that share their data, and Shunt in front of them
# on its default addresses. Does nothing to one that is up already. down.sh ends it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/shunt-lib.sh"

here="$ROOT/deploy/local"
dir="$STATE/up"
cluster="$VAR/up"
base=13306

"$here/install.sh" build servers tools
say "building"
build_shunt
mkdir -p "$dir"
lock "$dir/lock"
if ! shunt_runs "$dir"; then
  for port in 6001 6500 6580 6581; do
    ! port_used $port || die "port $port is in use: is Shunt running from another checkout?"
  done
fi
say "three MariaDB servers"
"$here/cluster.sh" up --dir "$cluster" --base-port $base --nodes 3 --name "shunt-up-$CHECKOUT" >&2 8>&-

{
  shunt_settings "$dir" 6001 6500 6580 6581 "$cluster/passwords/shunt"
  shop_groups $base
} >"$dir/shunt.yaml"

client_settings "$STATE/client.cnf" 6001 "$cluster/passwords/app"

start_shunt "$dir" 6580 6581
cat <<WORDS
Shunt is up: MySQL on 127.0.0.1:6001, gRPC on 127.0.0.1:6500, its configuration in .shunt/up/shunt.yaml.

  mariadb --defaults-file=.shunt/client.cnf                                    # the default tenant: cn-3
  mariadb --defaults-file=.shunt/client.cnf --user='acme:app?workload=tp'      # tenant acme: cn-1, cn-2
  target/debug/shuntctl cn list
  .shunt/bin/grpcurl -plaintext 127.0.0.1:6500 list

The servers themselves: 127.0.0.1:$base to $((base + 2)). User app, password $(cat "$cluster/passwords/app"), database shop.
The end of it: make down
WORDS
