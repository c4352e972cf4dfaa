/**
 * The topology with a stand-in for the tunnel, and the packet filter's backends run inside it as the product runs them.
 *
 *      app                              far
 *    pvpn0 198.18.0.1  ────────────  tun0    is the origin too, and answers "tunnel"
 *          fd70:7670:6e00::1
 *
 * The routing rules are as the product's: TCP without the mark into the tunnel, the exceptions before that.
 */
import fs from 'node:fs';
import path from 'node:path';
import { buildSync } from 'esbuild';
import type { BackendName } from '../../src/firewall/backend.ts';
import type { FirewallPolicy } from '../../src/firewall/policy.ts';
import { type Background, run, until } from './process.ts';
import { ADDRESS, makeTopology, Namespace, type Topology, type TopologyOptions } from './topology.ts';

export const MARK = 0x50560000;
export const ENGINE_UID = 20_001;
export const BYPASS_UID = 20_002;
export const OTHER_UID = 20_003;
export const CAP_NET_ADMIN = 1 << 12;
export const CAP_NET_RAW = 1 << 13;
export const PROXY_PORT = 8888;
const TABLE = '52100';
const DIVERT = `priority 5206 ipproto tcp lookup ${TABLE}`;

/** `legacy` is iptables over the old kernel interface; `iptables` speaks to nf_tables. */
export type Variant = BackendName | 'iptables-legacy';
export const VARIANTS: readonly Variant[] = ['libnftables', 'nft', 'iptables', 'iptables-legacy'];

export const POLICY: FirewallPolicy = {
  table: 'proxyvpn',
  killswitch: true,
  tun: { name: 'pvpn0', address4: '198.18.0.1', address6: 'fd70:7670:6e00::1' },
  fwmark: MARK,
  exemptConnectionMark: MARK + 0x100,
  uid: ENGINE_UID,
  proxies: [ADDRESS.net.v4, ADDRESS.net.v6].map((address) => ({ address, port: PROXY_PORT })),
  allowDns: [ADDRESS.net.v4, ADDRESS.net.v6],
  allowLan: false,
  bypass: [],
  bypassUsers: [],
  inbound: { ports: [], peers: [] },
  existing: [],
};

/** What firewall-probe.py takes. */
export interface Probe {
  readonly proto: 'tcp' | 'udp' | 'icmp' | 'gre' | 'ack';
  readonly family: 4 | 6;
  readonly to: string;
  readonly port?: number;
  readonly from_port?: number;
  readonly device?: string;
  readonly mark?: number;
  readonly uid?: number;
  readonly caps?: number;
  readonly send?: number;
  readonly read?: boolean;
  readonly timeout_ms?: number;
}

export interface Outcome {
  readonly ok: boolean;
  readonly answer?: string;
  readonly error?: string;
}

const here = import.meta.dirname;
const root = path.join(here, '..', '..');
const addonIn = ({ directory }: Topology): string => path.join(directory, 'proxyvpn.node');

/** The product's own code with a command line: COMMAND POLICY, where COMMAND is a method of Backend, or apply or undo. */
const DRIVER = `
import { firewallAppliers } from './src/firewall/ops.ts';
import { selectBackend } from './src/firewall/select.ts';
const [command, text] = process.argv.slice(2);
const policy = JSON.parse(text);
const op = { kind: 'firewall.load', policy };
const applier = firewallAppliers()['firewall.load'];
const commands = {
  apply: async () => applier.apply(op, await applier.observe(op)),
  undo: async () => (await applier.undo(op, undefined)).outcome,
  isLoaded: async () => (await selectBackend()).isLoaded(policy.table),
};
const call = commands[command] ?? (async () => (await selectBackend())[command](policy));
try {
  console.log(JSON.stringify({ result: await call() }));
} catch (error) {
  console.log(JSON.stringify({ code: error.code, message: error.message }));
  process.exitCode = error.exitCode ?? 70;
}
`;

export interface DriverAnswer {
  readonly result?: unknown;
  readonly code?: string;
  readonly message?: string;
  readonly exitCode: number;
}

export class FirewallLab {
  readonly topology: Topology;
  readonly far: Namespace;
  readonly #driver: string;

  private constructor(topology: Topology, far: Namespace, driver: string) {
    this.topology = topology;
    this.far = far;
    this.#driver = driver;
  }

