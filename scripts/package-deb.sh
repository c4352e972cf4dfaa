#!/usr/bin/env bash
# Makes a Debian package of the build: launcher, man page, completions, units, and a Node.js of its own.
#
# Usage: scripts/package-deb.sh [--node FILE]   (also: npm run package:deb; needs no privilege)
#
# The result is dist/proxyvpn_VERSION_ARCHITECTURE.deb. DEBFULLNAME and DEBEMAIL name its maintainer, as for all of
# Debian's tools.
source "$(dirname "${BASH_SOURCE[0]}")/say.sh"
umask 022

node=''
case ${1:-} in
  --node) node=${2:?} ;;
  '') node=$(command -v node) || die 'node is not on PATH' ;;
  *) die "there is no option $1" 'usage: scripts/package-deb.sh [--node FILE]' ;;
esac
node=$(realpath -e -- "$node")
for tool in dpkg-deb dpkg-shlibdeps strip gzip; do
  command -v $tool >/dev/null || die "$tool is not installed" 'apt-get install dpkg-dev binutils gzip'
done
[ -f dist/proxyvpn.cjs ] || die 'nothing is built' 'npm ci && npm run build'

version=$("$node" -p 'require("./package.json").version')-1
architecture=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME:-proxyvpn maintainers} <${DEBEMAIL:-maintainers@proxyvpn.invalid}>"
# The same source gives the same package.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y package.json)}
readonly version architecture maintainer
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
readonly tree=$work/tree doc=$work/tree/usr/share/doc/proxyvpn

add_documents() {
  mkdir -p "$doc"
  gzip -9n "$tree/usr/share/man/man1/proxyvpn.1"
  install -m 644 packaging/deb/README.Debian "$doc/"
  gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
  {
    printf 'proxyvpn (%s) unstable; urgency=medium\n\n  * See changelog.gz.\n\n' "$version"
    printf ' -- %s  %s\n' "$maintainer" "$(date -R -u -d "@$SOURCE_DATE_EPOCH")"
  } | gzip -9n >"$doc/changelog.Debian.gz"
  copyright >"$doc/copyright"
  add_node_licences
  install -D -m 644 packaging/deb/lintian-overrides "$tree/usr/share/lintian/overrides/proxyvpn"
}

# Whatever is in the package, with the words of its own licence.
copyright() {
  local licence
  printf 'proxyvpn\n========\n\n' && cat LICENSE
  for licence in node_modules/{commander,dns-packet,ipaddr.js,smol-toml,zod}/LICENSE; do
    printf '\n\n%s, in /usr/bin/proxyvpn\n========\n\n' "$(basename "$(dirname "$licence")")" && cat "$licence"
  done
  printf '\n\nlwIP, in /usr/bin/proxyvpn\n========\n\n' && cat .deps/lwip/COPYING
  cat <<TEXT


Node.js, /usr/lib/proxyvpn/node
========

Node.js $("$node" -p process.version) as its project distributes it, https://nodejs.org/dist/. Copyright Node.js
contributors; MIT licence, the same words as above. The licences of what it is built from are in node-licences.txt.gz
here if the build had them, else in the file LICENSE of its source,
https://github.com/nodejs/node/blob/$("$node" -p process.version)/LICENSE
TEXT
}

# Beside the binary in node's archive, or where distributions put it.
add_node_licences() {
  local licences
  for licences in "$(dirname "$node")"/../{LICENSE,share/doc/nodejs/LICENSE,share/doc/node/LICENSE}; do
    [ -f "$licences" ] || continue
    gzip -9nc "$licences" >"$doc/node-licences.txt.gz"
    return
  done
}

# The shared libraries that the three binaries need, as packages.
library_packages() {
  local space=$work/shlibs
  mkdir -p "$space/debian"
  printf 'Source: proxyvpn\n\nPackage: proxyvpn\nArchitecture: any\n' >"$space/debian/control"
  (cd "$space" && dpkg-shlibdeps -O -e"$tree/usr/lib/proxyvpn/node" -e"$tree/usr/bin/proxyvpn" -e"$work/addon") |
    sed -n 's/^shlibs:Depends=//p'
}

add_control() {
  local control=$tree/DEBIAN script
  mkdir "$control"
  for script in postinst prerm postrm; do install -m 755 packaging/deb/$script "$control/"; done
  (cd "$tree" && find usr etc -type f -exec md5sum {} + | sort -k 2) >"$control/md5sums"
  cp build/Release/proxyvpn.node "$work/addon"
  cat >"$control/control" <<TEXT
Package: proxyvpn
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -sk --apparent-size "$tree" | cut -f 1)
Depends: $(library_packages), adduser, libcap2-bin, libnftables1
Recommends: iproute2, nftables
Suggests: curl
Section: net
Priority: optional
Description: every program of a host through an HTTP CONNECT proxy
 A TUN device takes the TCP of the whole host, a userspace TCP stack ends it,
 and each connection goes out through an HTTP proxy by CONNECT. No program
 needs to know of the proxy. With the killswitch nothing leaves any other way,
 also after a crash.
 .
 Carries its own Node.js, which nothing else uses.
TEXT
}

run scripts/stage.sh "$tree" /usr "$node" --bundle
run strip --strip-unneeded "$tree/usr/lib/proxyvpn/node"
# Debian's place for them.
mkdir "$tree/usr/share/zsh/vendor-completions"
mv "$tree/usr/share/zsh/site-functions/_proxyvpn" "$tree/usr/share/zsh/vendor-completions/"
rmdir "$tree/usr/share/zsh/site-functions"
mkdir -p "$tree/etc/proxyvpn"
add_documents
add_control
readonly package=dist/proxyvpn_${version}_$architecture.deb
# Most of it is node: higher levels take minutes for a few per cent.
export DPKG_DEB_COMPRESSOR_LEVEL=${DPKG_DEB_COMPRESSOR_LEVEL:-2}
run dpkg-deb --root-owner-group -Zxz --build "$tree" "$package"
say "$package"
