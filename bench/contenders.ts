/** Who is measured: how each way to the proxy is started, which processes are its own, how it is stopped. */
import fs from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { type Ran, until } from '../test/netns/process.ts';
import { DESTINATIONS, type Network, PROXY_ADDRESS, PROXY_PORT } from './network.ts';

const ROOT = path.join(import.meta.dirname, '..');
export const PROXYVPN = path.join(ROOT, 'bin', 'proxyvpn');
/** Bundled beside the bench itself by scripts/bench.mjs. */
const ENGINE_RUNNER = path.join(ROOT, 'build', 'bench', 'engine-runner.cjs');

export interface Running {
  /** With their descendants: what the tunnel costs. Empty: there is none. */
  readonly pids: readonly number[];
  /** For labload. */
  readonly loadArguments: readonly string[];
  stop(): Promise<void>;
}

export interface Contender {
  readonly name: string;
  /** For people. */
  readonly title: string;
  readonly isTunnel: boolean;
  /** Descriptors that it holds for each connection. */
  readonly descriptorsPerConnection: number;
  /** A program that is not ours; Debian's package has its name. */
  readonly needs?: string;
  start(network: Network): Promise<Running>;
}

function succeeded(ran: Ran, what: string): Ran {
  if (ran.code !== 0) throw new Error(`${what}: exit ${ran.code}\n${ran.stdout}${ran.stderr}`);
  return ran;
}

/** What the bench reads of `status --json`. */
const Status = z.object({
  pid: z.number(),
  state: z.string(),
  problems: z.array(z.string()),
  flows: z.record(z.string(), z.number()),
  tcp: z.record(z.string(), z.number()),
  bytes: z.record(z.string(), z.number()),
  packets: z.record(z.string(), z.number()),
});
export type Status = z.infer<typeof Status>;

export interface RunningProxyvpn extends Running {
  readonly stateDirectory: string;
  status(): Promise<Status>;
}

/** `up`, which must succeed. @param upArguments behind `up --proxy ...` */
export async function startProxyvpn({ app }: Network, upArguments: readonly string[]): Promise<RunningProxyvpn> {
  const stateDirectory = `/run/bench-state/${app.name}`;
  const env = { PROXYVPN_STATE_DIR: stateDirectory };
  const cli = async (...args: readonly string[]): Promise<Ran> =>
    succeeded(await app.run([PROXYVPN, ...args], { env }), args.join(' '));
  await cli('up', '--proxy', `${PROXY_ADDRESS}:${PROXY_PORT}`, ...upArguments);
  const status = async (): Promise<Status> => Status.parse(JSON.parse((await cli('status', '--json')).stdout));
  const { pid } = await status();
  return { pids: [pid], loadArguments: [], stateDirectory, status, stop: async () => void (await cli('down')) };
}

/** The real thing. */
export function proxyvpn(name: string, title: string, upArguments: readonly string[]): Contender {
  return {
    name,
    title,
    isTunnel: true,
    descriptorsPerConnection: 1,
    start: (network) => startProxyvpn(network, upArguments),
  };
}

/** The native engine with a bare TUN: no CLI, no rules, no firewall. The only one that can mistreat packets on purpose. */
export function engineOnly(name: string, title: string, runnerArguments: readonly string[] = []): Contender {
  return {
    name,
    title,
    isTunnel: true,
    descriptorsPerConnection: 1,
    async start({ app }) {
      const upstream = `${PROXY_ADDRESS}:${PROXY_PORT}`;
      const routes = Object.values(DESTINATIONS).join(',');
      const runner = app.start([process.execPath, ENGINE_RUNNER, upstream, routes, ...runnerArguments]);
      await runner.until('"ready"', () => runner.stdout.includes('ready'));
      return { pids: [runner.pid], loadArguments: [], stop: () => runner.stop() };
    },
  };
}

/** The program speaks CONNECT itself: no tunnel can be faster. */
const ceiling: Contender = {
  name: 'ceiling',
  title: 'no tunnel: the program speaks CONNECT itself',
  isTunnel: false,
  descriptorsPerConnection: 0,
  start: async () => ({
    pids: [],
    loadArguments: ['--proxy', `${PROXY_ADDRESS}:${PROXY_PORT}`],
    stop: async () => {},
  }),
};

