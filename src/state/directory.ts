/** Where the state of each tunnel lives, and the names tunnels may have. */
import fs from 'node:fs';
import path from 'node:path';
import { EXIT, isSystemCallFailure, ProxyVpnError } from '../errors.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

export interface StateRoot {
  readonly path: string;
  /** Made by us, so removed by us when the last tunnel is gone; a directory from PROXYVPN_STATE_DIR stays. */
  readonly isOurs: boolean;
}

export interface StateDirectory {
  readonly root: StateRoot;
  readonly name: string;
  readonly path: string;
  readonly lockFile: string;
  readonly journalFile: string;
}

/** The name is a part of file names, of the nftables table and of log lines. */
const NAME = /^[A-Za-z0-9_-]{1,32}$/;

/** @throws ProxyVpnError E_NAME (exit code 2) */
export function parseTunnelName(text: string): string {
  if (NAME.test(text)) return text;
  // Not repeated: misplaced arguments may be proxy URLs with a password.
  throw new ProxyVpnError('E_NAME', 'not a tunnel name', {
    hint: 'use 1 to 32 letters, digits, _ and -',
    exitCode: EXIT.usage,
  });
}

/**
 * `PROXYVPN_STATE_DIR` if set; as root `/run/proxyvpn`; else `$XDG_RUNTIME_DIR/proxyvpn`, where a missing variable
 * means `/run/user/UID` (file-hierarchy(7)). All are empty after a reboot, as are the kernel's own tables.
 * @param uid effective
 * @throws ProxyVpnError E_STATE_DIR
 */
export function stateRoot(
  environment: Environment = process.env,
  uid: number = process.geteuid?.() ?? 0,
  isDirectory: (path: string) => boolean = (candidate) => fs.existsSync(candidate),
): StateRoot {
  const given = environment['PROXYVPN_STATE_DIR'];
  if (given !== undefined && given !== '') {
    if (!path.isAbsolute(given)) throw badDirectory('PROXYVPN_STATE_DIR', 'is not an absolute path');
    return { path: path.normalize(given), isOurs: false };
  }
  if (uid === 0) return { path: '/run/proxyvpn', isOurs: true };
  const runtime = environment['XDG_RUNTIME_DIR'];
  // XDG Base Directory Specification: relative paths are to be ignored.
  const base = runtime !== undefined && path.isAbsolute(runtime) ? runtime : `/run/user/${uid}`;
  if (!isDirectory(base)) throw badDirectory(base, 'does not exist');
  return { path: path.join(base, 'proxyvpn'), isOurs: true };
}

/** The paths of one tunnel; touches nothing. @throws ProxyVpnError E_NAME */
export function stateDirectory(name: string, root: StateRoot): StateDirectory {
  const directory = path.join(root.path, parseTunnelName(name));
  return {
    root,
    name,
    path: directory,
    lockFile: path.join(directory, 'lock'),
    journalFile: path.join(directory, 'journal'),
  };
}

/**
 * Makes the directory (0700) where it is missing, and checks that nobody else can write there: who can
 * plant a journal decides what `down` does.
 * @throws ProxyVpnError E_STATE_DIR
 */
export function createStateDirectory(directory: StateDirectory, uid: number = process.geteuid?.() ?? 0): void {
  for (const part of [directory.root.path, directory.path]) {
    try {
      fs.mkdirSync(part, { recursive: true, mode: 0o700 });
    } catch (cause) {
      if (isSystemCallFailure(cause)) throw badDirectory(part, `cannot be made: ${cause.code}`, cause);
      throw cause;
    }
    const stat = fs.lstatSync(part);
    if (!stat.isDirectory()) throw badDirectory(part, 'is not a directory');
    if (stat.uid !== uid) throw badDirectory(part, `belongs to uid ${stat.uid}, not to ${uid}`);
    if (stat.mode & 0o022) throw badDirectory(part, `is writable by others (mode ${(stat.mode & 0o7777).toString(8)})`);
  }
}

/** Removes the directory when it is empty, and the root likewise when it is ours. What is not empty stays. */
export function removeStateDirectory(directory: StateDirectory): void {
  for (const part of directory.root.isOurs ? [directory.path, directory.root.path] : [directory.path]) {
    try {
      fs.rmdirSync(part);
    } catch (cause) {
      // A systemd RuntimeDirectory= may be a mount point (EBUSY) or lie in a directory we may not write to.
      const kept = ['ENOENT', 'ENOTEMPTY', 'EEXIST', 'EBUSY', 'EACCES', 'EPERM', 'EROFS'];
      if (!isSystemCallFailure(cause) || !kept.includes(cause.code)) throw cause;
    }
  }
}

/** Names of all tunnels that have a state directory, sorted. */
export function tunnelNames(root: StateRoot): string[] {
  try {
    const found = fs.readdirSync(root.path, { withFileTypes: true });
    return found
      .filter((entry) => entry.isDirectory() && NAME.test(entry.name))
      .map((entry) => entry.name)
      .sort();
  } catch (cause) {
    if (isSystemCallFailure(cause) && cause.code === 'ENOENT') return [];
    if (isSystemCallFailure(cause)) throw badDirectory(root.path, `cannot be read: ${cause.code}`, cause);
    throw cause;
  }
}

function badDirectory(what: string, why: string, cause?: unknown): ProxyVpnError {
  return new ProxyVpnError('E_STATE_DIR', `state directory: ${what} ${why}`, {
    hint: 'set PROXYVPN_STATE_DIR to a directory that only you can write to',
    cause,
  });
}
