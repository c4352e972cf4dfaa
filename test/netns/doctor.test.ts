/** `doctor` and `up` agree: where the doctor finds no error, `up` works; what is broken has its name in both. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { Cli, PROXYVPN } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { type Ran, until } from './process.ts';
import { startNginx, startSquid, startTinyproxy } from './servers.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

const CREDENTIALS = { user: 'operator', password: 'Xq7correct' };
const PORT = { open: 8888, locked: 8889, only443: 8890, nothing: 8891, squid: 3128 };
const at = (port: number): readonly string[] => ['--proxy', `${ADDRESS.net.v4}:${port}`];
const LOGIN = `http://${CREDENTIALS.user}:${CREDENTIALS.password}@${ADDRESS.net.v4}:${PORT.locked}`;
/** Whom the proxies are asked for: nobody outside is. */
const TARGET = ['--target', ADDRESS.origin.v4];

const Report = z.object({
  ok: z.boolean(),
  proxy: z.string().nullable(),
  findings: z.array(
    z.object({
      id: z.string(),
      level: z.enum(['ok', 'note', 'warning', 'error']),
      what: z.string(),
      why: z.string().nullable(),
      mend: z.string().nullable(),
    }),
  ),
});
type Report = z.infer<typeof Report>;

let topology: Topology;
let cli: Cli;

beforeAll(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
  await startTinyproxy(topology, PORT.open);
  await startTinyproxy(topology, PORT.locked, { credentials: CREDENTIALS });
  await startTinyproxy(topology, PORT.only443, { connectPorts: [443] });
  await startTinyproxy(topology, PORT.nothing, { connectPorts: [1] });
  await startSquid(topology, PORT.squid);
  await startNginx(topology);
});
afterEach(() => cli.clear());
afterAll(() => topology.remove());

/** Runs in app, `as` this; a script of the shell before it where one is needed. */
function proxyvpn(words: readonly string[], as: readonly string[] = [], env: Readonly<Record<string, string>> = {}) {
  return topology.app.run([...as, PROXYVPN, ...words], { env: { PROXYVPN_STATE_DIR: cli.stateDirectory, ...env } });
}

interface Doctored {
  readonly ran: Ran;
  readonly report: Report;
  readonly errors: readonly string[];
}

/** Also proves that it changed nothing. */
async function doctor(
  words: readonly string[],
  as: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
): Promise<Doctored> {
  const before = await dumpHost(topology.app);
  const ran = await proxyvpn(['doctor', '--json', ...TARGET, ...words], as, env);
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  if (!ran.stdout.startsWith('{"name"')) throw new Error(`doctor: exit ${ran.code}: ${ran.stdout}${ran.stderr}`);
  const report = Report.parse(JSON.parse(ran.stdout));
  expect(ran.code).toBe(report.ok ? 0 : 1);
  return { ran, report, errors: report.findings.filter(({ level }) => level === 'error').map(({ id }) => id) };
}

const finding = ({ report }: Doctored, id: string) => report.findings.find((one) => one.id === id);

