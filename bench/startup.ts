/**
 * `npm run bench:startup`: how long starts take and what a daemon at rest keeps, of build/launcher/proxyvpn. Writes
 * docs/performance.md where the run was a whole one.
 *
 *     app                                        net
 *   startup-runner, proxyvpn ── veth0 ── veth0 ── labproxy: the upstream, and the origin in one
 */
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { type Spread, spreadOf } from './figures.ts';
import { describeMachine, type Machine } from './machine.ts';
import { DESTINATION, makeNetwork, PROXY_ADDRESS, PROXY_PORT, refuseOnHost } from './network.ts';
import { intoPage } from './report.ts';
import { StartupSample, type StartupTask } from './startup-task.ts';
import { markdownTable, numberText, spreadText } from './table.ts';

const ROOT = path.join(import.meta.dirname, '..');
const PAGE = path.join(ROOT, 'docs', 'performance.md');
const LAUNCHER = path.join(ROOT, 'build', 'launcher', 'proxyvpn');
const RUNNER = path.join(ROOT, 'build', 'bench', 'startup-runner.cjs');

/** Fewer give no median worth a page. */
const WHOLE_ROUNDS = 15;
const MEMORY_ROUNDS = 3;
/** A round with memory takes 10 s. */
const TIMEOUT_MS = 600_000;

/** labproxy's port that echoes. */
const ECHO_PORT = 9003;

const USAGE = `usage: npm run bench:startup -- [--rounds N]

  --rounds N   rounds, each through all that is measured (default ${WHOLE_ROUNDS}; fewer print the table only)
`;

async function measure(rounds: number): Promise<readonly StartupSample[]> {
  const stateDirectory = '/run/bench-state/startup';
  fs.mkdirSync(stateDirectory, { recursive: true });
  const network = await makeNetwork('startup');
  try {
    const task: StartupTask = {
      launcher: LAUNCHER,
      proxy: `${PROXY_ADDRESS}:${PROXY_PORT}`,
      destination: { host: DESTINATION.v4, port: ECHO_PORT },
      stateDirectory,
      rounds,
      memoryRounds: Math.min(rounds, MEMORY_ROUNDS),
    };
    const runner = [process.execPath, RUNNER, JSON.stringify(task)];
    const lines = (await network.app.must(runner, { timeoutMs: TIMEOUT_MS })).split('\n').filter(Boolean);
    return lines.map((line) => StartupSample.parse(JSON.parse(line)));
  } finally {
    await network.remove();
  }
}

class Samples {
  readonly #samples: readonly StartupSample[];

  constructor(samples: readonly StartupSample[]) {
    this.#samples = samples;
  }

  values(what: string, key: string): readonly number[] {
    return this.#samples.filter((sample) => sample.what === what && sample.key === key).map(({ value }) => value);
  }

  of(what: string, key: string): Spread | undefined {
    return spreadOf(this.values(what, key));
  }

  /** Each round's own quotient. */
  ratio(what: string, base: string): Spread | undefined {
    const bases = this.values(base, 'ms');
    return spreadOf(this.values(what, 'ms').map((value, round) => value / (bases[round] ?? Number.NaN)));
  }
}

interface Row {
  readonly title: string;
  readonly atMost: number | undefined;
  readonly spread: Spread | undefined;
}

function rowsOf(samples: Samples): readonly Row[] {
  const row = (title: string, spread: Spread | undefined, atMost?: number): Row => ({ title, atMost, spread });
  const ups = ['up', 'up --killswitch'].flatMap((what) => [
    row(`\`${what}\`, to its end, ms`, samples.of(what, 'ms')),
    row(`\`${what}\`, to the first byte through the tunnel, ms`, samples.of(what, 'to the first byte ms'), 300),
  ]);
  const memory = ['up', 'up --killswitch'].flatMap((what) => [
    row(`\`${what}\`: daemon at rest, RSS, MB`, samples.of(what, 'rss at rest MB'), 60),
    row('– PSS, MB', samples.of(what, 'pss at rest MB')),
    row('– RSS after a `status`, MB', samples.of(what, 'rss after a status MB'), 60),
  ]);
  return [
    row('`node -e 0`, ms', samples.of('node -e 0', 'ms')),
    row('`proxyvpn --version`, ms', samples.of('--version', 'ms'), 60),
    row('`proxyvpn --version`, times `node -e 0` of the round', samples.ratio('--version', 'node -e 0'), 2),
    ...ups,
    row('`status`, ms', samples.of('status (up)', 'ms')),
    row('`down`, ms', samples.of('down (up)', 'ms')),
    row('`node` that waits, RSS, MB', samples.of('node alone', 'rss at rest MB')),
    ...memory,
  ];
}

/** proc_pid_stat(5), field 40, counted behind the program's name. */
function isRealTime(): boolean {
  const stat = fs.readFileSync('/proc/self/stat', 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[40 - 3]) > 0;
}

function report(machine: Machine, rounds: number, rows: readonly Row[]): string {
  const cells = rows.map(({ title, atMost, spread }) => [
    title,
    atMost === undefined ? '' : `≤ ${numberText(atMost)}`,
    spreadText(spread),
    atMost === undefined || spread === undefined ? '' : spread.median <= atMost ? 'met' : 'missed',
  ]);
  const facts = [
    `- run: ${machine.startedAt}, ${rounds} rounds`,
    `- commit: ${machine.commit}`,
    `- machine: ${machine.cpu}, ${machine.cores} cores, ${numberText(machine.memoryGiB)} GiB`,
    `- kernel, node: ${machine.kernel}, ${machine.node}`,
    ...(isRealTime() ? ['- all of it at real-time priority (chrt), since the machine did other work meanwhile'] : []),
  ];
  return `${facts.join('\n')}\n\n${markdownTable(['figure', 'at most', 'median [min..max]', 'verdict'], cells)}`;
}

async function main(argv: readonly string[]): Promise<number> {
  const options = {
    rounds: { type: 'string', default: `${WHOLE_ROUNDS}` },
    help: { type: 'boolean', short: 'h' },
  } as const;
  const { values } = parseArgs({ args: [...argv], options });
  const rounds = Number(values.rounds);
  if (values.help || !Number.isInteger(rounds) || rounds < 1) {
    console.log(USAGE);
    return values.help ? 0 : 2;
  }
  refuseOnHost();
  if (!fs.existsSync(LAUNCHER)) throw new Error(`${LAUNCHER} is missing: npm run build`);
  const rows = rowsOf(new Samples(await measure(rounds)));
  const text = report(await describeMachine(), rounds, rows);
  console.log(text);
  if (rounds >= WHOLE_ROUNDS) {
    fs.writeFileSync(PAGE, intoPage(fs.readFileSync(PAGE, 'utf8'), 'npm run bench:startup', text));
    console.log(`bench: wrote ${path.relative(ROOT, PAGE)}`);
  }
  return 0;
}

main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code;
  },
  (error: Error) => {
    console.error(`bench: ${error.stack}`);
    process.exitCode = 1;
  },
);
