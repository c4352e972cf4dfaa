#!/usr/bin/env bash
# Makes a fresh checkout ready: system packages, npm packages, build. Quick when there is nothing to do.
#
# Usage: scripts/setup.sh demo|test
#
#   demo  what building and the demo need; anything missing that cannot be installed is an error
#   test  also what the tests need (the privileged ones only as root); without those, test.sh skips and says so
#
# System packages are installed only by root on a Debian-like system; otherwise they are named.
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"
source scripts/packages.sh

readonly NODE_MINIMUM=20.12
readonly POLICY=/usr/sbin/policy-rc.d
readonly POLICY_MARK='Put here by proxyvpn scripts/setup.sh for the time of one apt-get install'
policy_is_ours=false

require_node() {
  local how="Node.js $NODE_MINIMUM or newer: the archive from https://nodejs.org (unpack it into /usr/local), nvm, \
or your distribution's package if it is recent enough (Debian 12 has 18)"
  command -v node >/dev/null || die 'node is not on PATH' "$how"
  local found
  found=$(node -p process.versions.node)
  [ "$(printf '%s\n' "$NODE_MINIMUM" "$found" | sort -V | head -n 1)" = "$NODE_MINIMUM" ] ||
    die "node is $found; $NODE_MINIMUM is the oldest that works" "$how"
  command -v npm >/dev/null || die 'npm is not on PATH' 'it comes with Node.js; on Debian it is the package npm'
}

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && command -v dpkg >/dev/null; }

# While packages are installed, no service may start. A policy that the host already has stays in force.
forbid_service_starts() {
  # One that carries our mark was left by a run that was killed.
  if [ -e "$POLICY" ] && ! grep -qF "$POLICY_MARK" "$POLICY"; then return; fi
  policy_is_ours=true
  trap allow_service_starts EXIT
  printf '#!/bin/sh\n# %s\nexit 101\n' "$POLICY_MARK" >"$POLICY"
  chmod 755 "$POLICY"
}
allow_service_starts() {
  [ "$policy_is_ours" = false ] || rm -f "$POLICY"
  policy_is_ours=false
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = 'ii ' ]; }

# install_packages PACKAGE...: a service that comes with a new one runs neither now nor after the next boot.
install_packages() {
  local names name new_services=()
  run apt-get -qq -o DPkg::Lock::Timeout=120 update || say 'apt-get update failed; going on with the lists there are'
  names=$(installable "$@")
  for name in $names; do
    is_installed "$name" || new_services+=("$(service_of "$name")")
  done
  forbid_service_starts
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive run apt-get -qq -y -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 \
    install --no-install-recommends $names </dev/null
  allow_service_starts
  for name in "${new_services[@]}"; do
    [ -n "$name" ] || continue
    # Only a policy of the host's own can have let it start.
    service "$name" stop >/dev/null 2>&1 || true
    run update-rc.d "$name" disable || say "could not disable the service $name"
  done
}

# require_packages GROUP...: installs what is missing, or names it; fails when it cannot be had.
require_packages() {
  local missing
  missing=$(missing_packages "$@" | xargs)
  [ -n "$missing" ] || return 0
  say "missing for $*: $missing"
  if can_install; then
    # shellcheck disable=SC2086
    install_packages $missing
    missing=$(missing_packages "$@" | xargs)
    [ -z "$missing" ] || die "still missing after the installation: $missing"
    return 0
  fi
  local names=$missing
  # shellcheck disable=SC2086
  if command -v apt-cache >/dev/null; then names=$(installable $missing | xargs); fi
  say "install with: sudo apt-get install --no-install-recommends $names" >&2
  return 1
}

install_npm_packages() {
  [ ! package-lock.json -nt node_modules/.package-lock.json ] || run npm ci --no-audit --no-fund
}

case ${1:-} in
  demo) needed='build demo' wanted='' ;;
  test) needed='build' wanted='demo native' ;;
  *) die 'which set-up?' 'usage: scripts/setup.sh demo|test' ;;
esac
[ "$(uname -s)" = Linux ] || die "this is $(uname -s); proxyvpn runs on Linux only"
require_node
if [ -n "$wanted" ] && can_install; then
  needed="$needed $wanted privileged" wanted=''
fi
# shellcheck disable=SC2086
require_packages $needed || die 'cannot go on without these packages'
# shellcheck disable=SC2086
[ -z "$wanted" ] || require_packages $wanted || say 'the tests that need them will be skipped'
install_npm_packages
run node scripts/build.mjs
