/**
 * A throw-away network of four namespaces, each test file its own; the only place that makes devices and addresses.
 *
 *     guest            app                     net                       peer
 *   10.78.0.2 ──── 10.78.0.1          ┌──── 10.77.0.2               ┌── 10.79.0.2
 *   fd78::2   guest0 fd78::1 uplink ──┘ app0 fd77::2  peer0 ────────┘   fd79::2
 *   (container)    10.77.0.1                 10.79.0.1 fd79::1      (somebody who connects to app)
 *                  fd77::1                   lo: 203.0.113.0/24, 2001:db8:113::/64 = "the internet":
 *                  default via net               proxies, origins and resolvers listen here
 *
 * app is the host under test. Its default route makes leaks possible: what goes astray reaches net, whose side of the
 * uplink (app0) is captured. `originIsDirect: false` has net refuse packets that come from app straight to
 * 203.0.113.0/24 or 2001:db8:113::/64, so that only a proxy in net can reach an origin and every answer proves the
 * tunnel. guest's packets are forwarded by app without NAT.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Background, type Ran, type RunOptions, run } from './process.ts';

export const ADDRESS = {
  app: { v4: '10.77.0.1', v6: 'fd77::1' },
  net: { v4: '10.77.0.2', v6: 'fd77::2' },
  guest: { v4: '10.78.0.2', v6: 'fd78::2' },
  peer: { v4: '10.79.0.2', v6: 'fd79::2' },
  origin: { v4: '203.0.113.10', v6: '2001:db8:113::10' },
} as const;

/** An address as it stands in a URL or before `:port`. */
export const bracketed = (address: string): string => (address.includes(':') ? `[${address}]` : address);

export interface TopologyOptions {
  /** Default true. False: app knows its own links only. */
  readonly defaultRoute?: boolean;
  /** Default true. False: IPv6 is switched off in app (disable_ipv6). */
  readonly ipv6?: boolean;
  /** net.ipv4.conf.{all,default,uplink}.rp_filter in app. Default 0. */
  readonly reversePathFilter?: 0 | 1 | 2;
  /** Default false: app reaches origins through a proxy only. */
  readonly originIsDirect?: boolean;
}

/** One of the namespaces: where programs run. */
export class Namespace {
  readonly name: string;
  readonly #started: Background[] = [];

  constructor(name: string) {
    this.name = name;
  }

  argv(command: readonly string[]): readonly string[] {
    return ['ip', 'netns', 'exec', this.name, ...command];
  }

  run(command: readonly string[], options: RunOptions = {}): Promise<Ran> {
    return run(this.argv(command), options);
  }

  /** Like run, but a failure rejects. @returns stdout */
  async must(command: readonly string[], options: RunOptions = {}): Promise<string> {
    const ran = await this.run(command, options);
    if (ran.code !== 0) throw new Error(`${command.join(' ')}: exit ${ran.code}\n${ran.stdout}${ran.stderr}`);
    return ran.stdout;
  }

  start(command: readonly string[], options: RunOptions = {}): Background {
    const background = new Background(this.argv(command), options);
    this.#started.push(background);
    return background;
  }

  /** Whether somebody in here listens on this TCP port. */
  async isListening(port: number): Promise<boolean> {
    const { stdout } = await this.run(['ss', '-Hltn', `sport = :${port}`]);
    return stdout.trim() !== '';
  }

  /** Starts a server and waits until it listens. */
  async serve(command: readonly string[], port: number, options: RunOptions = {}): Promise<Background> {
    const server = this.start(command, options);
    await server.until(`port ${port}`, () => this.isListening(port));
    return server;
  }

  /** Every process that lives in here, whoever started it. */
  async pids(): Promise<readonly number[]> {
    const { stdout } = await run(['ip', 'netns', 'pids', this.name]);
    return stdout.split('\n').filter(Boolean).map(Number);
  }

  async remove(): Promise<void> {
    await Promise.all(this.#started.map((background) => background.stop()));
    for (const pid of await this.pids()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It ended in between.
      }
    }
    await run(['ip', 'netns', 'del', this.name]);
  }
}

export interface Topology {
  readonly app: Namespace;
  readonly net: Namespace;
  readonly guest: Namespace;
  readonly peer: Namespace;
  /** For files of servers and of the product; others may read it. Short, for unix sockets. Removed at the end. */
  readonly directory: string;
  /** Ends every process in the namespaces and removes them. */
  remove(): Promise<void>;
}

/** Throws where these tests could reach the machine's own network. */
export function refuseOnHost(): void {
  const networkOf = (pid: string): string => fs.readlinkSync(`/proc/${pid}/ns/net`);
  if (process.env['PROXYVPN_PRIVILEGED_TESTS'] !== '1' || networkOf('self') === networkOf('1')) {
    throw new Error('these tests must not run in the network namespace of the host: use scripts/test-privileged.sh');
  }
}

