/** One run of labload in a contender's namespace, with what the tunnel spent meanwhile. */
import { isAlive } from '../test/netns/cli.ts';
import { labProgram } from '../test/netns/lab.ts';
import type { Background } from '../test/netns/process.ts';
import type { Running } from './contenders.ts';
import { cpuSeconds, hostTimes, memoryBytes, processTree, resetPeak } from './cost.ts';
import type { Network } from './network.ts';

/** A contender that is up. */
export interface Subject {
  readonly network: Network;
  readonly running: Running;
}

export interface Load {
  /** labload's own figures. */
  readonly result: Readonly<Record<string, unknown>>;
  /** undefined when labload was content. */
  readonly problem: string | undefined;
  readonly tunnelCpuS: number;
  readonly hostCpuS: number;
  /** Resident memory of the tunnel before, and its peak meanwhile. */
  readonly residentBytes: number;
  readonly peakBytes: number;
}

export function numberOf(load: Load, key: string): number {
  const value = load.result[key];
  return typeof value === 'number' ? value : Number.NaN;
}

const LIMIT_MS = 180_000;

/**
 * @param args for labload, without --dst
 * @param whileHolding called once when labload says that it holds its connections
 */
export async function runLoad(
  { network, running }: Subject,
  destination: string,
  args: readonly string[],
  whileHolding?: () => Promise<void>,
): Promise<Load> {
  const before = processTree(running.pids);
  const residentBytes = memoryBytes(before, 'VmRSS');
  resetPeak(before);
  const cpu = cpuSeconds(before);
  const host = hostTimes();
  const program = await labProgram('labload');
  const labload = network.app.start([program, ...args, '--dst', destination, ...running.loadArguments]);
  if (whileHolding) {
    // It may fail before: then its own result says why.
    await labload.until('"holding"', () => labload.stderr.includes('holding'), LIMIT_MS).then(whileHolding, () => {});
  }
  const code = await ended(labload);
  const after = processTree(running.pids);
  const result = resultOf(labload.stdout);
  return {
    result,
    problem: problemOf(
      code,
      result,
      labload,
      running.pids.some((pid) => !isAlive(pid)),
    ),
    tunnelCpuS: cpuSeconds(after) - cpu,
    hostCpuS: hostTimes().busyS - host.busyS,
    residentBytes,
    peakBytes: memoryBytes(after, 'VmHWM'),
  };
}

async function ended(labload: Background): Promise<number | null> {
  try {
    return await labload.exitCode(LIMIT_MS);
  } catch {
    await labload.stop('SIGKILL');
    return null;
  }
}

function resultOf(stdout: string): Readonly<Record<string, unknown>> {
  try {
    return JSON.parse(stdout) as Record<string, unknown>;
  } catch {
    return {};
  }
}

function problemOf(
  code: number | null,
  result: Readonly<Record<string, unknown>>,
  labload: Background,
  hasLostProcess: boolean,
): string | undefined {
  if (hasLostProcess) return 'a process of the tunnel ended';
  if (code === 0) return undefined;
  if (code === null) return `labload did not end within ${LIMIT_MS / 1000} s`;
  const keys = [
    'errors',
    'connected',
    'resumed',
    'echo1',
    'echo2',
    'failed',
    'stuck',
    'short',
    'broken',
    'not_drained',
    'truncated',
    'corrupt',
    'unfinished',
  ];
  const told = keys.filter((key) => result[key] !== undefined).map((key) => `${key} ${JSON.stringify(result[key])}`);
  const firstProblem = result['first_problem'] ? [`first: ${result['first_problem']}`] : [];
  return [`labload exit ${code}`, ...told, ...firstProblem, labload.stderr.trim()].filter(Boolean).join('; ');
}
