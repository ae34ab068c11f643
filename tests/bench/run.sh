#!/usr/bin/env bash
# Builds what is shipped and the benchmark, and runs it. In the environment, all of them optional:
#
#   QUICK=1          fewer cases, shorter runs: a few minutes
#   CASE='a b'       only the cases of these names, or whose names contain these words
#   LOGINS=1000000   how many logins the case memory-logins does
#   IO=epoll         what Shunt waits for sockets by: epoll, or io_uring, in place of what is shipped
#   LIST=1           only say which cases there are
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# haproxy and mariadbd are where users do not look.
export PATH="$PATH:/usr/sbin:/sbin"
bench="${CARGO_TARGET_DIR:-target}/release/shunt-bench"

options=()
[[ -z ${QUICK:-} || $QUICK == 0 ]] || options+=(--quick)
for case in ${CASE:-}; do options+=(--case "$case"); done
[[ -z ${IO:-} ]] || options+=(--io "$IO")
[[ -z ${LOGINS:-} ]] || options+=(--logins "$LOGINS")

if [[ -n ${LIST:-} && $LIST != 0 ]]; then
  deploy/local/install.sh build
  cargo build --locked --quiet --release -p shunt-bench
  exec "$bench" list ${options[@]+"${options[@]}"}
fi
deploy/local/install.sh build servers bench
cargo build --locked --release -p shunt-control -p shunt-data -p shuntctl -p shunt-bench
exec "$bench" run ${options[@]+"${options[@]}"}