let made = 0;

export async function makeTopology(options: TopologyOptions = {}): Promise<Topology> {
  refuseOnHost();
  const prefix = `pvt${process.pid}x${made++}`;
  const namespaces = (['app', 'net', 'guest', 'peer'] as const).map((role) => new Namespace(`${prefix}${role}`));
  const [app, net, guest, peer] = namespaces as [Namespace, Namespace, Namespace, Namespace];
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pvt-'));
  fs.chmodSync(directory, 0o755);
  const topology: Topology = {
    app,
    net,
    guest,
    peer,
    directory,
    async remove() {
      for (const namespace of namespaces) await namespace.remove();
      fs.rmSync(directory, { recursive: true, force: true });
    },
  };
  const script = [...links(app.name, net.name, guest.name, peer.name), ...policies(app.name, net.name, options)];
  const ran = await run(['bash', '-euc', script.join('\n')]);
  if (ran.code !== 0) {
    await topology.remove();
    throw new Error(`topology: ${ran.stderr}`);
  }
  return topology;
}

function links(app: string, net: string, guest: string, peer: string): readonly string[] {
  const veth = (a: string, nameA: string, b: string, nameB: string): string =>
    `ip link add ${nameA} netns ${a} type veth peer name ${nameB} netns ${b}`;
  const address = (ns: string, device: string, v4: string, v6: string): string =>
    `ip -n ${ns} addr add ${v4}/24 dev ${device}; ip -n ${ns} addr add ${v6}/64 dev ${device} nodad; ` +
    `ip -n ${ns} link set ${device} up`;
  return [
    ...[app, net, guest, peer].flatMap((ns) => [
      `ip netns add ${ns}`,
      `ip -n ${ns} link set lo up`,
      // Duplicate address detection would make the first seconds differ from the rest.
      `ip netns exec ${ns} sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0`,
      `ip netns exec ${ns} sysctl -qw net.ipv6.conf.default.router_solicitations=0`,
      `ip netns exec ${ns} sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0`,
      `ip netns exec ${ns} sysctl -qw net.ipv4.ip_local_port_range='10000 65000'`,
    ]),
    veth(app, 'uplink', net, 'app0'),
    veth(app, 'guest0', guest, 'eth0'),
    veth(net, 'peer0', peer, 'eth0'),
    address(app, 'uplink', ADDRESS.app.v4, ADDRESS.app.v6),
    address(net, 'app0', ADDRESS.net.v4, ADDRESS.net.v6),
    address(app, 'guest0', '10.78.0.1', 'fd78::1'),
    address(guest, 'eth0', ADDRESS.guest.v4, ADDRESS.guest.v6),
    address(net, 'peer0', '10.79.0.1', 'fd79::1'),
    address(peer, 'eth0', ADDRESS.peer.v4, ADDRESS.peer.v6),
    `ip -n ${net} route add local 203.0.113.0/24 dev lo`,
    `ip -n ${net} -6 route add local 2001:db8:113::/64 dev lo`,
    `ip -n ${net} route add 10.78.0.0/24 via ${ADDRESS.app.v4}`,
    `ip -n ${net} -6 route add fd78::/64 via ${ADDRESS.app.v6}`,
    `ip -n ${guest} route add default via 10.78.0.1; ip -n ${guest} -6 route add default via fd78::1`,
    `ip -n ${peer} route add default via 10.79.0.1; ip -n ${peer} -6 route add default via fd79::1`,
    ...[app, net].map((ns) => `ip netns exec ${ns} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`),
  ];
}

function policies(app: string, net: string, options: TopologyOptions): readonly string[] {
  const lines: string[] = [];
  const filter = options.reversePathFilter ?? 0;
  for (const device of ['all', 'default', 'uplink', 'guest0'])
    lines.push(`ip netns exec ${app} sysctl -qw net.ipv4.conf.${device}.rp_filter=${filter}`);
  if (options.ipv6 === false)
    lines.push(`ip netns exec ${app} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1`);
  if (options.defaultRoute !== false) {
    lines.push(`ip -n ${app} route add default via ${ADDRESS.net.v4}`);
    if (options.ipv6 !== false) lines.push(`ip -n ${app} -6 route add default via ${ADDRESS.net.v6}`);
  }
  if (options.originIsDirect !== true)
    lines.push(
      `ip netns exec ${net} nft 'add table inet lab; add chain inet lab in { type filter hook input priority 0; }; ` +
        'add rule inet lab in iifname "app0" ip daddr 203.0.113.0/24 reject with icmp type admin-prohibited; ' +
        `add rule inet lab in iifname "app0" ip6 daddr 2001:db8:113::/64 reject with icmpv6 type admin-prohibited'`,
    );
  return lines;
}
