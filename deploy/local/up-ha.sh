#!/usr/bin/env bash
# A local cluster of which anything may die, and that stays: three members of etcd, three control
# planes, two data planes, three MariaDB servers that share their data. Each is a process of its own,
# to be killed and started again. Does nothing to what runs already. down.sh ends it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/shunt-lib.sh"

here="$ROOT/deploy/local"
dir="$STATE/up-ha"
cluster="$VAR/up-ha"
base=13406

"$here/install.sh" build servers tools
say "building"
build shunt-control shunt-data shuntctl
mkdir -p "$dir"
lock "$dir/lock"
say "three MariaDB servers"
"$here/cluster.sh" up --dir "$cluster" --base-port $base --nodes 3 --name "shunt-up-ha-$CHECKOUT" >&2 8>&-

members=etcd-1=http://127.0.0.1:2401,etcd-2=http://127.0.0.1:2402,etcd-3=http://127.0.0.1:2403
etcds='[http://127.0.0.1:2391, http://127.0.0.1:2392, http://127.0.0.1:2393]'
controls='[http://127.0.0.1:6501, http://127.0.0.1:6502, http://127.0.0.1:6503]'

# start NAME PROGRAM PORT
start() {
  runs "$(pid_of "$dir/$1.pid")" "$dir/$1.yaml" || ! port_used "$3" || die "port $3 is in use"
  start_program "$dir/$1.yaml" "$dir/$1.pid" "$dir/$1.log" "$2" "$3"
}

for n in 1 2 3; do
  start_etcd "$dir" $n $members
done
for n in 1 2 3; do
  wait_until 30 etcd_answers $n || die "etcd-$n does not answer: $dir/etcd-$n.log"
done
for n in 1 2 3; do
  {
    cat <<YAML
api: { listen: 127.0.0.1:650$n }
admin: { control: 127.0.0.1:658$n }
store: { etcd: { endpoints: $etcds } }
YAML
    shop_groups $base
  } >"$dir/control-$n.yaml"
  start control-$n shunt-control 658$n
done
for n in 1 2; do
  cat >"$dir/data-$n.yaml" <<YAML
mysql: { listen: 127.0.0.1:601$n }
admin: { data: 127.0.0.1:659$n }
control: { endpoints: $controls }
state: $dir/data-$n
cn_account: { user: shunt, password_file: $cluster/passwords/shunt }
YAML
  start data-$n shunt-data 659$n
done

client_settings "$STATE/client-ha.cnf" 6011 "$cluster/passwords/app"

cat <<WORDS
Shunt is up: MySQL on 127.0.0.1:6011 and 6012, gRPC on 127.0.0.1:6501, 6502 and 6503, etcd on 127.0.0.1:2391 to 2393.
Configurations, logs and process ids are in .shunt/up-ha.

  mariadb --defaults-file=.shunt/client-ha.cnf --user='acme:app?workload=tp'
  target/debug/shuntctl --server 127.0.0.1:6502 status
  kill -9 \$(cat .shunt/up-ha/control-1.pid); deploy/local/up-ha.sh              # it dies, and is started again
  etcdctl --endpoints 127.0.0.1:2391 get --prefix /shunt/report/                # ETCDCTL_API=3, what data planes count

The end of it: make down
WORDS
