/** What the soak does at once, again and again: short flows, bulk, idle ones, stalls, resets, checked bytes. */
import { type Load, numberOf, runLoad, type Subject } from './load.ts';
import { DESTINATION } from './network.ts';

interface Part {
  readonly name: string;
  /** Run one after the other in each cycle. */
  readonly steps: readonly (readonly string[])[];
  readonly family: 'v4' | 'v6';
  /** Flows that a step brought to its right end. */
  readonly flowsOf: (load: Load) => number;
}

/** Seconds for which the parts of a cycle that run by the clock do so. */
export const CYCLE_LOAD_S = 15;

const T = `${CYCLE_LOAD_S}`;
const done = (load: Load): number => numberOf(load, 'done');

const PARTS: readonly Part[] = [
  { name: 'short flows', family: 'v4', steps: [['crr', '-c', '32', '-t', T, '--spread', '64']], flowsOf: done },
  { name: 'short flows', family: 'v6', steps: [['crr', '-c', '8', '-t', T]], flowsOf: done },
  {
    name: 'bulk',
    family: 'v4',
    steps: [
      ['up', '-n', '4', '-t', '5'],
      ['down', '-n', '4', '-t', '5'],
      ['bidir', '-n', '2', '-t', '5'],
    ],
    flowsOf: (load) => numberOf(load, 'ready'),
  },
  {
    name: 'idle',
    family: 'v4',
    steps: [['idle', '-n', '500', '-t', '10', '--timeout', '60']],
    flowsOf: (load) => numberOf(load, 'echo2'),
  },
  {
    name: 'stalled downloads',
    family: 'v4',
    steps: [['stall', '-n', '40', '-t', '8', '--size', `${4 * 1024 * 1024}`, '--timeout', '60']],
    flowsOf: (load) => numberOf(load, 'resumed'),
  },
  { name: 'resets, refusals', family: 'v4', steps: [['resets', '-c', '16', '-t', T]], flowsOf: done },
  { name: 'resets, refusals', family: 'v6', steps: [['resets', '-c', '4', '-t', T]], flowsOf: done },
  ...(['v4', 'v6'] as const).map(
    (family): Part => ({
      name: 'checked bytes, stalls',
      family,
      steps: [
        ['integrity', '--conns', '60', '-c', '20', '-t', '90', '--timeout', '60', '--max-size', `${2 * 1024 * 1024}`],
      ],
      flowsOf: (load) => numberOf(load, 'ok'),
    }),
  ),
  { name: 'half-close', family: 'v4', steps: [['halfclose']], flowsOf: () => 8 },
];

/** What came of one kind of load over the whole soak. */
export interface Tally {
  readonly name: string;
  flows: number;
  readonly problems: string[];
}

export function newTallies(): readonly Tally[] {
  return [...new Set(PARTS.map(({ name }) => name))].map((name) => ({ name, flows: 0, problems: [] }));
}

/** All parts at once; resolves when the last has ended. @param cycle changes the seeds */
export async function loadCycle(subject: Subject, cycle: number, tallies: readonly Tally[]): Promise<void> {
  await Promise.all(PARTS.map((part) => runPart(subject, part, cycle, tallies)));
}

async function runPart(subject: Subject, part: Part, cycle: number, tallies: readonly Tally[]): Promise<void> {
  const tally = tallies.find(({ name }) => name === part.name);
  for (const step of part.steps) {
    const seed = step[0] === 'integrity' ? ['--seed', `${cycle * 2 + (part.family === 'v4' ? 1 : 2)}`] : [];
    const load = await runLoad(subject, DESTINATION[part.family], [...step, ...seed]);
    const flows = part.flowsOf(load);
    if (!tally) continue;
    tally.flows += Number.isFinite(flows) ? flows : 0;
    if (load.problem !== undefined) tally.problems.push(`cycle ${cycle + 1}, ${part.family}: ${load.problem}`);
  }
}
