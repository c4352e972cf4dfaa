#!/usr/bin/env bash
# Installs proxyvpn for the users of this host: one setcap, then no sudo.
#
# Usage: sudo ./scripts/install.sh [--prefix DIR] [--group NAME] [--bundle-node] [--node FILE]
#
#   --prefix DIR   where to (default: /usr/local); each directory on the way must be root's alone
#   --group NAME   only its members may run proxyvpn, and so change the host's routes (default: every user may);
#                  made if it does not exist
#   --bundle-node  copy node to DIR/lib/proxyvpn and run that: needed where node is in a place that a user can write
#                  to (nvm), or where the distribution's is too old
#   --node FILE    that node (default: the one on PATH, else the one that built the checkout)
#
# What is not built yet is built first, by the user to whom the checkout belongs, never by root. Everything that
# root then installs has been read with that user's rights. scripts/uninstall.sh removes it.
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"
source scripts/packages.sh
source scripts/checkout-owner.sh

umask 022
readonly NODE_MINIMUM=20.12
readonly SERVICE_USER=proxyvpn
prefix=/usr/local group='' bundle='' node=''

usage() { die "$1" 'usage: sudo ./scripts/install.sh [--prefix DIR] [--group NAME] [--bundle-node] [--node FILE]'; }

while [ $# -gt 0 ]; do
  case $1 in
    --prefix) prefix=${2:-} && shift ;;
    --group) group=${2:-} && shift ;;
    --node) node=${2:-} && shift ;;
    --bundle-node) bundle=--bundle ;;
    *) usage "there is no option $1" ;;
  esac
  shift || usage 'a value is missing'
done
[[ $prefix =~ ^(/[A-Za-z0-9_.+-]+)+$ && ! $prefix/ =~ /\.\.?/ ]] || usage '--prefix is an absolute path without odd characters'
[[ -z $group || $group =~ ^[a-z_][a-z0-9_-]{0,31}$ ]] || usage '--group is not the name of a group'
[ "$(id -u)" = 0 ] || die 'installing needs root' 'sudo ./scripts/install.sh'

readonly manifest=$prefix/lib/proxyvpn/manifest
stage=''
# For the manifest, and for undoing a failed installation.
installed=() placed_anew=() made_directories=() made_group='' made_user=''

# Whoever can write to a directory of the path chooses what the service runs.
require_roots_own() {
  local path=$1 owner mode
  while :; do
    if [ -e "$path" ]; then
      [ ! -L "$path" ] || die "$path is a symbolic link" 'give --prefix the directory itself'
      read -r owner mode < <(stat -c '%u %a' -- "$path")
      if [ "$owner" != 0 ] || ((0$mode & 022)); then
        die "others than root can write to $path" 'choose another --prefix'
      fi
    fi
    [ "$path" != / ] || return 0
    path=$(dirname -- "$path")
  done
}

require_tools() {
  local missing
  missing=$(missing_packages install | xargs)
  if [ ! -f dist/proxyvpn.cjs ] || [ ! -f build/Release/proxyvpn.node ] || ! command -v g++ >/dev/null; then
    missing="$missing $(missing_packages build | xargs)"
  fi
  [ -n "${missing// /}" ] || return 0
  command -v apt-get >/dev/null || die "missing:$missing" 'install what your distribution calls these'
  run apt-get -qq -o DPkg::Lock::Timeout=120 update || say 'apt-get update failed; going on with the lists there are'
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive run apt-get -qq -y -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 \
    install --no-install-recommends $missing </dev/null
}

# The node of a user who has nvm is not on the PATH that sudo gives.
find_node() {
  local candidate
  for candidate in "$node" "$(command -v node || true)" "$(as_owner cat build/launcher/node-path 2>/dev/null || true)" \
    "$(as_owner bash -ic 'command -v node' 2>/dev/null | tail -n 1)"; do
    [ -n "$candidate" ] || continue
    candidate=$(realpath -e -- "$candidate" 2>/dev/null) || continue
    node=$candidate
    return 0
  done
  die 'no node was found' "give --node FILE; Node.js $NODE_MINIMUM or newer, from https://nodejs.org, nvm or your distribution"
}

check_node() {
  local found
  found=$(as_owner "$node" -p process.versions.node) || die "$node does not run" 'give --node FILE'
  [ "$(printf '%s\n' "$NODE_MINIMUM" "$found" | sort -V | head -n 1)" = "$NODE_MINIMUM" ] ||
    die "$node is $found; $NODE_MINIMUM is the oldest that works" 'give --node FILE, and --bundle-node if it is a user'\''s'
}

build() {
  if [ ! -f dist/proxyvpn.cjs ] || [ ! -f build/Release/proxyvpn.node ]; then
    PATH=$(dirname "$node"):$PATH
    [ -d node_modules ] || run as_owner npm ci --no-audit --no-fund
    run as_owner "$node" scripts/build.mjs
  fi
}

# make_directory PATH: with all that is missing above it.
make_directory() {
  [ ! -d "$1" ] || return 0
  make_directory "$(dirname "$1")"
  mkdir -m 755 -- "$1"
  made_directories+=("$1")
}

