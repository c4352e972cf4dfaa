/** Runs the packet filter's own programs. */
import { spawn } from 'node:child_process';
import process from 'node:process';
import type { CommandResult } from './backend.ts';

/** A list of 2,000 addresses takes 25 ms; more than this is a program that hangs. */
const TIMEOUT_MS = 20_000;
/** sudo and cron leave these out on some distributions. */
const SYSTEM_DIRECTORIES = '/usr/sbin:/sbin:/usr/bin:/bin';

/**
 * Runs to the end with `input` as standard input and nothing of our environment but PATH.
 * Only for root: another user's capability does not reach a child process, and root's PATH is root's own.
 * @returns `rc` 127 when there is no such program, -1 when it did not end by itself
 */
export function runTool(program: string, args: readonly string[], input = ''): Promise<CommandResult> {
  const path = [process.env['PATH'], SYSTEM_DIRECTORIES].filter(Boolean).join(':');
  return new Promise((resolve) => {
    const child = spawn(program, args, { env: { PATH: path, LC_ALL: 'C' }, timeout: TIMEOUT_MS });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
    child.once('error', (error: NodeJS.ErrnoException) =>
      resolve({ rc: error.code === 'ENOENT' ? 127 : -1, out: '', err: `${program}: ${error.code ?? error.message}` }),
    );
    child.once('close', (code) => {
      const said = Buffer.concat(err).toString();
      const why = code === null ? `${program} did not end within ${TIMEOUT_MS} ms\n${said}` : said;
      resolve({ rc: code ?? -1, out: Buffer.concat(out).toString(), err: why });
    });
    // It may refuse without reading all.
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}

export function isRoot(): boolean {
  return process.geteuid?.() === 0;
}
