/** Builds and runs the lab's own programs: labproxy (upstream and origin in one), labload (load and checks), labcores. */
import fs from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { type Background, run } from './process.ts';
import type { Namespace } from './topology.ts';

const SOURCE = path.join(import.meta.dirname, '..', 'lab');
const OUTPUT = path.join(import.meta.dirname, '..', '..', 'build', 'lab');

const PROGRAMS = {
  labproxy: ['labproxy.c', 'labproxy_handshake.c', 'labproxy_origin.c'],
  labload: ['labload.c', 'load_connection.c', 'load_bulk.c', 'load_short.c', 'load_integrity.c', 'load_semantics.c'],
  labcores: ['labcores.c'],
} as const;

export type LabProgram = keyof typeof PROGRAMS;

/** Compiles the program unless it is newer than every file of the lab. @returns its path */
export async function labProgram(name: LabProgram): Promise<string> {
  const program = path.join(OUTPUT, name);
  const newest = Math.max(...fs.readdirSync(SOURCE).map((file) => fs.statSync(path.join(SOURCE, file)).mtimeMs));
  if (fs.existsSync(program) && fs.statSync(program).mtimeMs > newest) return program;
  fs.mkdirSync(OUTPUT, { recursive: true });
  const sources = PROGRAMS[name].map((file) => path.join(SOURCE, file));
  const flags = ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror'];
  const ran = await run(['gcc', ...flags, '-o', program, ...sources, '-lpthread'], { timeoutMs: 60_000 });
  if (ran.code !== 0) throw new Error(`gcc: ${ran.stderr}`);
  return program;
}

export interface LabProxy {
  readonly server: Background;
  /** Lines `answer STATUS PORT NANOSECONDS`: when the refusal of a CONNECT to `port` had been sent (CLOCK_MONOTONIC). */
  answeredAtNs(port: number): readonly bigint[];
  /** The targets asked for, `HOST PORT`. */
  targets(): readonly string[];
}

/** labproxy on every address of the namespace. */
export async function startLabProxy(where: Namespace, port: number, args: readonly string[] = []): Promise<LabProxy> {
  const server = await where.serve([await labProgram('labproxy'), '-v', ...args, '::', `${port}`], port);
  const lines = (start: string): readonly string[] =>
    server.stdout.split('\n').filter((line) => line.startsWith(start));
  return {
    server,
    answeredAtNs: (target) =>
      lines('answer ')
        .map((line) => line.split(' '))
        .filter(([, , answered]) => answered === `${target}`)
        .map(([, , , ns]) => BigInt(ns ?? '0')),
    targets: () => lines('connect http ').map((line) => line.slice('connect http '.length)),
  };
}

/** Runs labload in the namespace. @returns exit code and its JSON document, judged by the schema */
export async function labload<T extends z.ZodType>(
  where: Namespace,
  schema: T,
  args: readonly string[],
  timeoutMs = 60_000,
): Promise<{ readonly code: number; readonly result: z.infer<T> }> {
  const ran = await where.run([await labProgram('labload'), ...args], { timeoutMs });
  try {
    return { code: ran.code, result: schema.parse(JSON.parse(ran.stdout)) };
  } catch (cause) {
    throw new Error(`labload ${args.join(' ')}: exit ${ran.code}\n${ran.stdout}${ran.stderr}`, { cause });
  }
}

export const Integrity = z.object({
  conns: z.number(),
  ok: z.number(),
  corrupt: z.number(),
  truncated: z.number(),
  failed: z.number(),
  unfinished: z.number(),
  bytes: z.number(),
  stalls: z.number(),
  first_problem: z.string(),
});

export const Idle = z.object({
  n: z.number(),
  connected: z.number(),
  echo1: z.number(),
  echo2: z.number(),
  errors: z.record(z.string(), z.number()),
});

export const HalfClose = z.object({
  client_fin_then_reply: z.string(),
  client_fin_long_download: z.string(),
  origin_fin_client_sends: z.string(),
  origin_rst_app_sees: z.string(),
  client_rst_origin_sees: z.string(),
  server_first_coalesced: z.string(),
  slow_connect_early_data: z.string(),
  client_close_mid_stream: z.string(),
});

const Refusal = z.object({
  /** errno of connect(), or `OK`. */
  connect: z.string(),
  connect_ms: z.number(),
  /** What the first read after a successful connect() brought. */
  first_read: z.string().optional(),
  first_read_ms: z.number().optional(),
  ended_ns: z.number(),
});

/** connect() to one port of labproxy and what came of it. */
export async function connectTo(
  where: Namespace,
  destination: string,
  port: number,
  timeoutS = 40,
): Promise<z.infer<typeof Refusal>> {
  const args = ['refused', '--dst', destination, '--port', `${port}`, '-t', `${timeoutS}`];
  const { result } = await labload(where, z.record(z.string(), z.union([z.string(), Refusal])), args);
  return Refusal.parse(result[`${port}`]);
}

/** A line there and back over an echo port of labproxy. Rejects when it does not come back. */
export async function expectEcho(where: Namespace, destination: string, port = 9003): Promise<void> {
  const script = `exec 3<>/dev/tcp/${destination}/${port}; echo hello >&3; head -n 1 <&3`;
  const answer = await where.must(['bash', '-c', script], { timeoutMs: 30_000 });
  if (answer !== 'hello\n') throw new Error(`echo from ${destination} port ${port}: ${JSON.stringify(answer)}`);
}
