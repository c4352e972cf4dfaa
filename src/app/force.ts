/** `down --force`: removes exactly what the scheme names for one tunnel, where no journal tells what was done. */
import { ROUTE_PROTOCOL, type Scheme, schemeFor } from '../mark/scheme.ts';
import type { Route } from '../netlink/messages.ts';
import type { RouteAddOp, RuleAddOp } from '../netlink/ops.ts';
import { links, routes, rules } from '../netlink/read.ts';
import type { Rule } from '../netlink/rule.ts';
import type { StateDirectory } from '../state/directory.ts';
import { applierOf } from './apply.ts';
import type { Host } from './host.ts';
import type { Op } from './plan.ts';
import { findSlot } from './slot.ts';
import type { TeardownReport } from './teardown.ts';

const FAMILIES = [4, 6] as const;

/**
 * Rules with our protocol number and one of our priorities, routes of our table with our protocol number, our
 * firewall table. The device needs no removal: it goes with the process that holds it. Kernel parameters are
 * left alone, for nothing tells what they were.
 */
export async function removeByScheme(host: Host, directory: StateDirectory): Promise<TeardownReport> {
  const scheme = schemeFor(directory.name, findSlot(directory.root, directory.name));
  const undone: string[] = [];
  const foreign: string[] = [];
  const failed: { what: string; error: unknown }[] = [];
  for (const op of [...rulesLeft(host, scheme), ...routesLeft(host, scheme), firewallOf(scheme)]) {
    const applier = applierOf(host.appliers, op);
    const what = op.kind === 'firewall.load' ? firewallLine(scheme) : applier.describe(op);
    try {
      const result = await applier.undo(op, { existed: false });
      if (result.outcome === 'undone') undone.push(what);
      if (result.outcome === 'foreign') foreign.push(`${what}: left alone, found ${result.found}`);
    } catch (error) {
      failed.push({ what, error });
    }
  }
  return { undone, foreign, failed };
}

/**
 * What the scheme names and no journal knows, one line each: a state directory that was deleted must not make
 * `status` say that all is well while a killswitch blocks.
 * @throws ProxyVpnError E_FIREWALL_*, NetlinkError
 */
export async function leftByScheme(host: Host, directory: StateDirectory): Promise<readonly string[]> {
  const scheme = schemeFor(directory.name, findSlot(directory.root, directory.name));
  const left = [...rulesLeft(host, scheme), ...routesLeft(host, scheme)];
  const lines = left.map((op) => applierOf(host.appliers, op).describe(op));
  const isLoaded = await (await host.backend()).isLoaded(scheme.firewallTable);
  return isLoaded ? [...lines, firewallLine(scheme)] : lines;
}

function firewallLine(scheme: Scheme): string {
  return `the firewall rules of table ${scheme.firewallTable}`;
}

function rulesLeft(host: Host, scheme: Scheme): readonly Op[] {
  const priorities: readonly number[] = Object.values(scheme.priority);
  return FAMILIES.flatMap((family) => rules(host.netlink, family))
    .filter(({ protocol, priority }) => protocol === ROUTE_PROTOCOL && priorities.includes(priority))
    .map(ruleOp)
    .reverse();
}

/** The op that made this rule. One that no op of ours makes is not found again by undo, and so stays. */
function ruleOp(rule: Rule): RuleAddOp {
  const { family, priority, table, protocol, fwmark, fwmask, destination, uidRange, suppressPrefixLength } = rule;
  const { action, gotoPriority } = rule;
  return {
    kind: 'rule.add',
    family,
    priority,
    ...(action === 'lookup' && { table }),
    ...(gotoPriority !== undefined && { goto: gotoPriority }),
    protocol,
    invert: rule.isInverted,
    ...(fwmark !== undefined && { fwmark }),
    ...(fwmask !== undefined && { fwmask }),
    ...(rule.incomingLink !== undefined && { incomingLink: rule.incomingLink }),
    ...(rule.ipProto === 6 && { ipProto: 'tcp' as const }),
    ...(rule.ipProto === 17 && { ipProto: 'udp' as const }),
    ...(destination !== undefined && { destination }),
    ...(rule.destinationPorts !== undefined && { dport: rule.destinationPorts[0] }),
    ...(uidRange !== undefined && { uidRange }),
    ...(suppressPrefixLength !== undefined && { suppressPrefixLength }),
  };
}

function routesLeft(host: Host, scheme: Scheme): readonly Op[] {
  const names = new Map(links(host.netlink).map(({ index, name }) => [index, name]));
  const tables = [scheme.table, scheme.namesTable];
  return FAMILIES.flatMap((family) => tables.flatMap((table) => routes(host.netlink, family, table)))
    .filter(({ protocol }) => protocol === ROUTE_PROTOCOL)
    .flatMap((route) => routeOp(route, names));
}

function routeOp(route: Route, names: ReadonlyMap<number, string>): readonly RouteAddOp[] {
  const { family, destination, table, type, protocol, metric, congestionControl } = route;
  if (type !== 'unicast' && type !== 'throw' && type !== 'unreachable') return [];
  const dev = type === 'unicast' ? names.get(route.nexthops[0]?.index ?? 0) : undefined;
  return [
    {
      kind: 'route.add',
      family,
      destination,
      table,
      type,
      protocol,
      metric,
      ...(dev !== undefined && { dev }),
      ...(congestionControl !== undefined && { congestionControl }),
    },
  ];
}

/** Undo looks at the table's name only. */
function firewallOf(scheme: Scheme): Op {
  return {
    kind: 'firewall.load',
    policy: {
      table: scheme.firewallTable,
      killswitch: false,
      tun: { name: scheme.tun, address4: scheme.tunAddress4, address6: scheme.tunAddress6 },
      fwmark: scheme.fwmark,
      exemptConnectionMark: scheme.exemptConnectionMark,
      uid: 0,
      proxies: [],
      allowDns: [],
      allowLan: false,
      bypass: [],
      bypassUsers: [],
      inbound: { ports: [], peers: [] },
      existing: [],
    },
  };
}
