/** One TCP connection to a DNS server: many queries at a time, answers in any order (RFC 7766 §6.2.1.1). */
import { randomInt } from 'node:crypto';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { answersQuestion, type Question } from './codec.ts';
import { FrameReader, frame } from './stream.ts';
import { errorWord } from './upstream.ts';

export interface Pending {
  readonly message: Buffer;
  readonly question: Question;
}

export interface ConnectionEvents<P extends Pending> {
  /** @param response with the id of the connection, not the client's */
  answered(pending: P, response: Buffer): void;
  /** A message that answers nothing that was asked here. */
  ignored(): void;
  /** Once; nothing comes after it. @param unanswered in the order in which they were sent */
  ended(unanswered: readonly P[], why: string): void;
}

/** A server that sends more than this of what nobody asked for is not talked to any longer. */
const MOST_IGNORED = 64;
const IDS = 0x10000;

export class TcpConnection<P extends Pending> {
  readonly #socket: Duplex;
  readonly #events: ConnectionEvents<P>;
  readonly #pending = new Map<number, P>();
  readonly #reader = new FrameReader();
  readonly #idleMs: number;
  #nextId = randomInt(IDS);
  #idleTimer: NodeJS.Timeout | undefined;
  #receivedAtMs = -Infinity;
  #isSuspect = false;
  #answered = 0;
  #answeredAtMs = -Infinity;
  #ignored = 0;
  #why = 'the connection was closed';
  #isEnded = false;

  /** @param idleMs without a query it is closed after this time, RFC 7766 §6.2.3 */
  constructor(socket: Duplex, events: ConnectionEvents<P>, idleMs: number) {
    this.#socket = socket;
    this.#events = events;
    this.#idleMs = idleMs;
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    socket.on('error', (error) => {
      this.#why = errorWord(error);
    });
    // A server that has ended its side will not answer what is still to come.
    socket.on('end', () => socket.destroy());
    socket.on('close', () => this.#onClose());
  }

  get pendingCount(): number {
    return this.#pending.size;
  }

  get isUsable(): boolean {
    return !this.#isEnded && !this.#socket.destroyed;
  }

  get isConnecting(): boolean {
    return this.#socket instanceof net.Socket && this.#socket.connecting;
  }

  /** Whether it has ever been of use. */
  get hasAnswered(): boolean {
    return this.#answered > 0;
  }

  /** Whether anything came since then. @param sinceMs of performance.now() */
  hasHeardSince(sinceMs: number): boolean {
    return this.#receivedAtMs >= sinceMs;
  }

  hasAnsweredSince(sinceMs: number): boolean {
    return this.#answeredAtMs >= sinceMs;
  }

  /** Bytes come, but no answers: it is given no more queries until one comes. */
  get isSuspect(): boolean {
    return this.#isSuspect;
  }

  suspect(): void {
    this.#isSuspect = true;
  }

  send(pending: P): void {
    clearTimeout(this.#idleTimer);
    const id = this.#freeId();
    this.#pending.set(id, pending);
    const framed = frame(pending.message);
    framed.writeUInt16BE(id, 2);
    this.#socket.write(framed);
  }

  /** Its answer is no longer awaited. */
  forget(pending: P): void {
    for (const [id, candidate] of this.#pending) {
      if (candidate === pending) this.#pending.delete(id);
    }
    this.#watchIdle();
  }

  end(why: string): void {
    this.#why = why;
    this.#socket.destroy();
  }

  #freeId(): number {
    // The bound of queries in flight is far below the number of ids.
    while (this.#pending.has(this.#nextId)) this.#nextId = (this.#nextId + 1) % IDS;
    const id = this.#nextId;
    this.#nextId = (id + 1) % IDS;
    return id;
  }

  #onData(chunk: Buffer): void {
    this.#receivedAtMs = performance.now();
    for (const message of this.#reader.push(chunk)) this.#onMessage(message);
  }

  #onMessage(message: Buffer): void {
    const id = message.length < 2 ? -1 : message.readUInt16BE(0);
    const pending = this.#pending.get(id);
    if (pending === undefined || !answersQuestion(message, pending.question)) {
      this.#events.ignored();
      if (++this.#ignored > MOST_IGNORED) this.end('it answers what was not asked');
      return;
    }
    this.#pending.delete(id);
    this.#answered++;
    this.#answeredAtMs = this.#receivedAtMs;
    this.#isSuspect = false;
    this.#watchIdle();
    this.#events.answered(pending, message);
  }

  #watchIdle(): void {
    clearTimeout(this.#idleTimer);
    if (this.#pending.size > 0 || this.#isEnded) return;
    this.#idleTimer = setTimeout(() => this.end('idle'), this.#idleMs).unref();
  }

  #onClose(): void {
    this.#isEnded = true;
    clearTimeout(this.#idleTimer);
    const unanswered = [...this.#pending.values()];
    this.#pending.clear();
    this.#events.ended(unanswered, this.#why);
  }
}
