/**
 * The changes to links, addresses, routes and rules: how each is made, shown and taken back.
 *
 * Nothing is removed by resemblance: undo reads what is there, compares every field with what the op
 * would have made, and names all of them to the kernel. Routes and rules carry our protocol number,
 * so one that equals the op in every field is ours, left by a crash, and is taken over.
 */
import { ProxyVpnError } from '../errors.ts';
import { canonicalAddress, type Family, parsePrefix, prefixText } from '../ip.ts';
import type { Applier, Appliers, UndoResult } from '../op.ts';
import { addressLine, linkLine, routeLine, routeText, ruleLine, ruleText } from './ip-line.ts';
import {
  type Address,
  DEFAULT_METRIC,
  encodeAddress,
  encodeLinkChange,
  encodeRoute,
  IFA_F,
  type Link,
  type LinkChange,
  type Route,
  RTM,
} from './messages.ts';
import { addresses, linkByName, routes, rules } from './read.ts';
import { ANY_RULE, encodeRule, isSameRule, isTwinOfAnotherMaker, type Rule, wouldBeDeleted } from './rule.ts';
import { ask, isNetlinkError, type NetlinkRequest, NLM_F } from './socket.ts';

/** Sets MTU (bytes) and transmit queue (packets) of a link and takes it up. */
export interface LinkUpOp {
  readonly kind: 'link.up';
  readonly name: string;
  readonly mtu: number;
  readonly txQueueLength: number;
}

/** Without a prefix route, so the main table stays as it is; IPv6 without duplicate address detection. */
export interface AddressAddOp {
  readonly kind: 'address.add';
  readonly dev: string;
  readonly family: Family;
  readonly address: string;
  readonly prefixLength: number;
}

export interface RouteAddOp {
  readonly kind: 'route.add';
  readonly family: Family;
  /** `default` or a CIDR. */
  readonly destination: string;
  readonly table: number;
  readonly type: 'unicast' | 'throw' | 'unreachable';
  /** Of unicast only. */
  readonly dev?: string;
  /** rtm_protocol */
  readonly protocol: number;
  /** TCP congestion control of connections over this route (RTAX_CC_ALGO). */
  readonly congestionControl?: string;
  /** Default 0 for IPv4 and 1024 for IPv6, as in the kernel. */
  readonly metric?: number;
}

export interface RuleAddOp {
  readonly kind: 'rule.add';
  readonly family: Family;
  readonly priority: number;
  /** To look up. Without `table` and `goto` the rule does nothing: a target for `goto`. */
  readonly table?: number;
  /** Priority of the rule to go on with; it must be higher. */
  readonly goto?: number;
  /** FRA_PROTOCOL */
  readonly protocol: number;
  readonly invert?: boolean;
  readonly fwmark?: number;
  /** Default: the full mask. */
  readonly fwmask?: number;
  readonly ipProto?: 'tcp' | 'udp';
  /** FRA_IIFNAME; `lo`: made on this host. */
  readonly incomingLink?: string;
  /** CIDR */
  readonly destination?: string;
  readonly dport?: number;
  readonly uidRange?: readonly [first: number, last: number];
  readonly suppressPrefixLength?: number;
}

export type NetlinkOp = LinkUpOp | AddressAddOp | RouteAddOp | RuleAddOp;

/** @param request `native().netlinkRequest`; changing anything needs CAP_NET_ADMIN */
export function netlinkAppliers(request: NetlinkRequest): Appliers<NetlinkOp> {
  return {
    'link.up': linkUp(request),
    'address.add': addressAdd(request),
    'route.add': routeAdd(request),
    'rule.add': ruleAdd(request),
  };
}

const ABSENT: UndoResult = { outcome: 'absent' };
const UNDONE: UndoResult = { outcome: 'undone' };
const CREATE = NLM_F.CREATE | NLM_F.EXCL;

/** What a link was before; null when there was none of that name. */
type LinkBefore = LinkChange | null;

function linkUp(request: NetlinkRequest): Applier<LinkUpOp, LinkBefore> {
  const wanted = (op: LinkUpOp): Omit<LinkChange, 'index'> => ({ ...op, isUp: true });
  const change = (name: string, to: LinkChange): void => {
    ask(request, { request: linkLine(name, to), type: RTM.NEWLINK, payload: encodeLinkChange(to) });
  };
  return {
    async observe(op) {
      const link = linkByName(request, op.name);
      return link ? changeable(link) : null;
    },
    async apply(op) {
      const now = existingLink(request, op.name);
      try {
        change(op.name, { ...wanted(op), index: now.index });
      } catch (error) {
        // The kernel may have set the MTU before it refused the rest. The refusal is what counts.
        const half = linkByName(request, op.name);
        if (half && JSON.stringify(half) !== JSON.stringify(now)) change(op.name, changeable(now));
        throw error;
      }
    },
    async undo(op, before) {
      const now = linkByName(request, op.name);
      // Another ifindex: our link is gone, and somebody else made one of the same name.
      if (!now || (before && before.index !== now.index)) return ABSENT;
      const target = {
        index: now.index,
        mtu: before && now.mtu === op.mtu ? before.mtu : now.mtu,
        txQueueLength: before && now.txQueueLength === op.txQueueLength ? before.txQueueLength : now.txQueueLength,
        isUp: before?.isUp ?? false,
      };
      if (JSON.stringify(target) === JSON.stringify(changeable(now))) return ABSENT;
      return removed(() => change(op.name, target), ['ENODEV']);
    },
    describe: (op) => linkLine(op.name, wanted(op)),
  };
}

