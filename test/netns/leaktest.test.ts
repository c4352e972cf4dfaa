/** `leaktest`: what it says of each packet is what was seen on the wire. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { Capture } from './capture.ts';
import { Cli, PROXYVPN } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import type { Ran } from './process.ts';
import { startTinyproxy } from './servers.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

const UPSTREAM = ['--proxy', `${ADDRESS.net.v4}:8888`];
/** An ordinary user, to whom the root's state directory is closed. */
const USER = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups'];

const Report = z.object({
  state: z.string(),
  killswitch: z.boolean().nullable(),
  tun: z.string().nullable(),
  uplink: z.string().nullable(),
  evidence: z.enum(['packets', 'counters', 'routes']),
  control: z.boolean().nullable(),
  leaks: z.number(),
  hint: z.string().nullable(),
  probes: z.array(
    z.object({
      id: z.string(),
      destination: z.string(),
      verdict: z.enum(['tunnel', 'stopped', 'permitted', 'leaks', 'not-tried', 'unknown']),
      by: z.string().nullable(),
      why: z.string(),
      route: z.string().nullable(),
    }),
  ),
});
type Report = z.infer<typeof Report>;
type Probe = Report['probes'][number];

let topology: Topology;
let cli: Cli;
let captures = 0;

beforeAll(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
  await startTinyproxy(topology);
  // Whatever comes for an address outside is heard of: routes there lead back into nothing.
  await topology.net.must(['ip', 'route', 'add', 'blackhole', '192.0.2.0/24']);
  await topology.net.must(['ip', '-6', 'route', 'add', 'blackhole', '2001:db8::/64']);
});
afterEach(() => cli.clear());
afterAll(() => topology.remove());

/** What somebody outside has to look for. */
function filterOf({ id, destination }: Probe): string {
  const [, address = destination, port] =
    /^\[?([^\]]*?)\]?(?::(\d+))?$/.exec(
      destination.startsWith('[') || !/:.*:/.test(destination) ? destination : `[${destination}]`,
    ) ?? [];
  const protocol = /raw/.test(id)
    ? 'proto 253'
    : /icmp/.test(id)
      ? '(icmp or icmp6)'
      : /tcp|dot|control/.test(id)
        ? 'tcp'
        : 'udp';
  if (/raw/.test(id)) return `dst host ${address} and ${address.includes(':') ? 'ip6' : 'ip'} proto 253`;
  return `dst host ${address} and ${protocol}${port === undefined ? '' : ` and dst port ${port}`}`;
}

/** @param as what the program is run by */
async function leaktest(
  as: readonly string[] = [],
  args: readonly string[] = [],
): Promise<{ report: Report; ran: Ran; seen: ReadonlySet<string> }> {
  const capture = await Capture.start(topology, `leaktest${captures++}`);
  const env = { PROXYVPN_STATE_DIR: cli.stateDirectory };
  const ran = await topology.app.run([...as, PROXYVPN, 'leaktest', '--json', ...args], { env });
  await capture.stop();
  if (!ran.stdout.startsWith('{"name"')) throw new Error(`leaktest: exit ${ran.code}: ${ran.stdout}${ran.stderr}`);
  const report = Report.parse(JSON.parse(ran.stdout));
  const seen = new Set<string>();
  for (const probe of report.probes) if ((await capture.packets(filterOf(probe))).length > 0) seen.add(probe.id);
  return { report, ran, seen };
}

const idsOf = (report: Report, ...verdicts: readonly Probe['verdict'][]): readonly string[] =>
  report.probes.filter(({ verdict }) => verdicts.includes(verdict)).map(({ id }) => id);

/** Every verdict that claims something agrees with the wire. */
function expectTrue(report: Report, seen: ReadonlySet<string>): void {
  const claims = (verdict: Probe['verdict']): boolean => verdict === 'leaks' || verdict === 'permitted';
  const wrong = report.probes.filter(({ id, verdict }) => verdict !== 'unknown' && claims(verdict) !== seen.has(id));
  expect(wrong).toEqual([]);
}

