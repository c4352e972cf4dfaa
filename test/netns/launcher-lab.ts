/** Installs a launcher for the tests and plays the unprivileged user who tries to get more from it than proxyvpn. */
import fs from 'node:fs';
import path from 'node:path';
import { Background, type Ran, type RunOptions, run, until } from './process.ts';
import { refuseOnHost } from './topology.ts';

const ROOT = path.join(import.meta.dirname, '..', '..');
export const BUNDLE = path.join(ROOT, 'dist', 'proxyvpn.cjs');
/** Nobody's on any host: the kernel needs no entry in passwd(5). */
export const USER = 64_123;
/** CAP_NET_ADMIN alone, as /proc/PID/status writes it. */
export const NET_ADMIN = '0000000000001000';
export const NONE = '0000000000000000';
const COMPILE_MS = 60_000;

/** A word of the program behind which it waits for its standard input to end, without doing anything. */
export const WAITING = '__demo-net';

/** A command that asks getent(1) for a user, and then fails. */
export const ASKING = ['up', '--proxy', '127.0.0.1:1', '--bypass-user', 'nobody-of-this-name'];

export async function must(argv: readonly string[], options: RunOptions = {}): Promise<string> {
  const ran = await run(argv, options);
  if (ran.code !== 0) throw new Error(`${argv.join(' ')}: exit ${ran.code}\n${ran.stdout}${ran.stderr}`);
  return ran.stdout;
}

/** One line of /proc/PID/status, as `CapPrm`. */
export function statusOf(pid: number, key: string): string {
  const text = fs.readFileSync(`/proc/${pid}/status`, 'latin1');
  return new RegExp(`^${key}:\\s*(.*)$`, 'm').exec(text)?.[1] ?? '';
}

/** The environment that a process was started with, as root sees it. */
export function environmentOf(pid: number): Record<string, string> {
  const entries = fs.readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').filter(Boolean);
  return Object.fromEntries(entries.map((entry) => [entry.split('=', 1)[0], entry.slice(entry.indexOf('=') + 1)]));
}

/** What the descriptors of a process are, as root sees them. */
export function descriptorsOf(pid: number): Record<string, string> {
  const directory = `/proc/${pid}/fd`;
  return Object.fromEntries(fs.readdirSync(directory).map((fd) => [fd, fs.readlinkSync(path.join(directory, fd))]));
}

export class LauncherLab {
  /** Root's, as each directory above it: a good place for node. Others may read it. */
  readonly directory: string;
  /** The user's own. */
  readonly home: string;
  /** A node that only root can change. */
  readonly node: string;
  /** Set up as scripts/install.sh does. */
  readonly launcher: string;
  readonly #running: Background[] = [];

  private constructor(directory: string, node: string) {
    this.directory = directory;
    this.home = path.join(directory, 'home');
    this.node = node;
    this.launcher = path.join(directory, 'proxyvpn');
  }

  static async make(): Promise<LauncherLab> {
    refuseOnHost();
    // Below /run, which the script has made root's own; /tmp anybody may write to.
    const directory = fs.mkdtempSync('/run/pvt-launcher-');
    fs.chmodSync(directory, 0o755);
    const node = path.join(directory, 'node');
    fs.copyFileSync(process.execPath, node, fs.constants.COPYFILE_FICLONE);
    fs.chmodSync(node, 0o755);
    const lab = new LauncherLab(directory, node);
    fs.mkdirSync(lab.home);
    fs.chownSync(lab.home, USER, USER);
    await lab.link(lab.launcher, node);
    await lab.grant(lab.launcher);
    return lab;
  }

  /** A launcher that runs `node`; belongs to root and has no capability. */
  async link(out: string, node: string): Promise<void> {
    const script = path.join(ROOT, 'scripts', 'launcher.mjs');
    await must([process.execPath, script, '--node', node, '--out', out], { timeoutMs: COMPILE_MS });
  }

  grant(file: string): Promise<string> {
    return must(['setcap', 'cap_net_admin+p', file]);
  }

  /** Whatever loads this library writes its own CapEff to the file `evil.pwned`. */
  async evilLibrary(name: string): Promise<string> {
    const source = path.join(this.directory, 'evil.c');
    fs.writeFileSync(
      source,
      [
        '#include <fcntl.h>',
        '#include <unistd.h>',
        '__attribute__((constructor)) static void take(void) {',
        '  char text[4096];',
        '  int from = open("/proc/self/status", O_RDONLY);',
        `  int to = open("${this.#mark}", O_WRONLY | O_CREAT, 0666);`,
        '  ssize_t n = read(from, text, sizeof text);',
        '  if (n > 0) n = write(to, text, n);',
        '  close(from); close(to);',
        '}',
      ].join('\n'),
    );
    const library = path.join(this.home, name);
    await must(['gcc', '-shared', '-fPIC', '-o', library, source], { timeoutMs: COMPILE_MS });
    return library;
  }

  /** The same in JavaScript. */
  evilScript(name: string): string {
    const script = path.join(this.home, name);
    fs.mkdirSync(path.dirname(script), { recursive: true });
    const status = `fs.readFileSync('/proc/self/status')`;
    fs.writeFileSync(script, `const fs = require('fs'); fs.writeFileSync('${this.#mark}', ${status});\n`);
    return script;
  }

