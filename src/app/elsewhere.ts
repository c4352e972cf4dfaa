/**
 * Tunnels that other users of this host run. Their state is in directories that only they can read, and the kernel tells
 * nobody's name, so: root finds them by their directories and acts as their owner, never on files of theirs as root;
 * others are told who it is.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { EXIT, type ExitCode, isSystemCallFailure, ProxyVpnError } from '../errors.ts';
import { type Environment, type StateDirectory, stateDirectory } from '../state/directory.ts';
import { uidIn } from './config-sources.ts';
import { selfCommand } from './self-command.ts';

/** Where packaging/systemd has its state: made by the service manager, for the service's user. */
export const SERVICE_ROOT = '/run/proxyvpn-service';

export interface OtherTunnel {
  /** Its state root. */
  readonly root: string;
  readonly uid: number;
  readonly gid: number;
}

/** Directories that may be state roots of others. @param run `/run`, or another in tests */
function otherRoots(own: string, run: string): readonly string[] {
  const users = namesIn(path.join(run, 'user')).map((uid) => path.join(run, 'user', uid, 'proxyvpn'));
  return [path.join(run, path.basename(SERVICE_ROOT)), ...users].filter((root) => root !== own);
}

function namesIn(directory: string): readonly string[] {
  try {
    return fs.readdirSync(directory);
  } catch (cause) {
    if (isSystemCallFailure(cause)) return [];
    throw cause;
  }
}

/** Whether somebody has (or left) a tunnel there. Nothing is opened: it may be anything. */
function hasTunnel({ journalFile, lockFile }: StateDirectory): boolean {
  return [journalFile, lockFile].some((file) => fs.lstatSync(file, { throwIfNoEntry: false })?.isFile() === true);
}

/** Tunnels of this name of other users, as far as this user may look: all of them for root. */
export function tunnelsElsewhere(own: StateDirectory, run = '/run'): readonly OtherTunnel[] {
  return otherRoots(own.root.path, run).flatMap((root) => {
    try {
      if (!hasTunnel(stateDirectory(own.name, { path: root, isOurs: false }))) return [];
      const { uid, gid } = fs.lstatSync(root);
      return [{ root, uid, gid }];
    } catch (cause) {
      if (isSystemCallFailure(cause)) return [];
      throw cause;
    }
  });
}

/**
 * For root's `down`, `status` and `killswitch`: when root has no tunnel of this name, but one other user has, the same
 * command runs as that user, with that user's rights alone. The service's gets CAP_NET_ADMIN besides: its directory
 * is made by root.
 * @param words the command line behind the program's name
 * @returns undefined when it is root's own matter
 * @throws ProxyVpnError E_TUNNEL_ELSEWHERE (exit code 4) when several users have one
 */
export function runElsewhere(
  own: StateDirectory,
  words: readonly string[],
  environment: Environment = process.env,
): ExitCode | undefined {
  if (process.geteuid?.() !== 0 || environment['PROXYVPN_STATE_DIR'] || hasTunnel(own)) return undefined;
  const [first, ...more] = tunnelsElsewhere(own);
  if (first === undefined) return undefined;
  if (more.length > 0) {
    const whose = [first, ...more].map(({ uid }) => userName(uid)).join(', ');
    throw new ProxyVpnError('E_TUNNEL_ELSEWHERE', `several users have a tunnel ${own.name}: ${whose}`, {
      hint: `choose one: PROXYVPN_STATE_DIR=${first.root} proxyvpn ..., as its user`,
      exitCode: EXIT.wrongState,
    });
  }
  return runAs(first, words);
}

function runAs({ root, uid, gid }: OtherTunnel, words: readonly string[]): ExitCode {
  const capability = root === SERVICE_ROOT ? ['--inh-caps=+net_admin', '--ambient-caps=+net_admin'] : [];
  const groups = userNameOrUndefined(uid) === undefined ? '--clear-groups' : '--init-groups';
  const who = [`--reuid=${uid}`, `--regid=${gid}`, groups, ...capability];
  const ran = spawnSync('/usr/bin/setpriv', [...who, '--', ...selfCommand(...words)], {
    stdio: 'inherit',
    env: { ...process.env, PROXYVPN_STATE_DIR: root },
  });
  if (ran.error) {
    const message = `cannot act as ${userName(uid)}: ${ran.error.message}`;
    throw new ProxyVpnError('E_TUNNEL_ELSEWHERE', message, { hint: 'run it as that user', cause: ran.error });
  }
  const code = Object.values(EXIT).find((known) => known === ran.status);
  return code ?? EXIT.failed;
}

function userNameOrUndefined(uid: number): string | undefined {
  const names = fs.readFileSync('/etc/passwd', 'utf8').split('\n');
  return names.map((line) => line.split(':', 1)[0] ?? '').find((name) => uidIn(names.join('\n'), name) === uid);
}

/** `alice (uid 1000)`. */
function userName(uid: number): string {
  const name = userNameOrUndefined(uid);
  return name === undefined ? `uid ${uid}` : `${name} (uid ${uid})`;
}

/** Who else runs daemons of this program here, by what every user may see: for messages, not for decisions. */
function otherDaemons(): readonly string[] {
  const own = process.geteuid?.() ?? 0;
  const found = namesIn('/proc').flatMap((pid) => {
    if (!/^\d+$/.test(pid)) return [];
    try {
      const words = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      const isDaemon = words.includes('__daemon') || (words.includes('up') && words.includes('--foreground'));
      if (!isDaemon) return [];
      const uid = Number(/^Uid:\s+\d+\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]);
      return uid === own ? [] : [`${userName(uid)}, process ${pid}`];
    } catch {
      return []; // It ended meanwhile, or is hidden from us.
    }
  });
  return found;
}

/** Whether somebody else runs a daemon of this program here; not seen where /proc hides it. */
export function hasOtherDaemons(): boolean {
  return otherDaemons().length > 0;
}

/** @param what names what is there, as a sentence's beginning: `the device pvpn0 exists` */
export function elsewhereError(what: string, name: string): ProxyVpnError {
  const who = otherDaemons();
  const whose = who.length === 0 ? 'of another user, or left by one' : `perhaps of ${who.join('; ')}`;
  const named = name === 'default' ? '' : ` --name ${name}`;
  return new ProxyVpnError('E_TUNNEL_ELSEWHERE', `${what}, and is no tunnel of yours: it is ${whose}`, {
    hint: `its owner or root ends it: sudo proxyvpn down${named}; if nobody runs it: proxyvpn down --force${named}`,
    exitCode: EXIT.wrongState,
  });
}
