/** What goes wrong for flows: the latest for `status`, and as many log lines as a small /run can bear. */
import type { Incident } from './report.ts';

/** Enough to see a pattern, little enough to read. */
const KEPT = 10;
/** Log lines at once, and how long until the next one: at worst 6 MB a day, for the log lies in memory (/run). */
const OF_FLOWS = { burst: 30, refillMs: 2000 };
/** Each engine says once a second that a limit is reached; this is for all of them. */
const OF_NOTICES = { burst: 1, refillMs: 1000 };

export class Incidents {
  readonly #now: () => Date;
  readonly #ofFlows: FewLines;
  readonly #ofNotices: FewLines;
  #latest: readonly Incident[] = [];

  /** @param log takes a line */
  constructor(log: (line: string) => void, now: () => Date = () => new Date()) {
    this.#now = now;
    this.#ofFlows = new FewLines(OF_FLOWS, log);
    this.#ofNotices = new FewLines(OF_NOTICES, log);
  }

  /** @param similar how many like it nobody heard of */
  add(message: string, similar = 0): void {
    this.#add(this.#ofFlows, message, similar);
  }

  /** Of the engine itself: a limit that is reached. @param similar how many like it nobody heard of */
  addNotice(message: string, similar = 0): void {
    this.#add(this.#ofNotices, message, similar);
  }

  /** Oldest first. */
  get latest(): readonly Incident[] {
    return this.#latest;
  }

  #add(lines: FewLines, message: string, similar: number): void {
    const at = this.#now();
    this.#latest = [...this.#latest, { at: at.toISOString(), message }].slice(-KEPT);
    lines.add(message, similar, at.getTime());
  }
}

/** A log that leaves lines out when there are too many, and says how many. */
class FewLines {
  readonly #log: (line: string) => void;
  readonly #burst: number;
  readonly #refillMs: number;
  #left: number;
  #refilledAt = Number.NEGATIVE_INFINITY;
  #leftOut = 0;

  constructor({ burst, refillMs }: typeof OF_FLOWS, log: (line: string) => void) {
    this.#log = log;
    this.#burst = burst;
    this.#refillMs = refillMs;
    this.#left = burst;
  }

  add(message: string, similar: number, now: number): void {
    this.#refill(now);
    this.#leftOut += similar;
    if (this.#left < 1) {
      this.#leftOut++;
      return;
    }
    this.#left--;
    this.#log(this.#leftOut > 0 ? `${message} (and ${this.#leftOut} more since the last line)` : message);
    this.#leftOut = 0;
  }

  #refill(now: number): void {
    const earned = Math.floor((now - this.#refilledAt) / this.#refillMs);
    if (earned < 1) return;
    this.#left = Math.min(this.#burst, this.#left + earned);
    // What is full earns nothing: the time until the next line begins with this one.
    this.#refilledAt = this.#left === this.#burst ? now : this.#refilledAt + earned * this.#refillMs;
  }
}
