#!/usr/bin/env bash
# Runs what the README tells a reader to run: the lines that begin with `$ ` in its ```console blocks,
# in order, in one shell in the checkout's folder, against a cluster that was just made with `make up`.
# A line that ends in `\` goes on in the next one, which begins with `> `. A block
#
#   <!-- not run: REASON -->
#
# on the line before it is left out, and said so. Where output follows a command in the block, the
# command's output must hold each of those lines; `…` in a line stands for anything.
source "$(dirname "${BASH_SOURCE[0]}")/../../deploy/local/lib.sh"

readme=${1:-$ROOT/README.md}
[[ -e $readme ]] || die "$readme does not exist"
work=$(mktemp -d)
# shellcheck disable=SC2317
finish() {
  local status=$?
  trap - EXIT
  "$ROOT/deploy/local/down.sh" || status=1
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Each command into a file N.command, what it must print into N.wanted.
awk -v work="$work" '
  /^<!-- not run: .* -->$/ { skip = 1; reason = $0; next }
  /^```/ {
    if (inside) { inside = 0; next }
    inside = $0 ~ /^```console/
    if (inside && skip) { print "left out, " reason; inside = 0 }
    skip = 0
    next
  }
  !inside { if ($0 != "") skip = 0; next }
  /^\$ / { n++; file = sprintf("%s/%03d", work, n); print substr($0, 3) > (file ".command"); open = /\\$/; next }
  open && /^> / { print substr($0, 3) > (file ".command"); open = /\\$/; next }
  n && $0 != "" { print > (file ".wanted") }
' "$readme"
shopt -s nullglob
commands=("$work"/*.command)
((${#commands[@]})) || die "$readme has no command"

"$ROOT/deploy/local/down.sh"
"$ROOT/deploy/local/up.sh" >/dev/null

# Whether the output holds the line, `…` for anything; spaces count as one, as columns of a table vary.
holds() {
  local line pattern
  pattern=$(tr -s ' ' <<<"$1")
  pattern=${pattern% }
  while IFS= read -r line; do
    line=${line% }
    # The parts between the dots are literal.
    local rest=$line part good=yes first=yes
    while IFS= read -r part; do
      if [[ $first == yes ]]; then
        [[ $rest == "$part"* ]] || { good=no; break; }
      else
        [[ $rest == *"$part"* ]] || { good=no; break; }
      fi
      rest=${rest#*"$part"}
      first=no
    done <<<"${pattern//…/$'\n'}"
    [[ $good == yes && ($rest == "" || $pattern == *…) ]] && return 0
  done < <(tr -s ' ' <"$2")
  return 1
}

failed=0
# One shell for all, as a reader has: what a command exports the next ones see.
cd "$ROOT"
for command in "${commands[@]}"; do
  words=$(cat "$command")
  out=${command%.command}.out
  status=0
  # The shell lives on in $work/state: exported variables and the folder.
  timeout --kill-after=5 300 bash -c '
    [[ ! -e $1/state ]] || source "$1/state"
    set -o pipefail
    source "$2"
    status=$?
    { export -p; printf "cd %q\n" "$PWD"; } >"$1/state"
    exit $status' - "$work" "$command" >"$out" 2>&1 </dev/null || status=$?
  bad=''
  ((status == 0)) || bad="exit status $status"
  if [[ -z $bad && -e ${command%.command}.wanted ]]; then
    while IFS= read -r line; do
      holds "$line" "$out" || { bad="its output lacks: $line"; break; }
    done <"${command%.command}.wanted"
  fi
  if [[ -z $bad ]]; then
    echo "ok   \$ $words"
  else
    echo "FAIL \$ $words"
    echo "     $bad"
    sed 's/^/     | /' "$out" | tail -n 30
    failed=$((failed + 1))
  fi
done
echo "README: $((${#commands[@]} - failed)) of ${#commands[@]} commands"
((failed == 0))
