/** Routes, rules, links and addresses as the `ip` lines that an operator would type (pure). */
import type { Family } from '../ip.ts';
import { type Address, DEFAULT_METRIC, IFA_F, type LinkChange, MAIN_TABLE, type Route } from './messages.ts';
import type { Range, Rule } from './rule.ts';

/** Names that iproute2 knows without a configuration file. */
const TABLE_NAMES = new Map([
  [253, 'default'],
  [MAIN_TABLE, 'main'],
  [255, 'local'],
]);
const IP_PROTO_NAMES = new Map([
  [1, 'icmp'],
  [6, 'tcp'],
  [17, 'udp'],
]);

/** `ip`, or `ip -6`: rules, and destinations such as `default`, do not tell their family. */
function ip(family: Family): string {
  return family === 4 ? 'ip' : 'ip -6';
}

function words(...parts: readonly (string | false | undefined)[]): string {
  return parts.filter((part) => typeof part === 'string').join(' ');
}

function tableName(table: number): string {
  return TABLE_NAMES.get(table) ?? String(table);
}

function rangeText([first, last]: Range): string {
  return `${first}-${last}`;
}

function portsText(ports: Range): string {
  return ports[0] === ports[1] ? String(ports[0]) : rangeText(ports);
}

export function linkLine(dev: string, change: Omit<LinkChange, 'index'>): string {
  const state = change.isUp ? 'up' : 'down';
  return `ip link set dev ${dev} mtu ${change.mtu} txqueuelen ${change.txQueueLength} ${state}`;
}

export function addressLine(dev: string, address: Omit<Address, 'index'>): string {
  return words(
    `${ip(address.family)} address add ${address.address}/${address.prefixLength} dev ${dev}`,
    (address.flags & IFA_F.NODAD) !== 0 && 'nodad',
    (address.flags & IFA_F.NOPREFIXROUTE) !== 0 && 'noprefixroute',
  );
}

/** What follows `ip route add`. @param dev name of the one nexthop's link */
export function routeText(route: Route, dev: string | undefined): string {
  const gateway = route.nexthops[0]?.gateway;
  return words(
    route.type !== 'unicast' && route.type,
    route.destination,
    route.source !== undefined && `from ${route.source}`,
    gateway !== undefined && `via ${gateway}`,
    dev !== undefined && `dev ${dev}`,
    `table ${tableName(route.table)}`,
    `proto ${route.protocol}`,
    route.metric !== DEFAULT_METRIC[route.family] && `metric ${route.metric}`,
    route.preferredSource !== undefined && `src ${route.preferredSource}`,
    route.congestionControl !== undefined && `congctl ${route.congestionControl}`,
  );
}

export function routeLine(route: Route, dev: string | undefined): string {
  return `${ip(route.family)} route add ${routeText(route, dev)}`;
}

/** What follows `ip rule add`. */
export function ruleText(rule: Rule): string {
  const hex = (value: number): string => `0x${value.toString(16)}`;
  return words(
    `priority ${rule.priority}`,
    rule.isInverted && 'not',
    rule.source !== undefined && `from ${rule.source}`,
    rule.destination !== undefined && `to ${rule.destination}`,
    rule.tos !== 0 && `tos ${hex(rule.tos)}`,
    rule.fwmark !== undefined && `fwmark ${hex(rule.fwmark)}/${hex(rule.fwmask ?? 0xffffffff)}`,
    rule.incomingLink !== undefined && `iif ${rule.incomingLink}`,
    rule.outgoingLink !== undefined && `oif ${rule.outgoingLink}`,
    rule.uidRange && `uidrange ${rangeText(rule.uidRange)}`,
    rule.ipProto !== undefined && `ipproto ${IP_PROTO_NAMES.get(rule.ipProto) ?? rule.ipProto}`,
    rule.sourcePorts && `sport ${portsText(rule.sourcePorts)}`,
    rule.destinationPorts && `dport ${portsText(rule.destinationPorts)}`,
    rule.action === 'lookup' && `lookup ${tableName(rule.table)}`,
    rule.action !== 'lookup' && words(rule.action, rule.gotoPriority !== undefined && String(rule.gotoPriority)),
    rule.suppressPrefixLength !== undefined && `suppress_prefixlength ${rule.suppressPrefixLength}`,
    rule.suppressGroup !== undefined && `suppress_ifgroup ${rule.suppressGroup}`,
    `protocol ${rule.protocol}`,
  );
}

export function ruleLine(rule: Rule): string {
  return `${ip(rule.family)} rule add ${ruleText(rule)}`;
}
