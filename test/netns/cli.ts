/** Drives the product as a user does: `bin/proxyvpn` in a namespace, with a state directory of the test. */
import fs from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { type Background, type Ran, type RunOptions, until } from './process.ts';
import type { Namespace, Topology } from './topology.ts';

export const PROXYVPN = path.join(import.meta.dirname, '..', '..', 'bin', 'proxyvpn');

/** The keys that scripts may rely on; more may come. */
export const Status = z.object({
  name: z.string(),
  state: z.enum(['up', 'down', 'degraded']),
  pid: z.number().nullable().optional(),
  proxy: z.string().nullable().optional(),
  tun: z.string().nullable().optional(),
  killswitch: z.boolean().nullable().optional(),
  dns: z.unknown(),
  uptimeMs: z.number().nullable().optional(),
  flows: z
    .object({
      active: z.number(),
      opened: z.number(),
      refused: z.number(),
      failed: z.number(),
      overLimit: z.number(),
      predialled: z.number(),
    })
    .nullable()
    .optional(),
  bytes: z.object({ toUpstream: z.number(), toApp: z.number(), buffered: z.number() }).nullable().optional(),
  packets: z.object({ fromApp: z.number() }).nullable().optional(),
});
export type Status = z.infer<typeof Status>;

export class Cli {
  readonly #where: Namespace;
  readonly stateDirectory: string;
  readonly #environment: Readonly<Record<string, string>>;

  constructor(
    topology: Topology,
    options: { readonly where?: Namespace; readonly environment?: Readonly<Record<string, string>> } = {},
  ) {
    this.#where = options.where ?? topology.app;
    this.stateDirectory = path.join(topology.directory, 'state');
    this.#environment = { PROXYVPN_STATE_DIR: this.stateDirectory, ...options.environment };
  }

  run(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
    const env = { ...this.#environment, ...options.env };
    return this.#where.run([PROXYVPN, ...args], { ...options, env });
  }

  start(args: readonly string[], options: RunOptions = {}): Background {
    return this.#where.start([PROXYVPN, ...args], { ...options, env: { ...this.#environment, ...options.env } });
  }

  /** `up`, which must succeed. */
  async up(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
    return succeeded(await this.run(['up', ...args], options), `up ${args.join(' ')}`);
  }

  /** `down`, which must succeed. */
  async down(args: readonly string[] = []): Promise<Ran> {
    return succeeded(await this.run(['down', ...args]), 'down');
  }

  /** `status --json`, whatever its exit code. */
  async status(): Promise<Status> {
    const ran = await this.run(['status', '--json']);
    try {
      return Status.parse(JSON.parse(ran.stdout));
    } catch (cause) {
      throw new Error(`status --json: exit ${ran.code}\n${ran.stdout}${ran.stderr}`, { cause });
    }
  }

  async daemonPid(): Promise<number> {
    const { pid } = await this.status();
    if (pid === undefined || pid === null) throw new Error('status names no pid');
    return pid;
  }

  /** SIGKILL to the daemon, then waits until the process is gone. The host is left as the crash leaves it. */
  async killDaemon(): Promise<number> {
    const pid = await this.daemonPid();
    process.kill(pid, 'SIGKILL');
    await until(`end of daemon ${pid}`, () => !isAlive(pid));
    return pid;
  }

  /** For the end of a test: `down --force` whatever the state is. Never fails. */
  async clear(): Promise<void> {
    await this.run(['down', '--force']).catch(() => undefined);
  }
}

function succeeded(ran: Ran, what: string): Ran {
  if (ran.code !== 0) throw new Error(`proxyvpn ${what}: exit ${ran.code}\n${ran.stdout}${ran.stderr}`);
  return ran;
}

/** False also for a zombie: nothing of it acts any more. */
export function isAlive(pid: number): boolean {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3) !== 'Z';
  } catch {
    return false;
  }
}
