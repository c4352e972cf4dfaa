#!/usr/bin/env bash
# Every test that this user may run here, after setting up what is missing; ends with what was skipped, and why.
#
# What failed is told once more at the end, where somebody looks who kept only that. PROXYVPN_REQUIRE_ALL=1 makes a skip
# a failure (for CI). FUZZ_SECONDS is the time for each fuzz target (30).
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"

title 'set-up'
scripts/setup.sh test

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
# Enough for what a test tool says of its failures in its last words.
readonly TOLD_LINES=80

passed=0 failed=0 skipped=0 summary=''
note() { summary+=$(printf '%-12s %s' "$1" "$2")$'\n'; }

# step NAME COMMAND...: a failing step does not keep the next from running.
step() {
  local name=$1 start=$SECONDS
  shift
  title "$name"
  if run "$@" 2>&1 | tee "$logs/$name"; then
    passed=$((passed + 1))
    note "$name" "passed in $((SECONDS - start)) s"
  else
    failed=$((failed + 1))
    note "$name" 'FAILED'
    mv "$logs/$name" "$logs/$name.failed"
  fi
}

skip() {
  skipped=$((skipped + 1))
  note "$1" "skipped: $2"
  [ "${PROXYVPN_REQUIRE_ALL:-}" != 1 ] || failed=$((failed + 1))
}

# lacks TOOL...: the first tool that is not installed, or nothing.
lacks() {
  local tool
  for tool; do
    command -v "$tool" >/dev/null || { echo "$tool" && return; }
  done
}

step check scripts/check.sh
step unit scripts/test-unit.sh

lacking=$(lacks cmake ninja)
if [ -z "$lacking" ]; then
  step native scripts/test-native.sh
else
  skip native "$lacking is not installed"
fi

if [ "$(id -u)" != 0 ]; then
  skip privileged 'needs root'
elif ! unshare --net true 2>/dev/null; then
  skip privileged 'no network namespace can be made here (CAP_SYS_ADMIN)'
elif [ ! -c /dev/net/tun ]; then
  skip privileged '/dev/net/tun is missing'
else
  step privileged env PROXYVPN_PRIVILEGED_TESTS=1 scripts/test-privileged.sh
fi

lacking=$(lacks clang++ cmake ninja)
if ! compgen -G 'test/fuzz/*.cc' >/dev/null; then
  say 'test/fuzz has no target'
elif [ -z "$lacking" ]; then
  step fuzz scripts/fuzz.sh "${FUZZ_SECONDS:-30}"
else
  skip fuzz "$lacking is not installed"
fi

for log in "$logs"/*.failed; do
  [ -e "$log" ] || continue
  title "the end of what failed: $(basename "$log" .failed)"
  tail -n $TOLD_LINES "$log"
done

title 'summary'
printf '%s' "$summary"
say "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
