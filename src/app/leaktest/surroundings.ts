/** Reads what the leak test is to judge: the tunnel that is up, its policy, the way out. Changes nothing. */
import type { FirewallPolicy } from '../../firewall/policy.ts';
import { SLOTS, schemeFor } from '../../mark/scheme.ts';
import { wayOf } from '../../netlink/lookup.ts';
import type { Address, Link } from '../../netlink/messages.ts';
import { addresses, links, routes } from '../../netlink/read.ts';
import type { NetlinkRequest } from '../../netlink/socket.ts';
import type { StateDirectory } from '../../state/directory.ts';
import { HEALTH } from '../../tunstack/engine.ts';
import type { StatusDocument } from '../report.ts';
import { isFirewallOp, pendingOf } from '../standing.ts';
import { readStatus } from '../status.ts';
import type { Uplink } from './probes.ts';

const TABLE_MAIN = 254;

export interface Surroundings {
  /** `foreign`: there is a tunnel, but its state is not readable for this user. */
  readonly state: StatusDocument['state'] | 'foreign';
  /** undefined: not known. */
  readonly killswitch: boolean | undefined;
  readonly policy: FirewallPolicy | undefined;
  /** Name of the TUN device that is there; undefined: none. */
  readonly tun: string | undefined;
  readonly fwmark: number | undefined;
  readonly links: readonly Link[];
  readonly addresses: readonly Address[];
  readonly uplink: Uplink | undefined;
}

/** @throws NetlinkError, ProxyVpnError E_JOURNAL_VERSION and others of the state */
export async function readSurroundings(request: NetlinkRequest, directory: StateDirectory): Promise<Surroundings> {
  const status = await readStatus(directory);
  const policy = policyIn(directory);
  const found = { links: links(request), addresses: addresses(request) };
  const byRoute = status.state === 'down' ? tunnelByRoute(request, found.links) : undefined;
  const tun = status.tun ?? policy?.tun.name ?? byRoute?.tun;
  const fwmark = policy?.fwmark ?? byRoute?.fwmark;
  return {
    state: byRoute === undefined ? status.state : 'foreign',
    killswitch: byRoute === undefined ? status.killswitch : undefined,
    policy,
    tun: found.links.some(({ name }) => name === tun) ? tun : undefined,
    fwmark,
    ...found,
    uplink: uplinkOf(request, found, tun),
  };
}

/** The policy of the last filter that the journal says is in force. */
function policyIn(directory: StateDirectory): FirewallPolicy | undefined {
  return pendingOf(directory)
    .flatMap(({ op }) => (isFirewallOp(op) ? [op.policy] : []))
    .at(-1);
}

/** Another user's tunnel keeps its state to itself, but its routes are there to see. */
function tunnelByRoute(
  request: NetlinkRequest,
  found: readonly Link[],
): { readonly tun: string; readonly fwmark: number } | undefined {
  const way = wayOf(request, { destination: HEALTH.address4, protocol: 'tcp', destinationPort: HEALTH.port });
  if (way.kind === 'none') return undefined;
  const scheme = Array.from({ length: SLOTS }, (_, slot) => schemeFor('', slot)).find(({ table, namesTable }) =>
    [table, namesTable].includes(way.route.table),
  );
  const link = found.find(({ index }) => index === way.index);
  return scheme && link && { tun: link.name, fwmark: scheme.fwmark };
}

/** The device of the main table's best default route; else the first that is up and has an address. */
function uplinkOf(
  request: NetlinkRequest,
  found: Pick<Surroundings, 'links' | 'addresses'>,
  tun: string | undefined,
): Uplink | undefined {
  const defaults = ([4, 6] as const)
    .flatMap((family) => routes(request, family, TABLE_MAIN))
    .filter(({ destination, type }) => destination === 'default' && type === 'unicast')
    .sort((a, b) => a.family - b.family || a.metric - b.metric);
  const usable = found.links.filter(({ name, isUp, isLoopback }) => isUp && !isLoopback && name !== tun);
  const ofRoute = usable.find(({ index }) => index === defaults[0]?.nexthops[0]?.index);
  const own = (index: number, family: 4 | 6): string | undefined =>
    found.addresses.find((one) => one.index === index && one.family === family && one.scope === 0)?.address;
  const link = ofRoute ?? usable.find(({ index }) => (own(index, 4) ?? own(index, 6)) !== undefined);
  return link && { name: link.name, index: link.index, address4: own(link.index, 4), address6: own(link.index, 6) };
}
