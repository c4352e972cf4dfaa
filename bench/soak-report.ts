/** A soak as text: how the tunnel stood at its rests, what was done to it, and the verdict (pure). */
import { GROWTH_LIMIT_BYTES, type Growth, type Rest, STATE_GROWTH_LIMIT_BYTES } from './growth.ts';
import type { Machine } from './machine.ts';
import type { Tally } from './soak-load.ts';
import { markdownTable, numberText } from './table.ts';

/** The daemon at one moment. */
export interface Sampled {
  readonly phase: 'load' | 'rest';
  readonly atS: number;
  readonly residentBytes: number;
  readonly anonymousBytes: number;
  readonly descriptors: number;
  /** TCP sockets in the application's namespace by state, ss(8). */
  readonly states: Readonly<Record<string, number>>;
  readonly flows: Readonly<Record<string, number>>;
  readonly bytes: Readonly<Record<string, number>>;
  readonly packets: Readonly<Record<string, number>>;
  /** Longest time for which this program itself got no processor since the last sample: how crowded the machine is. */
  readonly ownPauseMs: number;
}

export interface SoakResult {
  readonly machine: Machine;
  readonly minutes: number;
  readonly soak: {
    readonly tallies: readonly Tally[];
    readonly sampled: readonly Sampled[];
    readonly rests: readonly Rest[];
    readonly silences: readonly string[];
  };
  readonly growth: Growth;
}

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const MOST_ROWS = 12;
const MOST_PROBLEMS = 20;

export function soakReport({ machine, minutes, soak, growth }: SoakResult): {
  readonly text: string;
  readonly isGood: boolean;
} {
  const problems = soak.tallies.flatMap(({ name, problems }) => problems.map((problem) => `${name}, ${problem}`));
  const complaints = [...growth.complaints, ...soak.silences, ...problems].map((text) => text.replaceAll(/\s+/g, ' '));
  const isGood = complaints.length === 0;
  const shown = complaints.slice(0, MOST_PROBLEMS).map((complaint) => `- ${complaint}`);
  const text = [
    `- run: ${machine.startedAt}, ${numberText(minutes)} minutes, commit ${machine.commit}, ${machine.cpu}, Linux ${machine.kernel}`,
    `- growth between the first ${growth.firstCount} and the last ${growth.lastCount} of ${growth.judged.length} rests after the first minute: ` +
      `${numberText(growth.anonymousBytes / 1024)} KiB of anonymous memory (limit ${GROWTH_LIMIT_BYTES / 1024}), ` +
      `${growth.descriptors} descriptors (limit 0), ` +
      `${numberText(growth.stateBytes / 1024)} KiB of state directory (limit ${STATE_GROWTH_LIMIT_BYTES / 1024})`,
    `- verdict: ${isGood ? '**no growth, no failed flow**' : `**${complaints.length} complaints**`}`,
    ...(shown.length > 0 ? [`\n${shown.join('\n')}`] : []),
    `\n${restTable(soak.sampled)}`,
    `\n${loadTable(soak.tallies, soak.sampled)}`,
  ].join('\n');
  return { text, isGood };
}

function thinned<T>(all: readonly T[]): readonly T[] {
  if (all.length <= MOST_ROWS) return all;
  const step = (all.length - 1) / (MOST_ROWS - 1);
  return Array.from({ length: MOST_ROWS }, (_, i) => all[Math.round(i * step)] as T);
}

function restTable(sampled: readonly Sampled[]): string {
  const rests = sampled.filter(({ phase }) => phase === 'rest');
  const rows = thinned(rests).map(({ atS, residentBytes, anonymousBytes, descriptors, states, flows, bytes }) => [
    numberText(atS),
    numberText(residentBytes / MIB),
    numberText(anonymousBytes / MIB),
    `${descriptors}`,
    `${states['TIME-WAIT'] ?? 0}`,
    numberText(flows['opened'] ?? 0),
    numberText(((bytes['toUpstream'] ?? 0) + (bytes['toApp'] ?? 0)) / GIB),
  ]);
  const head = [
    'at rest after, s',
    'RSS MiB',
    'anonymous MiB',
    'descriptors',
    'TIME-WAIT',
    'flows so far',
    'GiB so far',
  ];
  return markdownTable(head, rows);
}

function loadTable(tallies: readonly Tally[], sampled: readonly Sampled[]): string {
  const loaded = sampled.filter(({ phase }) => phase === 'load');
  const most = (value: (at: Sampled) => number): number => Math.max(0, ...loaded.map(value));
  const last = sampled.at(-1);
  const rows = [
    ...tallies.map(({ name, flows, problems }) => [
      `${name}: flows that went well`,
      numberText(flows),
      `${problems.length} runs failed`,
    ]),
    ['most under load: flows at once', numberText(most(({ flows }) => flows['active'] ?? 0)), ''],
    ['most under load: RSS MiB', numberText(most(({ residentBytes }) => residentBytes) / MIB), ''],
    ['most under load: descriptors', numberText(most(({ descriptors }) => descriptors)), ''],
    ['most under load: CLOSE-WAIT', numberText(most(({ states }) => states['CLOSE-WAIT'] ?? 0)), ''],
    [
      'longest pause of the soak itself, ms',
      numberText(Math.max(0, ...sampled.map(({ ownPauseMs }) => ownPauseMs))),
      '',
    ],
    ...Object.entries({ ...last?.flows, ...last?.packets })
      .filter(([name]) => !['active', 'pending', 'fromApp', 'toApp'].includes(name))
      .map(([name, count]) => [`counter ${name}`, numberText(count), '']),
  ];
  return markdownTable(['the load', 'count', 'failed'], rows);
}
