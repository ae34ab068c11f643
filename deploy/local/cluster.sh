#!/usr/bin/env bash
# A Galera cluster on loopback: MariaDB servers that share their data, as the CNs of a fleet do.
#
#   cluster.sh up     [--dir DIR] [--base-port P] [--nodes N] [--name X]
#   cluster.sh status [--dir DIR]
#   cluster.sh down   [--dir DIR]
#   cluster.sh start-node|stop-node|kill-node N [--dir DIR]      SIGTERM or SIGKILL; the data stays
#
# Nodes are cn-1, cn-2, … (@@wsrep_node_name) on the ports P, P+1, …; Galera itself takes the same
# numbers above P+100, P+200 and P+300. `up` brings back what is not running: nodes of a cluster that
# lives join it; of a cluster that is wholly dead the one that knows most starts it anew.
# Passwords are in DIR/passwords/{shunt,app,admin}; a database `shop` exists.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/mariadb-lib.sh"

usage() { sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

command=${1:-}; shift || true
node=''
case $command in
  up | status | down) ;;
  start-node | stop-node | kill-node) node=${1:-}; shift || true; [[ $node =~ ^[1-9]$ ]] || usage ;;
  *) usage ;;
esac
dir="$VAR/cluster" base=13306 nodes=3 name="shunt-$CHECKOUT"
while (($#)); do
  (($# >= 2)) || usage
  case $1 in
    --dir) dir=$2 ;;
    --base-port) base=$2 ;;
    --nodes) nodes=$2 ;;
    --name) name=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[[ $nodes =~ ^[1-9]$ && $base =~ ^[0-9]+$ ]] || usage
check_folder "$dir"
# What `up` was called with; the other commands need only the folder.
[[ ! -e $dir/cluster ]] || source "$dir/cluster"

provider=''
for file in /usr/lib/galera/libgalera_smm.so /usr/lib64/galera-4/libgalera_smm.so; do
  [[ ! -e $file ]] || provider=$file
done

# A dead node is noticed within 0.7 s instead of 6 (install must stay below inactive, or the node
# does not start). The price is that a machine that stalls for half a second loses a node.
fast_detection='evs.keepalive_period=PT0.1S;evs.inactive_check_period=PT0.1S;evs.suspect_timeout=PT0.5S'
fast_detection+=';evs.inactive_timeout=PT1S;evs.install_timeout=PT0.9S;evs.join_retrans_period=PT0.1S'

# Every node names all of them, itself too: one whose settings said `gcomm://` alone would found a
# cluster of its own when it comes back.
peers() {
  local i list=''
  for ((i = 1; i <= nodes; i++)); do list+="${list:+,}127.0.0.1:$((base + 100 + i - 1))"; done
  echo "gcomm://$list"
}

write_settings() {
  local i=$1 cn="$dir/cn-$1" group=$((base + 100 + $1 - 1)) ist=$((base + 200 + $1 - 1))
  {
    common_settings "$cn" $((base + i - 1))
    cat <<CNF

server_id = $i
binlog_format = ROW
default_storage_engine = InnoDB
innodb_autoinc_lock_mode = 2

wsrep_on = ON
wsrep_provider = $provider
wsrep_cluster_name = $name
wsrep_cluster_address = $(peers)
wsrep_node_name = cn-$i
wsrep_node_address = 127.0.0.1:$group
wsrep_slave_threads = 2
wsrep_sst_method = rsync
wsrep_sst_receive_address = 127.0.0.1:$((base + 300 + i - 1))
wsrep_provider_options = "base_host=127.0.0.1;base_port=$group;gmcast.listen_addr=tcp://127.0.0.1:$group;ist.recv_addr=127.0.0.1:$ist;gcache.size=64M;$fast_detection"
CNF
  } >"$cn/my.cnf"
}

make_node() {
  local cn="$dir/cn-$1"
  mkdir -p "$cn/data" "$cn/tmp"
  chmod 755 "$cn"
  write_settings "$1"
  touch "$cn/error.log"
  own "$cn/data" "$cn/tmp" "$cn/error.log"
  if ((EUID == 0)); then chown mysql "$cn"; fi
}

alive() { runs "$(pid_of "$dir/cn-$1/pid")" "$dir/cn-$1/my.cnf"; }

# What a node says of itself: `ON Synced Primary 3` when it is a member and useful.
state_of() {
  sql "$dir/cn-$1" --execute "SELECT GROUP_CONCAT(variable_value ORDER BY variable_name = 'wsrep_ready' DESC,
    variable_name = 'wsrep_local_state_comment' DESC, variable_name = 'wsrep_cluster_status' DESC SEPARATOR ' ')
    FROM information_schema.global_status WHERE variable_name IN
    ('wsrep_ready', 'wsrep_local_state_comment', 'wsrep_cluster_status', 'wsrep_cluster_size')" 2>/dev/null
}

synced() { [[ $(state_of "$1") == "ON Synced Primary "* ]]; }

