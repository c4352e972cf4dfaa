/**
 * The measured network: two namespaces for each contender, so that all can be up at once and take turns.
 *
 *     app                                        net
 *   load ── TUN of the tunnel ── veth0 ────────── veth0 ── labproxy: the upstream, and the origin in one
 *                                10.77.0.1        10.77.0.2:8888
 *                                fd77::1          fd77::2
 *
 * 203.0.113.0/24 and 2001:db8:113::/48 exist nowhere: they are reached through a tunnel or by speaking CONNECT.
 */
import fs from 'node:fs';
import { labProgram } from '../test/netns/lab.ts';
import { run } from '../test/netns/process.ts';
import { Namespace } from '../test/netns/topology.ts';

export const PROXY_ADDRESS = '10.77.0.2';
export const PROXY_PORT = 8888;
export const DESTINATION = { v4: '203.0.113.10', v6: '2001:db8:113::10' } as const;
export const DESTINATIONS = { v4: '203.0.113.0/24', v6: '2001:db8:113::/48' } as const;

export interface Network {
  readonly app: Namespace;
  readonly net: Namespace;
  /** Ends all that runs in the namespaces and removes them. */
  remove(): Promise<void>;
}

/** Throws where the host's own network could be reached; process 1 stays in it, see scripts/bench.mjs. */
export function refuseOnHost(): void {
  if (fs.readlinkSync('/proc/self/ns/net') === fs.readlinkSync('/proc/1/ns/net'))
    throw new Error('this must not run in the network namespace of the host: use npm run bench, or scripts/soak.sh');
}

/** Both namespaces and the proxy. @param proxyDelayMs round trip to the proxy, see -D in test/lab/labproxy.c */
export async function makeNetwork(name: string, proxyDelayMs = 0): Promise<Network> {
  refuseOnHost();
  const app = new Namespace(`${name}app`);
  const net = new Namespace(`${name}net`);
  const network: Network = {
    app,
    net,
    async remove() {
      await app.remove();
      await net.remove();
    },
  };
  const ran = await run(['bash', '-euc', setUp(app.name, net.name).join('\n')]);
  if (ran.code !== 0) {
    await network.remove();
    throw new Error(`network: ${ran.stderr}`);
  }
  const delay = proxyDelayMs > 0 ? ['-D', `${proxyDelayMs}`] : [];
  await net.serve([await labProgram('labproxy'), ...delay, '::', `${PROXY_PORT}`], PROXY_PORT);
  return network;
}

/** Nothing here but what lets thousands of connections a second come and go; all else is the kernel's default. */
const SYSCTLS = [
  'net.ipv4.ip_local_port_range="1024 65535"',
  'net.ipv4.ip_local_reserved_ports=8000-9100',
  'net.ipv4.tcp_tw_reuse=1',
  'net.ipv4.tcp_max_tw_buckets=200000',
  'net.core.somaxconn=65535',
  'net.ipv4.tcp_max_syn_backlog=65535',
  'net.ipv4.tcp_no_metrics_save=1',
  'net.ipv4.conf.all.rp_filter=0',
  'net.ipv4.conf.default.rp_filter=0',
] as const;

function setUp(app: string, net: string): readonly string[] {
  const sides = [
    { name: app, v4: '10.77.0.1', v6: 'fd77::1' },
    { name: net, v4: PROXY_ADDRESS, v6: 'fd77::2' },
  ];
  return [
    ...sides.map(({ name }) => `ip netns add ${name}`),
    `ip link add veth0 netns ${app} type veth peer name veth0 netns ${net}`,
    ...sides.flatMap(({ name, v4, v6 }) => [
      `ip -n ${name} addr add ${v4}/24 dev veth0`,
      `ip -n ${name} addr add ${v6}/64 dev veth0 nodad`,
      `ip -n ${name} link set lo up`,
      `ip -n ${name} link set veth0 up`,
      `ip netns exec ${name} sysctl -qw ${SYSCTLS.join(' ')}`,
    ]),
  ];
}
