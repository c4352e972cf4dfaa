/** What the data path must show, and what is aimed at (pure). */
import { LOSSY } from './contenders.ts';
import type { Figure, Figures, Spread } from './figures.ts';

export interface Target {
  readonly title: string;
  readonly unit: string;
  readonly contender: string;
  readonly workload: string;
  readonly isHigherBetter: boolean;
  /** Its median must not be worse. */
  readonly least: number;
  /** undefined: `least` is all there is to reach. */
  readonly aim: number | undefined;
  readonly measure: (figures: Figures) => Spread | undefined;
}

/** `failed`: a run of the workload itself went wrong, whatever its figures. */
export type Verdict = 'aim reached' | 'passed' | 'missed' | 'failed' | 'not measured';

const MAIN = 'proxyvpn';

type Limits = readonly [least: number, aim?: number];

/** The bulk workloads, each with what is asked of it. CPU only where something is asked. */
const BULK: readonly {
  readonly name: string;
  readonly ofCeiling: Limits;
  readonly cpu?: Limits;
}[] = [
  { name: 'up1', ofCeiling: [0.57, 0.75], cpu: [0.27, 0.2] },
  { name: 'up8', ofCeiling: [0.68, 0.85], cpu: [0.34, 0.25] },
  { name: 'down1', ofCeiling: [0.42, 0.6], cpu: [0.28, 0.2] },
  { name: 'down8', ofCeiling: [0.58, 0.8], cpu: [0.45, 0.3] },
  { name: 'up100', ofCeiling: [0.6, 0.8] },
  { name: 'down100', ofCeiling: [0.6, 0.8] },
];
export const BULK_NAMES: readonly string[] = BULK.map(({ name }) => name);

const OF_REDSOCKS = [1.3, 2] as const;

function ratio(title: string, base: string, figure: Figure, isHigherBetter: boolean, limits: Limits): Target {
  return {
    title,
    unit: 'x',
    contender: MAIN,
    workload: figure.workload,
    isHigherBetter,
    least: limits[0],
    aim: limits[1],
    measure: (figures) => figures.ratio(MAIN, base, figure),
  };
}

function value(
  title: string,
  unit: string,
  figure: Figure,
  isHigherBetter: boolean,
  limits: Limits,
  contender = MAIN,
): Target {
  return {
    title,
    unit,
    contender,
    workload: figure.workload,
    isHigherBetter,
    least: limits[0],
    aim: limits[1],
    measure: (figures) => figures.of(contender, figure),
  };
}

const BUDGET_MIB = 256;

export const TARGETS: readonly Target[] = [
  ...BULK.map(({ name, ofCeiling }) =>
    ratio(`${name}, of the ceiling`, 'ceiling', { workload: name, key: 'gbps' }, true, ofCeiling),
  ),
  ...BULK.map(({ name }) =>
    ratio(`${name}, of redsocks`, 'redsocks', { workload: name, key: 'gbps' }, true, OF_REDSOCKS),
  ),
  ...BULK.flatMap(({ name, cpu }) =>
    cpu
      ? [value(`${name}, CPU of the tunnel`, 'CPU-s/GiB', { workload: name, key: 'tunnelCpuSPerGib' }, false, cpu)]
      : [],
  ),
  ratio('crr64, of the ceiling', 'ceiling', { workload: 'crr64', key: 'perSecond' }, true, [0.7, 0.85]),
  ratio("rtt p50, of the ceiling's", 'ceiling', { workload: 'rtt', key: 'p50Us' }, false, [1.45, 1.2]),
  value(
    'idle10k, memory of a connection',
    'bytes',
    { workload: 'idle10k', key: 'bytesPerConnection' },
    false,
    [700, 400],
  ),
  value('idle19k, connections that answer', '', { workload: 'idle19k', key: 'answered' }, true, [19_000]),
  value('idle19k, rtt beside them, of alone', 'x', { workload: 'idle19k', key: 'slowdown' }, false, [1.3]),
  value('peak8, over the idle daemon', 'MiB', { workload: 'peak8', key: 'peakOverIdleMiB' }, false, [32, 16]),
  value('peakStalled, over the idle daemon', 'MiB', { workload: 'peakStalled', key: 'peakOverIdleMiB' }, false, [
    BUDGET_MIB,
    16,
  ]),
  value('integrity, intact connections', '', { workload: 'integrity', key: 'intact' }, true, [3000], LOSSY),
];

export function verdictOf(target: Target, figures: Figures): Verdict {
  const measured = target.measure(figures);
  if (figures.problems(target.contender, target.workload).length > 0) return 'failed';
  if (measured === undefined) return 'not measured';
  // Where every connection counts, one bad round is enough.
  const isCount = target.unit === '';
  const decisive = isCount ? measured.min : measured.median;
  const reaches = (limit: number): boolean => (target.isHigherBetter ? decisive >= limit : decisive <= limit);
  if (target.aim !== undefined && reaches(target.aim)) return 'aim reached';
  return reaches(target.least) ? 'passed' : 'missed';
}