  static async make(options: TopologyOptions = {}): Promise<FirewallLab> {
    const topology = await makeTopology({ originIsDirect: true, ...options });
    const far = new Namespace(`${topology.app.name}far`);
    const driver = path.join(topology.directory, 'driver.mjs');
    buildSync({
      stdin: { contents: DRIVER, resolveDir: root, loader: 'ts' },
      bundle: true,
      platform: 'node',
      format: 'esm',
      outfile: driver,
      logLevel: 'error',
    });
    const legacy = ['iptables', 'ip6tables'].flatMap((name) =>
      ['', '-save', '-restore'].map((tool) => `ln -s $(command -v ${name}-legacy${tool}) legacy/${name}${tool}`),
    );
    const script = [...tunnel(topology.app.name, far.name), `mkdir ${topology.directory}/legacy`];
    const setUp = [...script, `cd ${topology.directory}`, ...legacy].join('\n');
    const ran = await run(['bash', '-euc', setUp]);
    // Where other users may read it.
    fs.copyFileSync(
      process.env['PROXYVPN_ADDON'] ?? path.join(root, 'build', 'Release', 'proxyvpn.node'),
      addonIn(topology),
    );
    const lab = new FirewallLab(topology, far, driver);
    if (ran.code !== 0) {
      await lab.remove();
      throw new Error(`firewall lab: ${ran.stderr}`);
    }
    await lab.serve(far, 'tunnel', 80, 53, 8080);
    await lab.serve(topology.net, 'net', 80, 53, PROXY_PORT, PROXY_PORT + 1);
    return lab;
  }

  get app(): Namespace {
    return this.topology.app;
  }

  /** Calls a backend in app, in a process of its own. @param prefix a command that runs the driver: setpriv, say */
  async drive(
    variant: Variant,
    command: string,
    policy: FirewallPolicy = POLICY,
    prefix: readonly string[] = [],
    env: Readonly<Record<string, string>> = {},
  ): Promise<DriverAnswer> {
    const isLegacy = variant === 'iptables-legacy';
    const system = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
    const ran = await this.app.run([...prefix, process.execPath, this.#driver, command, JSON.stringify(policy)], {
      env: {
        PATH: isLegacy ? `${this.topology.directory}/legacy:${system}` : system,
        PROXYVPN_FIREWALL: isLegacy ? 'iptables' : variant,
        PROXYVPN_ADDON: addonIn(this.topology),
        ...env,
      },
    });
    if (ran.stdout === '') throw new Error(`driver: ${ran.stderr}`);
    return { ...(JSON.parse(ran.stdout) as Omit<DriverAnswer, 'exitCode'>), exitCode: ran.code };
  }

  /** Like drive, but a refusal rejects. */
  async must(variant: Variant, command: string, policy: FirewallPolicy = POLICY): Promise<unknown> {
    const answer = await this.drive(variant, command, policy);
    if (answer.exitCode !== 0) throw new Error(`${variant} ${command}: ${answer.code}: ${answer.message}`);
    return answer.result;
  }

  async probe(from: Namespace, probe: Probe): Promise<Outcome> {
    const command = ['/usr/bin/python3', path.join(here, 'firewall-probe.py'), JSON.stringify(probe)];
    return JSON.parse(await from.must(command)) as Outcome;
  }

  serve(where: Namespace, answer: string, ...ports: readonly number[]): Promise<Background> {
    const command = ['/usr/bin/python3', path.join(here, 'firewall-serve.py'), answer, ...ports.map(String)];
    return where.serve(command, ports.at(-1) ?? 0);
  }

  /** Opens a connection and keeps it. */
  async talk(from: Namespace, to: string, port: number, mark = 0): Promise<Talk> {
    const command = ['/usr/bin/python3', path.join(here, 'firewall-talk.py'), to, String(port), String(mark)];
    const program = from.start(command);
    await program.until('connection', () => program.stdout.includes('FROM'));
    return new Talk(program);
  }

  capture(): Promise<Capture> {
    return Capture.start(this);
  }

  /** As before `up`: nothing is sent into the tunnel meanwhile. */
  async beforeUp<T>(body: () => Promise<T>): Promise<T> {
    const change = (verb: 'add' | 'del'): Promise<unknown> =>
      Promise.all([4, 6].map((family) => this.app.must(['ip', `-${family}`, 'rule', verb, ...DIVERT.split(' ')])));
    await change('del');
    try {
      return await body();
    } finally {
      await change('add');
    }
  }

  /** As after a crash: routes and device of the tunnel are gone, the rules are not. */
  async withoutTunnel(body: () => Promise<void>): Promise<void> {
    const inApp = (...lines: readonly string[]): Promise<string> => this.app.must(['bash', '-euc', lines.join('\n')]);
    await inApp('ip link set pvpn0 down');
    try {
      await body();
    } finally {
      await inApp('ip link set pvpn0 up', ...TUNNEL_ROUTES);
    }
  }

  /** Takes away what a test may have left. */
  async clean(): Promise<void> {
    for (const variant of ['libnftables', 'iptables', 'iptables-legacy'] as const) await this.drive(variant, 'unload');
    await this.app.run(['nft', 'flush', 'ruleset']);
  }

  async remove(): Promise<void> {
    await this.topology.remove();
    await this.far.remove();
  }
}