synced_or_dead() { synced "$1" || ! alive "$1"; }

wait_node() {
  if ! wait_until 90 synced_or_dead "$1" || ! synced "$1"; then
    show_log "$dir/cn-$1"
    die "cn-$1 did not become Synced"
  fi
}

# The position up to which a stopped node has the cluster's writes; -1 when it knows none.
position() {
  local cn="$dir/cn-$1" line
  [[ -e $cn/data/grastate.dat ]] || { echo -1; return; }
  line=$(as_owner timeout 60 mariadbd --defaults-file="$cn/my.cnf" --log-error="$cn/tmp/recover.log" \
    --wsrep-recover 2>&1; cat "$cn/tmp/recover.log" 2>/dev/null) || true
  rm -f "$cn/tmp/recover.log"
  line=$(grep -oE 'Recovered position: [0-9a-f-]+:-?[0-9]+' <<<"$line" | tail -n 1)
  echo "${line##*:}" | grep -E '^-?[0-9]+$' || echo -1
}

# The node to found the cluster with: the one that knows most. Only asked when none lives.
founder() {
  local i best=1 most=-2 at
  for ((i = 1; i <= nodes; i++)); do
    at=$(position "$i")
    if ((at > most)); then most=$at best=$i; fi
  done
  echo "$best"
}

found() {
  local cn="$dir/cn-$1"
  if [[ ! -e $cn/data/mysql ]]; then
    fill_from_template "$cn/data"
    own "$cn/data"
  fi
  # Safe: no node of this cluster runs, and this one has the last of its writes.
  [[ ! -e $cn/data/grastate.dat ]] || sed -i 's/^safe_to_bootstrap: .*/safe_to_bootstrap: 1/' "$cn/data/grastate.dat"
  start_server "$cn" --wsrep-new-cluster
  wait_node "$1"
}

up() {
  need mariadbd mariadb mariadb-install-db rsync setsid
  [[ -n $provider ]] || die "Galera's library is missing: run deploy/local/install.sh servers"
  ((base + 300 + nodes <= 32768)) || die "--base-port is too high: the kernel hands out ports from 32768 on"
  make_folder "$dir"
  lock "$dir/lock"
  mkdir -p "$dir/passwords"
  printf 'base=%q nodes=%q name=%q\n' "$base" "$nodes" "$name" >"$dir/cluster"
  local i offset first=''
  for ((i = 1; i <= nodes; i++)); do
    if alive "$i"; then first=$i; continue; fi
    stop_group "$dir/cn-$i/pid" "$dir/cn-$i" 1
    for offset in 0 100 200 300; do
      ! port_used $((base + offset + i - 1)) || die "port $((base + offset + i - 1)) is in use"
    done
    make_node "$i"
  done
  if [[ -z $first ]]; then
    first=$(founder)
    found "$first"
  else
    wait_node "$first"
  fi
  # Before the others join: they are given the tables of accounts as they are.
  [[ -s $dir/passwords/admin ]] || accounts "$dir/cn-$first" "$dir/passwords"
  # One after the other: a node that gives its state to one cannot give it to the next.
  for ((i = 1; i <= nodes; i++)); do
    start_server "$dir/cn-$i"
    wait_node "$i"
  done
  status
}

status() {
  [[ -e $dir/cluster ]] || die "no cluster in $dir"
  local i said failed=0
  for ((i = 1; i <= nodes; i++)); do
    said=down
    ! alive "$i" || said=$(state_of "$i") || said='no answer'
    [[ $said == "ON Synced Primary $nodes" ]] || failed=1
    echo "cn-$i 127.0.0.1:$((base + i - 1)) pid=$(pid_of "$dir/cn-$i/pid") $said"
  done
  return $failed
}

stop_nodes() {
  local i
  # The newest first, so that the first has the last writes; each ends while the others still live.
  for ((i = nodes; i >= 1; i--)); do stop_group "$dir/cn-$i/pid" "$dir/cn-$i" 20; done
}

one_node() {
  [[ -e $dir/cluster ]] || die "no cluster in $dir"
  ((node <= nodes)) || die "there is no cn-$node"
  lock "$dir/lock"
  local pid cn="$dir/cn-$node"
  case $command in
    start-node) start_server "$cn"; wait_node "$node" ;;
    stop-node) stop_group "$cn/pid" "$cn" 30 ;;
    kill-node)
      pid=$(pid_of "$cn/pid")
      ! alive "$node" || kill -KILL "$pid"
      wait_until 10 gone "$pid" "$cn/my.cnf" || die "pid $pid cannot be killed"
      ;;
  esac
}

case $command in
  up) up ;;
  status) status ;;
  down)
    [[ -e $dir ]] || exit 0
    lock "$dir/lock"
    stop_nodes
    remove_folder "$dir"
    rmdir "$VAR" 2>/dev/null || true
    ;;
  *) one_node ;;
esac
