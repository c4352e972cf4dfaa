/** `killswitch on`, tunnels that come and go in it, and crashes at every step of them: something blocks all the time. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadStanding } from '../../../src/app/killswitch-command.ts';
import { pendingOf, standingEntry } from '../../../src/app/standing.ts';
import { isKillswitch, Tunnel } from '../../../src/app/tunnel.ts';
import { createStateDirectory, type StateDirectory, stateDirectory } from '../../../src/state/directory.ts';
import { FakeKernel } from './fake-kernel.ts';
import { configFor } from './sample.ts';

const MEMORY = fs.existsSync('/dev/shm') ? '/dev/shm' : os.tmpdir();
const never = new AbortController().signal;

let directory: StateDirectory;
let kernel = new FakeKernel();

beforeEach(() => {
  const root = { path: fs.mkdtempSync(path.join(MEMORY, 'standing-')), isOurs: false };
  directory = stateDirectory('default', root);
  createStateDirectory(directory);
  kernel = new FakeKernel();
});
afterEach(() => fs.rmSync(directory.root.path, { recursive: true }));

function tunnelWith(...argv: readonly string[]): Tunnel {
  const quiet = (): void => {};
  return new Tunnel({
    config: configFor(...argv),
    claimedSession: undefined,
    host: kernel.host(),
    directory,
    log: { error: quiet, warn: quiet, info: quiet, debug: quiet },
    warn: quiet,
    onEvent: quiet,
    onDnsProblem: quiet,
  });
}

const switchOn = (...argv: readonly string[]): Promise<void> =>
  loadStanding({ directory, config: configFor('--killswitch', ...argv), host: kernel.host(), warn: () => {} });
const isStanding = (): boolean => standingEntry(pendingOf(directory)) !== undefined;

/** From here on: nothing may be open after any event. */
function blockedFromHere(): () => void {
  const from = kernel.blocked.length;
  return () => expect(kernel.blocked.slice(from)).not.toContain(false);
}

test('it permits no proxy: there is no tunnel', async () => {
  await switchOn();
  expect(kernel.table).toMatchObject({ killswitch: true, proxies: [] });
  expect(kernel.table?.names).toBeUndefined();
  expect(isStanding()).toBe(true);
});

test('a tunnel replaces it and returns to it, and nothing is open in between', async () => {
  await switchOn('--lan', 'allow');
  const stood = JSON.stringify(kernel.table);
  const check = blockedFromHere();
  for (let round = 0; round < 2; round++) {
    const tunnel = tunnelWith('--killswitch');
    await tunnel.bringUp(never);
    expect(kernel.table?.proxies).toHaveLength(1);
    expect((await tunnel.takeDown()).failed).toEqual([]);
    expect(JSON.stringify(kernel.table)).toBe(stood);
  }
  check();
  expect(kernel.lines.size).toBe(1);
  expect(pendingOf(directory)).toHaveLength(1);
});

test('a tunnel without killswitch does not open it', async () => {
  await switchOn();
  const check = blockedFromHere();
  await expect(tunnelWith().bringUp(never)).rejects.toMatchObject({ code: 'E_KILLSWITCH_ON', exitCode: 4 });
  check();
  expect(isStanding()).toBe(true);
});

test('a tunnel that breaks keeps its own, and the next one returns to what stood', async () => {
  await switchOn();
  const stood = JSON.stringify(kernel.table);
  const check = blockedFromHere();
  const broken = tunnelWith('--killswitch');
  await broken.bringUp(never);
  await broken.takeDown(isKillswitch);
  expect(kernel.table?.proxies).toHaveLength(1);
  const next = tunnelWith('--killswitch');
  await next.bringUp(never);
  await next.takeDown();
  check();
  expect(JSON.stringify(kernel.table)).toBe(stood);
});

test('switched on again, it is loaded anew, and one record is left', async () => {
  await switchOn();
  const check = blockedFromHere();
  await switchOn('--lan', 'allow');
  check();
  expect(kernel.table?.allowLan).toBe(true);
  expect(pendingOf(directory)).toHaveLength(1);
});

describe('killed at any change', () => {
  /** Kills at change k, for every k, what `life` does. */
  async function killedAtEvery(prepare: () => Promise<void>, life: () => Promise<unknown>): Promise<void> {
    for (let at = 0; ; at++) {
      kernel = new FakeKernel();
      fs.rmSync(directory.path, { recursive: true });
      createStateDirectory(directory);
      await prepare();
      const check = blockedFromHere();
      let isKilled = false;
      kernel.onChange = (count) => {
        if (count < at) return;
        isKilled = true;
        throw new Error('killed');
      };
      await life().catch(() => {});
      kernel.killDaemon();
      check();
      expect(kernel.table?.killswitch, `killed at ${at}`).toBe(true);
      expect(isStanding(), `killed at ${at}`).toBe(true);
      const next = tunnelWith('--killswitch');
      await next.bringUp(never);
      await next.takeDown();
      check();
      expect(isStanding()).toBe(true);
      expect(kernel.lines.size).toBe(1);
      if (!isKilled) return;
    }
  }

  test('of up and down', async () => {
    await killedAtEvery(switchOn, async () => {
      const tunnel = tunnelWith('--killswitch');
      await tunnel.bringUp(never);
      await tunnel.takeDown();
    });
  });

  test('of switching it on again', async () => {
    await killedAtEvery(switchOn, () => switchOn('--lan', 'allow'));
  });
});

test("a filter of this name that the journal does not know is somebody else's: neither replaced nor removed", async () => {
  await switchOn();
  const others = JSON.stringify(kernel.table);
  fs.rmSync(directory.path, { recursive: true });
  createStateDirectory(directory);
  await expect(tunnelWith('--killswitch').bringUp(never)).rejects.toMatchObject({ code: 'E_TUNNEL_ELSEWHERE' });
  await expect(switchOn()).rejects.toMatchObject({ code: 'E_TUNNEL_ELSEWHERE', exitCode: 4 });
  expect(JSON.stringify(kernel.table)).toBe(others);
});