function changeable({ index, mtu, txQueueLength, isUp }: Link): LinkChange {
  return { index, mtu, txQueueLength, isUp };
}

/** @throws ProxyVpnError E_LINK_MISSING */
function existingLink(request: NetlinkRequest, name: string): Link {
  const link = linkByName(request, name);
  if (link) return link;
  throw new ProxyVpnError('E_LINK_MISSING', `there is no network device ${name}`, {
    hint: 'somebody removed it meanwhile; ip link shows what there is',
  });
}

interface ExistedBefore {
  readonly existed: boolean;
}

function addressAdd(request: NetlinkRequest): Applier<AddressAddOp, ExistedBefore> {
  const wanted = (op: AddressAddOp, index: number): Address => ({
    family: op.family,
    index,
    address: canonicalAddress(op.address) ?? op.address,
    prefixLength: op.prefixLength,
    peer: undefined,
    flags: IFA_F.NOPREFIXROUTE | (op.family === 6 ? IFA_F.NODAD : 0),
    scope: 0,
  });
  const find = (op: AddressAddOp): Address | undefined => {
    const link = linkByName(request, op.dev);
    if (!link) return undefined;
    const { index, address, prefixLength } = wanted(op, link.index);
    return addresses(request).find(
      (found) => found.index === index && found.address === address && found.prefixLength === prefixLength,
    );
  };
  return {
    async observe(op) {
      return { existed: find(op) !== undefined };
    },
    async apply(op, before) {
      if (before.existed) return;
      const { index } = existingLink(request, op.dev);
      const line = addressLine(op.dev, wanted(op, index));
      ask(request, { request: line, type: RTM.NEWADDR, flags: CREATE, payload: encodeAddress(wanted(op, index)) });
    },
    async undo(op, before) {
      const found = find(op);
      if (!found || before.existed) return ABSENT;
      const line = `ip address del ${op.address}/${op.prefixLength} dev ${op.dev}`;
      const payload = encodeAddress(wanted(op, found.index));
      return removed(() => ask(request, { request: line, type: RTM.DELADDR, payload }), ['EADDRNOTAVAIL', 'ENODEV']);
    },
    describe: (op) => addressLine(op.dev, wanted(op, 0)),
  };
}

/** Takes something back; somebody may have removed it since we looked. */
function removed(remove: () => void, alreadyGone: readonly string[]): UndoResult {
  try {
    remove();
    return UNDONE;
  } catch (error) {
    if (isNetlinkError(error, ...alreadyGone)) return ABSENT;
    throw error;
  }
}

/** As the kernel's answers are decoded: `10.0.0.1/32` for one address, `default` for everything. */
function canonicalDestination(text: string): string {
  if (text === 'default') return text;
  const prefix = parsePrefix(text);
  return prefix.length === 0 ? 'default' : prefixText(prefix);
}

function routeOf(op: RouteAddOp, index: number): Route {
  return {
    family: op.family,
    table: op.table,
    destination: canonicalDestination(op.destination),
    source: undefined,
    type: op.type,
    protocol: op.protocol,
    tos: 0,
    metric: op.metric ?? DEFAULT_METRIC[op.family],
    nexthops: op.dev === undefined ? [] : [{ index, gateway: undefined }],
    preferredSource: undefined,
    congestionControl: op.congestionControl,
  };
}

/** Equal in every field; a route that leads nowhere has `lo` as nexthop in IPv6. */
function isSameRoute(a: Route, b: Route): boolean {
  const text = (route: Route): string =>
    JSON.stringify({ ...route, nexthops: route.type === 'unicast' ? route.nexthops : [] });
  return text(a) === text(b);
}

