/**
 * The life of a tunnel with killswitch while every kind of packet tries to get out, and what of it was seen outside.
 *
 * The window that is judged opens when the packet filter is first seen in force and closes at the last moment at
 * which it is known to have been in force: before, the host is an ordinary host, and after `down` it is one again.
 * The filter is looked at every few milliseconds, by its own listing. Looking at it after the fact would call the
 * first packets behind `down` leaks; so each look is timed before it starts (for the end of the window) and after it
 * has ended (for its beginning). All that lies between, crash and second `up` included, must be without a leak.
 */
import path from 'node:path';
import { z } from 'zod';
import { Capture, type Packet, toProxy } from './capture.ts';
import type { Cli } from './cli.ts';
import { labProgram, startLabProxy } from './lab.ts';
import { type Background, run, until } from './process.ts';
import { DATAGRAM_ADDRESS, startDatagramServers } from './servers.ts';
import { ADDRESS, bracketed, type Namespace, type Topology } from './topology.ts';

export const PROXY_PORT = 8888;
const ECHO_PORT = 9003;
/** The mark of the engine's own sockets, src/mark/scheme.ts: anyone with CAP_NET_RAW can set it. */
const ENGINE_MARK = '0x50560000';

const Catalogue = z.record(z.string(), z.object({ address: z.string(), port: z.number() }));
export type Catalogue = z.infer<typeof Catalogue>;

/** Programs that try to get out, in app and in guest, and somebody outside who provokes answers. */
export class Probes {
  readonly #running: Background[] = [];
  /** What each probe sends to. */
  catalogue: Catalogue = {};

  static async start(topology: Topology): Promise<Probes> {
    const probes = new Probes();
    const both = [ADDRESS.app.v4, ADDRESS.app.v6];
    await probes.#add(topology.app, 'local', 'uplink', ENGINE_MARK);
    await probes.#add(topology.guest, 'guest');
    await probes.#add(topology.net, 'inbound', ...both, ADDRESS.guest.v4, ADDRESS.guest.v6);
    await probes.#add(topology.peer, 'inbound', ...both);
    return probes;
  }

  /** Connections that exist before the tunnel: out of app, out of guest, and into app. */
  static async startChatter(topology: Topology): Promise<Probes> {
    const probes = new Probes();
    const outside = [`${DATAGRAM_ADDRESS.v4}:7777`, `${DATAGRAM_ADDRESS.v6}:7777`];
    for (const namespace of [topology.app, topology.guest]) await probes.#add(namespace, 'chatter', ...outside);
    const inside = [ADDRESS.app.v4, ADDRESS.app.v6].map((address) => `${address}:${ECHO_PORT}`);
    await probes.#add(topology.peer, 'chatter', ...inside);
    return probes;
  }

  async #add(where: Namespace, ...args: readonly string[]): Promise<void> {
    const program = path.join(import.meta.dirname, 'leak_probes.py');
    const probe = where.start(['/usr/bin/python3', program, ...args]);
    await probe.until('first round', () => probe.stdout.includes('round 1\n'));
    const [first = ''] = probe.stdout.split('\n', 1);
    for (const [name, target] of Object.entries(Catalogue.parse(JSON.parse(first))))
      if (args[0] !== 'inbound') this.catalogue[`${args[0]} ${name}`] = target;
    this.#running.push(probe);
  }

  #rounds(): readonly number[] {
    return this.#running.map((probe) => probe.stdout.split('\n').length);
  }

  /** Waits until each has gone through all its kinds so many times more. */
  async rounds(count: number): Promise<void> {
    const start = this.#rounds();
    await until(
      `${count} more rounds of probes`,
      () => this.#rounds().every((now, i) => now >= (start[i] ?? 0) + count),
      60_000,
    );
  }

  async stop(): Promise<void> {
    await Promise.all(this.#running.map((probe) => probe.stop('SIGKILL')));
  }
}

/** Looks, all the time, whether the packet filter is in force. */
class Watch {
  #isOver = false;
  #firstMs: number | undefined;
  #lastMs: number | undefined;
  readonly #gaps: number[] = [];
  readonly #loop: Promise<void>;

  constructor(topology: Topology, filter: FilterSign) {
    this.#loop = this.#look(topology, filter);
  }

  async #look(topology: Topology, { listing, isInForce }: FilterSign): Promise<void> {
    let absentSince: number | undefined;
    while (!this.#isOver) {
      const begun = Date.now();
      const { stdout } = await run(topology.app.argv(listing));
      if (isInForce(stdout)) {
        // Absent between two sightings: a gap.
        if (absentSince !== undefined && this.#firstMs !== undefined) this.#gaps.push(absentSince);
        absentSince = undefined;
        this.#firstMs ??= Date.now() + 1;
        this.#lastMs = begun;
      } else {
        absentSince ??= begun;
      }
    }
  }

