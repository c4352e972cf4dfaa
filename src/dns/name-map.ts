/**
 * Which address stands for which name. An address is never given to a second name while a connection uses it or an
 * answer that holds it may still be used; what was given out survives the process.
 *
 * Names are kept in the order of their last use, so the first ones are also those whose answers expired first. When a
 * new name needs room, the first one goes, unless flows use it or have used it since it was last looked at (a second
 * chance, as in CLOCK). Free numbers wait in a queue: the one that was freed longest ago is given out next, from a random
 * place at the start, so that a map that was lost does not give old addresses to new names.
 *
 * Flows are counted in shared memory, one word for each number: `FLOW_USED` is set by each new flow, the rest counts the
 * live ones. Whoever carries the flows may be another thread; the words are accessed by Atomics.
 */
import { randomInt } from 'node:crypto';
import { ProxyVpnError } from '../errors.ts';
import { NameLog } from './name-log.ts';
import type { Binding } from './name-log-format.ts';
import { type Linked, RecencyList } from './recency-list.ts';
import type { VirtualRange } from './virtual-range.ts';

/** Bit of a flow word: some flow has begun since the bit was last cleared. */
export const FLOW_USED = 0x80000000;
const FLOW_COUNT = 0x7fffffff;
/** Names looked at to make room for one: bounds the time of a query. The next query goes on from there. */
const MOST_LOOKED_AT = 256;
/** After a failed write: how long names are kept in memory only. */
const RETRY_WRITE_MS = 10_000;

/** Of the bound: names of an earlier run that are taken over. */
const RESTORED_SHARE = 3 / 4;

/** The TTL of answers, and as much again for programs that resolve now and connect later. */
export const DEFAULT_HOLD_MS = 120_000;
export const DEFAULT_MOST_NAMES = 65_536;

export interface NameMapOptions {
  readonly range: VirtualRange;
  /** Names at a time; default 65536. Fewer where the range is smaller. */
  readonly mostNames?: number;
  /** Milliseconds after its last answer during which an address stays with its name: more than the TTL. */
  readonly holdMs: number;
  /** undefined: in memory only. */
  readonly file?: string;
  /** One word per slot of the range (service slots may follow), see above; default: an own one, for `pin` and `unpin`. */
  readonly flowWords?: Uint32Array;
  /** Called by `flush`, before any answer goes out: what the engine's table must hold. */
  readonly onChange?: (changes: readonly NameChange[]) => void;
  /** What somebody should know: damage, a full disk. */
  readonly onProblem?: (text: string) => void;
  /** Default random. Test only: the first number given out. */
  readonly firstSlot?: number;
}

export interface NameChange {
  readonly slot: number;
  /** undefined: the number stands for nothing any more. */
  readonly hostname: string | undefined;
}

export interface NameEntry extends Binding {
  readonly address4: string;
  readonly address6: string;
  /** Live connections. */
  readonly flows: number;
  /** 0 when its answers have expired. */
  readonly heldMs: number;
}

interface Entry extends Binding, Linked<Entry> {
  heldUntilMs: number;
}

export interface NameMapCounters {
  readonly names: number;
  readonly mostNames: number;
  /** Since the start: names that were given an address, and that lost it. */
  readonly assigned: number;
  readonly evicted: number;
  /** Names that got none, because all were in use. */
  readonly refused: number;
}

export class NameMap {
  readonly range: VirtualRange;
  readonly #options: NameMapOptions;
  readonly #mostNames: number;
  readonly #flowWords: Uint32Array;
  readonly #byUse = new RecencyList<Entry>();
  readonly #byName = new Map<string, Entry>();
  readonly #bySlot: (Entry | undefined)[];
  readonly #free: SlotQueue;
  #log: NameLog | undefined;
  #unwritten: Binding[] = [];
  #changes: NameChange[] = [];
  /** Writing failed: the file is to be rewritten, not before then. */
  #rewriteAtMs: number | undefined;
  #assigned = 0;
  #evicted = 0;
  #refused = 0;

