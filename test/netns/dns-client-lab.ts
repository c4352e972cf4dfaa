/** How the DNS tests look at names: programs with a resolv.conf of the test's, dig, and what a capture saw of port 53. */
import fs from 'node:fs';
import path from 'node:path';
import type { Cli } from './cli.ts';
import { PROXYVPN } from './cli.ts';
import { type Background, type Ran, type RunOptions, until } from './process.ts';
import { withFile } from './servers.ts';
import { ADDRESS, type Namespace, type Topology } from './topology.ts';

/** Whoever is asked: nobody is there, only the tunnel can answer. */
export const NOBODY = { v4: '203.0.113.99', v6: '2001:db8:113::99' } as const;

export const DNS_PACKET = 'port 53';

let written = 0;

/** The command of a host whose /etc/resolv.conf is this. */
export function withResolvConf(topology: Topology, resolvConf: string, command: readonly string[]): readonly string[] {
  const file = path.join(topology.directory, `resolv-${written++}`);
  fs.writeFileSync(file, resolvConf);
  return withFile('/etc/resolv.conf', file, command);
}

const NOBODYS_CONF = `nameserver ${NOBODY.v4}\nnameserver ${NOBODY.v6}\noptions timeout:3 attempts:1\n`;

/** Runs a program whose resolver is out of reach. */
export function runNamed(
  topology: Topology,
  command: readonly string[],
  options: RunOptions & { readonly where?: Namespace; readonly resolvConf?: string } = {},
): Promise<Ran> {
  const { where = topology.app, resolvConf = NOBODYS_CONF, ...rest } = options;
  return where.run(withResolvConf(topology, resolvConf, command), rest);
}

/** `up` on a host whose resolv.conf is this. */
export async function upWith(
  topology: Topology,
  cli: Cli,
  resolvConf: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Ran> {
  const command = withResolvConf(topology, resolvConf, [PROXYVPN, 'up', ...args]);
  const ran = await topology.app.run(command, { env: { PROXYVPN_STATE_DIR: cli.stateDirectory, ...env } });
  if (ran.code !== 0) throw new Error(`up ${args.join(' ')}: exit ${ran.code}\n${ran.stdout}${ran.stderr}`);
  return ran;
}

export interface Dug {
  readonly status: string;
  /** `TYPE DATA` of each answer. */
  readonly answers: readonly string[];
  readonly text: string;
}

/** dig(1) to some resolver. */
export async function dig(where: Namespace, resolver: string, ...args: readonly string[]): Promise<Dug> {
  const ran = await where.run(['dig', `@${resolver}`, '+tries=1', '+time=4', ...args]);
  const section = /;; ANSWER SECTION:\n([\s\S]*?)\n\n/.exec(ran.stdout)?.[1] ?? '';
  return {
    status: /status: (\w+)/.exec(ran.stdout)?.[1] ?? `dig ${ran.code}`,
    answers: section
      .split('\n')
      .filter(Boolean)
      .map((line) => line.split(/\s+/).slice(3).join(' ')),
    text: ran.stdout,
  };
}

/** dnsmasq, on one address of the namespace. */
export async function startDnsmasq(where: Namespace, address: string, args: readonly string[]): Promise<Background> {
  const base = ['dnsmasq', '--keep-in-foreground', '--conf-file=/dev/null', '--no-resolv', '--no-hosts'];
  const own = ['--bind-interfaces', '--user=root', '--pid-file', `--listen-address=${address}`];
  const server = where.start([...base, ...own, ...args]);
  await server.until(`an answer of ${address}`, async () => {
    const query = ['dig', `@${address}`, '+tries=1', '+time=1', 'version.bind', 'chaos', 'txt'];
    return (await where.run(query)).code === 0;
  });
  return server;
}

/** Asks in every way a program may, all the time. */
export async function startLeakingQueries(topology: Topology): Promise<Background> {
  const program = path.join(import.meta.dirname, 'dns_leaks.py');
  const resolvers = [ADDRESS.net.v4, ADDRESS.net.v6, NOBODY.v4, NOBODY.v6];
  const queries = topology.app.start(['/usr/bin/python3', program, 'uplink', ...resolvers]);
  await rounds(queries, 1);
  return queries;
}

/** Waits for so many more rounds of `startLeakingQueries`. */
export async function rounds(queries: Background, count: number): Promise<void> {
  const done = (): number => queries.stdout.split('round ').length;
  const start = done();
  await until(`${count} rounds of queries`, () => done() >= start + count, 30_000);
}
