#!/usr/bin/env bash
# Tests on the real kernel: routes, rules, nftables, real proxies and clients. Needs root and an explicit opt-in.
#
#   host ── unshare ── mount, pid namespace (own /run, own /proc)
#                        └─ unshare ── network namespace: lo only ── vitest ── ip netns add ... (the tests' own)
#
# The host's network namespace cannot be touched: it is left before anything starts, which is verified inside. An own
# /run keeps named namespaces, the daemon's state and the host's D-Bus apart; leaving the pid namespace ends every
# process that a test may have left.
#
# Usage: PROXYVPN_PRIVILEGED_TESTS=1 scripts/test-privileged.sh [test/netns/FILE]
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"

[ "${PROXYVPN_PRIVILEGED_TESTS:-}" = 1 ] ||
  die 'these tests run as root and make network namespaces' 'say that you want it: PROXYVPN_PRIVILEGED_TESTS=1'

inside() {
  local initial
  initial=$(readlink /proc/1/ns/net) || die 'cannot see which network namespace is the initial one'
  [ "$(readlink /proc/self/ns/net)" != "$initial" ] || die 'still in the initial network namespace'
  # A sysfs of this network namespace; the old one shows the host's devices.
  mount --rbind /sys/fs/cgroup /run/cgroup
  mount -t sysfs sysfs /sys
  mount --move /run/cgroup /sys/fs/cgroup
  ip link set lo up
  # Ten thousand idle flows need as many descriptors in each of several programs.
  ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
  run node_modules/.bin/vitest run --config vitest.netns.config.ts "$@"
}

# Stays in the host's network namespace as process 1, so that /proc/1/ns/net still tells which one that is.
isolated() {
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir -p /run/lock /run/netns /run/cgroup
  unshare --net -- "$0" --inside "$@"
}

case ${1:-} in
  --inside)
    inside "${@:2}"
    exit
    ;;
  --isolated)
    isolated "${@:2}"
    exit
    ;;
esac

[ "$(id -u)" = 0 ] || die 'the privileged tests need root' 'run as root, or scripts/test-unit.sh without'
[ -x node_modules/.bin/vitest ] || die 'node_modules is missing' 'npm ci'
for result in build/Release/proxyvpn.node dist/proxyvpn.cjs; do
  [ -f $result ] || die "$result is not built" 'npm run build'
done
[ -c /dev/net/tun ] || die '/dev/net/tun is missing' 'modprobe tun, or pass the device into the container'
unshare --net true || die 'cannot make a network namespace' 'CAP_SYS_ADMIN is needed; a container may lack it'
run unshare --mount --pid --fork --kill-child --mount-proc -- "$0" --isolated "$@"
