#!/usr/bin/env bash
# Lays out what will be installed, as it will lie below /; needs a build and no privilege.
#
# Usage: scripts/stage.sh DIRECTORY PREFIX NODE [--bundle]
#
#   DIRECTORY  absolute, empty or missing
#   PREFIX     /usr, /usr/local, /opt/proxyvpn, ...
#   NODE       absolute path of the node that the launcher runs; with --bundle that file is copied instead, to
#              PREFIX/lib/proxyvpn/node, and the launcher runs the copy
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"
umask 022

[ $# -ge 3 ] || die 'what to stage?' 'usage: scripts/stage.sh DIRECTORY PREFIX NODE [--bundle]'
readonly directory=$1 prefix=$2 node=$3
readonly tree=$directory$prefix
for result in dist/proxyvpn.cjs build/Release/proxyvpn.node; do
  [ -f $result ] || die "$result is not built" 'npm ci && npm run build'
done
mkdir -p "$tree"

pinned=$node
if [ "${4:-}" = --bundle ]; then
  pinned=$prefix/lib/proxyvpn/node
  install -D -m 755 -- "$node" "$directory$pinned"
fi
run "$node" scripts/launcher.mjs --node "$pinned" --out build/launcher/staged
install -D -m 755 build/launcher/staged "$tree/bin/proxyvpn"

install -D -m 644 packaging/man/proxyvpn.1 "$tree/share/man/man1/proxyvpn.1"

"$node" scripts/completions.mjs "$directory/completions"
install -D -m 644 "$directory/completions/proxyvpn.bash" "$tree/share/bash-completion/completions/proxyvpn"
install -D -m 644 "$directory/completions/_proxyvpn" "$tree/share/zsh/site-functions/_proxyvpn"
install -D -m 644 "$directory/completions/proxyvpn.fish" "$tree/share/fish/vendor_completions.d/proxyvpn.fish"
rm -r "$directory/completions"

# systemd looks below these two prefixes by itself, systemd.unit(5).
case $prefix in
  /usr | /usr/local) units=$tree/lib/systemd/system ;;
  *) units=$directory/etc/systemd/system ;;
esac
for unit in packaging/systemd/*.service; do
  install -d "$units"
  sed "s|/usr/bin/proxyvpn|$prefix/bin/proxyvpn|" "$unit" >"$units/${unit##*/}"
done
