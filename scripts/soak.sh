#!/usr/bin/env bash
# One tunnel (`proxyvpn up --killswitch`) under churn, bulk, idle flows, stalls and resets at once, again and again,
# in network namespaces of its own (see scripts/bench.mjs). Between the cycles it must come to rest as it was after
# the first minute. Needs root. Usage: scripts/soak.sh MINUTES [ARGUMENTS OF up]
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"

[[ ${1:-} =~ ^[0-9]+$ && $1 -gt 0 ]] || {
  echo 'usage: scripts/soak.sh MINUTES [ARGUMENTS OF up]' >&2
  exit 2
}
run node scripts/bench.mjs soak "$@"
