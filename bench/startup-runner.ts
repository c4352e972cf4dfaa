/**
 * Inside a namespace: takes the time of starts, turn by turn, and the memory of the daemon at rest. Its argument is a
 * task as JSON; prints a JSON line for each sample.
 */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import { z } from 'zod';
import { type StartupSample, StartupTask } from './startup-task.ts';

const VARIANTS = [
  { what: 'up', flags: [] },
  { what: 'up --killswitch', flags: ['--killswitch'] },
] as const;

/** The daemon gives memory back a second after it is up (src/app/idle-memory.ts). */
const SETTLED_MS = 3000;

const Status = z.object({ pid: z.number() });

function tell(what: string, key: string, value: number): void {
  const sample: StartupSample = { what, key, value };
  console.log(JSON.stringify(sample));
}

const task = StartupTask.parse(JSON.parse(process.argv[2] ?? ''));
/** Nothing that slows node down (NODE_EXTRA_CA_CERTS takes 40 ms), for all alike. */
const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/nonexistent', PROXYVPN_STATE_DIR: task.stateDirectory };

/** @returns stdout. A program that fails ends the bench. */
function run(...argv: readonly string[]): Promise<string> {
  const [program = '', ...args] = argv;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    child.once('error', reject);
    // Not 'close': the daemon has the pipe no more, but who knows.
    child.once('exit', (code) =>
      code === 0 ? setImmediate(resolve, text) : reject(new Error(`${argv.join(' ')}: exit ${code}`)),
    );
  });
}

async function timed(what: string, ...argv: readonly string[]): Promise<void> {
  const start = performance.now();
  await run(...argv);
  tell(what, 'ms', performance.now() - start);
}

function firstByte(): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(task.destination, () => socket.write('x'));
    socket.once('error', reject);
    socket.once('data', () => {
      socket.destroy();
      resolve();
    });
  });
}

/** KiB to MB of 10^6 bytes. */
function tellMemory(what: string, pid: number, when: string): void {
  const text = fs.readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1');
  for (const key of ['Rss', 'Pss', 'Anonymous']) {
    const kib = Number(new RegExp(`^${key}:\\s+(\\d+) kB`, 'm').exec(text)?.[1]);
    tell(what, `${key.toLowerCase()} ${when} MB`, (kib * 1024) / 1e6);
  }
}

const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, SETTLED_MS));

async function status(): Promise<number> {
  return Status.parse(JSON.parse(await run(task.launcher, 'status', '--json'))).pid;
}

/** The only process in this namespace that runs the daemon's word. */
function daemonPid(): number {
  const own = fs.readlinkSync('/proc/self/ns/net');
  const found = fs.readdirSync('/proc').filter((pid) => {
    try {
      const words = fs.readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0');
      return words.includes('__daemon') && fs.readlinkSync(`/proc/${pid}/ns/net`) === own;
    } catch {
      return false; // Not a process, or gone.
    }
  });
  if (found.length !== 1) throw new Error(`${found.length} daemons`);
  return Number(found[0]);
}

async function measureUp(what: string, flags: readonly string[], withMemory: boolean): Promise<void> {
  const start = performance.now();
  await run(task.launcher, 'up', '--proxy', task.proxy, ...flags);
  tell(what, 'ms', performance.now() - start);
  await firstByte();
  tell(what, 'to the first byte ms', performance.now() - start);
  await timed(`status (${what})`, task.launcher, 'status');
  if (withMemory) {
    // A fresh one, to which nobody has spoken.
    await run(task.launcher, 'down');
    await run(task.launcher, 'up', '--proxy', task.proxy, ...flags);
    await settled();
    tellMemory(what, daemonPid(), 'at rest');
    tellMemory(what, await status(), 'after a status');
  }
  await timed(`down (${what})`, task.launcher, 'down');
}

async function measureBareNode(): Promise<void> {
  const node = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1e6)'], { env, stdio: 'ignore' });
  await settled();
  tellMemory('node alone', node.pid ?? 0, 'at rest');
  node.kill();
}

async function main(): Promise<void> {
  await measureBareNode();
  for (let round = 0; round < task.rounds; round++) {
    await timed('node -e 0', process.execPath, '-e', '0');
    await timed('--version', task.launcher, '--version');
    for (const { what, flags } of VARIANTS) await measureUp(what, flags, round < task.memoryRounds);
  }
}

main().catch((error: Error) => {
  console.error(error.stack);
  process.exitCode = 1;
});
