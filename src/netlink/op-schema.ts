/**
 * Which changes to links, addresses, routes and rules a journal may hold (pure): those that the planner makes.
 *
 * The journal lies in a directory of the user's, and it is undone with CAP_NET_ADMIN. What could name a rule or route
 * of somebody else is refused here; what could name a device of somebody else is not acted upon, see src/app/host.ts.
 */
import { z } from 'zod';
import { canonicalAddress, parsePrefix } from '../ip.ts';
import { ROUTE_PROTOCOL, type Scheme, SLOTS, schemeFor } from '../mark/scheme.ts';
import type { AddressAddOp, LinkUpOp, RouteAddOp, RuleAddOp } from './ops.ts';

/** include/uapi/linux/rtnetlink.h RT_TABLE_MAIN */
const TABLE_MAIN = 254;
const SCHEMES: readonly Scheme[] = Array.from({ length: SLOTS }, (_, slot) => schemeFor('', slot));

const u32 = z.number().int().min(0).max(0xffff_ffff);
const family = z.union([z.literal(4), z.literal(6)]);
/** dev_valid_name(), net/core/dev.c */
export const linkName = z.string().regex(/^(?!\.{1,2}$)[\x21-\x2e\x30-\x39\x3b-\x7e]{1,15}$/);
const address = z.string().refine((text) => canonicalAddress(text) !== undefined);
const destination = z.string().refine((text) => text === 'default' || isPrefix(text));
const existed = z.strictObject({ existed: z.boolean() });

function isPrefix(text: string): boolean {
  try {
    parsePrefix(text);
    return true;
  } catch {
    return false;
  }
}

type Shape<O> = { readonly [K in keyof Required<O>]: z.ZodType<O[K]> };

const linkUp = {
  kind: z.literal('link.up'),
  name: linkName,
  mtu: u32,
  txQueueLength: u32,
} satisfies Shape<LinkUpOp>;

const addressAdd = {
  kind: z.literal('address.add'),
  dev: linkName,
  family,
  address,
  prefixLength: z.number().int().min(0).max(128),
} satisfies Shape<AddressAddOp>;

const routeAdd = {
  kind: z.literal('route.add'),
  family,
  destination,
  table: u32.refine((table) => SCHEMES.some((scheme) => table === scheme.table || table === scheme.namesTable)),
  type: z.enum(['unicast', 'throw', 'unreachable']),
  dev: linkName.optional(),
  protocol: z.literal(ROUTE_PROTOCOL),
  congestionControl: z
    .string()
    .regex(/^[a-z0-9_]{1,15}$/)
    .optional(),
  metric: u32.optional(),
} satisfies Shape<RouteAddOp>;

const ruleAdd = {
  kind: z.literal('rule.add'),
  family,
  priority: u32,
  table: u32.optional(),
  goto: u32.optional(),
  protocol: z.literal(ROUTE_PROTOCOL),
  invert: z.boolean().optional(),
  fwmark: u32.optional(),
  fwmask: u32.optional(),
  ipProto: z.enum(['tcp', 'udp']).optional(),
  incomingLink: linkName.optional(),
  destination: destination.optional(),
  dport: z.number().int().min(1).max(65_535).optional(),
  uidRange: z.tuple([u32, u32]).optional(),
  suppressPrefixLength: z.number().int().min(0).max(128).optional(),
} satisfies Shape<RuleAddOp>;

/** Priority, table and target of one slot; `main` only without its default route. */
function isOfScheme(rule: RuleAddOp): boolean {
  const scheme = SCHEMES.find(({ priority }) => Object.values<number>(priority).includes(rule.priority));
  if (scheme === undefined) return false;
  const isOwnTable = rule.table === undefined || rule.table === scheme.table || rule.table === scheme.namesTable;
  const isMain = rule.table === TABLE_MAIN && rule.suppressPrefixLength === 0;
  return (isOwnTable || isMain) && (rule.goto === undefined || rule.goto === scheme.priority.end);
}

/** For each kind, what its op and what was observed before it look like. */
export const netlinkOpSchemas = {
  'link.up': {
    op: z.strictObject(linkUp),
    before: z.strictObject({ index: u32, mtu: u32, txQueueLength: u32, isUp: z.boolean() }).nullable(),
  },
  'address.add': { op: z.strictObject(addressAdd), before: existed },
  'route.add': { op: z.strictObject(routeAdd), before: existed },
  'rule.add': { op: z.strictObject(ruleAdd).refine((rule) => isOfScheme(rule as RuleAddOp)), before: existed },
};
