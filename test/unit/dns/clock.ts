/** Time that passes when a test says so: with real time a busy machine decides which of two things comes first. */
import { onTestFinished, vi } from 'vitest';

export interface Clock {
  /** @param ms what then is due happens in its order */
  pass(ms: number): Promise<void>;
}

/** Stands still until the test ends. Sockets work on: node's own timers are not of this clock. */
export function stoppedClock(): Clock {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  onTestFinished(() => {
    vi.useRealTimers();
  });
  return {
    pass: async (ms) => {
      await vi.advanceTimersByTimeAsync(ms);
    },
  };
}

/** Sockets go on meanwhile, time does not. */
export async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setImmediate(resolve));
}
