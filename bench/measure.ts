/** Interleaved rounds: all contenders are up at once, and each workload goes round them before the next one begins. */
import fs from 'node:fs';
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Contender, Running } from './contenders.ts';
import { Cores } from './cores.ts';
import { hostTimes } from './cost.ts';
import type { Subject } from './load.ts';
import { makeNetwork, type Network } from './network.ts';
import type { Quiet, Sample } from './sample.ts';
import type { Outcome, Workload } from './workloads.ts';

export interface Measurement {
  readonly rounds: number;
  readonly contenders: readonly Contender[];
  readonly workloads: readonly Workload[];
  readonly isQuick: boolean;
  readonly proxyDelayMs: number;
}

/** A contender with its namespaces: made when first wanted, made anew where a workload needs that. */
class Stand {
  readonly contender: Contender;
  readonly #proxyDelayMs: number;
  #made = 0;
  #network: Network | undefined;
  #running: Running | undefined;

  constructor(contender: Contender, proxyDelayMs: number) {
    this.contender = contender;
    this.#proxyDelayMs = proxyDelayMs;
  }

  async subject(isFresh: boolean): Promise<Subject> {
    if (isFresh) await this.remove();
    this.#network ??= await makeNetwork(`${this.contender.name}${this.#made++}`, this.#proxyDelayMs);
    this.#running ??= await this.contender.start(this.#network);
    return { network: this.#network, running: this.#running };
  }

  async remove(): Promise<void> {
    const [network, running] = [this.#network, this.#running];
    this.#network = this.#running = undefined;
    try {
      await running?.stop();
    } finally {
      await network?.remove();
    }
  }
}

const QUIET_MS = 1000;
/** Lets what the last workload left behind (closes, timers) settle. */
const PAUSE_MS = 300;
/** For the processors to be whole. */
const LONGEST_WAIT_MS = 20_000;

/**
 * Runs them all.
 * @param onLine called with each line of the raw result file, as it comes
 */
export async function measure(measurement: Measurement, onLine: (line: Quiet | Sample) => void): Promise<void> {
  const stands = measurement.contenders.map((contender) => new Stand(contender, measurement.proxyDelayMs));
  const cores = new Cores();
  if (!measurement.isQuick) await cores.learn();
  try {
    for (let round = 0; round < measurement.rounds; round++) {
      // Each round meets fresh namespaces and fresh tunnels, and a machine on which they all stand idle.
      for (const stand of stands) await stand.subject(true);
      onLine(await quiet(round));
      for (const workload of measurement.workloads) await goRound(stands, workload, round, measurement, cores, onLine);
    }
  } finally {
    for (const stand of stands) await stand.remove();
  }
}

async function goRound(
  stands: readonly Stand[],
  workload: Workload,
  round: number,
  { isQuick }: Measurement,
  cores: Cores,
  onLine: (line: Sample) => void,
): Promise<void> {
  for (const stand of stands) {
    const { contender } = stand;
    if (workload.excludes(contender, descriptorLimit()) !== undefined) continue;
    const coreShare = workload.isTimed && !isQuick ? await cores.wait(LONGEST_WAIT_MS) : undefined;
    const start = performance.now();
    const before = hostTimes();
    const outcome = await attempt(async () => workload.run(await stand.subject(workload.isFresh), isQuick));
    const wallS = (performance.now() - start) / 1000;
    onLine({
      kind: 'sample',
      round,
      contender: contender.name,
      workload: workload.name,
      figures: { ...outcome.figures },
      ...(outcome.problem === undefined ? {} : { problem: outcome.problem }),
      wallS,
      stealShare: (hostTimes().stealS - before.stealS) / wallS / os.availableParallelism(),
      ...(coreShare === undefined ? {} : { coreShare }),
    });
    await sleep(PAUSE_MS);
  }
}

/** One contender that fails must not end the others' run. */
async function attempt(run: () => Promise<Outcome>): Promise<Outcome> {
  try {
    return await run();
  } catch (error) {
    return { figures: {}, problem: error instanceof Error ? error.message : String(error) };
  }
}

async function quiet(round: number): Promise<Quiet> {
  const start = performance.now();
  const before = hostTimes().busyS;
  await sleep(QUIET_MS);
  const seconds = (performance.now() - start) / 1000;
  const busyShare = (hostTimes().busyS - before) / seconds / os.availableParallelism();
  return { kind: 'quiet', round, busyShare, load1: os.loadavg()[0] ?? 0 };
}

/** Hard limit of open files, which all programs here raise themselves to. */
function descriptorLimit(): number {
  const line = fs.readFileSync('/proc/self/limits', 'utf8').match(/^Max open files\s+\S+\s+(\S+)/m);
  return line?.[1] === 'unlimited' ? Number.POSITIVE_INFINITY : Number(line?.[1] ?? 0);
}
