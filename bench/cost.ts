/** What a tunnel costs while something else happens: CPU time and memory of its process tree, and of the machine. */
import fs from 'node:fs';

/** /proc/PID/stat counts in USER_HZ, which is 100 on every Linux that Node runs on, proc_pid_stat(5). */
const USER_HZ = 100;

function read(file: string): string | undefined {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch {
    return undefined; // The process has ended.
  }
}

/** Fields of /proc/PID/stat behind the name, which may hold anything: [0] is state, [1] ppid, [11] utime, [12] stime. */
function statFields(pid: number): readonly string[] | undefined {
  const text = read(`/proc/${pid}/stat`);
  return text?.slice(text.lastIndexOf(')') + 2).split(' ');
}

/** The processes and all that descend from them. */
export function processTree(roots: readonly number[]): readonly number[] {
  const childrenOf = new Map<number, number[]>();
  for (const entry of fs.readdirSync('/proc')) {
    const parent = /^\d+$/.test(entry) ? Number(statFields(Number(entry))?.[1]) : Number.NaN;
    if (!Number.isNaN(parent)) childrenOf.set(parent, [...(childrenOf.get(parent) ?? []), Number(entry)]);
  }
  const found = new Set<number>();
  const open = [...roots];
  for (let pid = open.pop(); pid !== undefined; pid = open.pop()) {
    if (found.has(pid) || !fs.existsSync(`/proc/${pid}`)) continue;
    found.add(pid);
    open.push(...(childrenOf.get(pid) ?? []));
  }
  return [...found];
}

/** User and system time of processes that still run, in seconds; resolution 10 ms. */
export function cpuSeconds(pids: readonly number[]): number {
  let ticks = 0;
  for (const pid of pids) {
    const fields = statFields(pid);
    if (fields) ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks / USER_HZ;
}

export type MemoryKey = 'VmRSS' | 'VmHWM' | 'RssAnon';

/** Sum over the processes, proc_pid_status(5). */
export function memoryBytes(pids: readonly number[], key: MemoryKey): number {
  let kibibytes = 0;
  for (const pid of pids) {
    const line = read(`/proc/${pid}/status`)?.match(new RegExp(`^${key}:\\s+(\\d+) kB`, 'm'));
    kibibytes += Number(line?.[1] ?? 0);
  }
  return kibibytes * 1024;
}

/** From now on VmHWM is the peak since now, proc_pid_clear_refs(5). */
export function resetPeak(pids: readonly number[]): void {
  for (const pid of pids) fs.writeFileSync(`/proc/${pid}/clear_refs`, '5');
}

export function openDescriptors(pids: readonly number[]): number {
  let count = 0;
  for (const pid of pids) {
    try {
      count += fs.readdirSync(`/proc/${pid}/fd`).length;
    } catch {
      // It has ended.
    }
  }
  return count;
}

/** Of all files below the directory, which is often in memory itself (/run). */
export function directoryBytes(directory: string): number {
  const files = fs.readdirSync(directory, { recursive: true, encoding: 'utf8' });
  return files.reduce((sum, file) => {
    const stat = fs.lstatSync(`${directory}/${file}`, { throwIfNoEntry: false });
    return sum + (stat?.isFile() ? stat.size : 0);
  }, 0);
}

/** `name state kernel-function` of each thread: what a process that does not answer is doing, proc_pid_stat(5). */
export function threadStates(pids: readonly number[]): readonly string[] {
  return pids.flatMap((pid) => {
    try {
      return fs.readdirSync(`/proc/${pid}/task`).map((tid) => {
        const about = (file: string): string => read(`/proc/${pid}/task/${tid}/${file}`)?.trim() ?? '';
        const state = about('stat').replace(/^.*\) (\S).*$/s, '$1');
        return `${about('comm')} ${state} ${about('wchan')}`;
      });
    } catch {
      return []; // It has ended.
    }
  });
}

export interface HostTimes {
  /** All but idle and waiting for a device, over all cores. */
  readonly busyS: number;
  /** Taken by the hypervisor. */
  readonly stealS: number;
}

/** Since boot, proc_stat(5). */
export function hostTimes(): HostTimes {
  const line = fs.readFileSync('/proc/stat', 'utf8').split('\n', 1)[0] ?? '';
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = line
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number);
  return { busyS: (user + nice + system + irq + softirq + steal) / USER_HZ, stealS: steal / USER_HZ };
}
