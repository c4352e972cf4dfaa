/** The commands that look and change nothing: `doctor`, `leaktest` (pure). */
import { Option, type Command as Program } from 'commander';
import { canonicalAddress } from '../ip.ts';
import type { Command, UpOptions } from './cli.ts';
import { type ConfigReader, takeConfig, type UpGrammar } from './cli-config.ts';
import { configOption, jsonOption, nameOption, option } from './cli-options.ts';
import * as values from './option-values.ts';

export interface DoctorOptions {
  readonly name: string;
  readonly json: boolean;
  /** What the proxy is asked to CONNECT to. */
  readonly target: string;
  /** What `up` would be told by the same flags and the configuration file. */
  readonly up: UpOptions;
}

export interface LeaktestOptions {
  readonly name: string;
  readonly json: boolean;
  /** undefined: documentation addresses, where nobody is. */
  readonly server: string | undefined;
  readonly control: boolean;
}

/** RFC 2606 section 3: nobody's, and there to be named. */
const DEFAULT_TARGET = 'example.com';

/** RFC 1123 section 2.1; goes into a request, so nothing else may stand in it. */
function hostName(text: string): string {
  const address = canonicalAddress(text);
  if (address !== undefined) return address;
  if (/^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$/.test(text)) return text.toLowerCase();
  throw values.usageError('--target: neither a host name nor an IP address', 'write --target example.com');
}

function serverAddress(text: string): string {
  const address = canonicalAddress(text);
  if (address !== undefined) return address;
  throw values.usageError('--server: not an IP address', 'write --server 203.0.113.10');
}

export function addDoctor(
  program: Program,
  take: (command: Command) => void,
  readConfig: ConfigReader,
  grammar: UpGrammar,
): void {
  const doctor = program
    .command('doctor')
    .description('look for all that could keep up from working; changes nothing')
    .addOption(option('-p, --proxy <url>', 'HOST:PORT or http://USER:PASSWORD@HOST:PORT', values.proxyUrl))
    .addOption(
      option('--proxy-file <file>', 'read the proxy URL from this file', (text) => values.filePath(text)).conflicts(
        'proxy',
      ),
    )
    .addOption(option('--target <host>', 'what the proxy is asked for', hostName).default(DEFAULT_TARGET))
    .addOption(nameOption())
    .addOption(configOption())
    .addOption(jsonOption());
  doctor.action(() => {
    const { name, target, json } = doctor.opts<Omit<DoctorOptions, 'up'>>();
    const up = grammar.fresh();
    for (const key of ['proxy', 'proxyFile', 'name', 'config'])
      if (doctor.getOptionValueSource(key) === 'cli')
        up.setOptionValueWithSource(key, doctor.getOptionValue(key), 'cli');
    takeConfig(up, readConfig, grammar);
    take({ command: 'doctor', options: { name, target, json: json === true, up: grammar.options(up) } });
  });
}

export function addLeaktest(program: Program, take: (command: Command) => void): void {
  const leaktest = program
    .command('leaktest')
    .description('try every way out of this host, and say what stopped it or that it leaks')
    .addOption(option('--server <ip>', 'a real destination (default: documentation addresses)', serverAddress))
    .addOption(new Option('--control', 'also without a tunnel: shows that all of it leaves'))
    .addOption(nameOption())
    .addOption(jsonOption());
  leaktest.action(() => {
    const { name, server, control, json } = leaktest.opts<Partial<LeaktestOptions> & { readonly name: string }>();
    take({ command: 'leaktest', options: { name, server, control: control === true, json: json === true } });
  });
}
