/** Results as a run would give them, for the tests of what is made of them. */
import type { Results, Sample } from '../../../bench/sample.ts';

export function sample(round: number, contender: string, workload: string, figures: Record<string, number>): Sample {
  return { kind: 'sample', round, contender, workload, figures, wallS: 3, stealShare: 0 };
}

export function results(samples: readonly Sample[], names: readonly string[]): Results {
  return {
    info: {
      kind: 'run',
      startedAt: '2026-01-01T00:00:00.000Z',
      cpu: 'A <processor>',
      cores: 2,
      memoryGiB: 4,
      kernel: '6.1.0',
      node: 'v20.12.0',
      lwip: '2.1.3',
      redsocks: 'redsocks 0.5',
      commit: 'abc1234',
      rounds: 3,
      isQuick: false,
      proxyDelayMs: 0,
      contenders: names.map((name) => ({ name, title: name })),
    },
    quiet: [],
    samples,
  };
}
