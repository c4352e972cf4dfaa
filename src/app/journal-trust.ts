/**
 * What of a journal is believed (pure).
 *
 * It is a file in a directory of the user's, and undoing it takes CAP_NET_ADMIN, which the user's other programs lack.
 * So an op counts only if the planner could have made it, with an observation that could have been made: a journal gets
 * nobody further than `proxyvpn up` and `proxyvpn down`.
 */
import { z } from 'zod';
import { firewallOpSchemas } from '../firewall/policy-schema.ts';
import { schemeFor } from '../mark/scheme.ts';
import { linkName, netlinkOpSchemas } from '../netlink/op-schema.ts';
import type { AnyOp, Appliers } from '../op.ts';
import type { Op } from './plan.ts';

interface Schema {
  readonly op: z.ZodType;
  readonly before: z.ZodType;
}

const bit = z.enum(['0', '1']);
const rpFilter = z.enum(['0', '1', '2']);

/** The parameters that are set, each with its one value and those it may have had. DEV is a device of ours. */
const SYSCTLS: readonly { readonly key: RegExp; readonly value: string; readonly before: z.ZodType }[] = [
  { key: /^net\.ipv4\.conf\.all\.src_valid_mark$/, value: '1', before: bit },
  { key: /^net\.ipv4\.conf\.(?!(?:all|default|lo)\.)([^.]+)\.rp_filter$/, value: '2', before: rpFilter },
  { key: /^net\.ipv6\.conf\.(?!(?:all|default|lo)\.)([^.]+)\.disable_ipv6$/, value: '0', before: bit },
];

const sysctl = z
  .strictObject({ kind: z.literal('sysctl.set'), key: z.string(), value: z.string(), optional: z.boolean().optional() })
  .refine(({ key, value }) =>
    SYSCTLS.some((known) => {
      const device = known.key.exec(key)?.[1]?.replaceAll('/', '.');
      return known.key.test(key) && known.value === value && (device === undefined || isLinkName(device));
    }),
  );

const isLinkName = (name: string): boolean => linkName.safeParse(name).success;

const SCHEMAS: { readonly [K in Op['kind']]: Schema } = {
  ...netlinkOpSchemas,
  ...firewallOpSchemas,
  'tun.create': {
    op: z.strictObject({ kind: z.literal('tun.create'), name: linkName, queues: z.number().int().min(1).max(16) }),
    before: z.null(),
  },
  'sysctl.set': { op: sysctl, before: rpFilter.nullable() },
};

/**
 * Tells the ops that this version makes, and makes for a tunnel of this name.
 * @param appliers of the kinds that can be undone here
 * @param name undefined: of any tunnel
 */
export function isKnownOp(appliers: Appliers<Op>, name?: string): (op: AnyOp, before?: unknown) => op is Op {
  return (op, before): op is Op => {
    if (!Object.hasOwn(appliers, op.kind) || !Object.hasOwn(SCHEMAS, op.kind)) return false;
    const schema = SCHEMAS[op.kind as Op['kind']];
    if (!schema.op.safeParse(op).success || !schema.before.safeParse(before ?? null).success) return false;
    return isOfTunnel(op as Op, before, name);
  };
}

function isOfTunnel(op: Op, before: unknown, name: string | undefined): boolean {
  if (op.kind === 'firewall.load') return name === undefined || op.policy.table === schemeFor(name, 0).firewallTable;
  if (op.kind !== 'sysctl.set' || before === null || before === undefined) return true;
  return SYSCTLS.some((known) => known.key.test(op.key) && known.before.safeParse(before).success);
}

/**
 * The appliers for a journal of a process that has ended. Its device ended with it, and with the device its addresses
 * and parameters: a device of that name is somebody else's, so nothing of it is touched.
 */
export function appliersAfterDeath(appliers: Appliers<Op>): Appliers<Op> {
  const gone = async () => ({ outcome: 'absent' }) as const;
  const { 'sysctl.set': sysctlSet } = appliers;
  return {
    ...appliers,
    'link.up': { ...appliers['link.up'], undo: gone },
    'address.add': { ...appliers['address.add'], undo: gone },
    'sysctl.set': {
      ...sysctlSet,
      undo: async (op, before) => (op.key.startsWith('net.ipv4.conf.all.') ? sysctlSet.undo(op, before) : gone()),
    },
  };
}
