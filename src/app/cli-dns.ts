/** The DNS flags of `up`, and the command `dns` (pure). */
import { Option, type Command as Program } from 'commander';
import * as dns from '../dns/options.ts';
import { jsonOption, nameOption, option } from './cli-options.ts';
import * as values from './option-values.ts';

interface CommonOptions {
  readonly name: string;
  readonly json: boolean;
}

export type DnsCommandOptions = CommonOptions &
  ({ readonly action: 'query'; readonly host: string; readonly type: string } | { readonly action: 'map' | 'flush' });

export function addUpDnsOptions(up: Program): void {
  up.optionsGroup('Names:')
    .addOption(option('--dns <mode>', 'virtual (the proxy resolves), over-tcp, doh, direct (default: virtual)', modeOf))
    .addOption(
      option('--dns-server <ip,...>', 'whom to ask through the proxy: IP addresses, or an https URL', dns.dnsServers),
    )
    .addOption(
      option(
        '--dns-bypass <suffix,...>',
        'names of the LAN, or none (default: .local, single labels, search domains)',
        dns.bypassSuffixes,
      ),
    )
    .addOption(
      option('--dns-other <word>', 'with virtual: relay other types to --dns-server, or no-data', (text) =>
        dns.otherTypes(text),
      ),
    )
    .addOption(
      option(
        '--dns-range <cidr,...>',
        'addresses that stand for names (default: 198.18.0.0/15, fd70:7670:6e00:1::/64)',
        dns.virtualPrefixes,
      ),
    )
    .addOption(new Option('--sniff', 'not with virtual: accept early, and CONNECT by the name in TLS or HTTP'));
}

const modeOf = (text: string) => dns.dnsMode(text);

const ACTIONS = ['query', 'map', 'flush'] as const;

export function addDns(program: Program, take: (options: DnsCommandOptions) => void): void {
  const command = program
    .command('dns')
    .argument(`<${ACTIONS.join('|')}>`)
    .argument('[host]')
    .argument('[type]')
    .description('ask the tunnel for a host; list the names it has given out; forget unused ones')
    .addOption(nameOption())
    .addOption(jsonOption());
  command.action((word: string, host: string | undefined, type: string | undefined) => {
    const { name, json } = command.opts<{ readonly name: string; readonly json?: true }>();
    const common: CommonOptions = { name, json: json === true };
    const action = values.oneOf('dns', ...ACTIONS)(word, 'map');
    if (action !== 'query') {
      if (host !== undefined) throw values.usageError(`dns ${action} takes no name`, `write: proxyvpn dns ${action}`);
      take({ action, ...common });
      return;
    }
    const hint = 'as in: proxyvpn dns query www.example.com AAAA';
    if (host === undefined) throw values.usageError('dns query needs a name', hint);
    take({ action, host, type: type ?? 'A', ...common });
  });
}
