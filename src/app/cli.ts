/** argv to Command (pure): flags, help texts, usage errors. Nothing is read, nothing exits. */
import { CommanderError, Option, Command as Program } from 'commander';
import manifest from '../../package.json' with { type: 'json' };
import { type DnsConfig, type DnsFlags, dnsConfig } from '../dns/options.ts';
import { EXIT, type ExitCode, type ProxyVpnError } from '../errors.ts';
import type { Prefix } from '../ip.ts';
import type { UpstreamUrl } from '../proxy/upstream-url.ts';
import {
  addCheck,
  addKillswitch,
  type CheckOptions,
  type ConfigReader,
  type KillswitchOptions,
  takeConfig,
  type UpGrammar,
} from './cli-config.ts';
import { addDoctor, addLeaktest, type DoctorOptions, type LeaktestOptions } from './cli-diagnosis.ts';
import { addDns, addUpDnsOptions, type DnsCommandOptions } from './cli-dns.ts';
import { configOption, jsonOption, nameOption, option, verboseOption } from './cli-options.ts';
import * as values from './option-values.ts';

export const VERSION: string = manifest.version;

/** What `up` was told on the command line alone. */
export interface UpOptions {
  readonly proxy: UpstreamUrl | undefined;
  readonly proxyFile: string | undefined;
  readonly name: string;
  readonly killswitch: boolean;
  /** Who resolves names: `--dns` and the flags that belong to it. */
  readonly dns: DnsConfig;
  /** Accept early, and ask the proxy by the name in the first bytes. */
  readonly sniff: boolean;
  /** undefined: those of resolv.conf. */
  readonly allowDns: readonly string[] | undefined;
  readonly bypass: readonly Prefix[];
  readonly lan: 'allow' | 'block';
  /** Names or uids as text. */
  readonly bypassUser: readonly string[];
  /** undefined: the SSH peer alone. */
  readonly allowInbound: values.InboundPorts | undefined;
  readonly earlyAccept: boolean;
  readonly connectTimeoutMs: number;
  /** 0 = never. */
  readonly idleTimeoutMs: number;
  /** 0 = none. */
  readonly keepaliveMs: number;
  readonly memoryBytes: number;
  readonly maxFlows: number;
  /** undefined: one for each processor, at most 4. */
  readonly queues: number | undefined;
  /** Connections to the proxy to keep open ahead of need. */
  readonly predial: number;
  readonly mtu: number;
  /** undefined: the scheme's. */
  readonly tun: string | undefined;
  /** undefined: the scheme's. */
  readonly fwmark: number | undefined;
  readonly foreground: boolean;
  readonly dryRun: boolean;
  readonly json: boolean;
  readonly verbose: boolean;
  readonly routes: boolean;
  readonly ipv6: boolean;
}

export interface DownOptions {
  readonly name: string;
  readonly force: boolean;
  readonly json: boolean;
  readonly verbose: boolean;
}

export interface StatusOptions {
  readonly name: string;
  readonly json: boolean;
  readonly watch: boolean;
}

export type Command =
  | { readonly command: 'up'; readonly options: UpOptions }
  | { readonly command: 'check'; readonly options: CheckOptions }
  | { readonly command: 'killswitch'; readonly options: KillswitchOptions }
  | { readonly command: 'down'; readonly options: DownOptions }
  | { readonly command: 'status'; readonly options: StatusOptions }
  | { readonly command: 'dns'; readonly options: DnsCommandOptions }
  | { readonly command: 'doctor'; readonly options: DoctorOptions }
  | { readonly command: 'leaktest'; readonly options: LeaktestOptions }
  | { readonly command: 'demo' }
  /** Help or version: to stdout when the exit code is 0, else to stderr. */
  | { readonly command: 'print'; readonly text: string; readonly exitCode: ExitCode };

/**
 * Reads the arguments behind the program's name.
 * @param readConfig gives the configuration file of a tunnel; a typed flag beats it
 * @throws ProxyVpnError E_USAGE, E_NAME, E_PROXY_URL, E_PROXY_SCHEME, E_CONFIG and what `readConfig` throws, all with
 *   exit code 2. No message holds a part of an argument that could be a credential.
 */
