/**
 * Resolvers of the local network, asked as any program asks them: by UDP, by TCP where the answer did not fit.
 *
 * Each query has a socket of its own, connected, so that the kernel lets only the server's datagrams in and reports a
 * closed port; its port and the id are random, which is what keeps forged answers out (RFC 5452).
 */
import { randomInt } from 'node:crypto';
import dgram from 'node:dgram';
import { type Family, familyOf } from '../ip.ts';
import { answersQuestion, isTruncated, type Question } from './codec.ts';
import { TcpUpstream } from './tcp-upstream.ts';
import {
  type Endpoint,
  errorWord,
  serverText,
  timedOut,
  tooBusy,
  type Upstream,
  type UpstreamCounters,
  upstreamFailed,
} from './upstream.ts';

export interface LanUpstreamOptions {
  /** Asked in turn until one answers. */
  readonly servers: readonly Endpoint[];
  /** Default `dgram.createSocket`. Its socket is closed by us. */
  readonly openSocket?: (family: Family) => dgram.Socket;
  /** For answers that do not fit into a datagram; default one of our own. */
  readonly tcp?: Upstream;
  /** From query to answer, default 5 s. */
  readonly timeoutMs?: number;
  /** Until the same or the next server is asked again, default 1.5 s. */
  readonly attemptMs?: number;
  /** Bound of queries, and so of sockets, at a time; default 512. */
  readonly mostInFlight?: number;
}

const DEFAULTS = { timeoutMs: 5000, attemptMs: 1500, mostInFlight: 512 };

/** What one attempt came to. */
type Outcome = { readonly response: Buffer } | { readonly why: string };

export class LanUpstream implements Upstream {
  readonly #options: Required<LanUpstreamOptions>;
  readonly #counts = { sent: 0, answered: 0, retried: 0, failed: 0, ignored: 0 };
  readonly #open = new Set<(outcome: Outcome) => void>();
  #inFlight = 0;
  #isClosed = false;

  constructor(options: LanUpstreamOptions) {
    if (options.servers.length === 0) throw new RangeError('no servers');
    const openSocket = (family: Family): dgram.Socket => dgram.createSocket(family === 4 ? 'udp4' : 'udp6');
    const tcp = options.tcp ?? new TcpUpstream({ servers: options.servers });
    this.#options = { ...DEFAULTS, openSocket, ...options, tcp };
  }

  get counters(): UpstreamCounters {
    return { ...this.#counts };
  }

  async query(message: Uint8Array, question: Question): Promise<Buffer> {
    const { mostInFlight } = this.#options;
    if (this.#isClosed) throw upstreamFailed(this.#who(), 'it is closed');
    if (this.#inFlight >= mostInFlight) throw tooBusy(this.#who(), mostInFlight);
    const own = Buffer.from(message);
    this.#inFlight++;
    try {
      const response = await this.#ask(own, { ...question, bytes: Buffer.from(question.bytes) });
      this.#counts.answered++;
      return response;
    } catch (error) {
      this.#counts.failed++;
      throw error;
    } finally {
      this.#inFlight--;
    }
  }

  close(): void {
    this.#isClosed = true;
    for (const settle of [...this.#open]) settle({ why: 'it is closed' });
    this.#options.tcp.close();
  }

  async #ask(message: Buffer, question: Question): Promise<Buffer> {
    const { attemptMs, servers, tcp, timeoutMs } = this.#options;
    const deadlineMs = performance.now() + timeoutMs;
    const failures: string[] = [];
    // At least twice in all: a datagram may be lost.
    const attempts = Math.max(2, servers.length);
    for (let attempt = 0; attempt < attempts; attempt++) {
      const server = servers[attempt % servers.length] as Endpoint;
      const leftMs = deadlineMs - performance.now();
      if (leftMs <= 0) break;
      if (attempt > 0) this.#counts.retried++;
      const isLast = attempt === attempts - 1;
      const outcome = await this.#exchange(server, message, question, isLast ? leftMs : Math.min(attemptMs, leftMs));
      if (!('response' in outcome)) {
        failures.push(`${serverText(server)}: ${outcome.why}`);
        if (this.#isClosed) break;
        continue;
      }
      if (isTruncated(outcome.response)) return tcp.query(message, question);
      return outcome.response;
    }
    if (performance.now() >= deadlineMs - 1) throw timedOut(this.#who(), timeoutMs);
    throw upstreamFailed(this.#who(), [...new Set(failures)].join('; '));
  }

  /** Never rejects. */
  #exchange(server: Endpoint, message: Buffer, question: Question, timeoutMs: number): Promise<Outcome> {
    return new Promise((resolve) => {
      const socket = this.#options.openSocket(familyOf(server.address));
      const id = randomInt(0x10000);
      const sent = Buffer.from(message);
      sent.writeUInt16BE(id, 0);
      const settle = (outcome: Outcome): void => {
        if (!this.#open.delete(settle)) return;
        clearTimeout(timer);
        socket.close();
        resolve(outcome);
      };
      const timer = setTimeout(() => settle({ why: 'it keeps silent' }), timeoutMs);
      this.#open.add(settle);
      this.#counts.sent++;
      socket.on('error', (error) => settle({ why: errorWord(error) }));
      socket.on('message', (response) => {
        if (response.length < 2 || response.readUInt16BE(0) !== id || !answersQuestion(response, question)) {
          this.#counts.ignored++;
          return;
        }
        response.writeUInt16BE(message.readUInt16BE(0), 0);
        settle({ response });
      });
      socket.once('connect', () => {
        // Settled meanwhile: the socket is closed.
        if (this.#open.has(settle)) socket.send(sent);
      });
      socket.connect(server.port, server.address);
    });
  }

  #who(): string {
    return `the resolver ${this.#options.servers.map(serverText).join(', ')}`;
  }
}
