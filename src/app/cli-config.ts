/** The configuration file on the command line, and the commands about it: `check`, `killswitch` (pure). */
import path from 'node:path';
import { Option, type Command as Program } from 'commander';
import type { Command, UpOptions } from './cli.ts';
import { configOption, jsonOption, nameOption } from './cli-options.ts';
import type { ConfigRequest } from './config-file.ts';
import { applySettings, configError, type Problem, type Settings } from './config-keys.ts';
import * as values from './option-values.ts';

/** @returns undefined when no file was named and none is there */
export type ConfigReader = (request: ConfigRequest) => Settings | undefined;

/** What of `up` is needed here; src/app/cli.ts has the flags. */
export interface UpGrammar {
  /** `up` as if nothing were typed. */
  fresh(): Program;
  /** The flag, with its dashes, that this one may mean. */
  suggest(flag: string): string | undefined;
  /** @throws ProxyVpnError E_USAGE for flags that do not go together */
  options(up: Program): UpOptions;
}

export interface CheckOptions {
  readonly name: string;
  readonly json: boolean;
  /** undefined: there is no file. */
  readonly config: CheckedConfig | undefined;
}

/** A configuration file as `up` would see it. */
export interface CheckedConfig {
  readonly file: string;
  /** Line by line. */
  readonly problems: readonly Problem[];
  /** What `up` would be told by the file alone. @throws ProxyVpnError E_USAGE for what only shows in the whole */
  readonly options: () => UpOptions;
}

export interface KillswitchOptions {
  readonly action: 'on' | 'off' | 'status';
  readonly name: string;
  readonly json: boolean;
  /** With `on`: what a tunnel of this configuration would permit. */
  readonly up: UpOptions | undefined;
}

function configRequest(program: Program): ConfigRequest {
  const { name, config } = program.opts<{ readonly name: string; readonly config?: string }>();
  return { name, file: config };
}

function settingsInto(up: Program, found: Settings, grammar: UpGrammar): readonly Problem[] {
  return applySettings(up, found, grammar.suggest, (file) => path.resolve(path.dirname(found.file), file));
}

/**
 * Gives `up` what its file says, as far as it was not typed.
 * @throws ProxyVpnError E_CONFIG, and what `readConfig` throws
 */
export function takeConfig(up: Program, readConfig: ConfigReader, grammar: UpGrammar): void {
  const found = readConfig(configRequest(up));
  const problems = found ? settingsInto(up, found, grammar) : [];
  if (found && problems.length > 0) throw configError(found.file, problems);
}

/** What `up` without a flag would make of the file. */
function checkedConfig(found: Settings, grammar: UpGrammar): CheckedConfig {
  const up = grammar.fresh();
  const problems = settingsInto(up, found, grammar);
  return { file: found.file, problems, options: () => grammar.options(up) };
}

export function addCheck(
  program: Program,
  take: (command: Command) => void,
  readConfig: ConfigReader,
  grammar: UpGrammar,
): void {
  const check = program
    .command('check')
    .description('validate the configuration file of a tunnel')
    .addOption(nameOption())
    .addOption(configOption())
    .addOption(jsonOption());
  check.action(() => {
    const { name, json } = check.opts<CheckOptions>();
    const found = readConfig(configRequest(check));
    take({ command: 'check', options: { name, json: json === true, config: found && checkedConfig(found, grammar) } });
  });
}

const KILLSWITCH_ACTIONS = ['on', 'off', 'status'] as const;

export function addKillswitch(
  program: Program,
  take: (command: Command) => void,
  readConfig: ConfigReader,
  grammar: UpGrammar,
): void {
  const killswitch = program
    .command('killswitch')
    .argument(`<${KILLSWITCH_ACTIONS.join('|')}>`)
    .description('block all without a tunnel, also after down, until it is switched off')
    .addOption(nameOption())
    .addOption(configOption())
    .addOption(new Option('--strict', 'with on: permit nothing that the configuration permits'))
    .addOption(jsonOption());
  killswitch.action((word: string) => {
    const flags = killswitch.opts<{ readonly name: string; readonly strict?: true; readonly json?: true }>();
    const action = values.oneOf('killswitch', ...KILLSWITCH_ACTIONS)(word, 'on');
    const found = action === 'on' && flags.strict !== true ? readConfig(configRequest(killswitch)) : undefined;
    const config = found && checkedConfig(found, grammar);
    if (config && config.problems.length > 0) throw configError(config.file, config.problems);
    const permits = config?.options() ?? grammar.options(grammar.fresh());
    const up = action !== 'on' ? undefined : flags.strict === true ? { ...permits, allowDns: [] } : permits;
    const options = { action, name: flags.name, json: flags.json === true, up };
    take({ command: 'killswitch', options });
  });
}
