# Sourced by setup.sh: which programs each group needs, how to see that one is there, and Debian's package of it.
# shellcheck shell=bash

# group | probe | package. A probe is the name of a program, or lib:NAME, python:MODULE, clang:RUNTIME.
PACKAGES='
build      | g++                    | g++
build      | make                   | make
build      | python:shlex           | python3
build      | xz                     | xz-utils
demo       | ip                     | iproute2
demo       | nft                    | nftables
demo       | lib:libnftables.so.1   | libnftables1
demo       | unshare                | util-linux
demo       | curl                   | curl
install    | setcap                 | libcap2-bin
install    | lib:libnftables.so.1   | libnftables1
native     | cmake                  | cmake
native     | ninja                  | ninja-build
native     | clang++                | clang
native     | clang:fuzzer           | libclang-rt-dev
privileged | iptables-restore       | iptables
privileged | ip6tables-restore      | iptables
privileged | setcap                 | libcap2-bin
privileged | dpkg-shlibdeps         | dpkg-dev
privileged | adduser                | adduser
privileged | lintian                | lintian
privileged | tinyproxy              | tinyproxy-bin
privileged | squid                  | squid
privileged | ssh                    | openssh-client
privileged | scp                    | openssh-client
privileged | sshd                   | openssh-server
privileged | git                    | git
privileged | nginx                  | nginx-light
privileged | openssl                | openssl
privileged | tcpdump                | tcpdump
privileged | python:requests        | python3-requests
privileged | dig                    | bind9-dnsutils
privileged | dnsmasq                | dnsmasq-base
privileged | unbound                | unbound
privileged | ps                     | procps
privileged | ping                   | iputils-ping
'

# The service that a package starts and enables, if it has one; the tests run the programs themselves.
service_of() {
  case $1 in
    squid | tinyproxy | unbound) echo "$1" ;;
    nginx-light) echo nginx ;;
    openssh-server) echo ssh ;;
  esac
}

is_present() {
  case $1 in
    lib:*) ldconfig -p | grep -F "${1#lib:}" >/dev/null ;;
    # The distribution's python, not one of the user's: it is what the package is for.
    python:*) /usr/bin/python3 -c "import ${1#python:}" 2>/dev/null ;;
    clang:*) [ -f "$(clang++ -print-file-name="libclang_rt.${1#clang:}-$(uname -m).a" 2>/dev/null)" ] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# missing_packages GROUP...: packages whose probe fails, each once.
missing_packages() {
  local group probe package
  while IFS='|' read -r group probe package; do
    read -r group probe package <<<"$group $probe $package"
    [[ -n $group && " $* " == *" $group "* ]] || continue
    is_present "$probe" || echo "$package"
  done <<<"$PACKAGES" | sort -u
}

# installable PACKAGE...: the names that this release of the distribution uses.
installable() {
  local package
  for package; do
    case $package in
      # Only the versioned package exists: the one of the version that `clang` stands for.
      libclang-rt-dev) echo "libclang-rt-$(clang_version)-dev" ;;
      tinyproxy-bin) apt-cache show tinyproxy-bin >/dev/null 2>&1 && echo tinyproxy-bin || echo tinyproxy ;;
      *) echo "$package" ;;
    esac
  done
}

clang_version() {
  if command -v clang++ >/dev/null; then
    clang++ -dumpversion | cut -d. -f1
  else
    apt-cache depends clang | sed -n 's/^ *Depends: clang-\([0-9]*\)$/\1/p' | head -n 1
  fi
}
