/**
 * The bytes of the journal: JSON lines, each with format version, sequence number and CRC-32 (pure).
 *
 *     {"v":1,"n":0,"is":"journal","tunnel":"default","crc":"1c291ca3"}
 *     {"v":1,"n":1,"is":"intended","op":{"kind":"rule.add",...},"before":null,"crc":"..."}
 *     {"v":1,"n":2,"is":"done","of":1,"crc":"..."}
 *     {"v":1,"n":3,"is":"undone","of":1,"crc":"..."}
 *
 * The CRC covers the line's bytes up to `,"crc":`. A line counts only with its newline: an `intended` that
 * lacks it was never followed by its change, because the change waits for the fsync.
 */
import { z } from 'zod';
import { ProxyVpnError } from '../errors.ts';
import type { AnyOp } from '../op.ts';
import { crc32 } from './crc32.ts';

export const JOURNAL_VERSION = 1;

const sequence = z.number().int().nonnegative();
const opSchema = z.custom<AnyOp>((value) => z.object({ kind: z.string() }).safeParse(value).success);
const recordSchema = z.discriminatedUnion('is', [
  z.object({ n: sequence, is: z.literal('journal'), tunnel: z.string() }),
  z.object({ n: sequence, is: z.literal('intended'), op: opSchema, before: z.unknown() }),
  z.object({ n: sequence, is: z.literal('done'), of: sequence }),
  z.object({ n: sequence, is: z.literal('undone'), of: sequence }),
]);
export type JournalRecord = z.infer<typeof recordSchema>;

export interface JournalEntry<O extends AnyOp> {
  /** Sequence number of its `intended` record. */
  readonly id: number;
  readonly op: O;
  /** What the applier observed before it acted. */
  readonly before: unknown;
  /** `intended`: it may or may not have happened. */
  readonly state: 'intended' | 'done' | 'undone';
}

export interface ParsedJournal<O extends AnyOp> {
  /** undefined when the first line is unreadable. */
  readonly tunnel: string | undefined;
  /** In the order in which they were intended. */
  readonly entries: readonly JournalEntry<O>[];
  /** One sentence for each damage that may hide a change; empty after any crash at any instant. */
  readonly problems: readonly string[];
  /** One sentence for each change that is none of this program's: it is not in `entries`. */
  readonly refused: readonly string[];
  readonly nextSequence: number;
  /** Bytes of whole lines; what follows is a half-written record. */
  readonly wholeBytes: number;
}

/** One line, newline included. @param record plain JSON data without secrets */
export function journalLine(record: JournalRecord): Buffer {
  const body = JSON.stringify({ v: JOURNAL_VERSION, ...record }).slice(0, -1);
  return Buffer.from(`${body},"crc":"${checksum(Buffer.from(body))}"}\n`);
}

/**
 * Reads a journal that a crash, a full disk or a bad disk may have damaged: whatever is intact is used.
 * @param isKnown tells the ops of this program, and what it can have observed before them; others are refused
 * @throws ProxyVpnError E_JOURNAL_VERSION when another version of the program wrote it
 */
/** Whether this program can have made the change, having observed `before`. */
export type IsKnown<O extends AnyOp> = (op: AnyOp, before?: unknown) => op is O;

export function parseJournal<O extends AnyOp>(bytes: Uint8Array, isKnown: IsKnown<O>): ParsedJournal<O> {
  const reading = new Reading<O>(isKnown);
  let start = 0;
  for (;;) {
    const end = bytes.indexOf(0x0a, start);
    if (end < 0) break;
    reading.line(bytes.subarray(start, end));
    start = end + 1;
  }
  return reading.result(start);
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

class Reading<O extends AnyOp> {
  readonly #isKnown: IsKnown<O>;
  readonly #entries = new Map<number, Mutable<JournalEntry<O>>>();
  readonly #problems: string[] = [];
  readonly #refused: string[] = [];
  #tunnel: string | undefined;
  #lines = 0;
  #last = -1;
  /** Unreadable lines since the last good one: each may be a missing sequence number. */
  #unreadable = 0;

  constructor(isKnown: IsKnown<O>) {
    this.#isKnown = isKnown;
  }

  line(bytes: Uint8Array): void {
    this.#lines++;
    const record = readRecord(bytes, this.#lines === 1);
    if (record === undefined) {
      this.#unreadable++;
      this.#problems.push(`line ${this.#lines} is damaged: a change may stay on the host`);
      return;
    }
    this.#checkSequence(record.n);
    this.#take(record);
  }

  result(wholeBytes: number): ParsedJournal<O> {
    return {
      tunnel: this.#tunnel,
      entries: [...this.#entries.values()],
      problems: this.#problems,
      refused: this.#refused,
      nextSequence: this.#last + 1 + this.#unreadable,
      wholeBytes,
    };
  }

  #checkSequence(n: number): void {
    if (n <= this.#last) this.#problems.push(`line ${this.#lines} is out of order`);
    else if (n > this.#last + 1 + this.#unreadable) this.#problems.push(`lines are missing before line ${this.#lines}`);
    this.#last = Math.max(this.#last, n);
    this.#unreadable = 0;
  }

  #take(record: JournalRecord): void {
    if (record.is === 'journal') {
      this.#tunnel = record.tunnel;
    } else if (record.is === 'intended') {
      if (this.#entries.has(record.n)) return; // Reported as out of order.
      const op: AnyOp = record.op;
      if (this.#isKnown(op, record.before))
        this.#entries.set(record.n, { id: record.n, op, before: record.before, state: 'intended' });
      else
        this.#refused.push(
          `line ${this.#lines} is no change of this proxyvpn's: ${JSON.stringify(op.kind.slice(0, 32))}`,
        );
    } else {
      const entry = this.#entries.get(record.of);
      if (entry === undefined) this.#problems.push(`change ${record.of} was ${record.is}, but its record is lost`);
      else if (entry.state !== 'undone') entry.state = record.is;
    }
  }
}

/** undefined when damaged. */
function readRecord(bytes: Uint8Array, isFirst: boolean): JournalRecord | undefined {
  const line = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tail = /^,"crc":"([0-9a-f]{8})"\}$/.exec(line.toString('latin1', Math.max(0, line.length - CRC_TAIL)));
  const isIntact = tail !== null && tail[1] === checksum(line.subarray(0, line.length - CRC_TAIL));
  let value: unknown;
  try {
    value = JSON.parse(line.toString('utf8'));
  } catch {
    return undefined;
  }
  const version = z.looseObject({ v: z.number().int() }).safeParse(value).data;
  // Another version may have had no CRC, or another one; a damaged line of ours must not pass for one.
  const isTrusted = isIntact || (isFirst && version !== undefined && !('crc' in version));
  if (isTrusted && version !== undefined && version.v !== JOURNAL_VERSION) throw otherVersion(version.v);
  return isIntact ? recordSchema.safeParse(value).data : undefined;
}

/** Length of `,"crc":"01234567"}`. */
const CRC_TAIL = 18;

function checksum(bytes: Uint8Array): string {
  return crc32(bytes).toString(16).padStart(8, '0');
}

function otherVersion(version: number): ProxyVpnError {
  const message = `the journal has format ${version}, this proxyvpn reads format ${JOURNAL_VERSION}`;
  return new ProxyVpnError('E_JOURNAL_VERSION', message, {
    hint: 'run `down` with the proxyvpn that ran `up`, or: proxyvpn down --force',
  });
}
