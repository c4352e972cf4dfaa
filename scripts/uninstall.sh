#!/usr/bin/env bash
# Removes what scripts/install.sh has put on this host, by its manifest: files, services, accounts it made.
#
# Usage: sudo ./scripts/uninstall.sh [--prefix DIR] [--force]
#
#   --prefix DIR  as at the installation (default: /usr/local)
#   --force       although tunnels are up; their daemons live on, and nothing is left that could take them down
#
# Configuration in /etc/proxyvpn stays, as does a user or group that was there before.
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"

prefix=/usr/local force=''
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) prefix=${2:-} && shift ;;
    --force) force=1 ;;
    *) die "there is no option $1" 'usage: sudo ./scripts/uninstall.sh [--prefix DIR] [--force]' ;;
  esac
  shift || die 'a value is missing' 'usage: sudo ./scripts/uninstall.sh [--prefix DIR] [--force]'
done
[ "$(id -u)" = 0 ] || die 'removing it needs root' 'sudo ./scripts/uninstall.sh'
readonly manifest=$prefix/lib/proxyvpn/manifest
[ -f "$manifest" ] || die "nothing is installed below $prefix: there is no $manifest" 'give --prefix DIR as at the installation'

listed() { sed -n "s/^$1 //p" "$manifest"; }

stop_services() {
  [ -d /run/systemd/system ] || return 0
  # Stopping the killswitch's unit opens nothing; the command does.
  run systemctl stop 'proxyvpn@*.service' proxyvpn-killswitch.service || true
  run systemctl disable proxyvpn-killswitch.service || true
  find /etc/systemd/system -path '*.wants/proxyvpn@*.service' -type l -delete
}

# The state directory of a tunnel exists as long as there is something to undo.
require_all_down() {
  local tunnels
  tunnels=$(find /run/proxyvpn /run/proxyvpn-service /run/user/*/proxyvpn -mindepth 2 -maxdepth 2 -name journal 2>/dev/null || true)
  [ -n "$tunnels" ] || return 0
  [ -z "$force" ] || { say "still up, or crashed: $tunnels" && return 0; }
  die "tunnels are up, or have crashed: $(xargs <<<"$tunnels")" \
    'as the user who started it: proxyvpn down --name NAME; or give --force'
}

remove_files() {
  local file
  while IFS= read -r file; do run rm -f -- "$file"; done < <(listed file)
}

# remove_accounts USERS GROUPS
remove_accounts() {
  local name
  for name in $1; do run userdel "$name" || true; done
  for name in $2; do
    # userdel takes the user's own group with it.
    ! getent group "$name" >/dev/null || run groupdel "$name" || true
  done
}

stop_services
require_all_down
users=$(listed user) groups=$(listed group)
# Deepest first; one that holds somebody else's files by now stays.
directories=$(listed directory | sort -r)
remove_files
rm -f -- "$manifest"
# shellcheck disable=SC2086
rmdir --ignore-fail-on-non-empty -- "$prefix/lib/proxyvpn" $directories 2>/dev/null || true
remove_accounts "$users" "$groups"
if [ -d /run/systemd/system ]; then run systemctl daemon-reload; fi
say "proxyvpn is no longer installed below $prefix"
