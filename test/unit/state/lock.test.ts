import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { acquireLock, isEnding, lockOwner, processStartTicks, startTicksOf } from '../../../src/state/lock.ts';
import { temporaryDirectory } from './temporary-directory.ts';

/** The real flock(2): a lock belongs to the open file, which flock(1) shares with us. */
function flock(fd: number): boolean {
  return spawnSync('flock', ['-n', '-x', '3'], { stdio: ['ignore', 'ignore', 'inherit', fd] }).status === 0;
}

const lockFile = () => path.join(temporaryDirectory(), 'lock');

describe('the lock', () => {
  it('is held by one, named to others, and free after release', () => {
    const file = lockFile();
    const lock = acquireLock(file, 'tunnel default', flock);
    expect(lockOwner(file)).toMatchObject({ pid: process.pid });
    expect(() => acquireLock(file, 'tunnel default', flock)).toThrow(
      expect.objectContaining({
        code: 'E_LOCKED',
        exitCode: 4,
        message: `tunnel default is held by process ${process.pid}`,
      }),
    );
    lock.release();
    lock.release();
    expect([fs.existsSync(file), lockOwner(file)]).toEqual([false, undefined]);
    acquireLock(file, 'tunnel default', flock).release();
  });

  it('is taken over from a process that was killed', async () => {
    const file = lockFile();
    const holder = spawn('flock', ['-x', file, 'sh', '-c', 'echo held; exec sleep 600'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    await once(holder.stdout, 'data');
    expect(() => acquireLock(file, 'tunnel default', flock)).toThrow(/held by another process/);
    // flock(1) and its child share the lock: end both.
    const child = fs.readFileSync(`/proc/${holder.pid}/task/${holder.pid}/children`, 'utf8').trim();
    process.kill(Number(child), 'SIGKILL');
    holder.kill('SIGKILL');
    await once(holder, 'close');
    const lock = acquireLock(file, 'tunnel default', flock);
    expect(lockOwner(file)?.pid).toBe(process.pid);
    lock.release();
  });

  it.each(['', 'garbage', '{"pid":-1}', '{"pid":1,"startTicks":0,"bootId":"x"}', '\0'.repeat(99)])(
    'is taken over from a stale file that holds %j',
    (content) => {
      const file = lockFile();
      fs.writeFileSync(file, content);
      expect(lockOwner(file)).toBeUndefined();
      const lock = acquireLock(file, 'tunnel default', flock);
      expect(lockOwner(file)?.pid).toBe(process.pid);
      lock.release();
    },
  );

  it('is not mistaken when its owner unlinks the file between open and flock', () => {
    const file = lockFile();
    const first = acquireLock(file, 'tunnel default', flock);
    let calls = 0;
    const second = acquireLock(file, 'tunnel default', (fd) => {
      if (calls++ === 0) first.release();
      return flock(fd);
    });
    expect(calls).toBe(2);
    expect(() => acquireLock(file, 'tunnel default', flock)).toThrow(expect.objectContaining({ code: 'E_LOCKED' }));
    second.release();
  });

  it('release leaves a file alone that somebody else put in its place', () => {
    const file = lockFile();
    const lock = acquireLock(file, 'tunnel default', flock);
    fs.rmSync(file);
    fs.writeFileSync(file, 'other');
    lock.release();
    expect(fs.readFileSync(file, 'utf8')).toBe('other');
  });

  it('does not follow a symbolic link, and says when the directory is missing', () => {
    const directory = temporaryDirectory();
    fs.writeFileSync(path.join(directory, 'target'), 'precious');
    fs.symlinkSync('target', path.join(directory, 'lock'));
    const write = expect.objectContaining({ code: 'E_STATE_WRITE' });
    expect(() => acquireLock(path.join(directory, 'lock'), 'x', flock)).toThrow(write);
    expect(() => acquireLock(path.join(directory, 'absent', 'lock'), 'x', flock)).toThrow(write);
    expect(fs.readFileSync(path.join(directory, 'target'), 'utf8')).toBe('precious');
  });

  it('names no owner whose pid has been given to another process', () => {
    const file = lockFile();
    const lock = acquireLock(file, 'x', flock);
    const owner = JSON.parse(fs.readFileSync(file, 'utf8'));
    fs.writeFileSync(file, JSON.stringify({ ...owner, startTicks: owner.startTicks - 1 }));
    expect(lockOwner(file)).toBeUndefined();
    fs.writeFileSync(file, JSON.stringify({ ...owner, bootId: 'another' }));
    expect(lockOwner(file)).toBeUndefined();
    lock.release();
  });
});

describe('the start time of a process', () => {
  it('is field 22, whatever the command is called', () => {
    const rest = Array.from({ length: 50 }, (_, index) => String(index + 3)).join(' ');
    for (const name of ['node', 'a b', ') R 1', '((', '']) {
      expect(startTicksOf(`7 (${name}) ${rest}`)).toBe(22);
    }
    for (const bad of ['', ')', '7 (x) S 1 2', '7 (x']) expect(startTicksOf(bad)).toBeUndefined();
  });

  it('is known of this process and of none that does not exist', () => {
    expect(processStartTicks(process.pid)).toBeGreaterThan(0);
    expect(processStartTicks(2 ** 22 + 1)).toBeUndefined();
  });
});

describe('an owner that is ending', () => {
  const status = (state: string, pending: string, shared: string) =>
    `Name:\tnode\nState:\t${state}\nSigQ:\t0/1\nSigPnd:\t${pending}\nShdPnd:\t${shared}\nSigBlk:\t0000000000000100\n`;
  const NONE = '0000000000000000';
  const SIGKILL = '0000000000000100';

  it('is a zombie, or has a SIGKILL coming', () => {
    expect(isEnding(status('Z (zombie)', NONE, NONE))).toBe(true);
    expect(isEnding(status('S (sleeping)', SIGKILL, NONE))).toBe(true);
    expect(isEnding(status('R (running)', NONE, SIGKILL))).toBe(true);
    expect(isEnding(status('S (sleeping)', NONE, '0000000000004000'))).toBe(false);
  });
});
