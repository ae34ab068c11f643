#!/usr/bin/env bash
# Installs what is missing, and nothing else; says nothing and ends at once when all is there.
#
#   install.sh [GROUP…]
#
#   build     a C compiler and make, for cargo
#   servers   MariaDB with Galera, etcd
#   python node go java sysbench    one kind of client each; `clients` is all of them
#   tools     grpcurl, strace
#   bench     HAProxy, sysbench, valgrind
#   micro     valgrind alone
#
# Without a group: build servers clients tools. Debian's packages come by apt (as root, or by sudo);
# what belongs to a language comes by its own tool, in the versions that are pinned under
# tests/clients, into .shunt of this checkout. No server is started, and one that is installed
# already is left as it is.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

CLIENTS="$ROOT/tests/clients"
GRPCURL=v1.9.1

usage() { sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

# --- Debian's packages ------------------------------------------------------

wanted=()

# Asks for PACKAGE… unless COMMAND is there, wherever it came from.
unless() { local command=$1; shift; command -v "$command" >/dev/null || wanted+=("$@"); }

as_root() {
  if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# Debian starts a server when its package is set up, unless this file forbids it. One that is there
# was somebody's decision and stays.
POLICY=/usr/sbin/policy-rc.d
policy_is_ours=no

forbid_starts() {
  [[ ! -e $POLICY ]] || return 0
  policy_is_ours=yes
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
  as_root chmod 755 "$POLICY"
}

allow_starts() {
  [[ $policy_is_ours == no ]] || as_root rm -f "$POLICY"
  policy_is_ours=no
}

apt() {
  as_root env DEBIAN_FRONTEND=noninteractive timeout 900 \
    apt-get -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@"
}

install_packages() {
  local missing=() package
  for package in ${wanted[@]+"${wanted[@]}"}; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || die "this machine has no apt-get; install by hand: ${missing[*]}"
  ((EUID == 0)) || command -v sudo >/dev/null || die "needs root or sudo to install: ${missing[*]}"
  say "install: ${missing[*]}"
  trap allow_starts EXIT
  forbid_starts
  local log; log=$(mktemp)
  if ! { apt update && apt install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    rm -f "$log"
    die "apt-get failed"
  fi
  rm -f "$log"
  allow_starts
  trap - EXIT
}

# --- what belongs to a language ---------------------------------------------

# stale NAME FILE…: false when NAME was made from these very files.
stale() {
  local name=$1; shift
  local sum; sum=$(cat "$@" | sha256sum)
  [[ $(cat "$STATE/stamps/$name" 2>/dev/null) != "$sum" ]]
}

stamp() {
  local name=$1; shift
  mkdir -p "$STATE/stamps"
  cat "$@" | sha256sum >"$STATE/stamps/$name"
}

# try WHAT COMMAND…: three times, since networks fail; bounded; its output is shown when all did.
try() {
  local what=$1 log i; shift
  log=$(mktemp)
  say "install: $what"
  for i in 1 2 3; do
    if timeout 400 "$@" >"$log" 2>&1; then rm -f "$log"; return; fi
    sleep "$i"
  done
  tail -n 30 "$log" >&2
  rm -f "$log"
  die "$what could not be installed"
}

python_packages() {
  local file="$CLIENTS/python/requirements.txt" venv="$STATE/venv"
  if [[ ! -x $venv/bin/python ]] || stale python "$file"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    try "Python's clients" "$venv/bin/pip" install -q --disable-pip-version-check --no-deps --require-hashes -r "$file"
    stamp python "$file"
  fi
}

node_packages() {
  local dir="$STATE/node" files=("$CLIENTS/node/package.json" "$CLIENTS/node/package-lock.json")
  if [[ ! -d $dir/node_modules ]] || stale node "${files[@]}"; then
    mkdir -p "$dir"
    cp "${files[@]}" "$dir/"
    try "Node's client" npm ci --prefix "$dir" --ignore-scripts --no-audit --no-fund --loglevel=error
    stamp node "${files[@]}"
  fi
}

go_program() {
  local program="$STATE/bin/client-go" files=("$CLIENTS"/go/go.mod "$CLIENTS"/go/go.sum "$CLIENTS"/go/*.go)
  if [[ ! -x $program ]] || stale go "${files[@]}"; then
    mkdir -p "$STATE/bin"
    try "Go's client" env -C "$CLIENTS/go" GOFLAGS=-mod=readonly go build -o "$program" .
    stamp go "${files[@]}"
  fi
}

java_packages() {
  local dir="$STATE/java" files=("$CLIENTS/java/pom.xml" "$CLIENTS/java/jars.sha256")
  if [[ ! -d $dir ]] || stale java "${files[@]}"; then
    rm -rf "$dir"
    mkdir -p "$dir"
    try "Java's clients" mvn -q -B -f "$CLIENTS/java/pom.xml" \
      org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DoutputDirectory="$dir"
    (cd "$dir" && sha256sum --quiet --check "$CLIENTS/java/jars.sha256") || die "a Java client is not the one that is pinned"
    stamp java "${files[@]}"
  fi
}

grpcurl() {
  [[ ! -x $STATE/bin/grpcurl ]] || [[ $(cat "$STATE/stamps/grpcurl" 2>/dev/null) != "$GRPCURL" ]] || return 0
  mkdir -p "$STATE/bin" "$STATE/stamps"
  try "grpcurl $GRPCURL" env GOBIN="$STATE/bin" go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$GRPCURL"
  echo "$GRPCURL" >"$STATE/stamps/grpcurl"
}

# --- groups -----------------------------------------------------------------

groups=()
add() {
  case $1 in
    clients) groups+=(python node go java sysbench) ;;
    build | servers | python | node | go | java | sysbench | tools | bench | micro) groups+=("$1") ;;
    *) usage ;;
  esac
}
(($#)) || set -- build servers clients tools
for group in "$@"; do add "$group"; done

for group in "${groups[@]}"; do
  case $group in
    build) unless cc gcc libc6-dev; unless make make ;;
    servers)
      unless mariadbd mariadb-server
      unless mariadb mariadb-client
      [[ -e /usr/lib/galera/libgalera_smm.so ]] || wanted+=(galera-4)
      unless rsync rsync
      unless etcd etcd-server
      unless etcdctl etcd-client
      unless setpriv util-linux
      ;;
    python) python3 -c 'import venv, ensurepip' 2>/dev/null || wanted+=(python3 python3-venv) ;;
    node) unless node nodejs; unless npm npm ;;
    go | tools) unless go golang-go ca-certificates; unless git git; unless strace strace ;;
    java)
      java --list-modules 2>/dev/null | grep -q '^jdk.compiler' || wanted+=(default-jdk-headless)
      unless mvn maven
      ;;
    sysbench) unless sysbench sysbench ;;
    bench) unless haproxy haproxy; unless sysbench sysbench; unless valgrind valgrind ;;
    micro) unless valgrind valgrind ;;
  esac
done
mkdir -p "$STATE"
install_packages
for group in "${groups[@]}"; do
  case $group in
    python) python_packages ;;
    node) node_packages ;;
    go) go_program ;;
    java) java_packages ;;
    tools) grpcurl ;;
  esac
done
