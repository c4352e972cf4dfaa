/** Results to the generated part of docs/performance.md (pure). */
import { WHOLE_SHARE } from './cores.ts';
import { Figures } from './figures.ts';
import type { Quiet, Results, RunInfo } from './sample.ts';
import { markdownTable, numberText, spreadText } from './table.ts';
import { BULK_NAMES, TARGETS, type Target, verdictOf } from './targets.ts';
import { WORKLOADS } from './workloads.ts';

/** Above it the figures are those of a shared machine. */
const BUSY_SHARE_LIMIT = 0.05;
const STEAL_SHARE_LIMIT = 0.02;

/** undefined when nothing disturbed the run. */
export function disturbance({ quiet, samples }: Pick<Results, 'quiet' | 'samples'>): string | undefined {
  const busiest = Math.max(0, ...quiet.map(({ busyShare }: Quiet) => busyShare));
  const stolen = Math.max(0, ...samples.map(({ stealShare }) => stealShare));
  const found = [
    ...(busiest > BUSY_SHARE_LIMIT ? [`others kept up to ${percent(busiest)} of the machine busy before a round`] : []),
    ...(stolen > STEAL_SHARE_LIMIT ? [`the hypervisor took up to ${percent(stolen)} of it during a workload`] : []),
  ];
  return found.length > 0 ? found.join('; ') : undefined;
}

const percent = (share: number): string => `${numberText(share * 100)} %`;

/** Markdown. @param chart relative address of the picture, or undefined where there is none */
export function report(results: Results, chart: string | undefined): string {
  const { info } = results;
  const figures = new Figures(results);
  const disturbed = disturbance(results);
  const sections = [
    [machineText(info), ...coresText(results)].join('\n'),
    ...(info.isQuick ? ['**A quick run: it shows that everything works; its figures mean nothing.**'] : []),
    ...(disturbed === undefined ? [] : [`**The machine was not quiet: ${disturbed}.**`]),
    ...(chart === undefined ? [] : [`![Throughput as a share of the ceiling, and CPU time of the tunnel](${chart})`]),
    // What is asked is asked of a proxy next door.
    ...(info.proxyDelayMs > 0 ? [] : ['### Against what is asked', targetTable(figures, chart !== undefined)]),
    '### What was measured',
    info.contenders.map(({ name, title }) => `- \`${name}\`: ${title}`).join('\n'),
    measuredTable(results, figures),
    '### Ratios',
    ratioTable(results, figures),
    '### What went wrong',
    problemText(results),
  ];
  return sections.join('\n\n');
}

function machineText(info: RunInfo): string {
  const rows = [
    ['run', `${info.startedAt}, ${info.rounds} round${info.rounds === 1 ? '' : 's'}`],
    ['commit', info.commit],
    [
      'machine',
      `${info.cpu}, ${info.cores} cores shared by client, tunnel and proxy, ${numberText(info.memoryGiB)} GiB`,
    ],
    ['kernel', info.kernel],
    ['node, lwIP, redsocks', `${info.node}, ${info.lwip}, ${info.redsocks}`],
    ...(info.proxyDelayMs > 0 ? [['round trip to the proxy', `${info.proxyDelayMs} ms, at set-up alone`]] : []),
  ];
  return rows.map(([what, value]) => `- ${what}: ${value}`).join('\n');
}

/** How often the processors were whole when a timed workload began; nothing where that was not looked at. */
function coresText({ samples }: Results): readonly string[] {
  const shares = samples.flatMap(({ coreShare }) => (coreShare === undefined ? [] : [coreShare]));
  if (shares.length === 0) return [];
  const whole = shares.filter((share) => share >= WHOLE_SHARE).length;
  return [`- processors: whole when ${whole} of ${shares.length} timed measurements began (see "How it is measured")`];
}

function limitText(target: Target, limit: number | undefined): string {
  if (limit === undefined) return '';
  return `${target.isHigherBetter ? '≥' : '≤'} ${numberText(limit)}`;
}

/** @param isWhole also what was not measured */
export function targetTable(figures: Figures, isWhole: boolean): string {
  const targets = TARGETS.filter((target) => isWhole || verdictOf(target, figures) !== 'not measured');
  const rows = targets.map((target) => [
    target.title + (target.unit === '' || target.unit === 'x' ? '' : `, ${target.unit}`),
    limitText(target, target.least),
    limitText(target, target.aim),
    spreadText(target.measure(figures)),
    verdictOf(target, figures),
  ]);
  return markdownTable(['figure', 'at least', 'aim', 'median [min..max]', 'verdict'], rows);
}

/** Every figure that any contender has, in the order of the workloads. */
function figureKeys({ samples }: Results): readonly (readonly [workload: string, key: string])[] {
  return WORKLOADS.flatMap(({ name }) => {
    const keys = samples.filter((sample) => sample.workload === name).flatMap((sample) => Object.keys(sample.figures));
    return [...new Set(keys)].map((key) => [name, key] as const);
  });
}

function measuredTable(results: Results, figures: Figures): string {
  const names = results.info.contenders.map(({ name }) => name);
  const rows = figureKeys(results).map(([workload, key]) => [
    `${workload} ${key}`,
    ...names.map((name) => spreadText(figures.of(name, { workload, key }))),
  ]);
  return markdownTable(['median [min..max]', ...names], rows);
}

const RATES = [
  ...BULK_NAMES.map((workload) => ({ workload, key: 'gbps' })),
  { workload: 'crr64', key: 'perSecond' },
  { workload: 'crr1', key: 'perSecond' },
  { workload: 'rtt', key: 'p50Us' },
] as const;

function ratioTable(results: Results, figures: Figures): string {
  const names = results.info.contenders.map(({ name }) => name).filter((name) => name !== 'ceiling');
  const rows = ['ceiling', 'redsocks'].flatMap((base) =>
    RATES.map((figure) => [
      `${figure.workload} ${figure.key}, of ${base}`,
      ...names.map((name) => (name === base ? '1' : spreadText(figures.ratio(name, base, figure)))),
    ]).filter(([, ...cells]) => cells.some((cell) => cell !== '–' && cell !== '1')),
  );
  return rows.length === 0
    ? 'None: neither the ceiling nor redsocks was run.'
    : markdownTable(['ratio', ...names], rows);
}

function problemText({ samples }: Results): string {
  const problems = samples.filter(({ problem }) => problem !== undefined);
  if (problems.length === 0) return 'Nothing.';
  const lines = problems.map(
    ({ round, contender, workload, problem }) =>
      `- ${contender}, ${workload}, round ${round + 1}: ${oneLine(problem ?? '')}`,
  );
  return lines.join('\n');
}

const LONGEST_PROBLEM = 300;

function oneLine(text: string): string {
  const line = text.replaceAll(/\s+/g, ' ').trim();
  return line.length > LONGEST_PROBLEM ? `${line.slice(0, LONGEST_PROBLEM)} ...` : line;
}

/**
 * The page with one of its generated parts replaced.
 * @param by the command that generates it, as in the marks
 * @throws Error where the marks are missing
 */
export function intoPage(page: string, by: string, generated: string): string {
  const mark = (word: string): string => `<!-- generated by ${by}: ${word} -->`;
  const [begin, end] = [page.indexOf(mark('begin')), page.indexOf(mark('end'))];
  if (begin < 0 || end < begin) throw new Error(`the page lacks ${mark('begin')} ... ${mark('end')}`);
  return `${page.slice(0, begin)}${mark('begin')}\n\n${generated}\n\n${page.slice(end)}`;
}
