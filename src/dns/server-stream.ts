/** Queries on a TCP stream: answered as they come ready, in any order (RFC 7766 §6.2.1.1), within bounds. */
import type { Duplex } from 'node:stream';
import { ProxyHeaderReader } from './proxy-header.ts';
import type { DnsServer } from './server.ts';
import { FrameReader, frame } from './stream.ts';

export interface StreamOptions {
  /** Whether a PROXY line comes first, see proxy-header.ts. */
  readonly expectHeader: boolean;
  /** Without a query under way the stream is closed after it; default 10 s (RFC 7766 §6.2.3). */
  readonly idleMs?: number;
}

const DEFAULT_IDLE_MS = 10_000;
/** Queries of one stream at a time; more are read when these are answered. */
const MOST_PENDING = 64;
/** Replies that the client does not read; then its queries are not read either. */
const MOST_UNREAD_BYTES = 256 * 1024;

/**
 * Serves until the client ends or misbehaves. A client that ends its side still gets its answers: the stream must have
 * `allowHalfOpen`.
 */
export function serveStream(server: Pick<DnsServer, 'answerStream'>, stream: Duplex, options: StreamOptions): void {
  new ServedStream(server, stream, options).start();
}

class ServedStream {
  readonly #server: Pick<DnsServer, 'answerStream'>;
  readonly #stream: Duplex;
  readonly #idleMs: number;
  readonly #frames = new FrameReader();
  #header: ProxyHeaderReader | undefined;
  #waiting: Buffer[] = [];
  #pending = 0;
  #hasEnded = false;
  #idleTimer: NodeJS.Timeout | undefined;

  constructor(server: Pick<DnsServer, 'answerStream'>, stream: Duplex, options: StreamOptions) {
    this.#server = server;
    this.#stream = stream;
    this.#idleMs = options.idleMs ?? DEFAULT_IDLE_MS;
    this.#header = options.expectHeader ? new ProxyHeaderReader() : undefined;
  }

  start(): void {
    const stream = this.#stream;
    stream.on('data', (chunk: Buffer) => this.#onData(chunk));
    stream.on('drain', () => this.#goOn());
    stream.on('end', () => {
      this.#hasEnded = true;
      this.#goOn();
    });
    stream.on('error', () => stream.destroy());
    stream.on('close', () => clearTimeout(this.#idleTimer));
    this.#watchIdle();
  }

  #onData(chunk: Buffer): void {
    let bytes = chunk;
    if (this.#header !== undefined) {
      const read = this.#header.push(chunk);
      if (read === 'malformed') this.#stream.destroy();
      if (read === undefined || read === 'malformed') return;
      this.#header = undefined;
      bytes = read.rest;
    }
    this.#waiting.push(...this.#frames.push(bytes));
    this.#goOn();
  }

  /** Starts what may be started, and reads on or not. */
  #goOn(): void {
    const stream = this.#stream;
    while (!stream.destroyed && this.#pending < MOST_PENDING && stream.writableLength < MOST_UNREAD_BYTES) {
      const message = this.#waiting.shift();
      if (message === undefined) break;
      this.#pending++;
      void this.#answer(message);
    }
    if (stream.destroyed) return;
    if (this.#waiting.length > 0) stream.pause();
    else if (stream.isPaused()) stream.resume();
    if (this.#hasEnded && this.#pending === 0 && this.#waiting.length === 0) stream.end();
    this.#watchIdle();
  }

  async #answer(message: Buffer): Promise<void> {
    const reply = await this.#server.answerStream(message);
    this.#pending--;
    if (this.#stream.destroyed) return;
    // Whoever sends no query is not spoken to: there is no way to say so in DNS.
    if (reply === undefined) this.#stream.destroy();
    else this.#stream.write(frame(reply));
    this.#goOn();
  }

  #watchIdle(): void {
    clearTimeout(this.#idleTimer);
    if (this.#pending > 0) return;
    this.#idleTimer = setTimeout(() => this.#stream.destroy(), this.#idleMs).unref();
  }
}
