/** Limits that `up` is given for the whole tunnel, in a tunnel of two engines: each gets its part, and keeps to it. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { Cli } from './cli.ts';
import { connectTo, expectEcho, labProgram, startLabProxy } from './lab.ts';
import { type Background, until } from './process.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

const PORT = 8888;
const LONG_MS = 120_000;
const SMALL_MIB = 8;

let topology: Topology;
let cli: Cli;

beforeAll(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
  await startLabProxy(topology.net, PORT);
});
afterEach(() => cli.clear());
afterAll(() => topology.remove());

async function up(...flags: readonly string[]): Promise<void> {
  await cli.up(['--proxy', `${ADDRESS.net.v4}:${PORT}`, '--queues', '2', ...flags]);
  await until('end of the self-test', async () => (await cli.status()).flows?.active === 0);
}

/** Connections of a mode of labload that holds them until it is stopped. @returns it, once all are made or refused */
async function hold(mode: 'idle' | 'stall', count: number): Promise<{ load: Background; held: number }> {
  const args = [mode, '--dst', ADDRESS.origin.v4, '-n', `${count}`, '-t', '600'];
  const load = topology.app.start([await labProgram('labload'), ...args]);
  const held = (): RegExpExecArray | null => /holding (\d+)/.exec(load.stderr);
  await load.until('connections', () => held() !== null, 60_000);
  return { load, held: Number(held()?.[1]) };
}

test('--max-flows 1 lets one connection through, whichever engine gets it', async () => {
  await up('--max-flows', '1');
  for (let i = 0; i < 4; i++) {
    await expectEcho(topology.app, ADDRESS.origin.v4);
    await until('its end', async () => (await cli.status()).flows?.active === 0);
  }
});

test('no more than --max-flows are open at a time, of both engines together', { timeout: LONG_MS }, async () => {
  await up('--max-flows', '5');
  const { load, held } = await hold('idle', 50);
  expect(held).toBe(5);
  expect((await connectTo(topology.app, ADDRESS.origin.v4, 9003)).connect).toBe('ECONNREFUSED');
  await load.stop();
  await until('an echo', () =>
    expectEcho(topology.app, ADDRESS.origin.v4)
      .then(() => true)
      .catch(() => false),
  );
});

test('--predial 1 keeps one connection to the proxy open, and a connection of a program takes it', {
  timeout: LONG_MS,
}, async () => {
  await up('--predial', '1');
  const waitingForUse = async (): Promise<number> => {
    const argv = ['ss', '-Htn', 'state', 'established', 'dst', `${ADDRESS.net.v4}:${PORT}`];
    return (await topology.app.must(argv)).split('\n').filter(Boolean).length;
  };
  // The engine that has no part of it dials for its own connections.
  await until(
    'a connection that took it',
    async () => {
      await expectEcho(topology.app, ADDRESS.origin.v4);
      return ((await cli.status()).flows?.predialled ?? 0) > 0;
    },
    60_000,
  );
  await until('one open connection', async () => (await waitingForUse()) === 1);
});

test('--memory bounds what lies in the engines for programs that do not read', { timeout: LONG_MS }, async () => {
  const bufferedWith = async (memoryMiB: number): Promise<number> => {
    await up('--memory', `${memoryMiB}`);
    const { load } = await hold('stall', 128);
    let before = 0;
    await until(
      'an end of the flow',
      async () => {
        const now = (await cli.status()).bytes?.toApp ?? 0;
        const isOver = now > 0 && now === before;
        before = now;
        return isOver;
      },
      30_000,
      500,
    );
    const buffered = (await cli.status()).bytes?.buffered ?? 0;
    await load.stop();
    await cli.down();
    return buffered;
  };
  expect(await bufferedWith(SMALL_MIB)).toBeLessThanOrEqual(SMALL_MIB << 20);
  expect(await bufferedWith(1024)).toBeGreaterThan(SMALL_MIB << 20);
});