function routeAdd(request: NetlinkRequest): Applier<RouteAddOp, ExistedBefore> {
  /** The route itself, and one that stands in its place: a table holds one route of a destination and metric. */
  const look = (op: RouteAddOp): { wanted: Route | undefined; same?: Route | undefined; rival?: Route | undefined } => {
    const index = op.dev === undefined ? 0 : linkByName(request, op.dev)?.index;
    const wanted = index === undefined ? undefined : routeOf(op, index);
    const { destination, metric } = routeOf(op, 0);
    const place = routes(request, op.family, op.table).filter(
      (found) => found.destination === destination && found.metric === metric,
    );
    const same = wanted && place.find((found) => isSameRoute(found, wanted));
    return { wanted, same, rival: place.find((found) => found !== same) };
  };
  const line = (op: RouteAddOp): string => routeLine(routeOf(op, 0), op.dev);
  return {
    async observe(op) {
      return { existed: look(op).same !== undefined };
    },
    async apply(op) {
      const { wanted, same, rival } = look(op);
      if (same) return;
      if (rival) throw routeExists(op, rival);
      const route = wanted ?? routeOf(op, existingLink(request, op.dev ?? '').index);
      ask(request, { request: line(op), type: RTM.NEWROUTE, flags: CREATE, payload: encodeRoute(route) });
    },
    async undo(op) {
      const { same, wanted, rival } = look(op);
      if (!same || !wanted) return rival ? { outcome: 'foreign', found: foundRoute(rival) } : ABSENT;
      const question = {
        request: line(op).replace(' add ', ' del '),
        type: RTM.DELROUTE,
        payload: encodeRoute(wanted),
      };
      return removed(() => ask(request, question), ['ESRCH', 'ENODEV']);
    },
    describe: line,
  };
}

function foundRoute(route: Route): string {
  const [nexthop] = route.nexthops;
  return routeText(route, nexthop && `if${nexthop.index}`);
}

function routeExists(op: RouteAddOp, rival: Route): ProxyVpnError {
  return new ProxyVpnError('E_ROUTE_EXISTS', `table ${op.table} already has: ${foundRoute(rival)}`, {
    hint: `if nobody needs it: ip -${op.family} route del ${op.destination} table ${op.table}`,
  });
}

const IP_PROTO = { tcp: 6, udp: 17 } as const;

/** The rule that an op makes. */
export function ruleOf(op: RuleAddOp): Rule {
  return {
    ...ANY_RULE,
    family: op.family,
    priority: op.priority,
    action: op.goto !== undefined ? 'goto' : op.table !== undefined ? 'lookup' : 'nop',
    table: op.table ?? 0,
    gotoPriority: op.goto,
    protocol: op.protocol,
    isInverted: op.invert ?? false,
    destination: op.destination && canonicalDestination(op.destination),
    fwmark: op.fwmark,
    fwmask: op.fwmark === undefined ? undefined : (op.fwmask ?? 0xffffffff),
    incomingLink: op.incomingLink,
    ipProto: op.ipProto && IP_PROTO[op.ipProto],
    destinationPorts: op.dport === undefined ? undefined : [op.dport, op.dport],
    uidRange: op.uidRange,
    suppressPrefixLength: op.suppressPrefixLength,
  };
}

function ruleAdd(request: NetlinkRequest): Applier<RuleAddOp, ExistedBefore> {
  return {
    async observe(op) {
      return { existed: rules(request, op.family).some((rule) => isSameRule(rule, ruleOf(op))) };
    },
    async apply(op) {
      const wanted = ruleOf(op);
      const present = rules(request, op.family);
      if (present.some((rule) => isSameRule(rule, wanted))) return;
      const twin = present.find((rule) => isTwinOfAnotherMaker(rule, wanted));
      if (twin) throw ruleExists(twin);
      try {
        ask(request, { request: ruleLine(wanted), type: RTM.NEWRULE, flags: CREATE, payload: encodeRule(wanted) });
      } catch (error) {
        // The kernel does not look at `not` when it compares, so a rule can be in the way without being a twin.
        const rival = present.find((rule) => wouldBeDeleted(wanted, rule));
        throw isNetlinkError(error, 'EEXIST') && rival ? ruleExists(rival) : error;
      }
    },
    async undo(op) {
      const wanted = ruleOf(op);
      const matching = rules(request, op.family).filter((rule) => wouldBeDeleted(wanted, rule));
      const [first] = matching;
      if (!first || !matching.some((rule) => isSameRule(rule, wanted))) return ABSENT;
      // The kernel removes the first that matches: a narrower rule of somebody else would go instead of ours.
      if (!isSameRule(first, wanted)) return { outcome: 'foreign', found: ruleText(first) };
      const line = ruleLine(wanted).replace(' add ', ' del ');
      return removed(() => ask(request, { request: line, type: RTM.DELRULE, payload: encodeRule(wanted) }), ['ENOENT']);
    },
    describe: (op) => ruleLine(ruleOf(op)),
  };
}

function ruleExists(rule: Rule): ProxyVpnError {
  return new ProxyVpnError('E_RULE_EXISTS', `the host already has this rule, and it is not ours: ${ruleText(rule)}`, {
    hint: `if nobody needs it: ip -${rule.family} rule del ${ruleText(rule)}`,
  });
}
