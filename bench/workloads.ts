/** What is done through each contender, and which figures come of it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Contender, FAULTY, LOSSY } from './contenders.ts';
import { memoryBytes, processTree } from './cost.ts';
import { type Load, numberOf, runLoad, type Subject } from './load.ts';
import { DESTINATION, PROXY_PORT } from './network.ts';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

export interface Outcome {
  readonly figures: Readonly<Record<string, number>>;
  readonly problem: string | undefined;
}

export interface Workload {
  readonly name: string;
  /** For people. */
  readonly title: string;
  /** Wants a tunnel, and namespaces, that have carried nothing yet: memory is compared with theirs. */
  readonly isFresh: boolean;
  /** Its figures are times and rates: it begins when the processors are whole. */
  readonly isTimed: boolean;
  /** Why this contender is left out; undefined: it takes part. @param descriptorLimit of one process */
  readonly excludes: (contender: Contender, descriptorLimit: number) => string | undefined;
  readonly run: (subject: Subject, isQuick: boolean) => Promise<Outcome>;
}

const isOnlyForLoss = (contender: Contender): string | undefined =>
  contender.name === LOSSY ? 'loses packets on purpose' : undefined;

function tunnelsFor(connections: number, without: readonly string[] = []): Workload['excludes'] {
  return (contender, descriptorLimit) => {
    const needed = connections * contender.descriptorsPerConnection;
    if (needed > descriptorLimit) return `needs ${needed} descriptors, the limit is ${descriptorLimit}`;
    if (without.includes(contender.name)) return 'of no interest';
    return isOnlyForLoss(contender);
  };
}

const withoutCeiling =
  (excludes: Workload['excludes']): Workload['excludes'] =>
  (contender, limit) =>
    contender.isTunnel ? excludes(contender, limit) : 'there is no tunnel';

/** Without what could not be measured. */
function figures(all: Readonly<Record<string, number>>): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(all).filter(([, value]) => Number.isFinite(value)));
}

function costs({ running }: Subject, load: Load): Readonly<Record<string, number>> {
  const gib = numberOf(load, 'bytes') / GIB;
  if (!(gib > 0)) return {};
  const host = { hostCpuSPerGib: load.hostCpuS / gib };
  return running.pids.length > 0 ? { tunnelCpuSPerGib: load.tunnelCpuS / gib, ...host } : host;
}

function bulk(direction: 'up' | 'down', streams: number): Workload {
  return {
    name: `${direction}${streams}`,
    title: `${direction === 'up' ? 'upload' : 'download'}, ${streams} stream${streams === 1 ? '' : 's'}`,
    isFresh: false,
    isTimed: true,
    excludes: isOnlyForLoss,
    async run(subject, isQuick) {
      const load = await runLoad(subject, DESTINATION.v4, [direction, '-n', `${streams}`, '-t', isQuick ? '1' : '3']);
      return { figures: figures({ gbps: numberOf(load, 'gbps'), ...costs(subject, load) }), problem: load.problem };
    },
  };
}

function shortFlows(atOnce: number): Workload {
  return {
    name: `crr${atOnce}`,
    title: `connect + 1 KiB + close, ${atOnce} at once`,
    isFresh: false,
    isTimed: true,
    excludes: isOnlyForLoss,
    async run(subject, isQuick) {
      const args = ['crr', '-c', `${atOnce}`, '-t', isQuick ? '1' : '3', '--spread', '64'];
      const load = await runLoad(subject, DESTINATION.v4, args);
      const tunnelCpuS = subject.running.pids.length > 0 ? load.tunnelCpuS : Number.NaN;
      return {
        figures: figures({
          perSecond: numberOf(load, 'crr_per_s'),
          p50Us: numberOf(load, 'p50_us'),
          p99Us: numberOf(load, 'p99_us'),
          tunnelCpuUsEach: (tunnelCpuS * 1e6) / numberOf(load, 'done'),
        }),
        problem: load.problem,
      };
    },
  };
}

async function roundTrips(subject: Subject, seconds: number): Promise<Outcome> {
  const load = await runLoad(subject, DESTINATION.v4, ['rtt', '-t', `${seconds}`]);
  return {
    figures: figures({ p50Us: numberOf(load, 'p50_us'), p99Us: numberOf(load, 'p99_us') }),
    problem: load.problem,
  };
}

const rtt: Workload = {
  name: 'rtt',
  title: 'round trip of one byte',
  isFresh: false,
  isTimed: true,
  excludes: isOnlyForLoss,
  run: (subject, isQuick) => roundTrips(subject, isQuick ? 1 : 2),
};

/** A second after `up` a daemon gives back what only its start needed, src/app/idle-memory.ts. */
const SETTLED_MS = 2500;

/** What every daemon needs once is not charged to the workload. */
async function warmUp(subject: Subject): Promise<void> {
  await sleep(SETTLED_MS);
  await runLoad(subject, DESTINATION.v4, ['idle', '-n', '1', '-t', '0.1']);
}

const IDLE = 10_000;

const idle10k: Workload = {
  name: 'idle10k',
  title: `${IDLE} idle connections`,
  isFresh: true,
  isTimed: false,
  excludes: withoutCeiling(tunnelsFor(IDLE)),
  async run(subject) {
    await warmUp(subject);
    let held = Number.NaN;
    const args = ['idle', '-n', `${IDLE}`, '-t', '2'];
    const load = await runLoad(subject, DESTINATION.v4, args, async () => {
      await sleep(1000);
      held = memoryBytes(processTree(subject.running.pids), 'VmRSS');
    });
    return {
      figures: figures({
        answered: numberOf(load, 'echo2'),
        bytesPerConnection: (held - load.residentBytes) / IDLE,
        openS: numberOf(load, 'open_s'),
      }),
      problem: load.problem,
    };
  },
};

