/**
 * Answers the queries of this host: decides each, looks it up or has it looked up, and writes the reply.
 *
 *     datagram ─┐                 ┌─ name map ── answered at once
 *               ├─ decode, decide ┼─ fixed answer
 *     stream ───┘                 ├─ relay: TCP or HTTPS through the proxy
 *                                 └─ lan: a resolver of the local network
 *
 * No query can end it: what is malformed gets FORMERR or nothing, what fails SERVFAIL.
 */
import type { Datagram } from '../datagram.ts';
import { ProxyVpnError } from '../errors.ts';
import type { Family } from '../ip.ts';
import {
  answersQuestion,
  decodeQuery,
  encodeReply,
  MOST_TCP_BYTES,
  type Query,
  type Reply,
  relayResponse,
  udpLimit,
  withoutAdditional,
} from './codec.ts';
import { type Decision, type DecisionRules, decide } from './decision.ts';
import { presentation } from './name.ts';
import type { NameMap } from './name-map.ts';
import { EXTENDED_ERROR, RCODE, typeName } from './numbers.ts';
import type { Upstream } from './upstream.ts';

export interface DnsServerOptions {
  readonly rules: DecisionRules;
  readonly names: NameMap;
  /** Through the proxy; undefined: what would be relayed gets SERVFAIL. */
  readonly relay: Upstream | undefined;
  /** undefined: no resolver of the local network may be asked (killswitch); its names then do not exist. */
  readonly lan: Upstream | undefined;
  /** Sends replies by UDP. Called once for a batch that could be answered at once, and for each later reply. */
  readonly send: (replies: readonly Datagram[]) => void;
  /** TTL of virtual addresses, seconds. Shorter than `NameMapOptions.holdMs`. */
  readonly ttl: number;
  /** TTL of "no", seconds. */
  readonly negativeTtl: number;
  /** A clock that never goes back; default performance.now(). */
  readonly nowMs?: () => number;
  /** For the log: why queries fail. The same text comes at most every ten seconds. */
  readonly onProblem?: (text: string) => void;
}

export type Transport = 'udp' | 'tcp';

export interface DnsCounters {
  readonly udpQueries: number;
  readonly tcpQueries: number;
  /** Answered with a virtual address. */
  readonly virtual: number;
  readonly relayed: number;
  readonly lan: number;
  /** FORMERR, NOTIMP or BADVERS. */
  readonly malformed: number;
  /** Got no answer at all: too short, or responses. */
  readonly ignored: number;
  /** SERVFAIL. */
  readonly failed: number;
  /** Queries that wait for a server now. */
  readonly waiting: number;
}

/**
 * Seconds that answers may be kept by whoever asks. Short, for an address stays with its name as long, and a "no" of today
 * may be a yes with the next configuration.
 */
export const DEFAULT_TTL = { virtual: 60, negative: 30 } as const;

const REPEAT_PROBLEM_MS = 10_000;

type Later = { readonly later: Promise<Buffer> };

