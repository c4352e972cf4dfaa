#!/usr/bin/env bash
# Fuzzes each test/fuzz/*.cc with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.
# Usage: scripts/fuzz.sh [SECONDS_EACH] [NAME]     NAME is a file of test/fuzz without .cc
#
# Seeds are read from test/fuzz/corpus/NAME, if there; what is found new goes to build/fuzz/corpus/NAME, a crash to
# build/fuzz/crash/NAME-*: give such a file to the binary in build/fuzz to see it again.
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"

readonly BUILD=build/fuzz SECONDS_EACH=${1:-30} ONLY=${2:-}
for tool in cmake ninja clang++; do
  command -v $tool >/dev/null || die "$tool is not installed" 'sudo apt-get install cmake ninja-build clang'
done

run node scripts/lwip.mjs
run cmake -S test/native -B $BUILD -G Ninja -Wno-dev --log-level=WARNING -DPROXYVPN_FUZZ=ON \
  -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++
run cmake --build $BUILD

passed=0 failed=0
for source in test/fuzz/*.cc; do
  name=$(basename "$source" .cc)
  [[ -x $BUILD/$name && ( -z $ONLY || $name == "$ONLY" ) ]] || continue
  mkdir -p "$BUILD/corpus/$name" "$BUILD/crash"
  corpora=("$BUILD/corpus/$name")
  [ ! -d "test/fuzz/corpus/$name" ] || corpora+=("test/fuzz/corpus/$name")
  title "fuzz $name for $SECONDS_EACH s"
  if run "$BUILD/$name" -max_total_time="$SECONDS_EACH" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -verbosity=0 -artifact_prefix="$BUILD/crash/$name-" "${corpora[@]}"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
  fi
done

[ $((passed + failed)) -gt 0 ] || die "no fuzz target${ONLY:+ named $ONLY} in test/fuzz"
title 'fuzz targets'
say "$passed passed, $failed failed"
[ "$failed" = 0 ]
