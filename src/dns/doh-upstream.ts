/** DNS over HTTPS to one server: POST over one HTTP/2 connection that is kept (RFC 8484). */
import http2 from 'node:http2';
import type { Duplex } from 'node:stream';
import { ProxyVpnError } from '../errors.ts';
import { answersQuestion, MOST_TCP_BYTES, type Question } from './codec.ts';
import { errorWord, timedOut, tooBusy, type Upstream, type UpstreamCounters, upstreamFailed } from './upstream.ts';

export interface DohUpstreamOptions {
  readonly url: DohUrl;
  /** A TLS connection whose certificate was verified for the URL's host, with `h2` chosen by ALPN. */
  readonly connect: () => Promise<Duplex>;
  /** From query to answer, connecting included; default 5 s. */
  readonly timeoutMs?: number;
  /** Without a query the connection is closed after it; default 30 s. */
  readonly idleMs?: number;
  /** Bound of queries at a time; default 1024. */
  readonly mostInFlight?: number;
}

export interface DohUrl {
  /** Host name, or IP address without brackets. */
  readonly host: string;
  readonly port: number;
  /** `dns.example`, `[2001:db8::1]:8443`. */
  readonly authority: string;
  /** `/dns-query`. */
  readonly path: string;
}

const DEFAULTS = { timeoutMs: 5000, idleMs: 30_000, mostInFlight: 1024 };
const MEDIA_TYPE = 'application/dns-message';
/** One connection may be closing when a query comes; a second failure is the server's. */
const MOST_ATTEMPTS = 2;

interface Session {
  readonly http: http2.ClientHttp2Session;
  readonly socket: Duplex;
  inFlight: number;
  receivedAtMs: number;
  idleTimer: NodeJS.Timeout | undefined;
  /** The server takes no more streams. */
  isEnding: boolean;
}

/** An exchange that failed in a way that another connection may mend. */
class Retryable extends Error {}

export class DohUpstream implements Upstream {
  readonly #options: Required<DohUpstreamOptions>;
  readonly #counts = { sent: 0, answered: 0, retried: 0, failed: 0, ignored: 0 };
  #session: Promise<Session> | undefined;
  #inFlight = 0;
  #isClosed = false;

  constructor(options: DohUpstreamOptions) {
    this.#options = { ...DEFAULTS, ...options };
  }