/** What taking the device down removes. */
const TUNNEL_ROUTES = [
  'ip addr replace fd70:7670:6e00::1/128 dev pvpn0 nodad',
  `ip route replace default dev pvpn0 table ${TABLE}`,
  `ip -6 route replace default via fe80::1 dev pvpn0 table ${TABLE}`,
];

function tunnel(app: string, far: string): readonly string[] {
  const marked = `rule add priority 5205 fwmark ${MARK}/0xffffffff lookup main`;
  const divert = `rule add ${DIVERT}`;
  const user = `rule add priority 5202 uidrange ${BYPASS_UID}-${BYPASS_UID} ipproto tcp lookup main`;
  return [
    `ip netns add ${far}`,
    `ip -n ${far} link set lo up`,
    `ip netns exec ${far} sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0`,
    `ip netns exec ${far} sysctl -qw net.ipv6.conf.default.accept_dad=0`,
    `ip link add pvpn0 netns ${app} type veth peer name tun0 netns ${far}`,
    `ip netns exec ${app} sysctl -qw net.ipv4.conf.pvpn0.rp_filter=2 net.ipv4.conf.all.src_valid_mark=1`,
    // Strict filtering would look for guest in the tunnel; the mark that mends it would keep guest out of the tunnel.
    `ip netns exec ${app} sysctl -qw net.ipv4.conf.guest0.rp_filter=2`,
    `ip -n ${app} addr add 198.18.0.1/32 dev pvpn0`,
    `ip -n ${app} link set pvpn0 up; ip -n ${far} link set tun0 up`,
    `ip -n ${far} addr add fe80::1/64 dev tun0 nodad`,
    `ip -n ${far} route add local 203.0.113.0/24 dev lo; ip -n ${far} -6 route add local 2001:db8:113::/64 dev lo`,
    ...['198.18.0.1/32', '10.78.0.0/24'].map((to) => `ip -n ${far} route add ${to} dev tun0`),
    `mac=$(ip -n ${app} -br link show pvpn0 | awk '{print $3}')`,
    `ip -n ${far} -6 neigh add fe80::2 lladdr $mac dev tun0 nud permanent`,
    ...['fd70:7670:6e00::1/128', 'fd78::/64'].map((to) => `ip -n ${far} -6 route add ${to} via fe80::2 dev tun0`),
    ...['198.18.0.1', '10.78.0.2'].map((to) => `ip -n ${far} neigh add ${to} lladdr $mac dev tun0 nud permanent`),
    ...TUNNEL_ROUTES.map((line) => `ip netns exec ${app} ${line}`),
    ...['-4', '-6'].flatMap((family) => [marked, divert, user].map((rule) => `ip -n ${app} ${family} ${rule}`)),
  ];
}

/** A connection that is held open. */
export class Talk {
  readonly #program: Background;

  constructor(program: Background) {
    this.#program = program;
  }

  get localPort(): number {
    return Number(/FROM (\d+)/.exec(this.#program.stdout)?.[1]);
  }

  /** Sends something that is answered. @returns `.`, or the error's text, or undefined when nothing comes */
  async ask(patienceMs = 5000): Promise<string | undefined> {
    const answers = (): readonly string[] => this.#program.stdout.split('\n').slice(1, -1);
    const count = answers().length;
    this.#program.write('\n');
    return until('answer', () => answers().length > count, patienceMs).then(
      () => answers()[count],
      () => undefined,
    );
  }
}

/** Packets that app sends over its uplink, as net receives them. */
export class Capture {
  readonly #lab: FirewallLab;
  readonly #tcpdump: Background;

  private constructor(lab: FirewallLab, tcpdump: Background) {
    this.#lab = lab;
    this.#tcpdump = tcpdump;
  }

  static async start(lab: FirewallLab): Promise<Capture> {
    const tcpdump = lab.topology.net.start([
      'tcpdump',
      '-i',
      'app0',
      '-Q',
      'in',
      '-nn',
      '-l',
      '--immediate-mode',
      'ip or ip6',
    ]);
    await tcpdump.until('capture', () => tcpdump.stderr.includes('listening on'));
    return new Capture(lab, tcpdump);
  }

  /** Ends it, once a permitted packet sent last has been seen: then every earlier one has been, too. @returns lines */
  async stop(): Promise<readonly string[]> {
    await this.#lab.probe(this.#lab.app, {
      proto: 'udp',
      family: 4,
      to: ADDRESS.net.v4,
      port: 53,
      from_port: LAST_PORT,
    });
    await this.#tcpdump.until('last packet', () => this.#tcpdump.stdout.includes(`.${LAST_PORT} > `));
    await this.#tcpdump.stop('SIGINT');
    return this.#tcpdump.stdout.split('\n').filter((line) => line !== '' && !line.includes(`.${LAST_PORT} > `));
  }
}

const LAST_PORT = 9999;
