/** Programs run by the tests: to their end, or in the background until the test is over; each is ended by its pid. */
import { type ChildProcess, spawn } from 'node:child_process';

export interface Ran {
  /** Exit code; 128 + signal number is not used: a killed program has code -1. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly ms: number;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string;
  /** The program is killed after this time, and the promise rejects. */
  readonly timeoutMs?: number;
  readonly cwd?: string;
}

/**
 * Longer than anything takes on a host without a moment to spare, where `up` has taken half a minute; shorter than the
 * two minutes of a kernel that sends its SYNs in vain.
 */
const PATIENCE_MS = 100_000;
/** After the end of a program: of whoever still holds its pipes nothing more is awaited. */
const HELD_MS = 500;

/** Nothing of the caller's environment reaches a program but these: no proxy settings, no git or ssh configuration. */
export function cleanEnvironment(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  return {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: '/nonexistent',
    LANG: 'C.UTF-8',
    GIT_CONFIG_NOSYSTEM: '1',
    ...extra,
  };
}

/** Runs a program to its end. Rejects only when it cannot be started or overruns its time. */
export function run(argv: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const [program = '', ...args] = argv;
  const timeoutMs = options.timeoutMs ?? PATIENCE_MS;
  const start = performance.now();
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env: cleanEnvironment(options.env), cwd: options.cwd });
    const output = collect(child);
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`not done after ${timeoutMs} ms: ${argv.join(' ')}\n${output.stdout()}${output.stderr()}`));
    }, timeoutMs);
    child.once('error', (cause) => {
      clearTimeout(timer);
      reject(cause);
    });
    // 'exit' and not 'close': a daemon that stays behind may hold the pipes.
    child.once('exit', (code) => {
      clearTimeout(timer);
      const finish = (): void => {
        child.stdout?.destroy();
        child.stderr?.destroy();
        resolve({ code: code ?? -1, stdout: output.stdout(), stderr: output.stderr(), ms: performance.now() - start });
      };
      Promise.race([output.ended, soon()]).then(finish, reject);
    });
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input ?? '');
  });
}

/** The immediate comes after a look at the pipes, so that nothing is lost however late the timer is. */
function soon(): Promise<void> {
  return new Promise((resolve) => setTimeout(() => setImmediate(resolve), HELD_MS));
}

function collect(child: ChildProcess): { stdout(): string; stderr(): string; readonly ended: Promise<unknown> } {
  const parts: { stdout: Buffer[]; stderr: Buffer[] } = { stdout: [], stderr: [] };
  const ended = (['stdout', 'stderr'] as const).map((name) => {
    const stream = child[name];
    stream?.on('data', (chunk: Buffer) => parts[name].push(chunk));
    return new Promise<void>((resolve) => stream?.once('end', () => resolve()));
  });
  return {
    stdout: () => Buffer.concat(parts.stdout).toString(),
    stderr: () => Buffer.concat(parts.stderr).toString(),
    ended: Promise.all(ended),
  };
}

/** A program that runs until it is stopped. */
export class Background {
  readonly #child: ChildProcess;
  readonly #output: ReturnType<typeof collect>;
  readonly #argv: readonly string[];
  #exit: { readonly code: number | null } | undefined;
  readonly #exited: Promise<void>;

  constructor(argv: readonly string[], options: RunOptions = {}) {
    const [program = '', ...args] = argv;
    this.#argv = argv;
    this.#child = spawn(program, args, { env: cleanEnvironment(options.env), cwd: options.cwd });
    this.#output = collect(this.#child);
    this.#child.stdin?.on('error', () => {});
    this.#exited = new Promise((resolve) => {
      const settle = (code: number | null): void => {
        this.#exit = { code };
        resolve();
      };
      this.#child.once('exit', settle);
      this.#child.once('error', () => settle(null));
    });
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  get stdout(): string {
    return this.#output.stdout();
  }

  get stderr(): string {
    return this.#output.stderr();
  }

  get isRunning(): boolean {
    return this.#exit === undefined;
  }

  write(text: string): void {
    this.#child.stdin?.write(text);
  }

  /** Waits for the condition and fails with the program's output if the program ends first. */
  async until(what: string, condition: () => boolean | Promise<boolean>, timeoutMs = PATIENCE_MS): Promise<void> {
    await until(
      `${what} by ${this.#argv.join(' ')}`,
      async () => {
        if (await condition()) return true;
        if (!this.isRunning) throw new Error(`${this.#argv.join(' ')} ended: ${this.stdout}${this.stderr}`);
        return false;
      },
      timeoutMs,
    ).catch((error: Error) => {
      throw new Error(`${error.message}\n${this.stdout}${this.stderr}`);
    });
  }

  async exitCode(timeoutMs = PATIENCE_MS): Promise<number | null> {
    await until(`end of ${this.#argv.join(' ')}`, () => this.#exit !== undefined, timeoutMs);
    await Promise.race([this.#output.ended, soon()]);
    return this.#exit?.code ?? null;
  }

  /** Idempotent. Waits for the end; SIGKILL when the signal does not bring it. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (!this.isRunning) return;
    this.#child.kill(signal);
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), PATIENCE_MS / 10);
    await this.#exited;
    clearTimeout(timer);
    await Promise.race([this.#output.ended, soon()]);
  }
}

/** Asks again and again until the answer is true. @param timeoutMs after it the promise rejects, naming `what` */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  timeoutMs = PATIENCE_MS,
  intervalMs = 20,
): Promise<void> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    if (await condition()) return;
    if (performance.now() > end) throw new Error(`still waiting after ${timeoutMs} ms for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, intervalMs));
  }
}
