#!/usr/bin/env bash
# Boots systemd in a throw-away copy of this machine, with the product installed, and runs one script in it.
#
#   this namespace ── unshare (mount, pid, network, ipc, uts, cgroup) ── overlay over / ── systemd, process 1
#                                                                          └─ trial.service: the script
#
# Nothing but sysinit, basic and the trial is started; /proc/sys is read-only but for net; /dev is its own.
# Usage: boot.sh DIRECTORY SCRIPT CHECKOUT     DIRECTORY is empty; what the script prints goes to stdout
set -euo pipefail

boot() {
  local work=$1 script=$2 checkout=$3 root=$1/root unit
  mount -t tmpfs -o mode=755 tmpfs "$work"
  mkdir "$work"/{upper,work,root}
  mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  mount -t proc proc "$root/proc"
  make_devices "$root/dev"
  install_product "$root" "$checkout" >"$work/install.log" 2>&1 || { cat "$work/install.log" && exit 1; }
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount --bind "$root/proc/sys" "$root/proc/sys"
  mount -o remount,bind,ro "$root/proc/sys"
  mkdir "$work/proc"
  mount -t proc proc "$work/proc"
  mount --bind "$work/proc/sys/net" "$root/proc/sys/net"
  rm -rf "$root"/etc/systemd/system/*.wants "$root/etc/systemd/system/default.target" "$root/etc/resolv.conf"
  for unit in systemd-{sysctl,udevd,udev-trigger,modules-load,random-seed,binfmt,remount-fs,tmpfiles-setup}.service \
    systemd-{tmpfiles-setup-dev,sysusers,firstboot,machine-id-commit,update-utmp,pstore,journal-flush}.service \
    dev-hugepages.mount dev-mqueue.mount sys-{kernel-debug,kernel-tracing,kernel-config,fs-fuse-connections}.mount \
    proc-sys-fs-binfmt_misc.automount systemd-journald-audit.socket systemd-udevd-{control,kernel}.socket; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  : >"$root/etc/fstab"
  : >"$root/etc/resolv.conf"
  echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
  printf '%s\n' "$script" >"$root/trial.sh"
  cat >"$root/etc/systemd/system/trial.service" <<'UNIT'
[Unit]
After=basic.target network-pre.target proxyvpn-killswitch.service
[Service]
Type=oneshot
ExecStart=/bin/bash /trial.sh
StandardOutput=append:/trial.log
StandardError=append:/trial.log
TimeoutStartSec=90
ExecStopPost=/bin/systemctl --force --force poweroff
UNIT
  printf '[Unit]\nRequires=basic.target trial.service\nAfter=basic.target\n' >"$root/etc/systemd/system/trial.target"
  chroot "$root" systemctl --quiet enable proxyvpn-killswitch
  # 10.9.0.3 is an address that would be reached over the uplink: nobody answers there.
  ip link set lo up
  ip link add uplink type veth peer name outside
  ip addr add 10.9.0.1/24 dev uplink
  ip addr add 10.9.0.2/24 dev uplink
  ip link set outside up
  ip link set uplink up
  mkdir "$root/old"
  : >"$root/trial.log"
  mount --bind "$work.log" "$root/trial.log"
  cd "$root"
  pivot_root . old
  exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=trial.target --show-status=no --log-target=null </dev/null >/dev/null 2>&1
}

make_devices() {
  mount -t tmpfs -o mode=755 tmpfs "$1"
  mkdir "$1"/{net,pts,shm,mqueue}
  local name minor
  while read -r name minor; do mknod -m 666 "$1/$name" c 1 "$minor"; done <<<$'null 3\nzero 5\nfull 7\nrandom 8\nurandom 9'
  mknod -m 666 "$1/net/tun" c 10 200
  ln -s /proc/self/fd "$1/fd"
  for name in stdin:0 stdout:1 stderr:2; do ln -s "fd/${name#*:}" "$1/${name%:*}"; done
}

install_product() {
  mkdir "$1/checkout"
  tar -C "$2" -cf - scripts packaging native/launcher dist/proxyvpn.cjs build/Release/proxyvpn.node package.json LICENSE \
    CHANGELOG.md .deps/lwip/COPYING | tar -C "$1/checkout" --no-same-owner -xf -
  chown -R 0:0 "$1/checkout"
  chroot "$1" bash -c 'cd /checkout && ./scripts/install.sh --bundle-node'
}

if [ "$1" = --inside ]; then
  boot "${@:2}"
fi

# systemd needs a control group of its own, below wherever the second version of them is mounted.
cgroups=$(awk '$0 ~ / - cgroup2 / { print $5; exit }' /proc/self/mountinfo)
group=$cgroups/pvt-boot-$$
log=$1.log
mkdir "$group"
trap 'find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null; rm -f "$log"' EXIT
: >"$log"
bash -euo pipefail -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' bash "$group" \
  unshare --cgroup --mount --net --uts --ipc --pid --fork --kill-child bash "$0" --inside "$@" || true
cat "$log"
