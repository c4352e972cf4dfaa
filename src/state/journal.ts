/**
 * What was done to the host, written down before it is done: the file of one tunnel.
 *
 * Every call resolves only when its record is on disk (fsync), so: `intend`, change the host, `done`; and in
 * teardown: undo, `undone`. A crash between any two of these leaves enough. The owner of the tunnel's lock is
 * the only writer. Records hold no secret; the file is 0600 all the same.
 */
import fs from 'node:fs';
import { isSystemCallFailure, ProxyVpnError } from '../errors.ts';
import type { AnyOp } from '../op.ts';
import { removeFileDurably, writeFailure, writeFileAtomic } from './atomic-file.ts';
import {
  type IsKnown,
  type JournalEntry,
  type JournalRecord,
  journalLine,
  type ParsedJournal,
  parseJournal,
} from './journal-format.ts';

export class Journal<O extends AnyOp> {
  readonly file: string;
  readonly #fd: number;
  readonly #entries: Map<number, JournalEntry<O>>;
  /** Damage found when it was opened, one sentence each: tell the user. */
  readonly problems: readonly string[];
  /** Changes in it that are not believed to be ours, one sentence each: they are left alone. */
  readonly refused: readonly string[];
  #nextSequence: number;
  #bytes: number;
  #isOpen = true;

  private constructor(file: string, fd: number, parsed: Omit<ParsedJournal<O>, 'tunnel'>) {
    this.file = file;
    this.#fd = fd;
    this.#entries = new Map(parsed.entries.map((entry) => [entry.id, entry]));
    this.problems = parsed.problems;
    this.refused = parsed.refused;
    this.#nextSequence = parsed.nextSequence;
    this.#bytes = parsed.wholeBytes;
  }

  /**
   * Starts the journal of a tunnel.
   * @throws ProxyVpnError E_JOURNAL_EXISTS when an older one must be undone first, E_STATE_WRITE
   */
  static create<O extends AnyOp>(file: string, tunnel: string): Journal<O> {
    if (fs.existsSync(file)) {
      throw new ProxyVpnError('E_JOURNAL_EXISTS', `tunnel ${tunnel} was not taken down: ${file} is still there`, {
        hint: 'run: proxyvpn down',
      });
    }
    const header = journalLine({ n: 0, is: 'journal', tunnel });
    writeFileAtomic(file, header);
    const parsed = { entries: [], problems: [], refused: [], nextSequence: 1, wholeBytes: header.length };
    return new Journal<O>(file, openForAppend(file), parsed);
  }

  /**
   * Opens what an earlier process left, to undo it or to go on. A half-written last record is cut off.
   * @param isKnown tells the ops this program makes and can undo; the journal may be anybody's work
   * @returns undefined when there is no journal
   * @throws ProxyVpnError E_JOURNAL_READ, E_JOURNAL_VERSION, E_STATE_WRITE
   */
  static open<O extends AnyOp>(file: string, isKnown: IsKnown<O>): Journal<O> | undefined {
    const bytes = readIfPresent(file);
    if (bytes === undefined) return undefined;
    const parsed = parseJournal(bytes, isKnown);
    const journal = new Journal<O>(file, openForAppend(file), parsed);
    if (parsed.wholeBytes < bytes.length) journal.#cutTo(parsed.wholeBytes);
    return journal;
  }

  /**
   * Says what will be done.
   * @returns the id by which `done` and `undone` name it
   * @throws ProxyVpnError E_STATE_WRITE; then do not do it
   */
  async intend(op: O, before: unknown): Promise<number> {
    const id = this.#append({ n: this.#nextSequence, is: 'intended', op, before });
    this.#entries.set(id, { id, op, before, state: 'intended' });
    return id;
  }

  /** The change is made. @throws ProxyVpnError E_STATE_WRITE */
  async done(id: number): Promise<void> {
    this.#conclude(id, 'done');
  }

  /** The change is taken back, or needs no undo any more. @throws ProxyVpnError E_STATE_WRITE */
  async undone(id: number): Promise<void> {
    this.#conclude(id, 'undone');
  }

  /** What may have to be taken back, oldest first: `intended` ones too, for they may have happened. */
  pending(): readonly JournalEntry<O>[] {
    return [...this.#entries.values()].filter((entry) => entry.state !== 'undone');
  }

  /** Nothing is left to undo: closes and deletes the file. @throws ProxyVpnError E_STATE_WRITE */
  remove(): void {
    this.close();
    removeFileDurably(this.file);
  }

  /** Idempotent. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    fs.closeSync(this.#fd);
  }

  #conclude(id: number, state: 'done' | 'undone'): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) throw new RangeError(`journal has no entry ${id}`);
    this.#append({ n: this.#nextSequence, is: state, of: id });
    this.#entries.set(id, { ...entry, state });
  }

  #append(record: JournalRecord): number {
    const line = journalLine(record);
    try {
      for (let written = 0; written < line.length; ) written += fs.writeSync(this.#fd, line, written);
      fs.fsyncSync(this.#fd);
    } catch (cause) {
      // A half line (disk full) would swallow the next record. Reading copes with it, should cutting fail too.
      this.#cutTo(this.#bytes);
      throw writeFailure(this.file, cause);
    }
    this.#bytes += line.length;
    return this.#nextSequence++;
  }

  #cutTo(bytes: number): void {
    try {
      fs.ftruncateSync(this.#fd, bytes);
      fs.fsyncSync(this.#fd);
    } catch (cause) {
      throw writeFailure(this.file, cause);
    }
  }
}

function openForAppend(file: string): number {
  const { O_WRONLY, O_APPEND, O_NOFOLLOW } = fs.constants;
  try {
    return fs.openSync(file, O_WRONLY | O_APPEND | O_NOFOLLOW);
  } catch (cause) {
    throw writeFailure(file, cause);
  }
}

function readIfPresent(file: string): Uint8Array | undefined {
  try {
    return fs.readFileSync(file);
  } catch (cause) {
    if (!isSystemCallFailure(cause)) throw cause;
    if (cause.code === 'ENOENT') return undefined;
    throw new ProxyVpnError('E_JOURNAL_READ', `cannot read ${file}: ${cause.code}`, {
      hint: 'run it as the user who ran `up`',
      cause,
    });
  }
}
