/** Rules and routes of others that `up` would meet: in its place, or before it (pure). */
import { covers, type Family, familyOf, parsePrefix } from '../../ip.ts';
import { ROUTE_PROTOCOL, type Scheme } from '../../mark/scheme.ts';
import { ruleText } from '../../netlink/ip-line.ts';
import type { PacketWay } from '../../netlink/lookup.ts';
import type { Link, Route } from '../../netlink/messages.ts';
import { ruleOf } from '../../netlink/ops.ts';
import { isSameRule, isTwinOfAnotherMaker, type Rule, wouldBeDeleted } from '../../netlink/rule.ts';
import type { Op, Plan } from '../plan.ts';
import { error, type Finding, note, ok, warning } from './finding.ts';

/** What the host has, as far as it matters here. */
export interface Routing {
  readonly rules: readonly Rule[];
  /** Of the tables that are ours. */
  readonly routes: readonly Route[];
  readonly links: readonly Link[];
  /** Where the kernel sends TCP to the engine's own address now, by family. */
  readonly ways: readonly { readonly address: string; readonly way: PacketWay }[];
  readonly uid: number;
}

export function routingChecks(plan: Plan, routing: Routing): readonly Finding[] {
  const { rules, links, routes, ways, uid } = routing;
  const ops = [...plan.prepare, ...plan.divert];
  const all = [
    ...policyRouting(rules),
    ...deviceTaken(plan.scheme, links),
    ...ruleTaken(ops, rules),
    ...routeTaken(ops, routes),
    ...ways.flatMap(({ address, way }) => divertedBefore(plan.scheme, { rules, address, way, uid })),
    ...otherRules(plan.scheme, rules),
  ];
  const isFine = all.every(({ level }) => level !== 'error');
  return isFine ? [ok('routing', 'rules and routes have room for ours'), ...all] : all;
}

function policyRouting(rules: readonly Rule[]): readonly Finding[] {
  if (rules.some(({ family }) => family === 4)) return [];
  const why = 'without rules the tunnel could not tell its own connections from others';
  return [error('policy-routing', 'the kernel has no policy routing', why, 'CONFIG_IP_MULTIPLE_TABLES is needed')];
}

function deviceTaken({ tun }: Scheme, links: readonly Link[]): readonly Finding[] {
  const link = links.find(({ name }) => name === tun);
  if (link === undefined) return [];
  const mend = `ip link del ${tun}, if nobody needs it; or choose another: --tun NAME`;
  return [error('tun-name', `there is a device ${tun} already (${link.kind ?? 'hardware'})`, null, mend)];
}

function ruleTaken(ops: readonly Op[], rules: readonly Rule[]): readonly Finding[] {
  const wanted = ops.flatMap((op) => (op.kind === 'rule.add' ? [ruleOf(op)] : []));
  const rival = (rule: Rule): Rule | undefined =>
    rules.some((found) => isSameRule(found, rule))
      ? undefined
      : rules.find((found) => isTwinOfAnotherMaker(found, rule) || wouldBeDeleted(rule, found));
  const found = wanted.map(rival).find((rule) => rule !== undefined);
  if (found === undefined) return [];
  const mend = `if nobody needs it: ip -${found.family} rule del ${ruleText(found)}`;
  return [error('rule-taken', 'the host already has a rule of ours, made by somebody else', ruleText(found), mend)];
}

function routeTaken(ops: readonly Op[], routes: readonly Route[]): readonly Finding[] {
  const wanted = ops.flatMap((op) => (op.kind === 'route.add' ? [op] : []));
  const rival = routes.find(
    (route) =>
      route.protocol !== ROUTE_PROTOCOL &&
      wanted.some(
        (op) => op.family === route.family && op.table === route.table && op.destination === route.destination,
      ),
  );
  if (rival === undefined) return [];
  const mend = `if nobody needs it: ip -${rival.family} route del ${rival.destination} table ${rival.table}`;
  return [error('table-taken', `table ${rival.table} has a route already: ${rival.destination}`, null, mend)];
}

