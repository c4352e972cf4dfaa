/**
 * DNS over TCP to one of several servers: queries share few connections, move to another connection or server when theirs
 * ends or keeps silent, and fail at their deadline (RFC 7766).
 */
import net from 'node:net';
import type { Duplex } from 'node:stream';
import type { ProxyVpnError } from '../errors.ts';
import { type Question, rcodeOf } from './codec.ts';
import { RCODE } from './numbers.ts';
import { type Pending, TcpConnection } from './tcp-connection.ts';
import {
  type Endpoint,
  serverText,
  timedOut,
  tooBusy,
  type Upstream,
  type UpstreamCounters,
  upstreamFailed,
} from './upstream.ts';

export interface TcpUpstreamOptions {
  /** The first one is asked; the next ones when it fails. */
  readonly servers: readonly Endpoint[];
  /** Default `net.connect`. Writes before it is connected must be kept. */
  readonly connect?: (server: Endpoint) => Duplex;
  /** From query to answer, all attempts together; default 5 s, after which resolvers ask again (resolv.conf(5)). */
  readonly timeoutMs?: number;
  /** Silence after which another connection is tried; default 2 s. */
  readonly attemptMs?: number;
  /** Connections without a query are closed after it; default 10 s. */
  readonly idleMs?: number;
  /** Bound of queries at a time; default 2048. */
  readonly mostInFlight?: number;
  /** Default 2. */
  readonly connectionsPerServer?: number;
}

interface Request extends Pending {
  /** Of the client. */
  readonly id: number;
  readonly deadlineMs: number;
  readonly resolve: (response: Buffer) => void;
  readonly reject: (error: ProxyVpnError) => void;
  timer: NodeJS.Timeout | undefined;
  connection: TcpConnection<Request> | undefined;
  sentAtMs: number;
  attempts: number;
  /** Index of the server that is asked. */
  server: number;
  /** Servers that answered that they cannot. */
  refusals: number;
  /** Why the last attempt failed. */
  why: string;
  /** An answer that says "I cannot": better than none. */
  fallback: Buffer | undefined;
}

const DEFAULTS = { timeoutMs: 5000, attemptMs: 2000, idleMs: 10_000, mostInFlight: 2048, connectionsPerServer: 2 };
/** Queries on one connection before another one is opened: some servers answer in order. */
const ENOUGH_PENDING = 64;

export class TcpUpstream implements Upstream {
  readonly #options: Required<TcpUpstreamOptions>;
  readonly #connections = new Map<Endpoint, Set<TcpConnection<Request>>>();
  readonly #requests = new Set<Request>();
  readonly #counts = { sent: 0, answered: 0, retried: 0, failed: 0, ignored: 0 };
  /** Index of the server that worked last. */
  #preferred = 0;
  #isClosed = false;

  constructor(options: TcpUpstreamOptions) {
    if (options.servers.length === 0) throw new RangeError('no servers');
    const connect = ({ address, port }: Endpoint): Duplex => net.connect({ host: address, port, noDelay: true });
    this.#options = { ...DEFAULTS, connect, ...options };
  }

