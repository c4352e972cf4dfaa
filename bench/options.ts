/** argv of the bench to what it shall do (pure). */
import { parseArgs } from 'node:util';
import { CONTENDERS, type Contender, DEFAULT_CONTENDERS, engineOnly, proxyvpn } from './contenders.ts';
import type { Measurement } from './measure.ts';
import { WORKLOADS } from './workloads.ts';

export type Task =
  | { readonly task: 'help' }
  | { readonly task: 'report'; readonly raw: string }
  | {
      readonly task: 'measure';
      readonly raw: string | undefined;
      readonly measurement: Measurement;
      readonly isWhole: boolean;
    };

export class UsageError extends Error {}

const FEWEST_ROUNDS = 3;

const OPTIONS = {
  rounds: { type: 'string', default: `${FEWEST_ROUNDS}` },
  only: { type: 'string' },
  contenders: { type: 'string' },
  variant: { type: 'string', multiple: true, default: [] as string[] },
  quick: { type: 'boolean', default: false },
  'proxy-delay': { type: 'string', default: '0' },
  out: { type: 'string' },
  report: { type: 'string' },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

export function helpText(): string {
  const list = (items: readonly { readonly name: string; readonly title: string }[]): string =>
    items.map(({ name, title }) => `  ${name.padEnd(12)} ${title}`).join('\n');
  return `usage: npm run bench -- [--rounds N] [--only WORKLOAD,...] [--contenders NAME,...] [--out FILE]
       npm run bench -- --report FILE

  --rounds N           rounds, each through all contenders in turn (default ${FEWEST_ROUNDS})
  --only W,...         these workloads alone
  --contenders C,...   these contenders alone (default: ${DEFAULT_CONTENDERS.join(',')})
  --variant NAME=ARGS  also "proxyvpn up --killswitch ARGS"; or, as NAME='engine ARGS', the engine alone with
                       --queues N, --predial N, --cuts, --drop-one-in N, --duplicate-one-in N, --delay-one-in N; may
                       be repeated
  --proxy-delay MS     the proxy answers CONNECT as one whose round trip is MS away
  --quick              workloads of a second: shows that everything works, measures nothing
  --out FILE           raw results, a JSON line each (default: build/bench/TIME.jsonl)
  --report FILE        writes docs/performance.md and .svg from raw results, and measures nothing

A whole run (all workloads, all default contenders, at least ${FEWEST_ROUNDS} rounds, no delay) writes docs/performance.md and .svg;
any other prints its tables only.

Contenders:
${list(CONTENDERS)}

Workloads:
${list(WORKLOADS)}
`;
}

/** @throws UsageError */
export function parseTask(argv: readonly string[]): Task {
  const values = parsed(argv);
  if (values.help) return { task: 'help' };
  if (values.report !== undefined) return { task: 'report', raw: values.report };
  const rounds = wholeNumber('--rounds', values.rounds, 1);
  const proxyDelayMs = wholeNumber('--proxy-delay', values['proxy-delay'], 0);
  const workloads = values.only === undefined ? WORKLOADS : named(WORKLOADS, '--only', values.only);
  const wanted = values.contenders ?? DEFAULT_CONTENDERS.join(',');
  const contenders = [...named(CONTENDERS, '--contenders', wanted), ...values.variant.map(variant)];
  const isWhole =
    !values.quick &&
    rounds >= FEWEST_ROUNDS &&
    proxyDelayMs === 0 &&
    workloads.length === WORKLOADS.length &&
    DEFAULT_CONTENDERS.every((name) => contenders.some((contender) => contender.name === name));
  const measurement = { rounds, contenders, workloads, isQuick: values.quick, proxyDelayMs };
  return { task: 'measure', raw: values.out, measurement, isWhole };
}

function parsed(argv: readonly string[]) {
  try {
    return parseArgs({ args: [...argv], options: OPTIONS }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function wholeNumber(flag: string, text: string, least: number): number {
  const number = Number(text);
  if (!Number.isInteger(number) || number < least)
    throw new UsageError(`${flag} takes a whole number from ${least} up`);
  return number;
}

/** In the order of `all`, so that every run has the same order. */
function named<T extends { readonly name: string }>(all: readonly T[], flag: string, text: string): readonly T[] {
  const names = text.split(',');
  const unknown = names.filter((name) => !all.some((item) => item.name === name));
  if (unknown.length > 0) throw new UsageError(`${flag}: there is no ${unknown.join(', ')}`);
  return all.filter(({ name }) => names.includes(name));
}

function variant(text: string): Contender {
  const [, name, args] = /^([a-z0-9]{1,8})=(.+)$/.exec(text) ?? [];
  if (name === undefined || args === undefined || CONTENDERS.some((contender) => contender.name === name)) {
    throw new UsageError("--variant takes NAME='ARGS', the name a new one of up to 8 letters and digits");
  }
  const words = args.split(/\s+/);
  if (words[0] === 'engine') return engineOnly(name, `the ${args}`, words.slice(1));
  return proxyvpn(name, `proxyvpn up --killswitch ${args}`, ['--killswitch', ...words]);
}
