/** The lines of a raw result file: what was run where, and what each workload gave. */
import { z } from 'zod';

/** The first line. */
export const RunInfo = z.object({
  kind: z.literal('run'),
  startedAt: z.string(),
  cpu: z.string(),
  cores: z.number(),
  memoryGiB: z.number(),
  kernel: z.string(),
  node: z.string(),
  lwip: z.string(),
  redsocks: z.string(),
  /** `abc1234`, with `+` when files differed from it. */
  commit: z.string(),
  rounds: z.number(),
  isQuick: z.boolean(),
  proxyDelayMs: z.number(),
  contenders: z.array(z.object({ name: z.string(), title: z.string() })),
});
export type RunInfo = z.infer<typeof RunInfo>;

/** How busy the machine was before a round, while all contenders stood idle. */
export const Quiet = z.object({
  kind: z.literal('quiet'),
  round: z.number(),
  /** Of all cores, 0 to 1. */
  busyShare: z.number(),
  load1: z.number(),
});
export type Quiet = z.infer<typeof Quiet>;

export const Sample = z.object({
  kind: z.literal('sample'),
  round: z.number(),
  contender: z.string(),
  workload: z.string(),
  /** By name, units in the names. */
  figures: z.record(z.string(), z.number()),
  /** What did not go as it should; the figures then prove nothing. */
  problem: z.string().optional(),
  wallS: z.number(),
  /** Share of the cores that the hypervisor took meanwhile, 0 to 1. */
  stealShare: z.number(),
  /** Of a timed workload: what the slowest processor could do before it, 0 to 1 of the best seen. */
  coreShare: z.number().optional(),
});
export type Sample = z.infer<typeof Sample>;

export const Line = z.discriminatedUnion('kind', [RunInfo, Quiet, Sample]);

export interface Results {
  readonly info: RunInfo;
  readonly quiet: readonly Quiet[];
  readonly samples: readonly Sample[];
}

/** @param text JSON lines; the first is the run's */
export function parseResults(text: string): Results {
  const lines = text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => Line.parse(JSON.parse(line)));
  const [info, ...others] = lines;
  if (info?.kind !== 'run') throw new Error('the first line does not say what was run');
  return {
    info,
    quiet: others.filter((line) => line.kind === 'quiet'),
    samples: others.filter((line) => line.kind === 'sample'),
  };
}
