/** A throw-away copy of this machine, into which the tests install: an overlay over `/`, left by chroot. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { type Ran, run } from './process.ts';
import { refuseOnHost } from './topology.ts';

const ROOT = path.join(import.meta.dirname, '..', '..');
/** What installing needs of a built checkout. */
const PARTS = [
  ...['scripts', 'packaging', 'native/launcher', 'dist/proxyvpn.cjs', 'build/Release/proxyvpn.node', 'package.json'],
  ...['LICENSE', 'CHANGELOG.md', '.deps/lwip/COPYING'],
  ...['commander', 'dns-packet', 'ipaddr.js', 'smol-toml', 'zod'].map((name) => `node_modules/${name}/LICENSE`),
];
const TIMEOUT_MS = 240_000;

/** Words for the scripts: `files` lists what is installed on the machine, `as_user` is somebody without rights. */
const PRELUDE = `
set -euo pipefail
cd /checkout
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
files() { find /etc /opt /usr -xdev ! -path '/etc/*-' | sort; }
as_user() { setpriv --reuid 64123 --regid 64123 --clear-groups env -i "$@"; }
`;

const SET_UP = `
set -euo pipefail
work=$1 owner=$2 script=$3
mount -t tmpfs -o mode=755 tmpfs "$work"
mkdir "$work"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
for directory in proc dev sys; do mount --rbind "/$directory" "$work/root/$directory"; done
mount -t tmpfs -o mode=755 tmpfs "$work/root/run"
mkdir "$work/root/checkout"
shift 3
tar -C '${ROOT}' -cf - "$@" | tar -C "$work/root/checkout" --no-same-owner -xf -
chown -R "$owner:$owner" "$work/root/checkout"
exec chroot "$work/root" /bin/bash -c "$script"
`;

/**
 * Runs a bash script as root in a fresh copy of the machine; it begins in a built checkout that belongs to `owner`.
 * The copy is gone when the script ends.
 */
export async function onMachine(script: string, owner = 0): Promise<Ran> {
  refuseOnHost();
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pvt-machine-'));
  try {
    const argv = [
      'unshare',
      '--mount',
      'bash',
      '-c',
      SET_UP,
      'bash',
      directory,
      `${owner}`,
      PRELUDE + script,
      ...PARTS,
    ];
    return await run(argv, { timeoutMs: TIMEOUT_MS });
  } finally {
    fs.rmdirSync(directory);
  }
}
