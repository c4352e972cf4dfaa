#!/usr/bin/env bash
# Tests of the native core, without Node, under AddressSanitizer and UndefinedBehaviorSanitizer.
# Usage: scripts/test-native.sh [PART_OF_A_TEST_FILE_NAME]
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"

readonly BUILD=build/test-native
# One hung test must not hang the run; the slowest takes a few seconds.
readonly LIMIT_SECONDS=300
for tool in cmake ninja g++; do
  command -v $tool >/dev/null || die "$tool is not installed" 'sudo apt-get install cmake ninja-build g++'
done

run node scripts/lwip.mjs
run cmake -S test/native -B $BUILD -G Ninja -Wno-dev --log-level=WARNING
run cmake --build $BUILD

export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1
log=$(mktemp)
failures=$(mktemp)
trap 'rm -f "$log" "$failures"' EXIT

passed=0 failed=0 ran=0
for source in test/native/*_test.cc; do
  binary=$BUILD/$(basename "$source" .cc)
  [[ -x $binary && $binary == *"${1:-}"* ]] || continue
  ran=$((ran + 1))
  title "${binary##*/}"
  status=0
  timeout --kill-after=5 $LIMIT_SECONDS "$binary" 2>&1 | tee "$log" || status=$?
  read -r file_passed file_failed < <(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" | tail -n 1) ||
    { file_passed=0 file_failed=0; }
  # A binary that died told no failure of its own.
  if [ "$status" != 0 ] && [ "$file_failed" = 0 ]; then
    say "${binary##*/} ended with status $status"
    file_failed=1
  fi
  passed=$((passed + file_passed)) failed=$((failed + file_failed))
  [ "$file_failed" = 0 ] || { title "again: ${binary##*/}" && tail -n 60 "$log"; } >>"$failures"
done

[ "$ran" -gt 0 ] || die "no native test matches '${1:-}'"
cat "$failures"
title "native tests of $ran files"
say "$passed passed, $failed failed"
[ "$failed" = 0 ]