const TABLE_LOCAL = 255;

/** Who sends the host's TCP somewhere before our rule is looked at. */
function divertedBefore(
  scheme: Scheme,
  { rules, address, way, uid }: Pick<Routing, 'rules' | 'uid'> & { readonly address: string; readonly way: PacketWay },
): readonly Finding[] {
  const family = familyOf(address);
  const earlier = rules.filter(
    (rule) =>
      rule.family === family &&
      rule.priority < scheme.priority.divert &&
      rule.protocol !== ROUTE_PROTOCOL &&
      !(rule.action === 'lookup' && rule.table === TABLE_LOCAL) &&
      takes(rule, address, uid),
  );
  const first = earlier.find((rule) => leads(rule, way));
  if (first === undefined) return [];
  const why = `this rule comes before ours, so nothing would reach the tunnel: ${ruleText(first)}`;
  const mend = 'end what made it (another VPN?), or exempt proxyvpn there; up --no-routes leaves the routes to you';
  return [error('diverted', `TCP of this host is sent elsewhere already (IPv${family})`, why, mend)];
}

/** Whether the packet goes no further than this rule. */
function leads(rule: Rule, way: PacketWay): boolean {
  if (['unreachable', 'prohibit', 'blackhole'].includes(rule.action)) return way.kind === 'none';
  if (rule.action !== 'lookup' || rule.suppressPrefixLength !== undefined || way.kind === 'none') return false;
  return rule.table === way.route.table;
}

/** Whether an unmarked TCP packet of an unbound socket of this user matches, ip-rule(8). */
export function takes(rule: Rule, address: string, uid: number): boolean {
  const { fwmark, fwmask = 0xffffffff, uidRange, ipProto, destination, incomingLink, destinationPorts } = rule;
  const isSelected =
    (fwmark === undefined || (fwmark & fwmask) === 0) &&
    (uidRange === undefined || (uid >= uidRange[0] && uid <= uidRange[1])) &&
    (ipProto === undefined || ipProto === 6) &&
    (destination === undefined || covers(parsePrefix(destination), address)) &&
    (incomingLink === undefined || incomingLink === 'lo') &&
    rule.source === undefined &&
    rule.outgoingLink === undefined &&
    destinationPorts === undefined &&
    rule.sourcePorts === undefined &&
    rule.tos === 0 &&
    rule.otherSelectors.length === 0;
  return isSelected !== rule.isInverted;
}

/** What `ip rule` of a plain host has: local, main, default. */
const USUAL: readonly number[] = [0, 32_766, 32_767];

function otherRules(scheme: Scheme, rules: readonly Rule[]): readonly Finding[] {
  const others = rules.filter(({ protocol, priority }) => protocol !== ROUTE_PROTOCOL && !USUAL.includes(priority));
  const before = others.filter(({ priority }) => priority < scheme.priority.divert);
  const behind = others.filter(({ priority }) => priority > scheme.priority.divert);
  const text = (some: readonly Rule[]): string => some.map(familyText).join('; ');
  return [
    ...(before.length === 0
      ? []
      : [
          warning(
            'rules-before',
            `${count(before)} of others come before ours`,
            text(before),
            'what they match may go around the tunnel: ip rule',
          ),
        ]),
    ...(behind.length === 0
      ? []
      : [
          note(
            'rules-behind',
            `${count(behind)} of others come behind ours`,
            `they count for what goes around the tunnel, the proxy's own connections too: ${text(behind)}`,
          ),
        ]),
  ];
}

const count = (rules: readonly Rule[]): string => `${rules.length} rule${rules.length === 1 ? '' : 's'}`;
const familyText = (rule: Rule & { readonly family: Family }): string =>
  `${rule.family === 6 ? 'IPv6 ' : ''}${ruleText(rule)}`;
