/** Policy routing rules as rtnetlink messages, to and from, and when two rules are the same one (pure). */
import { addressBytes, type Family } from '../ip.ts';
import {
  AF,
  type Attribute,
  Attributes,
  concat,
  encodeAttributes,
  familyOfAf,
  StructReader,
  StructWriter,
} from './codec.ts';
import { cidr, prefixOf } from './messages.ts';

/** FR_ACT_* in order, include/uapi/linux/fib_rules.h */
const ACTIONS = ['unspec', 'lookup', 'goto', 'nop', 'res3', 'res4', 'blackhole', 'unreachable', 'prohibit'] as const;
export type RuleAction = (typeof ACTIONS)[number];

const FIB_RULE_INVERT = 0x2;

const FRA = {
  DST: 1,
  SRC: 2,
  IIFNAME: 3,
  GOTO: 4,
  PRIORITY: 6,
  FWMARK: 10,
  FLOW: 11,
  TUN_ID: 12,
  SUPPRESS_IFGROUP: 13,
  SUPPRESS_PREFIXLEN: 14,
  TABLE: 15,
  FWMASK: 16,
  OIFNAME: 17,
  L3MDEV: 19,
  UID_RANGE: 20,
  PROTOCOL: 21,
  IP_PROTO: 22,
  SPORT_RANGE: 23,
  DPORT_RANGE: 24,
  DSCP: 25,
  FLOWLABEL: 26,
} as const;

/** Selectors that we never set: a rule that has one is not ours. */
const FOREIGN_SELECTORS: readonly number[] = [FRA.FLOW, FRA.TUN_ID, FRA.L3MDEV, FRA.DSCP, FRA.FLOWLABEL];
/** How the kernel says "not set" of the two suppressors. */
const UNSET = 0xffffffff;

export type Range = readonly [first: number, last: number];

export interface Rule {
  readonly family: Family;
  /** Lower is looked up first. */
  readonly priority: number;
  readonly action: RuleAction;
  /** 0 unless the action is `lookup`. */
  readonly table: number;
  /** FRA_PROTOCOL: who made it; 2 kernel, 210 ours, 0 nobody said (`ip` without `protocol`). */
  readonly protocol: number;
  /** `not`: applies to what the selectors do not match. */
  readonly isInverted: boolean;
  /** CIDR; undefined: any. */
  readonly source: string | undefined;
  readonly destination: string | undefined;
  readonly tos: number;
  readonly fwmark: number | undefined;
  readonly fwmask: number | undefined;
  readonly incomingLink: string | undefined;
  readonly outgoingLink: string | undefined;
  /** IPPROTO_* */
  readonly ipProto: number | undefined;
  readonly sourcePorts: Range | undefined;
  readonly destinationPorts: Range | undefined;
  readonly uidRange: Range | undefined;
  /** Routes with a prefix of this length or less do not count. */
  readonly suppressPrefixLength: number | undefined;
  readonly suppressGroup: number | undefined;
  readonly gotoPriority: number | undefined;
  /** FRA_* types of selectors that are set and have no field here. */
  readonly otherSelectors: readonly number[];
}

/** A rule that selects everything; spread it and set what matters. */
export const ANY_RULE = {
  action: 'lookup',
  isInverted: false,
  source: undefined,
  destination: undefined,
  tos: 0,
  fwmark: undefined,
  fwmask: undefined,
  incomingLink: undefined,
  outgoingLink: undefined,
  ipProto: undefined,
  sourcePorts: undefined,
  destinationPorts: undefined,
  uidRange: undefined,
  suppressPrefixLength: undefined,
  suppressGroup: undefined,
  gotoPriority: undefined,
  otherSelectors: [],
} as const satisfies Partial<Rule>;

/** struct fib_rule_hdr, then attributes. undefined for families other than IPv4 and IPv6. */
export function decodeRule(payload: Uint8Array): Rule | undefined {
  const reader = new StructReader(payload, 'a rule');
  const family = familyOfAf(reader.u8());
  const [dstLength, srcLength, tos, table] = [reader.u8(), reader.u8(), reader.u8(), reader.u8()];
  const action = ACTIONS[reader.skip(2).u8()] ?? 'unspec';
  const flags = reader.u32();
  const attributes = new Attributes(reader.rest());
  if (family === undefined) return undefined;
  const fwmark = attributes.u32(FRA.FWMARK);
  const fwmask = attributes.u32(FRA.FWMASK);
  const hasMark = fwmark !== undefined || fwmask !== undefined;
  return {
    family,
    priority: attributes.u32(FRA.PRIORITY) ?? 0,
    action,
    table: attributes.u32(FRA.TABLE) ?? table,
    protocol: attributes.u8(FRA.PROTOCOL) ?? 0,
    isInverted: (flags & FIB_RULE_INVERT) !== 0,
    source: cidr(attributes.address(FRA.SRC, family), srcLength),
    destination: cidr(attributes.address(FRA.DST, family), dstLength),
    tos,
    fwmark: hasMark ? (fwmark ?? 0) : undefined,
    fwmask: hasMark ? (fwmask ?? 0xffffffff) : undefined,
    incomingLink: attributes.text(FRA.IIFNAME),
    outgoingLink: attributes.text(FRA.OIFNAME),
    ipProto: attributes.u8(FRA.IP_PROTO),
    sourcePorts: portRange(attributes.struct(FRA.SPORT_RANGE)),
    destinationPorts: portRange(attributes.struct(FRA.DPORT_RANGE)),
    uidRange: uidRange(attributes.struct(FRA.UID_RANGE)),
    suppressPrefixLength: unlessUnset(attributes.u32(FRA.SUPPRESS_PREFIXLEN)),
    suppressGroup: unlessUnset(attributes.u32(FRA.SUPPRESS_IFGROUP)),
    gotoPriority: action === 'goto' ? attributes.u32(FRA.GOTO) : undefined,
    otherSelectors: FOREIGN_SELECTORS.filter((type) => attributes.bytes(type)?.some((byte) => byte !== 0)),
  };
}

