/** Reads what `configOf` asks for from this host. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import type { ConfigSources } from './config.ts';

/** The environment of this process, its files, and the user database. */
export function hostSources(): ConfigSources {
  return {
    environment: process.env,
    readTextFile: (path) => fs.readFileSync(path, 'utf8'),
    uidOf: (user) => uidIn(fs.readFileSync('/etc/passwd', 'utf8'), user) ?? uidFromNameService(user),
    processors: os.availableParallelism(),
  };
}

/** The uid of a user in passwd(5) text. */
export function uidIn(passwd: string, user: string): number | undefined {
  for (const line of passwd.split('\n')) {
    const [name, , uid] = line.split(':');
    if (name === user && uid !== undefined && /^\d{1,10}$/.test(uid)) return Number(uid);
  }
  return undefined;
}

/** Users of directory services are not in /etc/passwd; getent(1) asks as libc does. Slow, hence second. */
function uidFromNameService(user: string): number | undefined {
  const asked = spawnSync('/usr/bin/getent', ['passwd', '--', user], { encoding: 'utf8', timeout: 10_000 });
  return asked.status === 0 ? uidIn(asked.stdout, user) : undefined;
}
