/** The command `dns`: asks the tunnel for a name, lists the names it has given out, forgets those that nothing uses. */
import { nameFromText } from '../dns/name.ts';
import type { NameEntry } from '../dns/name-map.ts';
import { typeName, typeNumber } from '../dns/numbers.ts';
import { presentResponse, recordLine } from '../dns/present.ts';
import { EXIT, type ExitCode, ProxyVpnError } from '../errors.ts';
import { stateDirectory, stateRoot } from '../state/directory.ts';
import { lockOwner } from '../state/lock.ts';
import type { DnsCommandOptions } from './cli-dns.ts';
import { askDaemon } from './control.ts';
import { askTunnel } from './dns-client.ts';
import { usageError } from './option-values.ts';
import type { StatusDocument } from './report.ts';
import { controlSocket } from './state-files.ts';
import type { Terminal } from './terminal.ts';

const ANSWER_MS = 10_000;

/**
 * @returns 0, or 1 for an answer that holds no record
 * @throws ProxyVpnError E_NOT_UP, E_DNS_MODE, E_DNS_TIMEOUT, E_DNS_UPSTREAM
 */
export async function runDns(options: DnsCommandOptions, terminal: Terminal): Promise<ExitCode> {
  const directory = stateDirectory(options.name, stateRoot());
  const question = options.action === 'query' ? questionOf(options.host, options.type) : undefined;
  if (lockOwner(directory.lockFile) === undefined) {
    throw new ProxyVpnError('E_NOT_UP', `the tunnel ${options.name} is not up`, {
      hint: 'start it: proxyvpn up',
      exitCode: EXIT.wrongState,
    });
  }
  const askIt = (command: string): Promise<unknown> => askDaemon(controlSocket(directory), command, ANSWER_MS);
  if (options.action === 'map') {
    const entries = (await askIt('dns-map')) as readonly NameEntry[];
    terminal.print({ names: entries }, mapText(entries));
    return EXIT.ok;
  }
  if (options.action === 'flush') {
    const { forgotten, kept } = (await askIt('dns-flush')) as { readonly forgotten: number; readonly kept: number };
    terminal.print({ forgotten, kept }, `${forgotten} names forgotten, ${kept} in use`);
    return EXIT.ok;
  }
  const { dns } = (await askIt('status')) as StatusDocument;
  if (dns.mode === 'direct' || !dns.caught) throw notCaught(dns.mode);
  return query(question, terminal);
}

type Question = ReturnType<typeof questionOf>;

/** @throws ProxyVpnError E_USAGE */
function questionOf(host: string, type: string) {
  const name = nameFromText(host);
  if (name === undefined) throw usageError('dns query: this is not a domain name', 'give a name, as www.example.com');
  const number = typeNumber(type);
  if (number === undefined) throw usageError('dns query: there is no such type', 'give A, AAAA, MX, TXT or TYPE1234');
  return { host, name, type: number };
}

async function query(question: Question | undefined, terminal: Terminal): Promise<ExitCode> {
  if (question === undefined) throw new Error('no question');
  const { host, name, type } = question;
  const answer = presentResponse(await askTunnel(name, type));
  if (answer === undefined) throw new ProxyVpnError('E_DNS_UPSTREAM', 'the answer cannot be read');
  const document = { name: host, type: typeName(type), ...answer };
  const lines = answer.answers.length > 0 ? answer.answers.map(recordLine) : [`${host}: ${answer.rcode}, no record`];
  terminal.print(document, lines.join('\n'));
  return answer.answers.length > 0 ? EXIT.ok : EXIT.failed;
}

export function notCaught(mode: string): ProxyVpnError {
  const isDirect = mode === 'direct';
  return new ProxyVpnError('E_DNS_MODE', isDirect ? 'the tunnel answers no DNS' : 'DNS is not routed into the tunnel', {
    hint: isDirect ? 'it was started with --dns direct' : 'it was started with --no-routes: dig @RESOLVER tells',
    exitCode: EXIT.wrongState,
  });
}

/** One line for each; the one used last comes last. */
function mapText(entries: readonly NameEntry[]): string {
  if (entries.length === 0) return 'no names';
  return entries
    .map(
      ({ hostname, address4, address6, flows }) =>
        `${address4} ${address6} ${hostname}${flows > 0 ? ` ${flows} flows` : ''}`,
    )
    .join('\n');
}