export class DnsServer {
  readonly #options: DnsServerOptions;
  readonly #nowMs: () => number;
  readonly #counts = {
    udpQueries: 0,
    tcpQueries: 0,
    virtual: 0,
    relayed: 0,
    lan: 0,
    malformed: 0,
    ignored: 0,
    failed: 0,
    waiting: 0,
  };
  #problem = { text: '', atMs: -Infinity };

  constructor(options: DnsServerOptions) {
    this.#options = options;
    this.#nowMs = options.nowMs ?? (() => performance.now());
  }

  get counters(): DnsCounters {
    return { ...this.#counts };
  }

  /** Takes a batch. The payloads may be views of memory that is used again after this returns. */
  receive(datagrams: readonly Datagram[]): void {
    const replies: Datagram[] = [];
    for (const datagram of datagrams) {
      const answer = this.#answer(datagram.payload, 'udp');
      if (answer === undefined) continue;
      if (Buffer.isBuffer(answer)) replies.push({ ...datagram, payload: answer });
      else this.#sendLater({ ...datagram, payload: EMPTY }, answer.later);
    }
    // First the names are safe and known to the engine, then they are told.
    this.#options.names.flush(this.#nowMs());
    if (replies.length > 0) this.#options.send(replies);
  }

  /** @returns the reply to a message of a stream; undefined when it gets none. Never rejects. */
  async answerStream(message: Uint8Array): Promise<Buffer | undefined> {
    const answer = this.#answer(message, 'tcp');
    this.#options.names.flush(this.#nowMs());
    return answer === undefined || Buffer.isBuffer(answer) ? answer : answer.later;
  }

  #sendLater(ends: Datagram, later: Promise<Buffer>): void {
    void later.then((payload) => this.#options.send([{ ...ends, payload }]));
  }

  #answer(message: Uint8Array, transport: Transport): Buffer | Later | undefined {
    if (transport === 'udp') this.#counts.udpQueries++;
    else this.#counts.tcpQueries++;
    const decoded = decodeQuery(message);
    switch (decoded.kind) {
      case 'ignore':
        this.#counts.ignored++;
        return undefined;
      case 'reply':
        this.#counts.malformed++;
        return decoded.reply;
      case 'query':
        return this.#answerQuery(decoded.query, transport === 'udp' ? udpLimit(decoded.query) : MOST_TCP_BYTES);
    }
  }

  #answerQuery(query: Query, limit: number): Buffer | Later {
    const decision = decide(query.question, this.#options.rules);
    if (decision.kind === 'relay') return this.#relay(query, limit);
    if (decision.kind === 'lan' && this.#options.lan !== undefined)
      return this.#askLan(query, limit, this.#options.lan);
    return encodeReply(query, this.#fixedReply(decision), limit);
  }

  #fixedReply(decision: Exclude<Decision, { kind: 'relay' }>): Reply {
    const { negativeTtl } = this.#options;
    switch (decision.kind) {
      case 'address':
        return this.#virtualAddress(decision.hostname, decision.family);
      case 'pointer': {
        const hostname = this.#options.names.nameOfAddress(decision.address);
        if (hostname === undefined) return { rcode: RCODE.NXDOMAIN, negativeTtl };
        return { rcode: RCODE.NOERROR, answers: [{ type: 'PTR', ttl: this.#options.ttl, data: hostname }] };
      }
      case 'records':
        return { rcode: RCODE.NOERROR, answers: decision.records };
      case 'no-data':
        return { rcode: RCODE.NOERROR, negativeTtl };
      case 'no-such-name':
        return { rcode: RCODE.NXDOMAIN, negativeTtl };
      case 'lan': {
        const text = 'a local name, and resolvers of the local network are blocked';
        return { rcode: RCODE.NXDOMAIN, negativeTtl, extendedError: { code: EXTENDED_ERROR.blocked, text } };
      }
      case 'refused':
        return { rcode: RCODE.REFUSED };
    }
  }

  #virtualAddress(hostname: string, family: Family): Reply {
    const { names, ttl } = this.#options;
    const slot = names.assign(hostname, this.#nowMs());
    if (slot === undefined) {
      const text = `all ${names.counters.mostNames} names are in use`;
      this.#tellProblem(text);
      return this.#failure(EXTENDED_ERROR.other, text);
    }
    this.#counts.virtual++;
    const data = family === 4 ? names.range.bytes4(slot) : names.range.bytes6(slot);
    return { rcode: RCODE.NOERROR, answers: [{ type: 'address', ttl, data }] };
  }

  #relay(query: Query, limit: number): Buffer | Later {
    const { relay, rules } = this.#options;
    if (relay === undefined) {
      return encodeReply(query, this.#failure(EXTENDED_ERROR.noReachableAuthority, 'no DNS server is given'), limit);
    }
    this.#counts.relayed++;
    const trim = rules.mode === 'virtual' ? withoutAdditional : (response: Buffer) => response;
    return { later: this.#ask(relay, query, limit, trim) };
  }

  #askLan(query: Query, limit: number, lan: Upstream): Later {
    this.#counts.lan++;
    return { later: this.#ask(lan, query, limit, (response) => response) };
  }

  async #ask(
    upstream: Upstream,
    query: Query,
    limit: number,
    trim: (response: Buffer) => Buffer | undefined,
  ): Promise<Buffer> {
    // The caller's memory may be used again as soon as this waits.
    const own = ownCopy(query);
    this.#counts.waiting++;
    try {
      const response = await upstream.query(own.bytes, own.question);
      const trimmed = answersQuestion(response, own.question) ? trim(response) : undefined;
      if (trimmed !== undefined) return relayResponse(own, trimmed, limit);
      return encodeReply(own, this.#failure(EXTENDED_ERROR.networkError, 'the answer cannot be read'), limit);
    } catch (error) {
      const { name, type } = own.question;
      const why = error instanceof ProxyVpnError ? error.message : `${error}`;
      this.#tellProblem(`${presentation(name.key)} ${typeName(type)}: ${why}`, why);
      return encodeReply(own, this.#failure(EXTENDED_ERROR.networkError, why), limit);
    } finally {
      this.#counts.waiting--;
    }
  }

  #failure(code: number, text: string): Reply {
    this.#counts.failed++;
    return { rcode: RCODE.SERVFAIL, extendedError: { code, text } };
  }

  /** @param sameness problems with this text in common are told once in a while */
  #tellProblem(text: string, sameness: string = text): void {
    const now = this.#nowMs();
    if (this.#problem.text === sameness && now < this.#problem.atMs + REPEAT_PROBLEM_MS) return;
    this.#problem = { text: sameness, atMs: now };
    this.#options.onProblem?.(text);
  }
}

const EMPTY = new Uint8Array(0);

function ownCopy(query: Query): Query {
  const bytes = Buffer.from(query.bytes);
  const start = query.question.bytes.byteOffset - query.bytes.byteOffset;
  const question = { ...query.question, bytes: bytes.subarray(start, start + query.question.bytes.length) };
  return { ...query, bytes, question };
}
