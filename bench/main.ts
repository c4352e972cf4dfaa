/** `npm run bench`: measures, prints the tables, and writes docs/performance.md where the run was a whole one. */
import fs from 'node:fs';
import path from 'node:path';
import { chart } from './chart.ts';
import { describeMachine } from './machine.ts';
import { type Measurement, measure } from './measure.ts';
import { refuseOnHost } from './network.ts';
import { helpText, parseTask, UsageError } from './options.ts';
import { disturbance, intoPage, report } from './report.ts';
import { parseResults, type Quiet, type Results, type RunInfo, type Sample } from './sample.ts';
import { numberText } from './table.ts';

const ROOT = path.join(import.meta.dirname, '..');
const PAGE = path.join(ROOT, 'docs', 'performance.md');
const PICTURE = path.join(ROOT, 'docs', 'performance.svg');

function publish(results: Results): void {
  const page = intoPage(fs.readFileSync(PAGE, 'utf8'), 'npm run bench', report(results, path.basename(PICTURE)));
  fs.writeFileSync(PICTURE, chart(results));
  fs.writeFileSync(PAGE, page);
  console.log(`bench: wrote ${path.relative(ROOT, PAGE)} and ${path.relative(ROOT, PICTURE)}`);
}

function isProgram(name: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some((directory) => fs.existsSync(path.join(directory, name)));
}

function brief(line: Quiet | Sample): string {
  if (line.kind === 'quiet')
    return `round ${line.round + 1}: machine ${numberText(line.busyShare * 100)} % busy at rest`;
  const figures = Object.entries(line.figures).map(([key, value]) => `${key} ${numberText(value)}`);
  return `${line.contender} ${line.workload}: ${[...figures, ...(line.problem ? [`PROBLEM ${line.problem}`] : [])].join(', ')}`;
}

/** @throws UsageError */
function refuseWithout({ contenders }: Measurement): void {
  for (const { needs } of contenders) {
    if (needs === undefined || isProgram(needs)) continue;
    throw new UsageError(`${needs} is not installed: sudo apt-get install ${needs}, or name others with --contenders`);
  }
}

async function run(measurement: Measurement, raw: string): Promise<Results> {
  const info: RunInfo = {
    kind: 'run',
    ...(await describeMachine()),
    rounds: measurement.rounds,
    isQuick: measurement.isQuick,
    proxyDelayMs: measurement.proxyDelayMs,
    contenders: measurement.contenders.map(({ name, title }) => ({ name, title })),
  };
  fs.mkdirSync(path.dirname(raw), { recursive: true });
  fs.writeFileSync(raw, `${JSON.stringify(info)}\n`);
  await measure(measurement, (line) => {
    fs.appendFileSync(raw, `${JSON.stringify(line)}\n`);
    console.error(brief(line));
  });
  return parseResults(fs.readFileSync(raw, 'utf8'));
}

async function main(argv: readonly string[]): Promise<number> {
  const task = parseTask(argv);
  if (task.task === 'help') {
    console.log(helpText());
    return 0;
  }
  if (task.task === 'report') {
    const results = parseResults(fs.readFileSync(task.raw, 'utf8'));
    if (results.info.isQuick) throw new UsageError(`${task.raw} is of a quick run, whose figures mean nothing`);
    publish(results);
    return 0;
  }
  refuseOnHost();
  refuseWithout(task.measurement);
  const raw = path.resolve(
    task.raw ?? path.join(ROOT, 'build', 'bench', `${new Date().toISOString().slice(0, 19)}.jsonl`),
  );
  const results = await run(task.measurement, raw);
  console.log(report(results, undefined));
  console.log(`\nbench: raw results in ${raw}`);
  const disturbed = disturbance(results);
  if (disturbed !== undefined) console.error(`bench: WARNING: the machine was not quiet: ${disturbed}`);
  if (task.isWhole) publish(results);
  return results.samples.some(({ problem }) => problem !== undefined) ? 1 : 0;
}

main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code;
  },
  (error: Error) => {
    console.error(error instanceof UsageError ? `bench: ${error.message}` : `bench: ${error.stack}`);
    process.exitCode = error instanceof UsageError ? 2 : 1;
  },
);