describe('a host on which up works: the doctor finds no error', () => {
  interface Good {
    readonly what: string;
    readonly proxy: readonly string[];
    readonly make?: string;
    readonly undo?: string;
  }
  const good: readonly Good[] = [
    { what: 'a plain one', proxy: at(PORT.open) },
    { what: 'an IPv6 proxy', proxy: ['--proxy', `[${ADDRESS.net.v6}]:${PORT.open}`] },
    { what: 'a proxy with credentials', proxy: ['--proxy', LOGIN] },
    { what: 'a proxy that takes port 443 only', proxy: at(PORT.only443) },
    { what: 'squid', proxy: at(PORT.squid) },
    {
      what: 'strict reverse-path filtering',
      proxy: at(PORT.open),
      make: 'sysctl -qw net.ipv4.conf.all.rp_filter=1',
      undo: 'sysctl -qw net.ipv4.conf.all.rp_filter=0',
    },
    {
      what: 'no default route',
      proxy: at(PORT.open),
      make: 'ip route del default',
      undo: `ip route add default via ${ADDRESS.net.v4}`,
    },
    {
      what: 'rules of others behind ours',
      proxy: at(PORT.open),
      make: 'ip rule add priority 20000 fwmark 0x77 lookup 77',
      undo: 'ip rule del priority 20000',
    },
    {
      what: 'a rule of others before ours that takes nothing of ours',
      proxy: at(PORT.open),
      make: 'ip rule add priority 100 to 10.78.0.0/24 lookup main',
      undo: 'ip rule del priority 100',
    },
  ];
  test.each(good)('$what', async ({ proxy, make, undo }) => {
    if (make) await topology.app.must(['bash', '-c', make]);
    try {
      expect((await doctor(proxy)).errors).toEqual([]);
      for (const flags of [[], ['--killswitch']]) {
        await cli.up([...proxy, ...flags]);
        await cli.down();
      }
    } finally {
      if (undo) await topology.app.must(['bash', '-c', undo]);
    }
  });
});

/** Hides files from the program, in a mount namespace of its own. */
const hiding = (script: string): readonly string[] => [
  'unshare',
  '--mount',
  'bash',
  '-c',
  `${script}; exec "$@"`,
  'bash',
];
const NOBODY = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', '--inh-caps=-all'];
const NO_FILTER =
  'for f in nft xtables-nft-multi xtables-legacy-multi; do [ ! -e /usr/sbin/$f ] || mount --bind /dev/null /usr/sbin/$f; done';

interface Broken {
  readonly what: string;
  readonly id: string;
  readonly proxy?: readonly string[];
  readonly as?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly make?: string;
  readonly undo?: string;
}

const BROKEN: readonly Broken[] = [
  { what: 'no TUN device', id: 'tun', as: hiding('mount -t tmpfs none /dev/net') },
  {
    what: 'a TUN device without a driver',
    id: 'tun',
    as: hiding('mount -t tmpfs none /dev/net; mknod /dev/net/tun c 10 7'),
  },
  { what: 'no capability', id: 'capability', as: NOBODY },
  { what: "a TUN device that is root's", id: 'tun', as: NOBODY },
  { what: 'no packet filter', id: 'firewall', as: hiding(NO_FILTER), env: { PROXYVPN_LIBNFTABLES: '/nonexistent.so' } },
  { what: 'no proxy is given', id: 'proxy', proxy: [] },
  { what: "nobody listens at the proxy's port", id: 'proxy', proxy: at(8999) },
  { what: "the proxy's name does not resolve", id: 'proxy', proxy: ['--proxy', 'proxy.invalid:3128'] },
  { what: 'the proxy wants credentials', id: 'proxy-auth', proxy: at(PORT.locked) },
  {
    what: 'the proxy wants other credentials',
    id: 'proxy-auth',
    proxy: ['--proxy', LOGIN.replace('correct', 'wrong')],
  },
  {
    what: 'the name of the device is taken',
    id: 'tun-name',
    make: 'ip link add pvpn0 type veth peer name other',
    undo: 'ip link del pvpn0',
  },
  {
    what: 'the routing table is taken',
    id: 'table-taken',
    make: 'ip route add default dev uplink table 52100',
    undo: 'ip route del default dev uplink table 52100',
  },
  {
    what: 'a rule of ours exists, made by somebody else',
    id: 'rule-taken',
    make: 'ip rule add priority 5206 ipproto tcp lookup 52100',
    undo: 'ip rule del priority 5206',
  },
  {
    what: 'another VPN takes all before us',
    id: 'diverted',
    make:
      'ip route add default dev guest0 table 100; ip route add throw 10.77.0.0/24 table 100; ' +
      'ip rule add priority 100 lookup 100',
    undo: 'ip rule del priority 100; ip route flush table 100',
  },
  {
    what: 'a rule refuses all before us',
    id: 'diverted',
    make: 'ip rule add priority 100 ipproto tcp to 198.18.0.0/15 prohibit',
    undo: 'ip rule del priority 100',
  },
  {
    what: "the state directory is somebody else's",
    id: 'state',
    make: 'mkdir -p $PROXYVPN_STATE_DIR/default; chown 65534 $PROXYVPN_STATE_DIR/default',
    undo: 'rm -rf $PROXYVPN_STATE_DIR/default',
  },
  {
    what: 'an earlier run of another version',
    id: 'leftovers',
    make: 'mkdir -pm 700 $PROXYVPN_STATE_DIR/default; echo \'{"v":999,"n":0,"is":"journal"}\' >$PROXYVPN_STATE_DIR/default/journal',
    undo: 'rm -rf $PROXYVPN_STATE_DIR/default',
  },
  {
    what: 'strict reverse-path filtering that cannot be loosened',
    id: 'rp-filter',
    make: 'sysctl -qw net.ipv4.conf.all.rp_filter=1',
    undo: 'sysctl -qw net.ipv4.conf.all.rp_filter=0',
    as: hiding('mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys'),
  },
];

