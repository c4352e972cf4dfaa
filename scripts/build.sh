#!/usr/bin/env bash
# Builds the addon and the bundle; the same as `npm run build`.
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"
exec node scripts/build.mjs "$@"
