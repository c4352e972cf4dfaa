#!/usr/bin/env bash
# Types, lint, format and shell syntax. Changes nothing; runs all checks before it fails.
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"

[ -x node_modules/.bin/biome ] || die 'node_modules is missing' 'npm ci'
failed=0
check() { run "$@" || failed=$((failed + 1)); }

check node_modules/.bin/tsc -p .
check node_modules/.bin/biome check --error-on-warnings .
check sh -n bin/proxyvpn
for script in scripts/*.sh bench/*.sh test/*/*.sh .ci/run; do
  [ ! -f "$script" ] || check bash -n "$script"
done

# Another version formats otherwise, so only Debian 12's is asked.
if command -v clang-format-14 >/dev/null; then
  mapfile -t sources < <(find native test/native test/fuzz -name '*.cc' -o -name '*.h' | sort)
  check clang-format-14 --dry-run --Werror "${sources[@]}"
else
  say 'clang-format-14 is not installed: the format of C++ was not checked'
fi

[ "$failed" = 0 ] || die "$failed checks failed (see above)" 'npm run format mends most of what biome says'
say 'all checks passed'
