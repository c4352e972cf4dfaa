/** The command `check`: what `up` would say of a configuration file, line by line. */
import { EXIT, type ExitCode, ProxyVpnError } from '../errors.ts';
import { parseUpstream } from '../proxy/upstream-url.ts';
import type { UpOptions } from './cli.ts';
import type { CheckedConfig, CheckOptions } from './cli-config.ts';
import { type ConfigSources, configOf } from './config.ts';
import { configCandidates } from './config-file.ts';
import { problemText } from './config-keys.ts';
import { hostSources } from './config-sources.ts';
import type { Terminal } from './terminal.ts';

/** `check --json`. Keys are only ever added. */
export interface CheckDocument {
  readonly name: string;
  readonly file: string;
  readonly ok: boolean;
  /** What keeps `up` from starting. `line` and `key` are null for what only shows in the whole. */
  readonly problems: readonly {
    readonly line: number | null;
    readonly key: string | null;
    readonly message: string;
    readonly hint: string | null;
  }[];
  /** One sentence each. */
  readonly notes: readonly string[];
}

/**
 * @returns 0, or 2 when `up` would refuse the file
 * @throws ProxyVpnError E_CONFIG_READ when there is none
 */
export function runCheck({ name, config }: CheckOptions, terminal: Terminal): ExitCode {
  if (config === undefined) {
    const message = `there is no configuration of ${name}: neither ${configCandidates(name, process.env).join(' nor ')}`;
    throw new ProxyVpnError('E_CONFIG_READ', message, { hint: 'give one: --config FILE', exitCode: EXIT.usage });
  }
  const document = checkDocument(name, config, hostSources());
  terminal.print(document, checkText(document));
  return document.ok ? EXIT.ok : EXIT.usage;
}

export function checkDocument(name: string, config: CheckedConfig, sources: ConfigSources): CheckDocument {
  const { file, problems } = config;
  const notes: string[] = [];
  const lines = problems.map((problem) => ({ ...problem, hint: problem.hint ?? null }));
  // What is wrong in a line spoils what would be said of the whole.
  const whole = lines.length === 0 ? wholeProblems(config, sources, notes) : [];
  const all = [...lines, ...whole];
  return { name, file, ok: all.length === 0, problems: all, notes };
}

function wholeProblems(
  { options }: CheckedConfig,
  sources: ConfigSources,
  notes: string[],
): readonly CheckDocument['problems'][number][] {
  try {
    configOf(withProxy(options(), notes), sources);
    return [];
  } catch (error) {
    if (!(error instanceof ProxyVpnError)) throw error;
    return [{ line: null, key: null, message: error.message, hint: error.hint ?? null }];
  }
}

/** A file need not name the proxy: all else in it is judged as if it did. */
function withProxy(options: UpOptions, notes: string[]): UpOptions {
  if (options.proxy !== undefined || options.proxyFile !== undefined) return options;
  notes.push('it names no proxy: up needs --proxy or PROXYVPN_PROXY');
  return { ...options, proxy: parseUpstream('proxy.invalid:1') };
}

/** For people; no trailing newline. */
export function checkText({ file, ok, problems, notes }: CheckDocument): string {
  const lines = problems.flatMap(({ line, key, message, hint }) => [
    line === null ? `${file}: ${message}` : problemText(file, { line, key: key ?? '', message, hint: undefined }),
    ...(hint === null ? [] : [`  hint: ${hint}`]),
  ]);
  return [...lines, ...notes.map((note) => `${file}: ${note}`), ...(ok ? [`${file}: good`] : [])].join('\n');
}
