import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isKillswitch, Tunnel } from '../../../src/app/tunnel.ts';
import { createStateDirectory, type StateDirectory, stateDirectory } from '../../../src/state/directory.ts';
import { FakeKernel, PROXY_REFUSES } from './fake-kernel.ts';
import { configFor } from './sample.ts';

/** Hundreds of fsync(2) on a disk would make a slow test. */
const MEMORY = fs.existsSync('/dev/shm') ? '/dev/shm' : os.tmpdir();

let directory: StateDirectory;
let kernel = new FakeKernel();
let start = '';
let warnings: string[] = [];
function freshDirectory(): StateDirectory {
  const root = { path: fs.mkdtempSync(path.join(MEMORY, 'tunnel-')), isOurs: false };
  const fresh = stateDirectory('default', root);
  createStateDirectory(fresh);
  return fresh;
}

beforeEach(() => {
  directory = freshDirectory();
  kernel = new FakeKernel();
  start = kernel.text;
  warnings = [];
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
    warn: (text) => warnings.push(text),
    onEvent: quiet,
    onDnsProblem: quiet,
  });
}

const never = new AbortController().signal;
/** But for the map of names, which stays for programs that keep addresses. */
const stateFiles = (): readonly string[] =>
  fs
    .readdirSync(directory.root.path, { recursive: true, encoding: 'utf8' })
    .filter((file) => !file.startsWith('.names-'));
/** How many changes a whole `up` makes on a fresh host, self-tests and engine included. */
async function changesOfUp(...argv: readonly string[]): Promise<number> {
  const [ours, oursToo] = [kernel, directory];
  kernel = new FakeKernel();
  directory = freshDirectory();
  let count = 0;
  kernel.onChange = () => count++;
  await tunnelWith(...argv).bringUp(never);
  fs.rmSync(directory.root.path, { recursive: true });
  [kernel, directory] = [ours, oursToo];
  return count;
}

test('up and down leave the host and the state directory as they were', async () => {
  const tunnel = tunnelWith('--killswitch');
  await tunnel.bringUp(never);
  expect(kernel.table?.killswitch).toBe(true);
  expect(stateFiles()).toEqual(expect.arrayContaining(['.slot-0', 'default/journal']));
  expect(await tunnel.takeDown()).toMatchObject({ foreign: [], failed: [] });
  expect(kernel.text).toBe(start);
  expect(stateFiles()).toEqual(['default']);
});

test('the proxy is asked before anything changes; what diverts comes after the engine, the self-test last', async () => {
  await tunnelWith('--killswitch').bringUp(never);
  expect(kernel.events[0]).toBe('probe');
  expect(kernel.events[1]).toBe('load killswitch');
  const firstRule = kernel.events.findIndex((event) => event.includes('rule add'));
  expect(kernel.events.indexOf('engine')).toBeLessThan(firstRule);
  expect(kernel.events.slice(-2)).toEqual(['self-test', 'self-test of DNS']);
});

test('the engine gets the limits and times of the configuration', async () => {
  await tunnelWith(
    ...['--memory', '31', '--max-flows', '1234', '--predial', '5'],
    ...['--keepalive', '17', '--idle-timeout', '1811', '--connect-timeout', '7'],
  ).bringUp(never);
  expect(kernel.engineOptions).toMatchObject({
    memoryBytes: 31 << 20,
    maxFlows: 1234,
    maxPendingFlows: 1234,
    predial: 5,
    keepaliveMs: 17_000,
    idleTimeoutMs: 1_811_000,
    connectTimeoutMs: 7_000,
  });
});

test('of many flows no more than 4096 wait for the proxy at a time', async () => {
  await tunnelWith('--max-flows', '65536').bringUp(never);
  expect(kernel.engineOptions).toMatchObject({ maxFlows: 65_536, maxPendingFlows: 4096 });
});

test('flows end before what routes them', async () => {
  const tunnel = tunnelWith();
  await tunnel.bringUp(never);
  kernel.events.length = 0;
  await tunnel.takeDown();
  expect(kernel.events[0]).toBe('engine stopped');
  expect(kernel.events[1]).toContain('undo ip -6 rule add priority 5206');
});

describe.each([['--killswitch'], ['--lan=allow']])('up %s that fails', (flag) => {
  test('at any step restores the host and forgets it was there', async () => {
    const changes = await changesOfUp(flag);
    expect(changes).toBeGreaterThan(12);
    for (let k = 0; k < changes; k++) {
      kernel.onChange = (count) => {
        if (count === k) throw new Error(`refused ${k}`);
      };
      await expect(tunnelWith(flag).bringUp(never)).rejects.toThrow(`refused ${k}`);
      expect(kernel.text).toBe(start);
      expect(stateFiles()).toEqual(['default']);
    }
  });

  test('for want of a proxy has changed nothing', async () => {
    kernel.probeResult = PROXY_REFUSES;
    await expect(tunnelWith(flag).bringUp(never)).rejects.toMatchObject({ code: 'E_PROXY_UNREACHABLE' });
    expect(kernel.events).toEqual(['probe']);
    expect(stateFiles()).toEqual(['default']);
  });
});