/** struct fib_rule_port_range */
function portRange(reader: StructReader | undefined): Range | undefined {
  return reader && [reader.u16(), reader.u16()];
}

/** struct fib_rule_uid_range */
function uidRange(reader: StructReader | undefined): Range | undefined {
  return reader && [reader.u32(), reader.u32()];
}

function unlessUnset(value: number | undefined): number | undefined {
  return value === UNSET ? undefined : value;
}

/** Payload of RTM_NEWRULE and RTM_DELRULE: every selector that is set; `otherSelectors` cannot be said. */
export function encodeRule(rule: Rule): Uint8Array {
  const [destination, source] = [prefixOf(rule.destination), prefixOf(rule.source)];
  const header = new StructWriter()
    .u8(AF[rule.family])
    .u8(destination?.length ?? 0)
    .u8(source?.length ?? 0)
    .u8(rule.tos)
    .u8(rule.table < 256 ? rule.table : 0)
    .zeros(2)
    .u8(ACTIONS.indexOf(rule.action))
    .u32(rule.isInverted ? FIB_RULE_INVERT : 0);
  const set = (type: number, value: Attribute['value'] | undefined): Attribute[] =>
    value === undefined ? [] : [{ type, value }];
  return concat([
    header.bytes(),
    encodeAttributes([
      ...set(FRA.PRIORITY, rule.priority),
      ...set(FRA.DST, destination && addressBytes(destination.address)),
      ...set(FRA.SRC, source && addressBytes(source.address)),
      ...set(FRA.FWMARK, rule.fwmark),
      ...set(FRA.FWMASK, rule.fwmask),
      ...set(FRA.IIFNAME, rule.incomingLink),
      ...set(FRA.OIFNAME, rule.outgoingLink),
      ...set(FRA.UID_RANGE, rule.uidRange && new StructWriter().u32(rule.uidRange[0]).u32(rule.uidRange[1]).bytes()),
      ...set(FRA.IP_PROTO, rule.ipProto === undefined ? undefined : Uint8Array.of(rule.ipProto)),
      ...set(FRA.SPORT_RANGE, rule.sourcePorts && portBytes(rule.sourcePorts)),
      ...set(FRA.DPORT_RANGE, rule.destinationPorts && portBytes(rule.destinationPorts)),
      ...set(FRA.SUPPRESS_PREFIXLEN, rule.suppressPrefixLength),
      ...set(FRA.SUPPRESS_IFGROUP, rule.suppressGroup),
      ...set(FRA.GOTO, rule.gotoPriority),
      ...set(FRA.TABLE, rule.table < 256 ? undefined : rule.table),
      ...set(FRA.PROTOCOL, Uint8Array.of(rule.protocol)),
    ]),
  ]);
}

function portBytes([first, last]: Range): Uint8Array {
  return new StructWriter().u16(first).u16(last).bytes();
}

/** Payload of RTM_GETRULE, a dump. */
export function encodeRuleQuery(family: Family): Uint8Array {
  return new StructWriter().u8(AF[family]).zeros(11).bytes();
}

const FIELDS = ['family', 'priority', 'protocol', ...Object.keys(ANY_RULE), 'table'] as readonly (keyof Rule)[];

function differences(a: Rule, b: Rule): (keyof Rule)[] {
  return FIELDS.filter((field) => JSON.stringify(a[field]) !== JSON.stringify(b[field]));
}

/** The same rule in every field, its maker included. */
export function isSameRule(a: Rule, b: Rule): boolean {
  return differences(a, b).length === 0;
}

/** Does the same as the other, but somebody else made it. */
export function isTwinOfAnotherMaker(a: Rule, b: Rule): boolean {
  return differences(a, b).join() === 'protocol';
}

/**
 * Whether RTM_DELRULE with every field of `wanted` would match `candidate`: what `wanted` leaves
 * open is a wildcard to the kernel, and it ignores `not` (rule_find() in net/core/fib_rules.c).
 */
export function wouldBeDeleted(wanted: Rule, candidate: Rule): boolean {
  const isWildcard = (field: keyof Rule): boolean =>
    wanted[field] === undefined || (field === 'tos' && wanted.tos === 0);
  return differences(wanted, candidate).every(
    (field) => field === 'isInverted' || field === 'otherSelectors' || isWildcard(field),
  );
}
