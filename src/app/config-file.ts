/** The configuration file of a tunnel: where it is looked for, who may have written it, and its lines. */
import fs from 'node:fs';
import path from 'node:path';
import { EXIT, isSystemCallFailure, ProxyVpnError } from '../errors.ts';
import { type Environment, parseTunnelName } from '../state/directory.ts';
import type { Setting, Settings } from './config-keys.ts';

/** Which file is wanted. */
export interface ConfigRequest {
  readonly name: string;
  /** As typed; undefined: by name. */
  readonly file: string | undefined;
}

/** `parse` of smol-toml. @throws Error with `line`, whose text holds lines of the file */
export type ParseToml = (text: string) => { readonly [key: string]: unknown };

/** The parser is loaded by the commands that read a file; `--version` does without. */
export async function loadToml(): Promise<ParseToml> {
  const { parse } = await import('smol-toml');
  return parse;
}

const SYSTEM_DIRECTORY = '/etc/proxyvpn';
/** A file for people; more than that is another file. */
const LONGEST_FILE = 64 * 1024;

/**
 * Where the file of a tunnel may be, in the order in which they are looked for: the administrator's first, so that
 * what root starts and what a user starts under one name is the same tunnel.
 */
export function configCandidates(
  name: string,
  environment: Environment,
  systemDirectory = SYSTEM_DIRECTORY,
): readonly string[] {
  const file = `${parseTunnelName(name)}.conf`;
  const { XDG_CONFIG_HOME: xdg, HOME: home } = environment;
  // XDG Base Directory Specification: relative paths are to be ignored.
  const base =
    xdg && path.isAbsolute(xdg) ? xdg : home && path.isAbsolute(home) ? path.join(home, '.config') : undefined;
  return [path.join(systemDirectory, file), ...(base === undefined ? [] : [path.join(base, 'proxyvpn', file)])];
}

/**
 * Reads the file that was named, else the one found by name. The program reads it with its user's own rights, and
 * nothing in it can ask for more than a flag can.
 * @param warn what the user should know although it ends nothing
 * @returns undefined when none was named and none is there
 * @throws ProxyVpnError E_CONFIG_READ, E_CONFIG for a file that is no TOML; both with exit code 2
 */
export function readConfigFile(
  request: ConfigRequest,
  environment: Environment,
  parse: ParseToml,
  warn: (text: string) => void,
  systemDirectory?: string,
): Settings | undefined {
  const file = request.file ?? findByName(configCandidates(request.name, environment, systemDirectory));
  if (file === undefined) return undefined;
  const { text, mode } = readText(file);
  const settings = settingsOf(file, text, parse);
  const proxy = settings.find(({ key }) => key === 'proxy')?.value;
  if (typeof proxy === 'string' && proxy.includes('@') && (mode & 0o004) !== 0) {
    warn(`${file} holds the proxy's password, and every user can read it: chmod 640 ${file}, or use proxy-file`);
  }
  return { file, settings };
}

/** @throws ProxyVpnError E_CONFIG_READ for a file that others decide about */
function findByName(candidates: readonly string[]): string | undefined {
  for (const file of candidates) {
    const stat = statOrUndefined(file);
    if (stat === undefined) continue;
    if (stat.uid !== 0 && stat.uid !== process.geteuid?.()) throw unreadable(file, `belongs to uid ${stat.uid}`);
    if ((stat.mode & 0o002) !== 0) throw unreadable(file, 'is writable by everybody');
    return file;
  }
  return undefined;
}

/** undefined also where this user may not look: /etc/proxyvpn is the service's, and its tunnels are not this user's. */
function statOrUndefined(file: string): fs.Stats | undefined {
  try {
    return fs.statSync(file);
  } catch (cause) {
    if (isSystemCallFailure(cause) && ['ENOENT', 'ENOTDIR', 'EACCES'].includes(cause.code)) return undefined;
    if (isSystemCallFailure(cause)) throw unreadable(file, `cannot be read: ${cause.code}`, cause);
    throw cause;
  }
}

function readText(file: string): { readonly text: string; readonly mode: number } {
  try {
    const fd = fs.openSync(file, 'r');
    try {
      const stat = fs.fstatSync(fd);
      if (stat.isDirectory()) throw unreadable(file, 'is a directory');
      if (stat.size > LONGEST_FILE) throw unreadable(file, `is longer than ${LONGEST_FILE / 1024} KiB`);
      return { text: fs.readFileSync(fd, 'utf8'), mode: stat.mode };
    } finally {
      fs.closeSync(fd);
    }
  } catch (cause) {
    if (isSystemCallFailure(cause)) throw unreadable(file, `cannot be read: ${cause.code}`, cause);
    throw cause;
  }
}

function unreadable(file: string, why: string, cause?: unknown): ProxyVpnError {
  return new ProxyVpnError('E_CONFIG_READ', `the configuration ${file} ${why}`, {
    hint: 'give a file of yours, readable for you: --config FILE',
    exitCode: EXIT.usage,
    cause,
  });
}

/**
 * The keys of a TOML document with their lines.
 * @throws ProxyVpnError E_CONFIG; its message holds nothing of the text
 */
export function settingsOf(file: string, text: string, parse: ParseToml): readonly Setting[] {
  let document: { readonly [key: string]: unknown };
  try {
    document = parse(text);
  } catch (cause) {
    const { message, line } = cause as Error & { readonly line?: number };
    if (typeof line !== 'number') throw cause;
    // Behind its first line the message repeats the text, in which a password may stand.
    const [what = ''] = message.replace(/^Invalid TOML document: /, '').split('\n', 1);
    throw new ProxyVpnError('E_CONFIG', `${file}:${line}: ${what}`, {
      hint: 'write TOML: key = "text", key = 5, key = true, key = ["a", "b"]',
      exitCode: EXIT.usage,
    });
  }
  const lines = text.split('\n');
  return Object.entries(document)
    .map(([key, value]) => ({ key, value, line: lineOf(key, lines, parse) }))
    .sort((a, b) => a.line - b.line);
}

/**
 * The parser tells no lines. A line that looks like the key's begins a statement exactly when all before it is a whole
 * document: inside a list or a long text it is not.
 */
function lineOf(key: string, lines: readonly string[], parse: ParseToml): number {
  const escaped = key.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
  const start = new RegExp(`^\\s*\\[*\\s*(["']?)${escaped}\\1\\s*[.=\\]]`);
  const isWhole = (text: string): boolean => {
    try {
      parse(text);
      return true;
    } catch {
      return false;
    }
  };
  const found = lines.findIndex((line, index) => start.test(line) && isWhole(lines.slice(0, index).join('\n')));
  return Math.max(found, 0) + 1;
}

/** The commands that read a configuration. */
const READERS = ['up', 'check', 'killswitch', 'doctor'];

/**
 * What reads configuration files for `parseArguments`. Where PROXYVPN_PROXY is set, a file's proxy counts for nothing,
 * but for `check`, which looks at the file alone.
 */
export async function configReader(
  argv: readonly string[],
  environment: Environment,
  warn: (text: string) => void,
): Promise<(request: ConfigRequest) => Settings | undefined> {
  const [command = ''] = argv;
  if (!READERS.includes(command)) return () => undefined;
  const parse = await loadToml();
  const isProxyGiven = command !== 'check' && Boolean(environment['PROXYVPN_PROXY']);
  return (request) => {
    const found = readConfigFile(request, environment, parse, warn);
    if (found === undefined || !isProxyGiven) return found;
    return { ...found, settings: found.settings.filter(({ key }) => key !== 'proxy' && key !== 'proxy-file') };
  };
}
