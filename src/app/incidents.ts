/** What goes wrong for flows: the latest for `status`, and as many log lines as a small /run can bear. */
import type { Incident } from './report.ts';

/** Enough to see a pattern, little enough to read. */
const KEPT = 10;
/** Log lines at once, and how long until the next one: at worst 6 MB a day, for the log lies in memory (/run). */
const BURST = 30;
const REFILL_MS = 2000;

export class Incidents {
  readonly #log: (line: string) => void;
  readonly #now: () => Date;
  #latest: readonly Incident[] = [];
  #lines = BURST;
  #refilledAt: number;
  #leftOut = 0;

  /** @param log takes a line */
  constructor(log: (line: string) => void, now: () => Date = () => new Date()) {
    this.#log = log;
    this.#now = now;
    this.#refilledAt = now().getTime();
  }

  /** @param similar how many like it nobody heard of */
  add(message: string, similar = 0): void {
    const at = this.#now();
    this.#latest = [...this.#latest, { at: at.toISOString(), message }].slice(-KEPT);
    this.#refill(at.getTime());
    this.#leftOut += similar;
    if (this.#lines < 1) {
      this.#leftOut++;
      return;
    }
    this.#lines--;
    this.#log(this.#leftOut > 0 ? `${message} (and ${this.#leftOut} more since the last line)` : message);
    this.#leftOut = 0;
  }

  /** Oldest first. */
  get latest(): readonly Incident[] {
    return this.#latest;
  }

  #refill(now: number): void {
    const earned = Math.floor((now - this.#refilledAt) / REFILL_MS);
    if (earned < 1) return;
    this.#lines = Math.min(BURST, this.#lines + earned);
    this.#refilledAt += earned * REFILL_MS;
  }
}