export function parseArguments(argv: readonly string[], readConfig: ConfigReader = () => undefined): Command {
  const parsing = buildProgram(readConfig);
  try {
    parsing.program.parse([...argv], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    const isHelp = ['commander.help', 'commander.helpDisplayed', 'commander.version'].includes(error.code);
    if (!isHelp) throw usageErrorOf(error, argv);
    const exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    return { command: 'print', text: `${parsing.printed().trimEnd()}\n`, exitCode };
  }
  const command = parsing.command();
  if (command === undefined) throw new Error('commander ran no action');
  return command;
}

const AFTER_HELP = `
Environment:
  PROXYVPN_PROXY      the proxy URL, so that its password does not stand in ps(1)
  PROXYVPN_STATE_DIR  where the state lives (default: /run/proxyvpn, $XDG_RUNTIME_DIR/proxyvpn)

Exit codes:
  0 done   1 failed, host restored   2 usage   3 not permitted   4 already up, or not up
`;

const AFTER_UP_HELP = `
A configuration file (TOML) may give any of these flags, as in: killswitch = true. It is --config FILE, or
/etc/proxyvpn/NAME.conf, or ~/.config/proxyvpn/NAME.conf. What is typed counts, then the environment, then the file.

The proxy comes from --proxy, or --proxy-file, or else PROXYVPN_PROXY: HOST:PORT, http://HOST (port 80) or
http://USER:PASSWORD@HOST:PORT, percent-encoded where needed, IPv6 addresses in brackets.

Examples:
  proxyvpn up --proxy 10.0.0.1:3128
  proxyvpn up --proxy-file /etc/proxyvpn.url --killswitch --lan allow
  proxyvpn up --proxy 10.0.0.1:3128 --dns doh --dns-server https://dns.example/dns-query
  proxyvpn up --proxy '[2001:db8::1]:3128' --dry-run
`;

interface Parsing {
  readonly program: Program;
  /** What help or version wrote. */
  readonly printed: () => string;
  readonly command: () => Command | undefined;
}

function buildProgram(readConfig: ConfigReader = () => undefined): Parsing {
  let printed = '';
  let command: Command | undefined;
  const program = new Program('proxyvpn')
    .description(manifest.description)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => {
        printed += text;
      },
      writeErr: (text) => {
        printed += text;
      },
      outputError: () => {}, // It becomes a ProxyVpnError.
      getOutHelpWidth: () => 110,
      getErrHelpWidth: () => 110,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .addHelpText('after', AFTER_HELP);
  const take = (taken: Command) => {
    command = taken;
  };
  addUp(program, take, readConfig);
  addDown(program, take);
  addStatus(program, take);
  addKillswitch(program, take, readConfig, GRAMMAR);
  addCheck(program, take, readConfig, GRAMMAR);
  addDoctor(program, take, readConfig, GRAMMAR);
  addLeaktest(program, take);
  addDns(program, (options) => take({ command: 'dns', options }));
  program
    .command('demo')
    .description('show a whole tunnel, killswitch included, in throw-away network namespaces')
    .action(() => take({ command: 'demo' }));
  return { program, printed: () => printed, command: () => command };
}

/** commander's view of the flags of `up`; it derives the keys from the flags. */
type UpFlags = Omit<
  UpOptions,
  'connectTimeoutMs' | 'idleTimeoutMs' | 'keepaliveMs' | 'memoryBytes' | 'lan' | 'ipv6' | 'dns'
> & {
  readonly dns: DnsFlags['mode'];
  readonly dnsServer: DnsFlags['servers'];
  readonly dnsOther: DnsFlags['other'];
  readonly dnsBypass: DnsFlags['bypass'];
  readonly dnsRange: DnsFlags['ranges'];
  readonly connectTimeout: number;
  readonly idleTimeout: number;
  readonly keepalive: number;
  readonly memory: number;
  readonly lan: 'allow' | 'block';
  readonly ipv6: 'on' | 'off';
};

function addUp(program: Program, take: (command: Command) => void, readConfig: ConfigReader): void {
  const up = program
    .command('up')
    .description('start the tunnel; returns when traffic flows through it')
    .addHelpText('after', AFTER_UP_HELP);
  addUpProxyOptions(up);
  addUpTrafficOptions(up);
  addUpDnsOptions(up);
  addUpEngineOptions(up);
  addUpRunOptions(up);
  up.action(() => {
    takeConfig(up, readConfig, GRAMMAR);
    take({ command: 'up', options: upOptions(up.opts<UpFlags>()) });
  });
}

function addUpProxyOptions(up: Program): void {
  up.optionsGroup('Proxy:')
    .addOption(option('-p, --proxy <url>', 'HOST:PORT or http://USER:PASSWORD@HOST:PORT', values.proxyUrl))
    .addOption(
      option('--proxy-file <file>', 'read the proxy URL from this file', (text) => values.filePath(text)).conflicts(
        'proxy',
      ),
    )
    .addOption(
      option(
        '--connect-timeout <seconds>',
        "SYN to the proxy's answer",
        values.seconds('--connect-timeout', 0.1, 600),
      ).default(30_000, '30'),
    );
}

function addUpTrafficOptions(up: Program): void {
  up.optionsGroup('What goes where:')
    .addOption(new Option('--killswitch', 'block all that does not go through the tunnel, also after a crash'))
    .addOption(
      option(
        '--allow-dns <ip,...>',
        'with --dns direct: resolvers that may be asked, or none (default: of resolv.conf)',
        values.dnsServers,
      ),
    )
    .addOption(
      option('--bypass <cidr,...>', 'networks that go around the tunnel', values.bypassPrefixes).default([], 'none'),
    )
    .addOption(
      option('--bypass-user <user,...>', 'users or uids that go around the tunnel', values.bypassUserNames).default(
        [],
        'none',
      ),
    )
    .addOption(
      option(
        '--lan <word>',
        'allow or block traffic to directly connected networks',
        values.oneOf('--lan', 'allow', 'block'),
      ).default('block'),
    )
    .addOption(
      option(
        '--allow-inbound <port,...>',
        'with --killswitch: TCP ports open to outside, all, or none (default: your SSH session)',
        values.inboundPorts,
      ),
    )
    .addOption(option('--ipv6 <word>', 'on, or off: refuse IPv6', values.oneOf('--ipv6', 'on', 'off')).default('on'))
    .addOption(new Option('--no-routes', 'do not divert traffic; routes and rules are yours'));
}

function addUpEngineOptions(up: Program): void {
  up.optionsGroup('Connections and device:')
    .addOption(new Option('--early-accept', 'accept connections before the proxy has agreed'))
    .addOption(
      option(
        '--idle-timeout <seconds>',
        'end silent connections; 0 = never',
        values.seconds('--idle-timeout', 1, 31_536_000, 'never'),
      ).default(7_200_000, '7200'),
    )
    .addOption(
      option(
        '--keepalive <seconds>',
        'probe idle peers; 0 = never',
        values.seconds('--keepalive', 1, 32_767, 'never'),
      ).default(60_000, '60'),
    )
    .addOption(
      option('--memory <MiB>', 'bound of all buffers', values.mebibytes('--memory', 8, 1_048_576)).default(
        256 * 1024 * 1024,
        '256',
      ),
    )
    .addOption(
      option('--max-flows <n>', 'connections at a time', values.integer('--max-flows', 1, 1_000_000)).default(65_536),
    )
    .addOption(
      option(
        '--queues <n>',
        'TUN queues, a thread each (default: the processors, at most 4)',
        values.integer('--queues', 1, 16),
      ),
    )
    .addOption(
      option(
        '--predial <n>',
        'connections to keep open ahead of need, if the proxy lets them',
        values.integer('--predial', 0, 64),
      ).default(0),
    )
    .addOption(option('--mtu <bytes>', 'of the TUN device', values.integer('--mtu', 1280, 65_535)).default(1500))
    .addOption(
      option('--tun <name>', 'name of the TUN device (default: pvpn0 and up)', (text) => values.interfaceName(text)),
    )
    .addOption(
      option('--fwmark <n>', 'mark of our own sockets (default: 0x50560000 and up)', (text) => values.fwmark(text)),
    );
}

function addUpRunOptions(up: Program): void {
  up.optionsGroup('Running:')
    .addOption(nameOption())
    .addOption(configOption())
    .addOption(new Option('--foreground', 'stay in the foreground, for service managers (sd_notify)'))
    .addOption(new Option('--dry-run', 'print every operation as an ip or nft line; touch nothing'))
    .addOption(jsonOption())
    .addOption(verboseOption());
}

function upOptions(flags: UpFlags): UpOptions {
  if (flags.allowInbound !== undefined && flags.killswitch !== true) {
    const hint = 'without the killswitch nothing from outside is blocked: add --killswitch, or leave it out';
    throw values.usageError('--allow-inbound needs --killswitch', hint);
  }
  return {
    dns: dnsOptions(flags),
    sniff: flags.sniff === true,
    proxy: flags.proxy,
    proxyFile: flags.proxyFile,
    name: flags.name,
    killswitch: flags.killswitch === true,
    allowDns: flags.allowDns,
    bypass: flags.bypass,
    lan: flags.lan,
    bypassUser: flags.bypassUser,
    allowInbound: flags.allowInbound,
    earlyAccept: flags.earlyAccept === true,
    connectTimeoutMs: flags.connectTimeout,
    idleTimeoutMs: flags.idleTimeout,
    keepaliveMs: flags.keepalive,
    memoryBytes: flags.memory,
    maxFlows: flags.maxFlows,
    queues: flags.queues,
    predial: flags.predial,
    mtu: flags.mtu,
    tun: flags.tun,
    fwmark: flags.fwmark,
    foreground: flags.foreground === true,
    dryRun: flags.dryRun === true,
    json: flags.json === true,
    verbose: flags.verbose === true,
    routes: flags.routes,
    ipv6: flags.ipv6 === 'on',
  };
}

function dnsOptions(flags: UpFlags): DnsConfig {
  const { dns: mode, dnsServer: servers, dnsOther: other, dnsBypass: bypass, dnsRange: ranges } = flags;
  const dns = dnsConfig({ mode, servers, other, bypass, ranges });
  if (dns.mode !== 'direct' && flags.allowDns !== undefined && flags.allowDns.length > 0) {
    const hint = `with --dns ${dns.mode} no resolver is asked directly: leave it out, or add --dns direct`;
    throw values.usageError('--allow-dns belongs to --dns direct', hint);
  }
  if (dns.mode === 'virtual' && flags.sniff === true) {
    const hint = 'there the proxy is given names in any case: leave it out';
    throw values.usageError('--sniff has no meaning with --dns virtual', hint);
  }
  return dns;
}

const GRAMMAR: UpGrammar = {
  fresh() {
    const up = buildProgram().program.commands.find((command) => command.name() === 'up');
    if (up === undefined) throw new Error('there is no up');
    return up;
  },
  suggest(flag) {
    const error = commanderErrorOf(['up', flag]);
    return error && /\(Did you mean (\S+)\?\)/.exec(error.message)?.[1];
  },
  options: (up) => upOptions(up.opts<UpFlags>()),
};

function addDown(program: Program, take: (command: Command) => void): void {
  const down = program
    .command('down')
    .description('stop the tunnel and restore the host, also after a crash')
    .addOption(nameOption())
    .addOption(new Option('--force', 'also where the journal is lost: remove all that is recognisably ours'))
    .addOption(jsonOption())
    .addOption(verboseOption());
  down.action(() => {
    const { name, force, json, verbose } = down.opts<DownOptions>();
    const options = { name, force: force === true, json: json === true, verbose: verbose === true };
    take({ command: 'down', options });
  });
}

function addStatus(program: Program, take: (command: Command) => void): void {
  const status = program
    .command('status')
    .description('show what is up, through which proxy, with counters and flows')
    .addOption(nameOption())
    .addOption(jsonOption())
    .addOption(new Option('--watch', 'show it again and again'));
  status.action(() => {
    const { name, json, watch } = status.opts<StatusOptions>();
    take({ command: 'status', options: { name, json: json === true, watch: watch === true } });
  });
}

/** commander's message repeats the argument, which may be `--prxy=http://user:password@...`: built anew here. */
function usageErrorOf(error: CommanderError, argv: readonly string[]): ProxyVpnError {
  const hint = suggestionIn(error) ?? 'see: proxyvpn --help, proxyvpn up --help';
  switch (error.code) {
    case 'commander.unknownOption':
      return unknownOption(/^error: unknown option '(.*)'/s.exec(error.message)?.[1] ?? '', argv, hint);
    case 'commander.unknownCommand':
      return values.usageError(`there is no command ${shownWord(argv.find((word) => !word.startsWith('-')))}`, hint);
    case 'commander.excessArguments':
      return values.usageError('an argument belongs to no flag', 'flags that take no value, as --json, stand alone');
    default:
      // The others name flags, never their values.
      return values.usageError(error.message.replace(/^error: /, ''), hint);
  }
}

/** @param given as typed, possibly with a value behind `=` or right behind a short flag */
function unknownOption(given: string, argv: readonly string[], hint: string): ProxyVpnError {
  if (!given.startsWith('--')) return values.usageError(`there is no flag ${shownWord(given.slice(0, 2))}`, hint);
  const [flag = '', value] = given.split('=', 2);
  const subcommand = buildProgram().program.commands.find((candidate) => candidate.name() === argv[0]);
  if (value !== undefined && subcommand?.options.some((known) => known.long === flag)) {
    return values.usageError(`${flag} takes no value`, `write ${flag} alone`);
  }
  const message = `there is no flag ${shownWord(flag)}`;
  if (value === undefined) return values.usageError(message, hint);
  // commander compared the value as well: ask it again without.
  const again = commanderErrorOf(argv.map((word) => (word === given ? flag : word)));
  return values.usageError(message, (again && suggestionIn(again)) ?? hint);
}

function commanderErrorOf(argv: readonly string[]): CommanderError | undefined {
  try {
    buildProgram().program.parse([...argv], { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError) return error;
  }
  return undefined;
}

function suggestionIn(error: CommanderError): string | undefined {
  const found = /\((Did you mean .*\?)\)/.exec(error.message)?.[1];
  return found?.replace('Did', 'did');
}

function shownWord(word: string | undefined): string {
  return word !== undefined && /^[A-Za-z-]{1,32}$/.test(word) ? word : 'of that name';
}
