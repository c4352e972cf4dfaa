/**
 * Which packet filter a journal may hold (pure). It is read again to be removed, and to be loaded in place of a tunnel's
 * when a killswitch stands; both with CAP_NET_ADMIN, from a file of the user's.
 */
import { z } from 'zod';
import { canonicalAddress, parsePrefix, prefixText } from '../ip.ts';
import { BACKENDS } from './backend.ts';
import type { FirewallBefore, FirewallLoadOp } from './ops.ts';
import type { Connection, FirewallPolicy, NamesPolicy } from './policy.ts';

const u32 = z.number().int().min(0).max(0xffff_ffff);
const port = z.number().int().min(1).max(65_535);
const address = z.string().refine((text) => canonicalAddress(text) === text);
const network = z.string().refine(isNetwork);

function isNetwork(text: string): boolean {
  try {
    return prefixText(parsePrefix(text)) === text;
  } catch {
    return false;
  }
}

type Shape<T> = { readonly [K in keyof Required<T>]: z.ZodType };

const connection = {
  family: z.union([z.literal(4), z.literal(6)]),
  localAddress: address,
  localPort: port,
  remoteAddress: address,
  remotePort: port,
} satisfies Shape<Connection>;

const names = {
  ranges: z.array(network),
  localResolvers: z.array(address),
  rerouteMark: u32,
} satisfies Shape<NamesPolicy>;

/** A field that the policy gets and this lacks does not compile. */
const policy = {
  table: z.string().regex(/^proxyvpn(-[A-Za-z0-9_-]{1,32})?$/),
  killswitch: z.boolean(),
  tun: z.strictObject({ name: z.string().regex(/^[\x21-\x7e]{1,15}$/), address4: address, address6: address }),
  fwmark: u32,
  exemptConnectionMark: u32,
  uid: u32,
  proxies: z.array(z.strictObject({ address, port })),
  allowDns: z.array(address),
  allowLan: z.boolean(),
  bypass: z.array(network),
  bypassUsers: z.array(u32),
  names: z.strictObject(names).optional(),
  inbound: z.strictObject({
    ports: z.union([z.literal('all'), z.array(port)]),
    peers: z.array(z.strictObject({ address, localPort: port })),
  }),
  existing: z.array(z.strictObject(connection)),
} satisfies Shape<FirewallPolicy>;

const load = {
  kind: z.literal('firewall.load'),
  policy: z.strictObject(policy),
  standing: z.boolean().optional(),
} satisfies Shape<FirewallLoadOp>;

const before = {
  backend: z.enum(BACKENDS),
  leftBy: z.array(z.enum(BACKENDS)),
} satisfies Shape<FirewallBefore>;

/** As src/netlink/op-schema.ts. */
export const firewallOpSchemas = {
  'firewall.load': { op: z.strictObject(load), before: z.strictObject(before) },
};
