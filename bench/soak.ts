/** scripts/soak.sh: hours in the life of one tunnel; fails when anything of it grows or any flow goes wrong. */
import fs from 'node:fs';
import path from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../test/netns/process.ts';
import { type RunningProxyvpn, type Status, startProxyvpn } from './contenders.ts';
import { directoryBytes, memoryBytes, openDescriptors, processTree, threadStates } from './cost.ts';
import { type Growth, growthOf, type Rest } from './growth.ts';
import { describeMachine } from './machine.ts';
import { makeNetwork, type Network, refuseOnHost } from './network.ts';
import { intoPage } from './report.ts';
import { CYCLE_LOAD_S, loadCycle, newTallies, type Tally } from './soak-load.ts';
import { type Sampled, soakReport } from './soak-report.ts';

const ROOT = path.join(import.meta.dirname, '..');
const PAGE = path.join(ROOT, 'docs', 'performance.md');
const SAMPLE_MS = 10_000;
/** Longer than the engine keeps a socket that nobody dials again. */
const DESCRIPTORS_SETTLE_MS = 3000;
/** Longer than the kernel's FIN timeout (60 s): what is still there then stays for good. */
const REST_LIMIT_MS = 70_000;
/** A run of at least this long goes into docs/performance.md. */
const WHOLE_RUN_MINUTES = 20;

class Soak {
  readonly #network: Network;
  readonly #tunnel: RunningProxyvpn;
  readonly #raw: string;
  readonly #startMs = performance.now();
  readonly #pauses = monitorEventLoopDelay();
  readonly tallies: readonly Tally[] = newTallies();
  readonly sampled: Sampled[] = [];
  readonly rests: Rest[] = [];
  /** Moments at which the daemon did not tell its state. */
  readonly silences: string[] = [];

  constructor(network: Network, tunnel: RunningProxyvpn, raw: string) {
    this.#network = network;
    this.#tunnel = tunnel;
    this.#raw = raw;
    this.#pauses.enable();
  }

