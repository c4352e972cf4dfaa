#!/usr/bin/env bash
# Fuzzes every target of test/fuzz: *.cc with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer, *.ts in node.
# Usage: scripts/fuzz.sh [SECONDS_EACH] [NAME]     NAME is a file of test/fuzz without its ending
#        scripts/fuzz.sh --merge [NAME]            takes what was found new into test/fuzz/corpus
#
# Inputs are read from test/fuzz/corpus/NAME; what is found new goes to build/fuzz/corpus/NAME, a crash to
# build/fuzz/crash/NAME-*, the whole output to build/fuzz/log/NAME. docs/fuzzing.md tells more.
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"

readonly BUILD=build/fuzz KEPT=test/fuzz/corpus
mode=fuzz seconds=30
case ${1:-} in
  --merge) mode=merge ;;
  *) seconds=${1:-30} ;;
esac
[[ $seconds =~ ^[0-9]+$ ]] || die "'$seconds' is no number of seconds" 'scripts/fuzz.sh 60'
readonly mode seconds ONLY=${2:-}
for tool in cmake ninja clang++; do
  command -v $tool >/dev/null || die "$tool is not installed" 'sudo apt-get install cmake ninja-build clang'
done
[ -x node_modules/.bin/esbuild ] || die 'node_modules is missing' 'npm ci'

run node scripts/lwip.mjs
run cmake -S test/native -B $BUILD -G Ninja -Wno-dev --log-level=WARNING -DPROXYVPN_FUZZ=ON \
  -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++
run cmake --build $BUILD
mkdir -p $BUILD/crash $BUILD/log
export UBSAN_OPTIONS=print_stacktrace=1

# A sequence of many steps is slow, and a long one says no more than a short one.
most_bytes() { [ "$1" = tcp_segments ] && echo 1024 || echo 4096; }

# fuzz_native NAME FOUND KEPT / fuzz_script NAME FOUND KEPT: in both the first directory takes what is new.
fuzz_native() {
  "$BUILD/$1" -max_total_time="$seconds" -max_len="$(most_bytes "$1")" -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -artifact_prefix="$BUILD/crash/$1-" "$2" "$3"
}
fuzz_script() { node "$BUILD/$1.cjs" "$seconds" "$BUILD/crash/$1-" "$2" "$3"; }

# Merging keeps a small set that reaches as much: each edge of the code once, each kind of outcome once.
merge_native() { "$BUILD/$1" -merge=1 -use_counters=0 -max_len="$(most_bytes "$1")" "$4" "$3" "$2"; }
merge_script() { node "$BUILD/$1.cjs" --merge "$4" "$3" "$2"; }

passed=0 failed=0 summary=''
for source in test/fuzz/*.cc test/fuzz/*.ts; do
  name=$(basename "${source%.*}")
  [[ -z $ONLY || $name == "$ONLY" ]] || continue
  kind=native
  if [[ $source == *.ts ]]; then
    kind=script
    run node_modules/.bin/esbuild "$source" --bundle --platform=node --target=node20.12 --format=cjs \
      --log-level=warning --outfile="$BUILD/$name.cjs"
  fi
  found=$BUILD/corpus/$name kept=$KEPT/$name log=$BUILD/log/$name fresh=$BUILD/merged/$name
  mkdir -p "$found" "$kept"
  title "$mode $name"
  if [ $mode = merge ]; then
    rm -rf "$fresh" && mkdir -p "$fresh"
    run merge_$kind "$name" "$found" "$kept" "$fresh" >"$log" 2>&1 || die "merging $name failed, see $log"
    # What once was a defect stays, though others may reach as far.
    find "$kept" -name 'regression-*' -exec cp -t "$fresh" {} +
    rm -rf "$kept" && mv "$fresh" "$kept"
    summary+="$name: $(find "$kept" -type f | wc -l) inputs"$'\n'
    passed=$((passed + 1))
  elif run fuzz_$kind "$name" "$found" "$kept" >"$log" 2>&1; then
    summary+="$name: $(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$log") inputs in $seconds s, no defect"$'\n'
    passed=$((passed + 1))
  else
    tail -n 60 "$log" | cut -c 1-300
    summary+="$name: A DEFECT, see $log and $BUILD/crash"$'\n'
    failed=$((failed + 1))
  fi
done

[ $((passed + failed)) -gt 0 ] || die "no fuzz target${ONLY:+ named $ONLY} in test/fuzz"
title "fuzz targets"
printf '%s' "$summary"
say "$passed passed, $failed failed"
[ "$failed" = 0 ]
