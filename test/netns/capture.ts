/** Records what leaves app: tcpdump on net's side of the uplink, only packets that come from app. */
import path from 'node:path';
import { type Background, run } from './process.ts';
import { ADDRESS, type Topology } from './topology.ts';

export interface Packet {
  /** Wall clock, milliseconds. */
  readonly atMs: number;
  /** tcpdump's line. */
  readonly text: string;
}

/**
 * Address resolution and multicast membership: without them no packet reaches the proxy. They carry nothing of a
 * program's. RFC 4861 neighbour and router messages (types 133 to 137), RFC 3810 reports (type 143).
 */
const LINK_LOCAL =
  'arp or (icmp6 and ((ip6[40] >= 133 and ip6[40] <= 137) or ip6[40] == 143)) or ' +
  // A report that follows a hop-by-hop router alert option, RFC 3810 section 5.
  '(ip6[6] == 0 and ip6[40] == 58 and ip6[48] == 143)';

/** What the engine may send: TCP to the proxy's port at either of net's addresses. */
export const toProxy = (port: number): string =>
  `(tcp dst port ${port} and (dst host ${ADDRESS.net.v4} or dst host ${ADDRESS.net.v6}))`;

export class Capture {
  readonly #tcpdump: Background;
  readonly #file: string;

  private constructor(tcpdump: Background, file: string) {
    this.#tcpdump = tcpdump;
    this.#file = file;
  }

  /** Returns when the capture has begun. */
  static async start(topology: Topology, name: string): Promise<Capture> {
    const file = path.join(topology.directory, `${name}.pcap`);
    const options = ['-i', 'app0', '-Q', 'in', '-Z', 'root', '-s', '128', '-B', '32768', '-U', '--immediate-mode'];
    const tcpdump = topology.net.start(['tcpdump', ...options, '-w', file]);
    await tcpdump.until('begin of capture', () => tcpdump.stderr.includes('listening on'));
    return new Capture(tcpdump, file);
  }

  /** Ends the capture. @throws Error when the kernel dropped packets: then the record proves nothing */
  async stop(): Promise<void> {
    if (!this.#tcpdump.isRunning) return;
    await this.#tcpdump.stop('SIGINT');
    const dropped = /(\d+) packets dropped by kernel/.exec(this.#tcpdump.stderr)?.[1];
    if (dropped !== '0') throw new Error(`the capture is not whole: ${this.#tcpdump.stderr}`);
  }

  /** The recorded packets that match the pcap filter, oldest first. */
  async packets(filter: string): Promise<readonly Packet[]> {
    const ran = await run(['tcpdump', '-nn', '-tt', '-r', this.#file, filter], { timeoutMs: 60_000 });
    if (ran.code !== 0) throw new Error(`tcpdump -r: ${ran.stderr}`);
    const parse = (text: string): Packet => ({ atMs: Number(text.split(' ', 1)[0]) * 1000, text });
    return ran.stdout.split('\n').filter(Boolean).map(parse);
  }

  /** Packets that are neither address resolution nor match one of the filters. */
  others(...allowed: readonly string[]): Promise<readonly Packet[]> {
    return this.packets(`not (${[LINK_LOCAL, ...allowed].join(' or ')})`);
  }
}