  get counters(): UpstreamCounters {
    return { ...this.#counts };
  }

  async query(message: Uint8Array, question: Question): Promise<Buffer> {
    const { mostInFlight, timeoutMs } = this.#options;
    if (this.#isClosed) throw upstreamFailed(this.#who(), 'it is closed');
    if (this.#inFlight >= mostInFlight) throw tooBusy(this.#who(), mostInFlight);
    const body = Buffer.from(message);
    const id = body.readUInt16BE(0);
    // RFC 8484 §4.1: the same question is then the same request.
    body.writeUInt16BE(0, 0);
    const own = { ...question, bytes: Buffer.from(question.bytes) };
    const deadlineMs = performance.now() + timeoutMs;
    this.#inFlight++;
    try {
      const response = await this.#withRetries(body, own, deadlineMs);
      this.#counts.answered++;
      response.writeUInt16BE(id, 0);
      return response;
    } catch (error) {
      this.#counts.failed++;
      throw this.#failure(error);
    } finally {
      this.#inFlight--;
    }
  }

  close(): void {
    this.#isClosed = true;
    this.#session?.then(endSession, () => {});
  }

  async #withRetries(body: Buffer, question: Question, deadlineMs: number): Promise<Buffer> {
    for (let attempt = 1; ; attempt++) {
      const opening = this.#open();
      const session = await within(opening, deadlineMs);
      if (session === undefined) throw timedOut(this.#who(), this.#options.timeoutMs);
      try {
        this.#counts.sent++;
        return await this.#exchange(session, body, question, deadlineMs);
      } catch (error) {
        if (!(error instanceof Retryable) || attempt === MOST_ATTEMPTS || this.#isClosed) throw error;
        this.#counts.retried++;
        // Its streams under way may finish; it closes when it is idle.
        this.#drop(opening);
      }
    }
  }

  /** The session there is, or a new one; those who ask while it is being made share it. */
  #open(): Promise<Session> {
    if (this.#session !== undefined) return this.#session;
    const opening = this.#connect();
    this.#session = opening;
    // The next query tries anew; who waits for this one is told.
    opening.catch(() => this.#drop(opening));
    return opening;
  }

  async #connect(): Promise<Session> {
    const { connect, url } = this.#options;
    const socket = await connect();
    if (this.#isClosed) {
      socket.destroy();
      throw new Error('it is closed');
    }
    const http = http2.connect(`https://${url.authority}`, {
      createConnection: () => socket,
      settings: { enablePush: false },
    });
    const session: Session = {
      http,
      socket,
      inFlight: 0,
      receivedAtMs: -Infinity,
      idleTimer: undefined,
      isEnding: false,
    };
    const opened = this.#session;
    // Every exchange hears of it by its own stream.
    http.on('error', () => {});
    // Streams under way may finish, new ones need a new connection.
    http.on('goaway', () => {
      this.#drop(opened);
      session.isEnding = true;
      this.#watchIdle(session);
    });
    http.on('close', () => {
      clearTimeout(session.idleTimer);
      this.#drop(opened);
    });
    this.#watchIdle(session);
    return session;
  }

  #drop(opened: Promise<Session> | undefined): void {
    if (this.#session === opened) this.#session = undefined;
  }

  #watchIdle(session: Session): void {
    clearTimeout(session.idleTimer);
    if (session.inFlight > 0) return;
    session.idleTimer = setTimeout(() => endSession(session), session.isEnding ? 0 : this.#options.idleMs).unref();
  }

  async #exchange(session: Session, body: Buffer, question: Question, deadlineMs: number): Promise<Buffer> {
    const startedAtMs = performance.now();
    const stream = this.#request(session, body);
    session.inFlight++;
    clearTimeout(session.idleTimer);
    try {
      const response = await within(readResponse(stream, session), deadlineMs);
      if (response === undefined) {
        // Nothing at all has come: the connection is dead, not this query alone.
        if (session.receivedAtMs < startedAtMs) endSession(session);
        throw timedOut(this.#who(), this.#options.timeoutMs);
      }
      if (answersQuestion(response, question)) return response;
      this.#counts.ignored++;
      throw new Error('it answers what was not asked');
    } finally {
      session.inFlight--;
      this.#watchIdle(session);
      stream.close(http2.constants.NGHTTP2_CANCEL);
    }
  }

  #request({ http }: Session, body: Buffer): http2.ClientHttp2Stream {
    const { url } = this.#options;
    try {
      const stream = http.request({
        ':method': 'POST',
        ':scheme': 'https',
        ':authority': url.authority,
        ':path': url.path,
        accept: MEDIA_TYPE,
        'content-type': MEDIA_TYPE,
        'content-length': body.length,
      });
      stream.end(body);
      return stream;
    } catch (error) {
      // Closed in between, or out of stream numbers.
      throw new Retryable(errorWord(error));
    }
  }

  #failure(error: unknown): ProxyVpnError {
    if (error instanceof ProxyVpnError) return error;
    return upstreamFailed(this.#who(), errorWord(error), error);
  }

  #who(): string {
    return `the DNS server https://${this.#options.url.authority}${this.#options.url.path}`;
  }
}

/** node's http2 alone would wait for the server to close its side, for ever if need be. */
function endSession({ http, socket }: Session): void {
  http.destroy();
  socket.destroy();
}

/** @throws Retryable when the connection or the stream ended; Error when the answer is none of RFC 8484 §4.2 */
function readResponse(stream: http2.ClientHttp2Stream, session: Session): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    let hasHead = false;
    const hear = (): void => {
      session.receivedAtMs = performance.now();
    };
    stream.on('response', (headers) => {
      hear();
      hasHead = true;
      const why = whyUnusable(headers[':status'], headers['content-type'] ?? '');
      if (why !== undefined) reject(new Error(why));
    });
    stream.on('data', (chunk: Buffer) => {
      hear();
      bytes += chunk.length;
      if (bytes <= MOST_TCP_BYTES) chunks.push(chunk);
      else reject(new Error(`its answer is longer than ${MOST_TCP_BYTES} bytes`));
    });
    stream.on('error', (error) => reject(new Retryable(errorWord(error))));
    // Not 'end': that comes also when the connection breaks, in the middle of an answer or before it.
    stream.on('close', () => {
      const isWhole = hasHead && stream.rstCode === http2.constants.NGHTTP2_NO_ERROR && !stream.aborted;
      if (isWhole) resolve(Buffer.concat(chunks));
      else reject(new Retryable('the connection was closed'));
    });
  });
}

function whyUnusable(status: number | undefined, contentType: string): string | undefined {
  if (status === undefined || status < 200 || status > 299) return `it answers with HTTP status ${status}`;
  const type = (contentType.split(';')[0] ?? '').trim().toLowerCase();
  if (type === MEDIA_TYPE) return undefined;
  return `it answers with ${/^[\w.+/-]{1,40}$/.test(type) ? type : 'something'} instead of ${MEDIA_TYPE}`;
}

/** undefined at the deadline; the promise goes on. */
async function within<T>(promise: Promise<T>, deadlineMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), deadlineMs - performance.now());
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
