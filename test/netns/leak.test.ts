/** Nothing leaves but to the proxy while the killswitch is on: seen by a capture outside, with a positive control. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Capture } from './capture.ts';
import { Cli } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import {
  type Catalogue,
  liveAndDie,
  NFT_FILTER,
  PROXY_PORT,
  Probes,
  seenOutside,
  startLeakServers,
} from './leak-scenario.ts';
import { DATAGRAM_ADDRESS } from './servers.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

const LONG_MS = 600_000;

let topology: Topology;
let cli: Cli;

beforeEach(async () => {
  topology = await makeTopology({ originIsDirect: true });
  cli = new Cli(topology);
  await startLeakServers(topology);
});
afterEach(() => topology.remove());

/** What a capture sees of the probes and of older connections, and the answers that the host gives to strangers. */
async function observe(): Promise<{ catalogue: Catalogue; seen: ReadonlySet<string>; answers: readonly string[] }> {
  const chatter = await Probes.startChatter(topology);
  const capture = await Capture.start(topology, 'control');
  const probes = await Probes.start(topology);
  await probes.rounds(3);
  await Promise.all([probes.stop(), chatter.stop()]);
  await capture.stop();
  const answers: string[] = [];
  for (const [name, filter] of [
    ['echo reply', `src host ${ADDRESS.app.v4} and icmp[0] == 0`],
    ['echo reply v6', `src host ${ADDRESS.app.v6} and icmp6 and ip6[40] == 129`],
    ['reset', `src host ${ADDRESS.app.v4} and tcp src port 9 and tcp[13] & 4 != 0`],
    ['port unreachable', `src host ${ADDRESS.app.v4} and icmp[0] == 3`],
    ['echo reply of guest', `src host ${ADDRESS.guest.v4} and icmp[0] == 0`],
    ['chatter of app', `src host ${ADDRESS.app.v4} and tcp dst port 7777`],
    ['chatter of app v6', `src host ${ADDRESS.app.v6} and udp dst port 7777 and dst host ${DATAGRAM_ADDRESS.v6}`],
    ['chatter of guest', `src host ${ADDRESS.guest.v4} and tcp dst port 7777`],
    ['chatter with peer', `src host ${ADDRESS.app.v4} and tcp src port 9003 and dst host ${ADDRESS.peer.v4}`],
  ] as const)
    if ((await capture.packets(filter)).length > 0) answers.push(name);
  return { catalogue: probes.catalogue, seen: await seenOutside(capture, probes.catalogue), answers };
}

describe('positive control', () => {
  test('without a tunnel the capture sees every kind of packet and every kind of answer', {
    timeout: LONG_MS,
  }, async () => {
    const { catalogue, seen, answers } = await observe();
    expect(Object.keys(catalogue).filter((name) => !seen.has(name))).toEqual([]);
    expect(Object.keys(catalogue).length).toBeGreaterThan(50);
    expect(answers).toHaveLength(9);
  });

  test('with a tunnel but no killswitch it sees all but the TCP that goes through', { timeout: LONG_MS }, async () => {
    await cli.up(['--proxy', `${ADDRESS.net.v4}:${PROXY_PORT}`, '--dns', 'direct']);
    const { catalogue, seen, answers } = await observe();
    const tunnelled = Object.keys(catalogue).filter((name) => !seen.has(name));
    expect(tunnelled.filter((name) => !/ (tcp|dns-tcp)[46]$/.test(name))).toEqual([]);
    for (const name of ['local tcp4', 'local tcp6', 'guest tcp4', 'guest tcp6']) expect(tunnelled).toContain(name);
    // Connections made after up go through the tunnel, those of a container too; everything else is as it was.
    expect(answers).toHaveLength(7);
    for (const name of ['chatter of app', 'chatter of guest']) expect(answers).not.toContain(name);
    await cli.down();
  });
});

describe('with the killswitch', () => {
  test('not one packet leaves but to the proxy: during up, steady, killed, up again, down', {
    timeout: LONG_MS,
  }, async () => {
    const report = await liveAndDie(topology, cli, NFT_FILTER);
    expect(report.leaks.map(({ text }) => text)).toEqual([]);
    expect(report.gaps).toEqual([]);
    expect(report.toProxy).toBeGreaterThan(100);
  });

  test('as it is while killed, it stays for a second daemon that is killed at once', { timeout: LONG_MS }, async () => {
    const before = await dumpHost(topology.app);
    await cli.up(['--proxy', `${ADDRESS.net.v4}:${PROXY_PORT}`, '--killswitch']);
    await cli.killDaemon();
    const capture = await Capture.start(topology, 'killed');
    const probes = await Probes.start(topology);
    const starting = cli.start(['up', '--foreground', '--proxy', `${ADDRESS.net.v4}:${PROXY_PORT}`, '--killswitch']);
    // Anywhere between its first and its last operation: the next probe round comes by then.
    await probes.rounds(1);
    await starting.stop('SIGKILL');
    await probes.rounds(2);
    await probes.stop();
    await capture.stop();
    const leaks = await capture.others(`(tcp dst port ${PROXY_PORT} and dst host ${ADDRESS.net.v4})`);
    expect(leaks.map(({ text }) => text)).toEqual([]);
    await cli.down();
    expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  });
});