  get counters(): UpstreamCounters {
    return { ...this.#counts };
  }

  query(message: Uint8Array, question: Question): Promise<Buffer> {
    const { mostInFlight, timeoutMs } = this.#options;
    if (this.#isClosed) return Promise.reject(upstreamFailed(this.#who(), 'it is closed'));
    if (this.#requests.size >= mostInFlight) return Promise.reject(tooBusy(this.#who(), mostInFlight));
    return new Promise((resolve, reject) => {
      const own = Buffer.from(message);
      const request: Request = {
        message: own,
        // The question's bytes may be a view of memory that the caller uses again.
        question: { ...question, bytes: Buffer.from(question.bytes) },
        id: own.readUInt16BE(0),
        deadlineMs: performance.now() + timeoutMs,
        resolve,
        reject,
        timer: undefined,
        connection: undefined,
        sentAtMs: 0,
        attempts: 0,
        server: this.#preferred,
        refusals: 0,
        why: '',
        fallback: undefined,
      };
      this.#requests.add(request);
      this.#attempt(request);
    });
  }

  close(): void {
    this.#isClosed = true;
    for (const request of [...this.#requests]) this.#fail(request, upstreamFailed(this.#who(), 'it is closed'));
    for (const set of this.#connections.values()) for (const connection of set) connection.end('it is closed');
  }

  #attempt(request: Request): void {
    const { servers, attemptMs } = this.#options;
    const now = performance.now();
    // Each server once, and the first one again: its connection may just have been closed as idle.
    if (request.attempts > servers.length) {
      this.#fail(request, upstreamFailed(this.#who(), request.why));
      return;
    }
    if (request.attempts > 0) this.#counts.retried++;
    request.attempts++;
    request.sentAtMs = now;
    const connection = this.#connectionTo(servers[request.server] as Endpoint);
    request.connection = connection;
    this.#watch(request, Math.min(attemptMs, request.deadlineMs - now));
    this.#counts.sent++;
    connection.send(request);
  }

  #watch(request: Request, delayMs: number): void {
    clearTimeout(request.timer);
    request.timer = setTimeout(() => this.#onSilence(request), delayMs);
  }

  #onSilence(request: Request): void {
    const { attemptMs, servers, timeoutMs } = this.#options;
    const { connection, sentAtMs } = request;
    const now = performance.now();
    const isLate = now >= request.deadlineMs - 1;
    if (isLate) this.#fail(request, timedOut(this.#who(), timeoutMs));
    if (connection === undefined) return;
    if (connection.isConnecting) {
      // A slow proxy: whoever asks again finds the connection made.
    } else if (!connection.hasHeardSince(sentAtMs)) {
      // Not this query alone: the connection is dead. Its end moves all of them.
      if (now - sentAtMs >= attemptMs - 1) connection.end('it keeps silent');
      else if (!isLate) this.#watch(request, attemptMs - (now - sentAtMs));
      return;
    }
    if (isLate) return;
    if (request.attempts > servers.length || (connection.isConnecting && servers.length === 1)) {
      this.#watch(request, request.deadlineMs - now);
      return;
    }
    if (!connection.isConnecting && !connection.hasAnsweredSince(sentAtMs)) connection.suspect();
    connection.forget(request);
    request.server = (request.server + 1) % servers.length;
    this.#attempt(request);
  }

  #connectionTo(server: Endpoint): TcpConnection<Request> {
    const { connect, connectionsPerServer, idleMs } = this.#options;
    const set = this.#connections.get(server) ?? new Set();
    this.#connections.set(server, set);
    const usable = [...set]
      .filter(({ isUsable, isSuspect }) => isUsable && !isSuspect)
      .sort((a, b) => a.pendingCount - b.pendingCount);
    const [least] = usable;
    if (least !== undefined && (least.pendingCount < ENOUGH_PENDING || usable.length >= connectionsPerServer)) {
      return least;
    }
    const connection: TcpConnection<Request> = new TcpConnection(
      connect(server),
      {
        answered: (request, response) => this.#onAnswer(server, request, response),
        ignored: () => {
          this.#counts.ignored++;
        },
        ended: (unanswered, why) => {
          set.delete(connection);
          this.#onEnd(server, connection, unanswered, why);
        },
      },
      idleMs,
    );
    set.add(connection);
    return connection;
  }

  #onAnswer(server: Endpoint, request: Request, response: Buffer): void {
    const { servers } = this.#options;
    request.connection = undefined;
    const rcode = rcodeOf(response);
    const cannot = rcode === RCODE.SERVFAIL || rcode === RCODE.REFUSED || rcode === RCODE.NOTIMP;
    if (cannot && ++request.refusals < servers.length) {
      request.fallback = response;
      request.server = (request.server + 1) % servers.length;
      this.#attempt(request);
      return;
    }
    if (!cannot) this.#preferred = servers.indexOf(server);
    this.#counts.answered++;
    this.#settle(request);
    response.writeUInt16BE(request.id, 0);
    request.resolve(response);
  }

  #onEnd(server: Endpoint, connection: TcpConnection<Request>, unanswered: readonly Request[], why: string): void {
    const { servers } = this.#options;
    const index = servers.indexOf(server);
    const next = (index + 1) % servers.length;
    const isUseless = !connection.hasAnswered;
    if (unanswered.length > 0 && isUseless && this.#preferred === index) this.#preferred = next;
    for (const request of unanswered) {
      if (!this.#requests.has(request)) continue;
      request.connection = undefined;
      request.why = `${serverText(server)}: ${why}`;
      // A server may close after a number of queries (RFC 7766 §6.2.4): no attempt is lost by that, only time.
      if (isUseless) request.server = next;
      else request.attempts--;
      this.#attempt(request);
    }
  }

  #fail(request: Request, error: ProxyVpnError): void {
    this.#settle(request);
    request.connection?.forget(request);
    if (request.fallback !== undefined) {
      this.#counts.answered++;
      request.fallback.writeUInt16BE(request.id, 0);
      request.resolve(request.fallback);
      return;
    }
    this.#counts.failed++;
    request.reject(error);
  }

  #settle(request: Request): void {
    clearTimeout(request.timer);
    this.#requests.delete(request);
  }

  #who(): string {
    return `the DNS server ${this.#options.servers.map(serverText).join(', ')}`;
  }
}
