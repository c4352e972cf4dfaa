/** A daemon without descriptors left: connections are refused, the log stays short, and one can talk to it. */
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { Cli, PROXYVPN } from './cli.ts';
import { connectTo, expectEcho, labload, labProgram, startLabProxy } from './lab.ts';
import { type Background, until } from './process.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

const PORT = 8888;
const SOFT = 200;
const HARD = 400;
const LONG_MS = 120_000;

let topology: Topology;
let cli: Cli;
let pid: number;

beforeEach(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
  await startLabProxy(topology.net, PORT);
  const up = [PROXYVPN, 'up', '--proxy', `${ADDRESS.net.v4}:${PORT}`, '--queues', '2', '--killswitch'];
  const env = { PROXYVPN_STATE_DIR: cli.stateDirectory };
  await topology.app.must(['prlimit', `--nofile=${SOFT}:${HARD}`, ...up], { env });
  pid = await cli.daemonPid();
});
afterEach(async () => {
  await cli.clear();
  await topology.remove();
});

/** More connections than there are descriptors, held. @returns who holds them, once the others are refused */
async function useUp(): Promise<Background> {
  const args = ['idle', '--dst', ADDRESS.origin.v4, '-n', `${HARD}`, '-c', '50', '-t', '600'];
  const load = topology.app.start([await labProgram('labload'), ...args]);
  const held = (): RegExpExecArray | null => /holding (\d+)/.exec(load.stderr);
  await load.until('connections, or refusals', () => held() !== null, 60_000);
  expect(Number(held()?.[1])).toBeGreaterThan(SOFT);
  expect(Number(held()?.[1])).toBeLessThan(HARD);
  return load;
}

/** When the log spoke of descriptors, ms. */
function complaints(): readonly number[] {
  const lines = fs.readFileSync(path.join(cli.stateDirectory, 'default', 'log'), 'utf8').split('\n');
  return lines.filter((line) => /descriptors|EMFILE/.test(line)).map((line) => Date.parse(line.split(' ')[0] ?? ''));
}

test('the daemon may open as many as the hard limit says', () => {
  const limits = fs.readFileSync(`/proc/${pid}/limits`, 'utf8');
  expect(/^Max open files +(\d+) +(\d+)/m.exec(limits)?.slice(1)).toEqual([`${HARD}`, `${HARD}`]);
});

test('beyond them connections are refused, status answers, and when some are free they open again', {
  timeout: LONG_MS,
}, async () => {
  const load = await useUp();
  expect((await connectTo(topology.app, ADDRESS.origin.v4, 9003)).connect).toBe('ECONNREFUSED');
  const refused = (await cli.status()).flows?.overLimit ?? 0;
  // On and on, into both queues.
  await labload(topology.app, z.unknown(), ['crr', '--dst', ADDRESS.origin.v4, '-c', '20', '-t', '4']);
  const status = await cli.status();
  expect(status.state).toBe('up');
  expect(status.flows?.overLimit).toBeGreaterThan(refused + 100);
  const lines = complaints();
  expect(lines.length).toBeGreaterThan(1);
  expect(lines.length).toBeLessThanOrEqual(Math.ceil(((lines.at(-1) ?? 0) - (lines[0] ?? 0)) / 1000) + 1);
  await load.stop();
  await until('an echo', () =>
    expectEcho(topology.app, ADDRESS.origin.v4)
      .then(() => true)
      .catch(() => false),
  );
});

test('down ends it even so', { timeout: LONG_MS }, async () => {
  await useUp();
  await cli.down();
  expect((await cli.status()).state).toBe('down');
});
