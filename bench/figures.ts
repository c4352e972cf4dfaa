/** Samples to figures: medians, spreads, and ratios within a round (pure). */
import type { Results, Sample } from './sample.ts';

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly count: number;
}

export function spreadOf(values: readonly number[]): Spread | undefined {
  const sorted = [...values].sort((a, b) => a - b);
  const [min, max] = [sorted[0], sorted.at(-1)];
  if (min === undefined || max === undefined) return undefined;
  const middle = (sorted.length - 1) / 2;
  const [low = min, high = max] = [sorted[Math.floor(middle)], sorted[Math.ceil(middle)]];
  return { median: (low + high) / 2, min, max, count: sorted.length };
}

/** Which number of which workload. */
export interface Figure {
  readonly workload: string;
  readonly key: string;
}

export class Figures {
  readonly #samples: readonly Sample[];

  constructor(results: Pick<Results, 'samples'>) {
    this.#samples = results.samples;
  }

  /** Over the rounds; undefined where it was not measured. */
  of(contender: string, figure: Figure): Spread | undefined {
    return spreadOf(this.#rounds(contender, figure).map(([, value]) => value));
  }

  /** Each round's own quotient, then the spread over the rounds: a machine that slows down slows both. */
  ratio(contender: string, base: string, figure: Figure): Spread | undefined {
    const bases = new Map(this.#rounds(base, figure));
    const quotients = this.#rounds(contender, figure).flatMap(([round, value]) => {
      const divisor = bases.get(round);
      return divisor === undefined || divisor === 0 ? [] : [value / divisor];
    });
    return spreadOf(quotients);
  }

  /** Samples in which something went wrong. */
  problems(contender?: string, workload?: string): readonly Sample[] {
    return this.#samples.filter(
      (sample) =>
        sample.problem !== undefined &&
        (contender === undefined || sample.contender === contender) &&
        (workload === undefined || sample.workload === workload),
    );
  }

  #rounds(contender: string, { workload, key }: Figure): readonly (readonly [number, number])[] {
    return this.#samples
      .filter((sample) => sample.contender === contender && sample.workload === workload)
      .flatMap((sample) => {
        const value = sample.figures[key];
        return value === undefined ? [] : [[sample.round, value] as const];
      });
  }
}
