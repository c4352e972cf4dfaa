/** Whether a tunnel that did the same work again and again is still what it was after the first minute (pure). */

/** How the tunnel stands when all load has ended and all flows are closed. */
export interface Rest {
  readonly atS: number;
  /** Anonymous memory: what the process allocated, without the pages of its program files. */
  readonly anonymousBytes: number;
  readonly residentBytes: number;
  readonly descriptors: number;
  /** Of the files in the state directory: log, journal. */
  readonly stateBytes: number;
  /** Flows, buffered bytes and TCP states that should be gone; empty when all is well. */
  readonly leftovers: readonly string[];
}

/**
 * Of anonymous memory from the beginning to the end. Allocators and V8 keep what they once had, so a few hundred KiB come and
 * go; what leaks does so with every flow, and one byte for each of the millions of a soak is more than this.
 */
export const GROWTH_LIMIT_BYTES = 4 * 1024 * 1024;
/** Of the files in the state directory. */
export const STATE_GROWTH_LIMIT_BYTES = 256 * 1024;
const WARM_UP_S = 60;
/** About two minutes of them: a median needs a few, and what comes later is no beginning any more. */
const MOST_FIRST_RESTS = 6;

export interface Growth {
  /** From the first of these on, everything counted. */
  readonly judged: readonly Rest[];
  /** How many of them count as the beginning, and how many as the end. */
  readonly firstCount: number;
  readonly lastCount: number;
  readonly anonymousBytes: number;
  readonly descriptors: number;
  readonly stateBytes: number;
  /** One sentence each; empty: nothing grew. */
  readonly complaints: readonly string[];
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/**
 * Compares medians of the first MOST_FIRST_RESTS (or the first third) and of the last third of the rests after the
 * first minute (of all rests, where fewer than two came later). Anonymous memory may grow by GROWTH_LIMIT_BYTES, the state directory by
 * STATE_GROWTH_LIMIT_BYTES, descriptors not at all; leftovers are a failure at every rest.
 */
export function growthOf(rests: readonly Rest[]): Growth {
  const late = rests.filter(({ atS }) => atS >= WARM_UP_S);
  const judged = late.length >= 2 ? late : rests;
  const lastCount = Math.max(1, Math.floor(judged.length / 3));
  const firstCount = Math.min(lastCount, MOST_FIRST_RESTS);
  const difference = (value: (rest: Rest) => number): number =>
    median(judged.slice(-lastCount).map(value)) - median(judged.slice(0, firstCount).map(value));
  const anonymousBytes = difference((rest) => rest.anonymousBytes);
  const descriptors = difference((rest) => rest.descriptors);
  const stateBytes = difference((rest) => rest.stateBytes);
  const complaints = [
    ...(judged.length < 2 ? ['fewer than two rests: nothing can be compared'] : []),
    ...(anonymousBytes > GROWTH_LIMIT_BYTES ? [`anonymous memory grew by ${anonymousBytes} bytes`] : []),
    ...(descriptors > 0 ? [`descriptors grew by ${descriptors}`] : []),
    ...(stateBytes > STATE_GROWTH_LIMIT_BYTES ? [`the state directory grew by ${stateBytes} bytes`] : []),
    ...rests.flatMap(({ atS, leftovers }) => leftovers.map((what) => `at rest after ${Math.round(atS)} s: ${what}`)),
  ];
  return { judged, firstCount, lastCount, anonymousBytes, descriptors, stateBytes, complaints };
}
