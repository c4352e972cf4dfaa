/**
 * Whether the processors are ours alone. A host that runs others on the second thread of a core takes no time that
 * anybody would count as stolen, and leaves two thirds of a processor, for a second or for an hour.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { labProgram } from '../test/netns/lab.ts';
import { run } from '../test/netns/process.ts';

/** Of the best that any processor has shown. */
export const WHOLE_SHARE = 0.9;

const FIRST_LOOKS = 20;
const PAUSE_MS = 100;

const Looked = z.object({ per_us: z.array(z.number().positive()).nonempty() });

/** Of the slowest and the fastest processor, rounds of a loop in a microsecond while all work, test/lab/labcores.c. */
export async function ratesPerUs(): Promise<{ readonly slowest: number; readonly fastest: number }> {
  const { code, stdout, stderr } = await run([await labProgram('labcores')], { timeoutMs: 10_000 });
  if (code !== 0) throw new Error(`labcores: ${stderr}`);
  const { per_us: rates } = Looked.parse(JSON.parse(stdout));
  return { slowest: Math.min(...rates), fastest: Math.max(...rates) };
}

export class Cores {
  readonly #look: typeof ratesPerUs;
  #best = 0;

  constructor(look = ratesPerUs) {
    this.#look = look;
  }

  /** Looks often enough to have seen them whole, wherever they ever are. */
  async learn(): Promise<void> {
    for (let i = 0; i < FIRST_LOOKS; i++) {
      await this.share();
      await sleep(PAUSE_MS);
    }
  }

  /** Of the slowest processor, 0 to 1. */
  async share(): Promise<number> {
    const { slowest, fastest } = await this.#look();
    this.#best = Math.max(this.#best, fastest);
    return slowest / this.#best;
  }

  /**
   * Waits until all processors are whole, or no longer. What is measured then has no say in it.
   * @returns the share of the slowest one at the end
   */
  async wait(longestMs: number): Promise<number> {
    const until = performance.now() + longestMs;
    let share = await this.share();
    while (share < WHOLE_SHARE && performance.now() < until) {
      await sleep(PAUSE_MS);
      share = await this.share();
    }
    return share;
  }
}