  private constructor(options: NameMapOptions) {
    const { range, flowWords } = options;
    this.range = range;
    this.#options = options;
    this.#mostNames = Math.min(options.mostNames ?? DEFAULT_MOST_NAMES, range.slots);
    this.#flowWords = flowWords ?? new Uint32Array(range.slots);
    if (this.#flowWords.length < range.slots) throw new RangeError(`${this.#flowWords.length} flow words`);
    this.#bySlot = new Array<Entry | undefined>(range.slots).fill(undefined);
    this.#free = new SlotQueue(range.slots);
  }

  /**
   * Reads the names of earlier runs. All of them are held as if they had just been answered.
   * A file that cannot be read or written is a problem that is told, not an error: names work without it.
   * @param nowMs of any clock that never goes back; the same one is meant by every other `nowMs`
   */
  static open(options: NameMapOptions, nowMs: number): NameMap {
    const map = new NameMap(options);
    const found = map.#openLog(nowMs);
    // A full map would refuse every new name until the old ones' hold has passed, so the oldest give way.
    const kept = Math.ceil(map.#mostNames * RESTORED_SHARE);
    const dropped = new Set(found.slice(0, -kept).map(({ slot }) => slot));
    for (const { slot, hostname } of found.slice(-kept)) map.#put(slot, hostname, nowMs);
    const { slots } = options.range;
    const first = options.firstSlot ?? (slots > 1 ? randomInt(slots) : 0);
    for (let i = 0; i < slots; i++) {
      const slot = (first + i) % slots;
      if (map.#bySlot[slot] === undefined && !dropped.has(slot)) map.#free.add(slot);
    }
    for (const slot of dropped) map.#free.add(slot);
    map.#tellChanges();
    return map;
  }

  /**
   * The number of the name, a new one when it has none. Call `flush` before the answer is sent.
   * @param hostname as in `DnsName`
   * @returns undefined when every name is in use
   */
  assign(hostname: string, nowMs: number): number | undefined {
    const known = this.#byName.get(hostname);
    if (known !== undefined) {
      this.#use(known, nowMs);
      return known.slot;
    }
    const slot = this.#byName.size < this.#mostNames || this.#evictOne(nowMs) ? this.#takeFree() : undefined;
    if (slot === undefined) {
      this.#refused++;
      return undefined;
    }
    this.#put(slot, hostname, nowMs);
    this.#assigned++;
    this.#unwritten.push({ slot, hostname });
    return slot;
  }

  nameOf(slot: number): string | undefined {
    return this.#bySlot[slot]?.hostname;
  }

  /** @param address 4 or 16 bytes */
  nameOfAddress(address: Uint8Array): string | undefined {
    const slot = this.range.slotOf(address);
    return slot === undefined ? undefined : this.nameOf(slot);
  }

  /** A flow to this number begins. For whoever has no access to the flow words. */
  pin(slot: number): void {
    Atomics.add(this.#flowWords, slot, 1);
    Atomics.or(this.#flowWords, slot, FLOW_USED);
  }

  unpin(slot: number): void {
    if (this.#flowsOf(slot) === 0) throw new RangeError(`slot ${slot} has no flows`);
    Atomics.sub(this.#flowWords, slot, 1);
  }

  /** Writes what is new to the file and tells the engine. Cheap when nothing is. Never throws for a full disk. */
  flush(nowMs: number): void {
    this.#write(nowMs);
    this.#tellChanges();
  }

  /** Drops every name that nothing uses: no flow, no live answer. */
  forget(nowMs: number): { readonly forgotten: number; readonly kept: number } {
    let forgotten = 0;
    for (const entry of this.#byUse) {
      if (entry.heldUntilMs > nowMs || this.#flowsOf(entry.slot) > 0) continue;
      this.#remove(entry);
      forgotten++;
    }
    // Otherwise the file would bring them back.
    if (forgotten > 0) this.#rewrite(nowMs);
    this.#tellChanges();
    return { forgotten, kept: this.#byName.size };
  }

  /** In the order of last use. */
  *entries(nowMs: number): Generator<NameEntry> {
    for (const { slot, hostname, heldUntilMs } of this.#byUse) {
      yield {
        slot,
        hostname,
        address4: this.range.address4(slot),
        address6: this.range.address6(slot),
        flows: this.#flowsOf(slot),
        heldMs: Math.max(0, heldUntilMs - nowMs),
      };
    }
  }

  get counters(): NameMapCounters {
    return {
      names: this.#byName.size,
      mostNames: this.#mostNames,
      assigned: this.#assigned,
      evicted: this.#evicted,
      refused: this.#refused,
    };
  }

  /** Writes what is left, closes the file; it stays for the next run. */
  close(nowMs: number): void {
    if (this.#rewriteAtMs === undefined) this.#write(nowMs);
    else this.#rewrite(nowMs);
    this.#log?.close();
    this.#log = undefined;
  }

  #openLog(nowMs: number): readonly Binding[] {
    const { file, range } = this.#options;
    if (file === undefined) return [];
    try {
      const { log, found } = NameLog.open(file, range.fingerprint, range.slots);
      this.#log = log;
      for (const problem of found.problems) this.#problem(`${file}: ${problem}`);
      return found.bindings;
    } catch (error) {
      if (!(error instanceof ProxyVpnError)) throw error;
      this.#problem(`names are kept in memory only: ${error.message}`);
      this.#rewriteAtMs = nowMs + RETRY_WRITE_MS;
      return [];
    }
  }

  #put(slot: number, hostname: string, nowMs: number): void {
    const heldUntilMs = nowMs + this.#options.holdMs;
    const entry: Entry = { slot, hostname, heldUntilMs, older: undefined, newer: undefined };
    this.#byUse.add(entry);
    this.#byName.set(hostname, entry);
    this.#bySlot[slot] = entry;
    this.#changes.push({ slot, hostname });
  }

  #use(entry: Entry, nowMs: number): void {
    entry.heldUntilMs = nowMs + this.#options.holdMs;
    this.#byUse.use(entry);
  }

  #remove(entry: Entry): void {
    this.#byUse.remove(entry);
    this.#byName.delete(entry.hostname);
    this.#bySlot[entry.slot] = undefined;
    this.#free.add(entry.slot);
    this.#changes.push({ slot: entry.slot, hostname: undefined });
  }

  #evictOne(nowMs: number): boolean {
    for (let looked = 0; looked < MOST_LOOKED_AT; looked++) {
      const entry = this.#byUse.oldest;
      // All that follow were answered later.
      if (entry === undefined || entry.heldUntilMs > nowMs) return false;
      const word = Atomics.and(this.#flowWords, entry.slot, FLOW_COUNT) >>> 0;
      if (word === 0) {
        this.#remove(entry);
        this.#evicted++;
        return true;
      }
      this.#use(entry, nowMs);
    }
    return false;
  }

  /** A flow may have begun between the look and the removal: such a number waits on. */
  #takeFree(): number | undefined {
    for (let looked = 0; looked < MOST_LOOKED_AT; looked++) {
      const slot = this.#free.take();
      if (slot === undefined || this.#flowsOf(slot) === 0) return slot;
      this.#free.add(slot);
    }
    return undefined;
  }

  #flowsOf(slot: number): number {
    return Atomics.load(this.#flowWords, slot) & FLOW_COUNT;
  }

  #write(nowMs: number): void {
    if (this.#rewriteAtMs !== undefined) {
      if (nowMs >= this.#rewriteAtMs) this.#rewrite(nowMs);
      return;
    }
    if (this.#log === undefined || this.#unwritten.length === 0) {
      this.#unwritten = [];
      return;
    }
    if (this.#log.isWorthRewriting(this.#byName.size)) {
      this.#rewrite(nowMs);
      return;
    }
    this.#tryWriting(nowMs, (log) => log.append(this.#unwritten));
  }

  #rewrite(nowMs: number): void {
    this.#tryWriting(nowMs, (log) => log.rewrite([...this.#byUse]));
  }

  #tryWriting(nowMs: number, write: (log: NameLog) => void): void {
    const { file, range } = this.#options;
    if (file === undefined) return;
    const isSecondTry = this.#rewriteAtMs !== undefined;
    try {
      // The first opening failed; what the file holds by now was never read, so it is replaced.
      this.#log ??= NameLog.open(file, range.fingerprint, 0).log;
      write(this.#log);
      this.#rewriteAtMs = undefined;
      if (isSecondTry) this.#problem(`${file} is written again`);
    } catch (error) {
      if (!(error instanceof ProxyVpnError)) throw error;
      this.#rewriteAtMs = nowMs + RETRY_WRITE_MS;
      if (!isSecondTry) this.#problem(`names are kept in memory only: ${error.message}`);
    }
    // Kept in #byName; the next rewrite has them.
    this.#unwritten = [];
  }

  #tellChanges(): void {
    if (this.#changes.length === 0) return;
    const changes = this.#changes;
    this.#changes = [];
    this.#options.onChange?.(changes);
  }

  #problem(text: string): void {
    this.#options.onProblem?.(text);
  }
}

/** First in, first out, of numbers below a bound, none of them twice. */
class SlotQueue {
  readonly #ring: Uint32Array;
  #first = 0;
  #count = 0;

  constructor(bound: number) {
    this.#ring = new Uint32Array(bound);
  }

  add(slot: number): void {
    this.#ring[(this.#first + this.#count) % this.#ring.length] = slot;
    this.#count++;
  }

  take(): number | undefined {
    if (this.#count === 0) return undefined;
    const slot = this.#ring[this.#first];
    this.#first = (this.#first + 1) % this.#ring.length;
    this.#count--;
    return slot;
  }
}
