# Sourced by the other scripts: enters the project root and gives them their words. Needs bash.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# A plain user of Debian has no sbin on PATH, yet nft, sshd and tcpdump are there.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '%s\n' "$*"; }
title() { printf '\n== %s\n' "$*"; }
die() {
  printf 'error: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
  exit 1
}
# Echoes a command, then runs it.
run() {
  printf '+ %s\n' "$*" >&2
  "$@"
}