const REDSOCKS_PORT = 12345;

/** As fast as it goes: splice(2) between the two sockets, no log. */
const REDSOCKS_CONFIG = `base {
  log_debug = off;
  log_info = off;
  log = stderr;
  daemon = off;
  redirector = iptables;
}
redsocks {
  local_ip = 127.0.0.1;
  local_port = ${REDSOCKS_PORT};
  ip = ${PROXY_ADDRESS};
  port = ${PROXY_PORT};
  type = http-connect;
  listenq = 4096;
  splice = true;
}
`;

const redsocks: Contender = {
  name: 'redsocks',
  title: 'redsocks (kernel REDIRECT, splice)',
  isTunnel: true,
  // Two sockets and a pipe each way.
  descriptorsPerConnection: 6,
  needs: 'redsocks',
  async start({ app }) {
    const config = `/run/redsocks-${app.name}.conf`;
    fs.writeFileSync(config, REDSOCKS_CONFIG);
    // A route must exist before the packet reaches the nat hook that sends it elsewhere.
    await app.must(['ip', 'route', 'add', DESTINATIONS.v4, 'via', PROXY_ADDRESS]);
    const rules = [
      'add table ip bench',
      'add chain ip bench out { type nat hook output priority -100; }',
      `add rule ip bench out ip daddr ${DESTINATIONS.v4} meta l4proto tcp redirect to :${REDSOCKS_PORT}`,
    ];
    await app.must(['nft', '-f', '-'], { input: rules.join('\n') });
    const server = await app.serve(['redsocks', '-c', config], REDSOCKS_PORT);
    return {
      pids: [server.pid],
      loadArguments: [],
      async stop() {
        await server.stop();
        await app.must(['nft', 'delete', 'table', 'ip', 'bench']);
        await app.must(['ip', 'route', 'del', DESTINATIONS.v4]);
        await until('the port to be free', async () => !(await app.isListening(REDSOCKS_PORT)));
      },
    };
  },
};

/** One packet in this many is lost, each way, while integrity is checked. */
export const LOSS_ONE_IN = 100;
/** The contender of whole runs that integrity is checked on. */
export const LOSSY = 'lossy';
const CUT = ['loss01', 'loss1', 'reorder', 'dup'] as const;
/** Those that mistreat packets. */
export const FAULTY: readonly string[] = [LOSSY, ...CUT];

/**
 * The same with packets of MSS 1460 each way instead of super-segments, as to a program on another host: so that faults
 * meet one packet of a network.
 */
const cut = (name: 'cut' | (typeof CUT)[number], faults: string, ...runnerArguments: readonly string[]): Contender =>
  engineOnly(name, `the engine alone, packets of MSS 1460, ${faults}`, ['--cuts', ...runnerArguments]);

/** In the order of the tables. */
export const CONTENDERS: readonly Contender[] = [
  ceiling,
  proxyvpn('proxyvpn', 'proxyvpn up --killswitch (a queue for each processor)', ['--killswitch']),
  proxyvpn('open', 'proxyvpn up, without the killswitch', []),
  proxyvpn('queues1', 'proxyvpn up --killswitch --queues 1', ['--killswitch', '--queues', '1']),
  redsocks,
  engineOnly('engine', 'the engine alone: no CLI, no rules, no firewall'),
  engineOnly(LOSSY, `the engine alone, 1 packet in ${LOSS_ONE_IN} lost each way`, ['--drop-one-in', `${LOSS_ONE_IN}`]),
  cut('cut', 'none lost'),
  cut('loss01', '1 in 1000 lost each way', '--drop-one-in', '1000'),
  cut('loss1', '1 in 100 lost each way', '--drop-one-in', '100'),
  cut('reorder', '1 in 100 overtaken by the next', '--delay-one-in', '100'),
  cut('dup', '1 in 100 doubled', '--duplicate-one-in', '100'),
];

/** What is measured unless told otherwise. */
export const DEFAULT_CONTENDERS: readonly string[] = ['ceiling', 'proxyvpn', 'open', 'queues1', 'redsocks', LOSSY];