describe('without a tunnel', () => {
  test('it says so and exits 4', async () => {
    const ran = await cli.run(['leaktest']);
    expect(ran.code).toBe(4);
    expect(ran.stderr).toMatch(/E_NO_TUNNEL/);
    expect(ran.stderr).toMatch(/hint: .*--control/);
  });

  test.each([
    ['root', [], 'packets'],
    ['an ordinary user', USER, 'routes'],
  ] as const)('the control run of %s shows all of it leaving', async (_, as, evidence) => {
    const { report, ran, seen } = await leaktest(as, ['--control']);
    expect(report).toMatchObject({ state: 'down', tun: null, uplink: 'uplink', evidence, control: null });
    expectTrue(report, seen);
    for (const id of ['tcp4', 'udp4', 'quic4', 'dns-udp4', 'tcp6', 'udp6', 'bound-udp4', 'source-tcp6', 'mdns4'])
      expect(idsOf(report, 'leaks')).toContain(id);
    expect(idsOf(report, 'stopped', 'tunnel', 'permitted')).toEqual([]);
    expect(ran.code).toBe(1);
  });

  test('it ends by itself and leaves the host as it was', async () => {
    const before = await dumpHost(topology.app);
    expect((await cli.run(['leaktest', '--control'])).code).toBe(1);
    expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  });
});

/** The three who can run it, and the evidence that each has. */
const WHO = [
  ['root', [], 'packets'],
  ['root with CAP_NET_ADMIN alone', ['setpriv', '--bounding-set', '-all,+net_admin'], 'counters'],
  ['an ordinary user', USER, 'routes'],
] as const;

describe('with the killswitch', () => {
  test.each(WHO)('%s is told that nothing leaks, and nothing is seen outside', async (_, as, evidence) => {
    await cli.up([...UPSTREAM, '--killswitch', '--allow-dns', 'none']);
    const { report, ran, seen } = await leaktest(as);
    expect(report).toMatchObject({ evidence, uplink: 'uplink', leaks: 0, control: true, hint: null });
    expect([...seen]).toEqual([]);
    expectTrue(report, seen);
    expect(idsOf(report, 'unknown', 'permitted')).toEqual([]);
    expect(idsOf(report, 'tunnel')).toEqual(expect.arrayContaining(['control', 'tcp4', 'tcp6', 'dot4']));
    expect(idsOf(report, 'stopped')).toEqual(
      expect.arrayContaining(['udp4', 'udp6', 'quic4', 'bound-udp4', 'bound-tcp4', 'bound-tcp6', 'mdns4', 'llmnr4']),
    );
    expect(ran.code).toBe(0);
  });

  test('what stopped a packet is named', async () => {
    await cli.up([...UPSTREAM, '--killswitch', '--allow-dns', 'none']);
    const { report } = await leaktest();
    const probe = (id: string): Probe | undefined => report.probes.find((one) => one.id === id);
    expect(probe('udp4')).toMatchObject({ by: 'filter', why: 'refused (EPERM)' });
    expect(probe('bound-tcp4')).toMatchObject({ by: 'filter', why: expect.stringMatching(/reset/) });
    expect(probe('marked-tcp4')).toMatchObject({ verdict: 'stopped', by: 'filter' });
    expect(probe('raw4')).toMatchObject({ verdict: 'stopped', by: 'filter' });
    expect(probe('control')?.why).toBe('answered by the tunnel');
  });

  test('after a crash the filter still stands: nothing leaks, and nothing goes through', async () => {
    await cli.up([...UPSTREAM, '--killswitch', '--allow-dns', 'none']);
    await cli.killDaemon();
    const { report, ran, seen } = await leaktest();
    expect(report).toMatchObject({ state: 'degraded', killswitch: true, tun: null, leaks: 0, control: null });
    expect([...seen]).toEqual([]);
    expect(ran.code).toBe(0);
  });

  test('what was permitted is told apart from leaks', async () => {
    await cli.up([...UPSTREAM, '--killswitch', '--lan', 'allow', '--bypass', '192.0.2.0/24']);
    const { report, ran, seen } = await leaktest();
    expectTrue(report, seen);
    expect(idsOf(report, 'permitted')).toEqual(expect.arrayContaining(['mdns4', 'udp4', 'bound-tcp4']));
    expect(idsOf(report, 'permitted')).not.toContain('udp6');
    expect(report.leaks).toBe(0);
    expect(ran.code).toBe(0);
  });

  test('an allowed resolver is permitted, and no other', async () => {
    await cli.up([...UPSTREAM, '--killswitch', '--dns', 'direct', '--allow-dns', '192.0.2.13']);
    const { report, ran, seen } = await leaktest();
    expectTrue(report, seen);
    expect(report.probes.find(({ id }) => id === 'dns-udp4')?.destination).toBe('192.0.2.13:53');
    expect(idsOf(report, 'permitted')).toEqual(['dns-udp4']);
    expect(idsOf(report, 'stopped')).toEqual(expect.arrayContaining(['dns-udp6', 'bound-dns4', 'source-dns4']));
    expect(ran.code).toBe(0);
  });

  test('a hole in the filter is found', async () => {
    await cli.up([...UPSTREAM, '--killswitch', '--allow-dns', 'none']);
    for (const chain of ['output', 'postrouting'])
      await topology.app.must(['nft', 'insert', 'rule', 'inet', 'proxyvpn', chain, 'udp', 'dport', '7777', 'accept']);
    const { report, ran, seen } = await leaktest();
    expectTrue(report, seen);
    expect(idsOf(report, 'leaks')).toEqual(expect.arrayContaining(['udp4', 'udp6', 'bound-udp4', 'marked-udp6']));
    expect(idsOf(report, 'leaks')).not.toContain('quic4');
    expect(report.hint).toMatch(/report/);
    expect(ran.code).toBe(1);
  });
});