# Into $stage/tree, root's own. The checkout is read by its owner only: a link in it leads to nothing that he cannot read.
make_stage() {
  make_directory "$prefix/lib/proxyvpn"
  stage=$(mktemp -d "$prefix/lib/proxyvpn/.stage-XXXXXX")
  mkdir "$stage/tree"
  # shellcheck disable=SC2016
  as_owner bash -euc 'work=$(mktemp -d) && trap "rm -rf \"$work\"" EXIT
    scripts/stage.sh "$work/tree" "$@" >&2 && tar -C "$work/tree" -cf - .' stage "$prefix" "$node" $bundle |
    tar -C "$stage/tree" --no-same-owner --no-same-permissions -xf -
  local odd
  odd=$(find "$stage/tree" ! -type f ! -type d)
  [ -z "$odd" ] || die "neither files nor directories: $odd"
  find "$stage/tree" -type d -exec chmod 755 {} +
  find "$stage/tree" -type f -exec chmod u+rw,go-w,go+r {} +
}

make_accounts() {
  if [ -n "$group" ] && ! getent group "$group" >/dev/null; then
    run groupadd --system "$group"
    made_group=$group
  fi
  if ! getent passwd "$SERVICE_USER" >/dev/null; then
    local own_group=(--user-group)
    if getent group "$SERVICE_USER" >/dev/null; then own_group=(--gid "$SERVICE_USER"); fi
    run useradd --system "${own_group[@]}" --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin \
      "$SERVICE_USER"
    made_user=$SERVICE_USER
  fi
}

# The services' user is one of those who may run it.
let_service_run() {
  if [ -z "$group" ] || [ "$group" = "$SERVICE_USER" ]; then return; fi
  find "$stage/tree" -name '*.service' -exec sed -i "/^Group=$SERVICE_USER$/a SupplementaryGroups=$group" {} +
}

# chown takes the capability away, so it comes before; a rename keeps it, so a file that lacks it is never in place.
place_launcher() {
  local launcher=$stage/tree$prefix/bin/proxyvpn
  chown "root:${group:-root}" "$launcher"
  chmod "$([ -n "$group" ] && echo 750 || echo 755)" "$launcher"
  run setcap cap_net_admin+p "$launcher" ||
    die "the file system of $prefix holds no file capabilities" 'choose a --prefix on a local disk'
  place "$launcher"
}

# place FILE: from the stage to where it belongs, in one step.
place() {
  local target=${1#"$stage/tree"}
  [ ! -d "$target" ] || die "$target is a directory"
  make_directory "$(dirname "$target")"
  [ -e "$target" ] || placed_anew+=("$target")
  installed+=("$target")
  mv -fT -- "$1" "$target.new"
  mv -fT -- "$target.new" "$target"
}

# The launcher's own checks, as a user without any right: is node in a place of root's, does the program start?
try_launcher() {
  local groups=--clear-groups
  [ -z "$group" ] || groups=--groups=$(getent group "$group" | cut -d: -f3)
  [[ $(getcap "$prefix/bin/proxyvpn") == *cap_net_admin* ]] || die "$prefix/bin/proxyvpn has lost the capability"
  setpriv --reuid 65534 --regid 65534 "$groups" env -i "$prefix/bin/proxyvpn" --version >/dev/null ||
    die 'the installed proxyvpn does not start (see above)'
}

# Its lines are `file PATH`, `directory PATH`, `user NAME` and `group NAME`. What an earlier installation made stays ours.
write_manifest() {
  {
    printf 'file %s\n' "${installed[@]}"
    [ ${#made_directories[@]} = 0 ] || printf 'directory %s\n' "${made_directories[@]}"
    [ -z "$made_group" ] || echo "group $made_group"
    [ -z "$made_user" ] || echo "user $made_user"
    grep -sE '^(directory|group|user) ' "$manifest" || true
  } | sort -u >"$stage/manifest"
  chmod 644 "$stage/manifest"
}

# Files of an earlier installation that this one does not have.
remove_outdated() {
  [ -f "$manifest" ] || return 0
  local outdated
  comm -23 <(sed -n 's/^file //p' "$manifest" | sort) <(sed -n 's/^file //p' "$stage/manifest" | sort) |
    while read -r outdated; do run rm -f -- "$outdated"; done
}

tidy_up() {
  local status=$? i
  [ -z "$stage" ] || rm -rf -- "$stage"
  [ $status != 0 ] || return 0
  [ ${#placed_anew[@]} = 0 ] || rm -f -- "${placed_anew[@]}"
  for ((i = ${#made_directories[@]} - 1; i >= 0; i--)); do
    rmdir --ignore-fail-on-non-empty -- "${made_directories[i]}"
  done
  [ -z "$made_user" ] || userdel "$made_user"
  [ -z "$made_group" ] || groupdel "$made_group" 2>/dev/null || true
}

require_roots_own "$prefix"
require_tools
find_node
check_node
build
trap tidy_up EXIT
make_stage
make_accounts
let_service_run
while IFS= read -r -d '' file; do
  place "$file"
done < <(find "$stage/tree" -type f ! -path "$stage/tree$prefix/bin/proxyvpn" -print0)
place_launcher
try_launcher
# Configurations may hold the proxy's password.
if [ ! -d /etc/proxyvpn ]; then
  make_directory /etc/proxyvpn
  chown "root:$SERVICE_USER" /etc/proxyvpn
  chmod 750 /etc/proxyvpn
fi
write_manifest
remove_outdated
mv -f -- "$stage/manifest" "$manifest"
if [ -d /run/systemd/system ]; then run systemctl daemon-reload; fi

title 'installed'
say "$prefix/bin/proxyvpn, which runs ${bundle:+a copy of }$node"
if [ -n "$group" ]; then
  say "for members of the group $group: sudo usermod -aG $group USER, then log in again"
else
  say 'every user of this host may run it, and so change its routes; --group NAME narrows that'
fi
if [ "$(stat -c %a /dev/net/tun 2>/dev/null)" != 666 ]; then
  say 'users cannot open /dev/net/tun here: its usual mode is 0666'
fi