describe('a host on which up fails: the doctor says what it is', () => {
  const shell = (script: string) =>
    topology.app.must(['bash', '-euc', script], { env: { PROXYVPN_STATE_DIR: cli.stateDirectory } });

  test.each(BROKEN)('$what: $id', async ({ id, proxy = at(PORT.open), as = [], env = {}, make, undo }) => {
    if (make) await shell(make);
    try {
      const doctored = await doctor(proxy, as, env);
      expect(doctored.errors).toContain(id);
      expect(doctored.ran.code).toBe(1);
      expect(finding(doctored, id)?.mend ?? '').not.toBe('');
      const before = await dumpHost(topology.app);
      const up = await proxyvpn(['up', ...proxy], as, env);
      expect({ code: up.code, stderr: up.stderr }).not.toMatchObject({ code: 0 });
      expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
    } finally {
      if (undo) await shell(undo);
    }
  });

  test('it is up already: running', async () => {
    await cli.up(at(PORT.open));
    expect((await doctor(at(PORT.open))).errors).toEqual(['running']);
    expect((await cli.run(['up', ...at(PORT.open)])).code).toBe(4);
    await cli.down();
    expect((await doctor(at(PORT.open))).errors).toEqual([]);
  });

  test('a tunnel of another name takes all: other-tunnel', async () => {
    await cli.up([...at(PORT.open), '--name', 'first']);
    try {
      expect((await doctor([...at(PORT.open), '--name', 'second'])).errors).toContain('other-tunnel');
      expect((await cli.run(['up', ...at(PORT.open), '--name', 'second'])).code).toBe(4);
    } finally {
      await cli.down(['--name', 'first']);
    }
  });
});

describe('what up takes in its stride is no error', () => {
  test.each([[[]], [['--killswitch']]])('a crash with %j left something: a warning, and up works', async (flags) => {
    await cli.up([...at(PORT.open), ...flags]);
    await cli.killDaemon();
    await until('the device to go', async () => (await topology.app.run(['ip', 'link', 'show', 'pvpn0'])).code !== 0);
    const doctored = await doctor(at(PORT.open));
    expect(finding(doctored, 'leftovers')).toMatchObject({ level: 'warning', mend: expect.stringMatching(/down/) });
    expect(doctored.errors).toEqual([]);
    await cli.up(at(PORT.open));
  });
});

