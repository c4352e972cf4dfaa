/** Hosts without libnftables, and hosts whose packet filter is iptables: the same promises. */
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Cli, PROXYVPN } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { expectEcho } from './lab.ts';
import { IPTABLES_FILTER, liveAndDie, NFT_FILTER, PROXY_PORT, startLeakServers } from './leak-scenario.ts';
import { ADDRESS, bracketed, makeTopology, type Topology } from './topology.ts';

const LONG_MS = 600_000;
const HIDDEN = { PROXYVPN_LIBNFTABLES: 'libnope.so.9' } as const;

let topology: Topology;
beforeEach(async () => {
  topology = await makeTopology({ originIsDirect: true });
});
afterEach(() => topology.remove());

/** What an administrator may have there already. */
const OWN_RULES = `*filter
:OURS - [0:0]
-A INPUT -p tcp --dport 12345 -j OURS
-A FORWARD -p udp --dport 12345 -j ACCEPT
-A OURS -j DROP
COMMIT
*nat
-A POSTROUTING -s 10.99.0.0/24 -j MASQUERADE
COMMIT
`;

const backends = [
  { name: 'the nft program', environment: HIDDEN, filter: NFT_FILTER },
  { name: 'iptables', environment: { ...HIDDEN, PROXYVPN_FIREWALL: 'iptables' }, filter: IPTABLES_FILTER },
] as const;

describe.each(backends)('with $name and without libnftables', ({ environment, filter }) => {
  let cli: Cli;
  beforeEach(async () => {
    cli = new Cli(topology, { environment });
    await startLeakServers(topology);
  });

  test.each([['--killswitch'], []])('up %s carries both families, down restores an empty host', async (...flags) => {
    const before = await dumpHost(topology.app);
    await cli.up(['--proxy', `${ADDRESS.net.v4}:${PROXY_PORT}`, ...flags]);
    if (filter === IPTABLES_FILTER) {
      expect(await topology.app.must(['iptables-save'])).toContain('PVPN-default');
      expect(await topology.app.must(['ip6tables-save'])).toContain('PVPN-default');
      expect(await topology.app.must(['nft', 'list', 'tables'])).not.toContain('inet proxyvpn');
    }
    await expectEcho(topology.app, ADDRESS.origin.v4);
    await expectEcho(topology.app, ADDRESS.origin.v6);
    await cli.down();
    expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  });

  test('the administrator’s own iptables rules stay as they are, also after a crash', async () => {
    for (const family of ['iptables', 'ip6tables'] as const) {
      const rules = family === 'iptables' ? OWN_RULES : OWN_RULES.replace('10.99.0.0/24', 'fd99::/64');
      await topology.app.must([`${family}-restore`], { input: rules });
    }
    const before = await dumpHost(topology.app);
    await cli.up(['--proxy', `${ADDRESS.net.v4}:${PROXY_PORT}`, '--killswitch']);
    await cli.killDaemon();
    await cli.up(['--proxy', `${bracketed(ADDRESS.net.v6)}:${PROXY_PORT}`, '--killswitch']);
    await expectEcho(topology.app, ADDRESS.origin.v4);
    await cli.killDaemon();
    await cli.down();
    expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  });

  test('nothing leaks: up, steady, killed, up again, down', { timeout: LONG_MS }, async () => {
    const before = await dumpHost(topology.app);
    const report = await liveAndDie(topology, cli, filter);
    expect(report.leaks.map(({ text }) => text)).toEqual([]);
    expect(report.gaps).toEqual([]);
    expect(report.toProxy).toBeGreaterThan(100);
    expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  });
});

describe('with no nftables at all, neither library nor program', () => {
  test('iptables is found by itself; after down only empty tables of iptables itself may stay', async () => {
    await startLeakServers(topology);
    const cli = new Cli(topology);
    const before = await dumpHost(topology.app);
    // A copy of /usr/sbin without nft, mounted over it for this one shell and the daemon.
    const sbin = path.join(topology.directory, 'sbin');
    await topology.app.must(['cp', '-a', '/usr/sbin', sbin]);
    fs.rmSync(path.join(sbin, 'nft'), { force: true });
    const env = { ...HIDDEN, PROXYVPN_STATE_DIR: cli.stateDirectory };
    const inShell = async (command: string): Promise<void> => {
      const script = `mount --bind ${sbin} /usr/sbin; ! command -v nft; ${PROXYVPN} ${command}`;
      await topology.app.must(['unshare', '--mount', 'bash', '-c', script], { env });
    };
    await inShell(`up --proxy ${ADDRESS.net.v4}:${PROXY_PORT} --killswitch`);
    expect(await topology.app.must(['ip6tables-save'])).toContain('PVPN-default');
    await expectEcho(topology.app, ADDRESS.origin.v4);
    await expectEcho(topology.app, ADDRESS.origin.v6);
    await inShell('down');
    const left = dumpDifference(before, await dumpHost(topology.app));
    const isEmptyTable = (line: string): boolean =>
      /^\+ ip6?tables-save: (\*(filter|mangle)|:[A-Z]+ ACCEPT ?|COMMIT)$/.test(line) ||
      /^\+ nft: \{"(table|chain)":.*"name":"(filter|mangle|[A-Z]+)"/.test(line);
    expect(left.filter((line) => !isEmptyTable(line))).toEqual([]);
  });
});