  get elapsedS(): number {
    return (performance.now() - this.#startMs) / 1000;
  }

  /** One cycle of load, sampled every 10 s, then a rest. */
  async cycle(number: number): Promise<void> {
    const ended = loadCycle({ network: this.#network, running: this.#tunnel }, number, this.tallies);
    let isOver = false;
    ended.then(
      () => {
        isOver = true;
      },
      () => {
        isOver = true;
      },
    );
    for (let next = performance.now(); !isOver; next += SAMPLE_MS) {
      await Promise.race([ended, sleep(Math.max(0, next - performance.now()))]);
      if (!isOver) await this.#sample('load').catch((error: Error) => this.#note(error));
    }
    await ended;
    await this.#rest();
  }

  /** A daemon that is too busy to answer is a complaint, not the end of the soak. */
  #note(error: Error): void {
    const threads = threadStates(this.#tunnel.pids).join(', ');
    const silence = `after ${Math.round(this.elapsedS)} s: ${error.message} (threads: ${threads})`;
    this.silences.push(silence);
    console.error(`soak: ${silence}`);
  }

  async #sample(phase: Sampled['phase']): Promise<{ readonly sampled: Sampled; readonly status: Status }> {
    const status = await this.#tunnel.status();
    const pids = processTree(this.#tunnel.pids);
    const sampled: Sampled = {
      phase,
      atS: this.elapsedS,
      residentBytes: memoryBytes(pids, 'VmRSS'),
      anonymousBytes: memoryBytes(pids, 'RssAnon'),
      descriptors: openDescriptors(pids),
      states: await this.#tcpStates(),
      flows: status.flows,
      bytes: status.bytes,
      packets: status.packets,
      ownPauseMs: this.#pauses.max / 1e6,
    };
    this.#pauses.reset();
    this.sampled.push(sampled);
    fs.appendFileSync(this.#raw, `${JSON.stringify(sampled)}\n`);
    return { sampled, status };
  }

  /** Waits until nothing is left of the load, and writes down how the tunnel then stands. */
  async #rest(): Promise<void> {
    const isDone = async (): Promise<boolean> => (await this.#leftovers()).length === 0;
    await until('the flows to be gone', isDone, REST_LIMIT_MS, 500).catch(() => {});
    await this.#untilDescriptorsAreClosed();
    const leftovers = await this.#leftovers();
    const { sampled, status } = await this.#sample('rest');
    const pids = processTree(this.#tunnel.pids);
    const problems = [...status.problems, ...(status.state === 'up' ? [] : [`state is ${status.state}`])];
    this.rests.push({
      atS: sampled.atS,
      anonymousBytes: sampled.anonymousBytes,
      residentBytes: sampled.residentBytes,
      // No other connection to the daemon's control socket is open now.
      descriptors: Math.min(sampled.descriptors, openDescriptors(pids)),
      stateBytes: directoryBytes(this.#tunnel.stateDirectory),
      leftovers: [...leftovers, ...problems],
    });
    console.error(`soak: ${Math.round(this.elapsedS)} s, rest ${this.rests.length}: ${this.#brief()}`);
  }

  async #untilDescriptorsAreClosed(): Promise<void> {
    let least = Number.POSITIVE_INFINITY;
    let fewestSince = performance.now();
    const isSettled = (): boolean => {
      const now = openDescriptors(processTree(this.#tunnel.pids));
      if (now < least) fewestSince = performance.now();
      least = Math.min(least, now);
      return performance.now() - fewestSince > DESCRIPTORS_SETTLE_MS;
    };
    await until('descriptors to be closed', async () => isSettled(), REST_LIMIT_MS, 500).catch(() => {});
  }

  #brief(): string {
    const rest = this.rests.at(-1);
    const failed = this.tallies.reduce((sum, { problems }) => sum + problems.length, 0);
    return `${rest?.anonymousBytes} bytes anonymous, ${rest?.descriptors} descriptors, ${failed} loads failed so far`;
  }

  async #leftovers(): Promise<readonly string[]> {
    const { flows, tcp, bytes } = await this.#tunnel.status();
    const counts = {
      'active flows': flows['active'],
      'pending flows': flows['pending'],
      'bytes buffered': bytes['buffered'],
      'connections in lwIP': tcp['connections'],
      'timers of TCP': tcp['timers'],
    };
    const states = Object.entries(await this.#tcpStates()).filter(([state]) => state !== 'TIME-WAIT');
    return [
      ...Object.entries(counts).flatMap(([what, count]) => (count === 0 ? [] : [`${count} ${what}`])),
      ...states.map(([state, count]) => `${count} sockets in ${state}`),
    ];
  }

  /** Sockets of the applications and of the tunnel alike, without listeners. */
  async #tcpStates(): Promise<Readonly<Record<string, number>>> {
    const states: Record<string, number> = {};
    for (const line of (await this.#network.app.must(['ss', '-Htan'])).split('\n')) {
      const state = line.split(/\s/, 1)[0] ?? '';
      if (state !== '' && state !== 'LISTEN') states[state] = (states[state] ?? 0) + 1;
    }
    return states;
  }
}

async function run(
  minutes: number,
  upArguments: readonly string[],
): Promise<{ readonly text: string; readonly isGood: boolean }> {
  const machine = await describeMachine();
  const raw = path.join(ROOT, 'build', 'bench', `soak-${machine.startedAt.slice(0, 19)}.jsonl`);
  fs.mkdirSync(path.dirname(raw), { recursive: true });
  const network = await makeNetwork('soak');
  try {
    const tunnel = await startProxyvpn(network, ['--killswitch', ...upArguments]);
    const soak = new Soak(network, tunnel, raw);
    for (let cycle = 0; cycle < 2 || soak.elapsedS + CYCLE_LOAD_S < minutes * 60; cycle++) await soak.cycle(cycle);
    const growth: Growth = growthOf(soak.rests);
    await tunnel.stop();
    const { text, isGood } = soakReport({ machine, minutes: soak.elapsedS / 60, soak, growth });
    console.log(`${text}\n\nsoak: raw samples in ${raw}`);
    return { text, isGood };
  } finally {
    await network.remove();
  }
}

async function main(argv: readonly string[]): Promise<number> {
  const [first, ...upArguments] = argv;
  const minutes = Number(first);
  if (!(minutes > 0)) {
    console.error('usage: scripts/soak.sh MINUTES [ARGUMENTS OF up]');
    return 2;
  }
  refuseOnHost();
  const { text, isGood } = await run(minutes, upArguments);
  if (minutes >= WHOLE_RUN_MINUTES && upArguments.length === 0) {
    fs.writeFileSync(PAGE, intoPage(fs.readFileSync(PAGE, 'utf8'), 'scripts/soak.sh', text));
    console.log(`soak: wrote ${path.relative(ROOT, PAGE)}`);
  }
  return isGood ? 0 : 1;
}

main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code;
  },
  (error: Error) => {
    console.error(`soak: ${error.stack}`);
    process.exitCode = 1;
  },
);