test('an interrupted up restores the host', async () => {
  const abort = new AbortController();
  kernel.onChange = (count) => {
    if (count === 5) abort.abort(new Error('interrupted'));
  };
  await expect(tunnelWith('--killswitch').bringUp(abort.signal)).rejects.toThrow('interrupted');
  expect(kernel.text).toBe(start);
});

test('a way back that fails as well is told, and stays in the journal', async () => {
  kernel.onChange = (count) => {
    if (count === 6) throw new Error('refused');
    if (count === 7) throw new Error('stuck');
  };
  await expect(tunnelWith('--killswitch').bringUp(never)).rejects.toThrow(
    /refused.*could not be fully restored.*stuck/,
  );
  expect(stateFiles()).toContain('default/journal');
});

describe('a daemon that broke', () => {
  test('leaves the killswitch, and only that', async () => {
    const tunnel = tunnelWith('--killswitch');
    await tunnel.bringUp(never);
    await tunnel.takeDown(isKillswitch);
    expect(kernel.table?.killswitch).toBe(true);
    expect([...kernel.lines]).toEqual(['route of somebody else']);
    expect(kernel.blocked.slice(1)).not.toContain(false);
  });

  test('leaves nothing without one', async () => {
    const tunnel = tunnelWith();
    await tunnel.bringUp(never);
    await tunnel.takeDown(isKillswitch);
    expect(kernel.text).toBe(start);
  });
});

describe('after a crash with the killswitch on', () => {
  let standing: string;
  beforeEach(async () => {
    await tunnelWith('--killswitch').bringUp(never);
    kernel.killDaemon();
    standing = JSON.stringify(kernel.table);
    kernel.events.length = 0;
    kernel.blocked.length = 0;
  });

  test('a new up replaces it in one step: not an instant without', async () => {
    const tunnel = tunnelWith('--killswitch', '--lan', 'allow');
    await tunnel.bringUp(never);
    expect(kernel.table?.allowLan).toBe(true);
    expect(kernel.events).not.toContain('unload');
    expect(kernel.blocked).not.toContain(false);
    expect(kernel.events.indexOf('probe')).toBeGreaterThan(kernel.events.indexOf('load killswitch'));
    await tunnel.takeDown();
    expect(kernel.text).toBe(start);
    expect(stateFiles()).toEqual(['default']);
  });

  test('a new up that fails at any step leaves the old one in force, also the time after', async () => {
    const changes = await changesOfUp('--killswitch', '--lan', 'allow');
    for (let k = 0; k < changes; k++) {
      kernel.onChange = (count) => {
        // The first changes take back what the crash left.
        if (count === k) throw new Error(`refused ${k}`);
      };
      await expect(tunnelWith('--killswitch', '--lan', 'allow').bringUp(never)).rejects.toThrow(
        /refused|cannot be taken back/,
      );
      expect(JSON.stringify(kernel.table)).toBe(standing);
      expect(kernel.blocked).not.toContain(false);
      expect(warnings.at(-1) ?? '').toMatch(/^$|the killswitch of the earlier run stays/);
    }
    kernel.onChange = () => {};
    const tunnel = tunnelWith('--killswitch');
    await tunnel.bringUp(never);
    await tunnel.takeDown();
    expect(kernel.text).toBe(start);
  });

  test('a new up without killswitch ends it only when traffic would flow', async () => {
    const tunnel = tunnelWith();
    await tunnel.bringUp(never);
    expect(kernel.table?.killswitch).toBe(false);
    expect(kernel.events).not.toContain('unload');
    await tunnel.takeDown();
    expect(kernel.text).toBe(start);
  });

  test('a new up that needs no rules at all removes it at the end', async () => {
    const tunnel = tunnelWith('--no-routes');
    await tunnel.bringUp(never);
    expect(kernel.table).toBeUndefined();
    expect(kernel.events.at(-1)).toBe('unload');
    await tunnel.takeDown();
    expect(kernel.text).toBe(start);
  });

  test('a second crash in the middle of the new up changes nothing of that', async () => {
    const changes = await changesOfUp('--killswitch');
    for (let k = 0; k < changes; k++) {
      const dying = tunnelWith('--killswitch');
      const work = new Promise((resolve) => {
        kernel.onChange = (count) => {
          if (count !== k) return;
          resolve('dead');
          // The process is gone: nothing of it runs any more.
          kernel.onChange = () => {
            throw new Error('a dead process changed the host');
          };
          throw new Error('killed');
        };
        // Its rollback fails at every step, as if it had not run.
        dying.bringUp(never).then(resolve, resolve);
      });
      await work;
      await new Promise((resolve) => setImmediate(resolve));
      kernel.killDaemon();
      expect(kernel.table?.killswitch).toBe(true);
    }
    const tunnel = tunnelWith('--killswitch');
    await tunnel.bringUp(never);
    await tunnel.takeDown();
    expect(kernel.text).toBe(start);
  });
});