describe('without the killswitch', () => {
  test.each(WHO)('%s is told that UDP leaks and TCP does not, as is seen outside', async (_, as, evidence) => {
    await cli.up(UPSTREAM);
    const { report, ran, seen } = await leaktest(as);
    expect(report).toMatchObject({ evidence, control: true });
    expectTrue(report, seen);
    expect(idsOf(report, 'tunnel')).toEqual(expect.arrayContaining(['control', 'tcp4', 'tcp6', 'source-tcp4']));
    expect(idsOf(report, 'leaks')).toEqual(
      expect.arrayContaining(['udp4', 'udp6', 'quic4', 'bound-tcp4', 'bound-udp4']),
    );
    expect(report.hint).toMatch(/--killswitch/);
    expect(ran.code).toBe(1);
  });

  test('the words for people: leaks last, then the sum and the hint', async () => {
    await cli.up(UPSTREAM);
    const ran = await cli.run(['leaktest']);
    const lines = ran.stdout.trimEnd().split('\n');
    expect(lines[0]).toMatch(/^default: up, killswitch off, device pvpn0, uplink uplink;/);
    expect(lines.at(-3)).toMatch(/^ {2}LEAKS/);
    expect(lines.at(-2)).toMatch(/^\d+ of \d+ kinds of packets go around the tunnel/);
    expect(lines.at(-1)).toMatch(/^hint: .*--killswitch/);
  });
});

test('--server: a real destination is reached through the proxy, and only so', async () => {
  await topology.net.serve(
    [
      '/usr/bin/python3',
      '-c',
      'import socket\ns = socket.create_server(("203.0.113.10", 443))\nwhile True: s.accept()',
    ],
    443,
  );
  await cli.up([...UPSTREAM, '--killswitch', '--allow-dns', 'none']);
  const { report, ran, seen } = await leaktest([], ['--server', ADDRESS.origin.v4]);
  const tcp = report.probes.find(({ id }) => id === 'tcp4');
  expect(tcp).toMatchObject({ destination: '203.0.113.10:443', verdict: 'tunnel', why: 'connected' });
  expect(ran.code).toBe(0);
  expect([...seen]).toEqual([]);
});
