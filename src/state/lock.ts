/**
 * One owner per tunnel: flock(2) decides who it is, the file's content only tells others.
 *
 * The kernel drops the lock with the process, so nothing is ever stale. `release` unlinks the file while it
 * still holds the lock; whoever opened the old inode meanwhile notices that the path leads elsewhere and opens again.
 */
import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { EXIT, isSystemCallFailure, ProxyVpnError } from '../errors.ts';
import { native } from '../native.ts';
import { writeFailure } from './atomic-file.ts';

const ownerSchema = z.object({
  pid: z.number().int().positive(),
  /** Field 22 of /proc/PID/stat, clock ticks after boot: tells a process from a later one with the same pid. */
  startTicks: z.number().int().nonnegative(),
  /** /proc/sys/kernel/random/boot_id: ticks of another boot mean nothing. */
  bootId: z.string(),
});
export type LockOwner = Readonly<z.infer<typeof ownerSchema>>;

/** flock(2) LOCK_EX|LOCK_NB on a descriptor; false when another holds it. */
export type Flock = (fd: number) => boolean;

export interface Lock {
  readonly file: string;
  /** Removes the file and lets the next one in. Idempotent. */
  release(): void;
}

/**
 * Takes the lock or fails at once. It ends with `release` or with the process, however that ends.
 * @param what who is locked, for the message: `tunnel default`
 * @throws ProxyVpnError E_LOCKED (exit code 4), E_STATE_WRITE
 */
export function acquireLock(file: string, what: string, flock: Flock = (fd) => native().flockExclusive(fd)): Lock {
  for (;;) {
    const fd = openLockFile(file);
    try {
      if (!flock(fd)) throw heldByAnother(file, what);
      if (leadsTo(file, fd)) {
        describeOwner(file, fd);
        return heldLock(file, fd);
      }
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
    fs.closeSync(fd); // The last owner unlinked it between our open and our flock.
  }
}

const DYING_POLL_MS = 20;
const DYING_PATIENCE_MS = 5000;

/**
 * Like `acquireLock`, but an owner that was killed and has not quite ended is waited for: `up` right after SIGKILL
 * is no second tunnel.
 * @throws ProxyVpnError E_LOCKED (exit code 4), E_STATE_WRITE
 */
export async function acquireLockSoon(file: string, what: string): Promise<Lock> {
  for (let waitedMs = 0; ; waitedMs += DYING_POLL_MS) {
    try {
      return acquireLock(file, what);
    } catch (error) {
      const isLocked = error instanceof ProxyVpnError && error.code === 'E_LOCKED';
      if (!isLocked || waitedMs >= DYING_PATIENCE_MS || !isOwnerEnding(file)) throw error;
    }
    await delay(DYING_POLL_MS);
  }
}

/** Whether the process that wrote the lock file is gone, a zombie, or has a SIGKILL coming. */
function isOwnerEnding(file: string): boolean {
  try {
    const { pid } = ownerSchema.parse(JSON.parse(fs.readFileSync(file, 'utf8')));
    return isEnding(fs.readFileSync(`/proc/${pid}/status`, 'latin1'));
  } catch {
    return true; // No file, or no process: whoever it was has ended, or is about to write its name.
  }
}

/** @param status content of /proc/PID/status, proc(5) */
export function isEnding(status: string): boolean {
  const isZombie = /^State:\s+[ZX]/m.test(status);
  const pending = [...status.matchAll(/^(?:SigPnd|ShdPnd):\s+([0-9a-f]+)$/gm)].map(([, mask]) => BigInt(`0x${mask}`));
  const SIGKILL_BIT = 1n << 8n;
  return isZombie || pending.some((mask) => (mask & SIGKILL_BIT) !== 0n);
}

/**
 * Who wrote the lock file, if that very process still lives; undefined otherwise. Takes no lock,
 * so it never gets in the way of an `up`.
 */
export function lockOwner(file: string): LockOwner | undefined {
  let owner: LockOwner;
  try {
    owner = ownerSchema.parse(JSON.parse(fs.readFileSync(file, 'utf8')));
  } catch {
    return undefined; // Absent, being written, or not ours: no owner to name.
  }
  const isAlive = owner.bootId === bootId() && owner.startTicks === processStartTicks(owner.pid);
  return isAlive ? owner : undefined;
}

/** Start time in clock ticks after boot, proc(5) field 22; undefined when there is no such process, or a zombie. */
export function processStartTicks(pid: number): number | undefined {
  try {
    return startTicksOf(fs.readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return undefined;
  }
}

/** @param stat content of /proc/PID/stat; the command name (field 2) may hold spaces and parentheses */
export function startTicksOf(stat: string): number | undefined {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  // A zombie whose threads are gone too (num_threads, field 20) holds nothing any more; a container's pid 1 may
  // never reap it.
  if ((fields[0] === 'Z' || fields[0] === 'X') && Number(fields[20 - 3]) <= 1) return undefined;
  const ticks = fields[22 - 3]; // The first one here is field 3.
  return ticks !== undefined && /^\d+$/.test(ticks) ? Number(ticks) : undefined;
}

function bootId(): string {
  return fs.readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}

function openLockFile(file: string): number {
  const { O_RDWR, O_CREAT, O_NOFOLLOW } = fs.constants;
  try {
    return fs.openSync(file, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
  } catch (cause) {
    throw writeFailure(file, cause);
  }
}

function leadsTo(file: string, fd: number): boolean {
  const ours = fs.fstatSync(fd);
  try {
    const theirs = fs.lstatSync(file);
    return ours.ino === theirs.ino && ours.dev === theirs.dev;
  } catch (cause) {
    if (isSystemCallFailure(cause) && cause.code === 'ENOENT') return false;
    throw cause;
  }
}

function describeOwner(file: string, fd: number): void {
  const owner: LockOwner = { pid: process.pid, startTicks: processStartTicks(process.pid) ?? 0, bootId: bootId() };
  try {
    fs.ftruncateSync(fd);
    fs.writeSync(fd, `${JSON.stringify(owner)}\n`, 0);
  } catch (cause) {
    throw writeFailure(file, cause);
  }
}

function heldLock(file: string, fd: number): Lock {
  let isHeld = true;
  return {
    file,
    release() {
      if (!isHeld) return;
      isHeld = false;
      if (leadsTo(file, fd)) fs.unlinkSync(file);
      fs.closeSync(fd);
    },
  };
}

function heldByAnother(file: string, what: string): ProxyVpnError {
  const owner = lockOwner(file);
  const who = owner === undefined ? 'another process' : `process ${owner.pid}`;
  return new ProxyVpnError('E_LOCKED', `${what} is held by ${who}`, {
    hint: 'see: proxyvpn status; end it with: proxyvpn down; or choose another --name',
    exitCode: EXIT.wrongState,
  });
}
