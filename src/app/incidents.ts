/** The latest things that went wrong, for `status`. */
import type { Incident } from './report.ts';

/** Enough to see a pattern, little enough to read. */
const KEPT = 10;

export class Incidents {
  #latest: readonly Incident[] = [];

  add(message: string, at: Date = new Date()): void {
    this.#latest = [...this.#latest, { at: at.toISOString(), message }].slice(-KEPT);
  }

  /** Oldest first. */
  get latest(): readonly Incident[] {
    return this.#latest;
  }
}
