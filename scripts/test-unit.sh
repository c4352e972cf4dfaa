#!/usr/bin/env bash
# Unit tests: no privilege, no network. Arguments go to vitest: scripts/test-unit.sh test/unit/proxy
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"

[ -x node_modules/.bin/vitest ] || die 'node_modules is missing' 'npm ci'
run node_modules/.bin/vitest run "$@"