  /** @returns the window, wall clock in milliseconds, and when the filter was found missing in between */
  async stop(): Promise<{ readonly fromMs: number; readonly toMs: number; readonly gaps: readonly number[] }> {
    this.#isOver = true;
    await this.#loop;
    if (this.#firstMs === undefined || this.#lastMs === undefined) throw new Error('the filter was never in force');
    return { fromMs: this.#firstMs, toMs: this.#lastMs, gaps: this.#gaps };
  }
}

/** Servers that answer the probes and the chatter; labproxy is the upstream. */
export async function startLeakServers(topology: Topology): Promise<void> {
  await startLabProxy(topology.net, PROXY_PORT);
  await startDatagramServers(topology);
  // The chatter's TCP side: an echo on the same port as the UDP one.
  const echo =
    'import socketserver,sys,socket\n' +
    'class H(socketserver.BaseRequestHandler):\n' +
    '  def handle(self):\n' +
    '    while (d := self.request.recv(65536)): self.request.sendall(d)\n' +
    'class S(socketserver.ThreadingTCPServer): address_family=socket.AF_INET6; allow_reuse_address=True\n' +
    'S(("::",7777),H).serve_forever()';
  await topology.net.serve(['/usr/bin/python3', '-c', echo], 7777);
  await topology.app.serve([await labProgram('labproxy'), '-d', '::', '8000'], ECHO_PORT);
}

export interface LeakReport {
  /** Packets in the window that were neither to the proxy nor address resolution. */
  readonly leaks: readonly Packet[];
  /** Packets in the window that went to the proxy. */
  readonly toProxy: number;
  readonly gaps: readonly number[];
}

/** What to look at to know that the filter is in force. */
export interface FilterSign {
  readonly listing: readonly string[];
  readonly isInForce: (listed: string) => boolean;
}

/**
 * The one nftables table: all or nothing. Its chains are asked for, not the list of tables: that shows for an
 * instant also a table that is only checked (nft -c) and then thrown away.
 */
export const NFT_FILTER: FilterSign = {
  listing: ['nft', 'list', 'table', 'inet', 'proxyvpn'],
  isInForce: (listed) => listed.match(/policy drop/g)?.length === 3,
};

/** The iptables chains of both families, loaded one table after the other: in force when the last jump is there. */
export const IPTABLES_FILTER: FilterSign = {
  listing: ['bash', '-c', 'iptables-save; echo; ip6tables-save'],
  isInForce: (listed) =>
    ['OUTPUT', 'FORWARD', 'POSTROUTING'].every(
      (chain) => (listed.match(new RegExp(`^-A ${chain} .*-j PVPN-default-(OUT|FWD|GATE)$`, 'gm'))?.length ?? 0) === 2,
    ),
};

/** up, steady state, SIGKILL, a while as crashed, second up, down. */
export function liveAndDie(topology: Topology, cli: Cli, filter: FilterSign): Promise<LeakReport> {
  const upstream = ['--proxy', `${ADDRESS.net.v4}:${PROXY_PORT}`, '--killswitch', '--allow-dns', 'none'];
  const second = ['--proxy', `${bracketed(ADDRESS.net.v6)}:${PROXY_PORT}`, '--killswitch', '--allow-dns', 'none'];
  return watchLeaks(topology, filter, async (probes) => {
    await cli.up(upstream);
    await probes.rounds(3);
    await cli.killDaemon();
    await probes.rounds(3);
    await cli.up(second);
    await probes.rounds(3);
    await cli.down();
  });
}

/** What leaves in a life that begins and ends without the filter, and that has it all the time between. */
export async function watchLeaks(
  topology: Topology,
  filter: FilterSign,
  life: (probes: Probes) => Promise<void>,
): Promise<LeakReport> {
  const chatter = await Probes.startChatter(topology);
  const capture = await Capture.start(topology, 'life');
  const probes = await Probes.start(topology);
  const watch = new Watch(topology, filter);
  await life(probes);
  const { fromMs, toMs, gaps } = await watch.stop();
  // Frames are stamped when they are received; the last ones of the window are in the file after one more round.
  await probes.rounds(1);
  await Promise.all([probes.stop(), chatter.stop()]);
  await capture.stop();
  const inWindow = (packet: Packet): boolean => packet.atMs >= fromMs && packet.atMs <= toMs;
  return {
    leaks: (await capture.others(toProxy(PROXY_PORT))).filter(inWindow),
    toProxy: (await capture.packets(toProxy(PROXY_PORT))).filter(inWindow).length,
    gaps,
  };
}

/** The probes whose packets were seen outside. */
export async function seenOutside(capture: Capture, catalogue: Catalogue): Promise<ReadonlySet<string>> {
  const seen = new Set<string>();
  for (const [name, { address, port }] of Object.entries(catalogue)) {
    const filter = port === 0 ? `dst host ${address} and (icmp or icmp6)` : `dst host ${address} and dst port ${port}`;
    if ((await capture.packets(filter)).length > 0) seen.add(name);
  }
  return seen;
}