describe('a killswitch that stands', () => {
  test('is told, and up goes on from it', async () => {
    expect((await cli.run(['killswitch', 'on'])).code).toBe(0);
    try {
      const doctored = await doctor(at(PORT.open));
      expect(finding(doctored, 'leftovers')).toMatchObject({ level: 'note', what: 'the killswitch is on' });
      expect(doctored.errors).toEqual([]);
      await cli.up(at(PORT.open));
      await cli.down();
    } finally {
      await cli.run(['killswitch', 'off']);
    }
  });

  test('of another user is an error, and up refuses', async () => {
    await topology.app.must(['nft', 'add', 'table', 'inet', 'proxyvpn']);
    try {
      expect((await doctor(at(PORT.open))).errors).toEqual(['elsewhere']);
      expect((await cli.run(['up', ...at(PORT.open)])).code).toBe(4);
    } finally {
      await topology.app.must(['nft', 'delete', 'table', 'inet', 'proxyvpn']);
    }
  });
});

describe('the proxy', () => {
  test('its ports are told', async () => {
    const doctored = await doctor(at(PORT.only443));
    expect(finding(doctored, 'proxy-ports')?.what).toMatch(
      /443 (open|allowed) \(\d+\), 80 refused \(403\), 22 refused/,
    );
    expect(finding(doctored, 'proxy-ports')?.why).toMatch(/ssh\.github\.com/);
  });

  test('one that refuses everything is an error, although up itself would succeed', async () => {
    expect((await doctor(at(PORT.nothing))).errors).toEqual(['proxy-rules']);
  });

  test('a web server is no proxy', async () => {
    expect((await doctor(at(8080))).errors).toEqual(['proxy-rules']);
  });

  test('neither document nor text holds the password', async () => {
    for (const words of [
      ['doctor', '--proxy', LOGIN, ...TARGET],
      ['doctor', '--json', '--proxy', LOGIN, ...TARGET],
    ]) {
      const { stdout, stderr } = await proxyvpn(words);
      expect(stdout + stderr).not.toMatch(/Xq7|operator/);
    }
    const { report } = await doctor(['--proxy', LOGIN]);
    expect(report.proxy).toBe(`http://***@${ADDRESS.net.v4}:${PORT.locked}`);
    expect(report.findings.find(({ id }) => id === 'proxy-auth')?.level).toBe('ok');
  });
});

describe('neighbours', () => {
  test('another VPN that takes everything behind us is a warning', async () => {
    const script = 'ip tuntap add mode tun name tun9; ip link set tun9 up; ip route add 0.0.0.0/1 dev tun9';
    await topology.app.must(['bash', '-euc', script]);
    try {
      const doctored = await doctor(at(PORT.open));
      expect(finding(doctored, 'vpn')).toMatchObject({ level: 'warning', what: 'another VPN: tun9 (tun)' });
    } finally {
      await topology.app.must(['ip', 'link', 'del', 'tun9']);
    }
  });

  test('a bridge of containers, NetworkManager and firewalld are told', async () => {
    await topology.app.must(['ip', 'link', 'add', 'docker0', 'type', 'bridge']);
    for (const name of ['NetworkManager', 'firewalld']) fs.mkdirSync(path.join('/run', name));
    try {
      const { report } = await doctor(at(PORT.open));
      const notes = report.findings.filter(({ level }) => level === 'note').map(({ id }) => id);
      expect(notes).toEqual(expect.arrayContaining(['containers', 'networkmanager', 'firewalld']));
    } finally {
      for (const name of ['NetworkManager', 'firewalld']) fs.rmdirSync(path.join('/run', name));
      await topology.app.must(['ip', 'link', 'del', 'docker0']);
    }
  });
});

test('for people: errors last, each with its mend, then the sum', async () => {
  const ran = await proxyvpn(['doctor', ...at(8999)]);
  expect(ran.code).toBe(1);
  const lines = ran.stdout.trimEnd().split('\n');
  expect(lines[0]).toMatch(/^ok {7}node /);
  expect(lines.at(-4)).toMatch(/^error {4}proxy +cannot connect to the proxy: 10\.77\.0\.2:8999: ECONNREFUSED$/);
  expect(lines.at(-2)).toMatch(/mend: check that the proxy runs/);
  expect(lines.at(-1)).toBe('default: up would not work (1 error)');
});