/** What fits under 20,000 descriptors for a client, a tunnel and a proxy each. */
const MANY = 19_000;

const idle19k: Workload = {
  name: 'idle19k',
  title: `${MANY} idle connections and a round trip beside them`,
  isFresh: true,
  isTimed: false,
  excludes: tunnelsFor(MANY, ['open', 'engine']),
  async run(subject, isQuick) {
    const alone = await roundTrips(subject, isQuick ? 1 : 2);
    let beside: Outcome = { figures: {}, problem: 'the connections were not held' };
    const args = ['idle', '-n', `${MANY}`, '-t', '5', '--timeout', '40'];
    const load = await runLoad(subject, DESTINATION.v4, args, async () => {
      await sleep(500);
      beside = await roundTrips(subject, isQuick ? 1 : 2);
    });
    const aloneUs = alone.figures['p50Us'] ?? Number.NaN;
    const besideUs = beside.figures['p50Us'] ?? Number.NaN;
    return {
      figures: figures({
        answered: numberOf(load, 'echo2'),
        p50Us: besideUs,
        p50UsAlone: aloneUs,
        slowdown: besideUs / aloneUs,
      }),
      problem: load.problem ?? alone.problem ?? beside.problem,
    };
  },
};

const peakOverIdleMiB = (load: Load): number => (load.peakBytes - load.residentBytes) / MIB;

const peak8: Workload = {
  name: 'peak8',
  title: 'memory during 8 downloads',
  isFresh: true,
  isTimed: false,
  excludes: withoutCeiling(tunnelsFor(8, ['open', 'engine'])),
  async run(subject) {
    await warmUp(subject);
    const load = await runLoad(subject, DESTINATION.v4, ['down', '-n', '8', '-t', '3']);
    return { figures: figures({ peakOverIdleMiB: peakOverIdleMiB(load) }), problem: load.problem };
  },
};

const STALLED = 1000;
/** More than kernels and tunnel may hold for a connection: all of it comes only when the flow goes on. */
const RESUMED_BYTES = 8 * MIB;

const peakStalled: Workload = {
  name: 'peakStalled',
  title: `memory during ${STALLED} downloads that nobody reads, which then go on`,
  isFresh: true,
  isTimed: false,
  excludes: withoutCeiling(tunnelsFor(STALLED, ['open', 'engine'])),
  async run(subject) {
    await warmUp(subject);
    let kernelBytes = Number.NaN;
    const args = ['stall', '-n', `${STALLED}`, '-t', '4', '--size', `${RESUMED_BYTES}`, '--timeout', '60'];
    const load = await runLoad(subject, DESTINATION.v4, args, async () => {
      await sleep(3000);
      kernelBytes = await queuedFromProxy(subject);
    });
    return {
      figures: figures({
        peakOverIdleMiB: peakOverIdleMiB(load),
        kernelQueueMiB: kernelBytes / MIB,
        resumed: numberOf(load, 'resumed'),
        resumeS: numberOf(load, 'resume_s'),
      }),
      problem: load.problem,
    };
  },
};

/** Kernel memory in the receive queues of the tunnel's sockets to the proxy, which no RSS shows, ss(8) skmem. */
async function queuedFromProxy({ network }: Subject): Promise<number> {
  const sockets = await network.app.must(['ss', '-Htnm', `dport = :${PROXY_PORT}`]);
  return [...sockets.matchAll(/skmem:\(r(\d+),/g)].reduce((sum, [, bytes]) => sum + Number(bytes), 0);
}

const INTEGRITY = 3000;

const integrity: Workload = {
  name: 'integrity',
  title: `${INTEGRITY} connections with stalls, both address families, every byte checked`,
  isFresh: true,
  isTimed: false,
  excludes: (contender) => (FAULTY.includes(contender.name) ? undefined : 'checked where packets are lost'),
  async run(subject, isQuick) {
    const connections = isQuick ? 60 : INTEGRITY;
    const each = ['integrity', '--conns', `${connections / 2}`, '-c', '48', '-t', '170', '--timeout', '60'];
    const loads = await Promise.all([
      runLoad(subject, DESTINATION.v4, [...each, '--seed', '4']),
      runLoad(subject, DESTINATION.v6, [...each, '--seed', '6']),
    ]);
    const sum = (key: string): number => loads.reduce((total, load) => total + numberOf(load, key), 0);
    return {
      figures: figures({
        connections,
        intact: sum('ok'),
        corrupt: sum('corrupt'),
        truncated: sum('truncated'),
        failed: sum('failed'),
        unfinished: sum('unfinished'),
        gib: sum('bytes') / GIB,
        stalls: sum('stalls'),
      }),
      problem: loads.map((load) => load.problem).find((problem) => problem !== undefined),
    };
  },
};

/** In the order in which they are run. */
export const WORKLOADS: readonly Workload[] = [
  bulk('up', 1),
  bulk('down', 1),
  bulk('up', 8),
  bulk('down', 8),
  bulk('up', 100),
  bulk('down', 100),
  shortFlows(64),
  shortFlows(1),
  rtt,
  idle10k,
  idle19k,
  peak8,
  peakStalled,
  integrity,
];