  get #mark(): string {
    return path.join(this.home, 'evil.pwned');
  }

  /** CapEff of whatever evil code ran since the last question; undefined when none did. */
  takeMark(): string | undefined {
    if (!fs.existsSync(this.#mark)) return undefined;
    const text = fs.readFileSync(this.#mark, 'latin1');
    fs.rmSync(this.#mark);
    return /^CapEff:\s*(\w+)$/m.exec(text)?.[1];
  }

  /**
   * `argv` may begin with variables and options of env(1), which root's setpriv must not get. That env is in between
   * matters also for no_new_privs: an exec by setpriv itself would keep what root had.
   */
  asUser(argv: readonly string[], ...flags: readonly string[]): readonly string[] {
    return ['setpriv', '--reuid', `${USER}`, '--regid', `${USER}`, '--clear-groups', ...flags, 'env', ...argv];
  }

  /** The same program as the launcher starts, with the same capability, and with none of the launcher's care. */
  unguarded(argv: readonly string[], variables: readonly string[] = []): readonly string[] {
    const flags = ['--inh-caps', '+net_admin', '--ambient-caps', '+net_admin'];
    return this.asUser([...variables, this.node, ...argv], ...flags);
  }

  #options(options: RunOptions): RunOptions {
    return { cwd: this.home, ...options, env: { HOME: this.home, XDG_RUNTIME_DIR: this.home, ...options.env } };
  }

  run(argv: readonly string[], options: RunOptions = {}): Promise<Ran> {
    return run(argv, this.#options(options));
  }

  start(argv: readonly string[], options: RunOptions = {}): Background {
    const background = new Background(argv, this.#options(options));
    this.#running.push(background);
    return background;
  }

  /** A program that waits, once its JavaScript runs. @param argv of a program that ends with WAITING */
  async startWaiting(argv: readonly string[], options: RunOptions = {}): Promise<Background> {
    const program = this.start(argv, options);
    await program.until('its first line', () => program.stdout.includes('"namespace"'));
    return program;
  }

  /**
   * Runs `argv` where /usr/bin/getent, a child of the program's, is a script of root's that writes down what it is and
   * then waits for its standard input or `during` to end.
   * @param argv of a program that ends with ASKING
   * @returns what `during` gave, called with the pids of child and parent
   */
  async whileChildRuns<T>(argv: readonly string[], during: (child: number, parent: number) => T): Promise<T> {
    const pids = path.join(this.home, 'pids');
    const go = path.join(this.home, 'go');
    const script = path.join(this.directory, 'getent');
    const lines = [`echo $$ $PPID > ${pids}.new && mv ${pids}.new ${pids}`, `until [ -e ${go} ]; do sleep 0.02; done`];
    fs.writeFileSync(script, `#!/bin/sh\n${lines.join('\n')}\n`, { mode: 0o755 });
    const replace = `mount --bind ${script} /usr/bin/getent && exec "$@"`;
    const program = this.start(['unshare', '--mount', 'sh', '-c', replace, 'sh', ...argv]);
    try {
      await program.until('the child', () => fs.existsSync(pids));
      const [child = 0, parent = 0] = fs.readFileSync(pids, 'latin1').split(' ').map(Number);
      return during(child, parent);
    } finally {
      fs.writeFileSync(go, '');
      await program.exitCode();
      for (const file of [pids, go]) fs.rmSync(file, { force: true });
    }
  }

  /** What `argv` prints when it runs as a child of the program, in the place of getent. */
  async childOutput(argv: readonly string[]): Promise<string> {
    const output = path.join(this.home, 'output');
    const script = path.join(this.directory, 'getent');
    fs.writeFileSync(script, `#!/bin/sh\nexec ${argv.join(' ')} >${output}\n`, { mode: 0o755 });
    const replace = `mount --bind ${script} /usr/bin/getent && exec "$@"`;
    const program = this.asUser([this.launcher, ...ASKING]);
    await this.run(['unshare', '--mount', 'sh', '-c', replace, 'sh', ...program]);
    return fs.readFileSync(output, 'utf8');
  }

  /** A command of launcher_attacks.py, where the user can read it. */
  attackArgv(...args: readonly string[]): readonly string[] {
    const copy = path.join(this.directory, 'attacks.py');
    fs.copyFileSync(path.join(import.meta.dirname, 'launcher_attacks.py'), copy);
    return ['/usr/bin/python3', copy, ...args];
  }

  /** Runs it as the user. @returns its JSON */
  async attack(...args: readonly string[]): Promise<Record<string, string>> {
    return JSON.parse(await must(this.asUser(this.attackArgv(...args)))) as Record<string, string>;
  }

  async remove(): Promise<void> {
    await Promise.all(this.#running.map((program) => program.stop()));
    fs.rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Whether somebody answers as node's inspector on its usual port. */
export async function inspectorAnswers(): Promise<boolean> {
  try {
    const answer = await fetch('http://127.0.0.1:9229/json/list', { signal: AbortSignal.timeout(1000) });
    return (await answer.text()).includes('webSocketDebuggerUrl');
  } catch {
    return false;
  }
}

export { until };
