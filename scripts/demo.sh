#!/usr/bin/env bash
# The main job, shown: sets up what is missing, then `proxyvpn demo` in throw-away network namespaces.
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"

title 'set-up'
scripts/setup.sh demo
title 'demo'
run bin/proxyvpn demo "$@"
