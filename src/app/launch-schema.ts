/**
 * What the daemon accepts as its launch (pure).
 *
 * Any user who may run the launcher may start the daemon himself and write its launch. So it may ask for nothing that
 * the command line would refuse: the native engine relies on these bounds.
 */
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { nameFromText } from '../dns/name.ts';
import { dohUrl, virtualPrefixes } from '../dns/options.ts';
import { canonicalAddress, parsePrefix, prefixText } from '../ip.ts';
import { Credentials } from '../proxy/credentials.ts';
import { parseUpstream, upstreamEndpoint } from '../proxy/upstream-url.ts';
import { parseTunnelName } from '../state/directory.ts';
import type { Launch } from './launch.ts';
import { interfaceName } from './option-values.ts';

/** Whether `parse`, which reads what a user types, takes it as it is. */
function isTaken<T>(value: T, parse: (value: T) => unknown): boolean {
  try {
    return isDeepStrictEqual(parse(value), value);
  } catch {
    return false;
  }
}

const textFor = (parse: (text: string) => unknown) => z.string().refine((text) => isTaken(text, parse));
const integer = (least: number, most: number) => z.number().int().min(least).max(most);
const integerOrZero = (least: number, most: number) => z.union([z.literal(0), integer(least, most)]);
const flag = z.boolean();
/** Of the credentials; longer than a proxy URL they cannot be, and control characters would leave their header. */
const word = z
  .string()
  .max(4096)
  .refine((text) => [...text].every((character) => character >= ' ' && character !== '\x7f'));
const address = textFor(canonicalAddress);
const port = integer(1, 65_535);
const family = z.union([z.literal(4), z.literal(6)]);
const prefix = z
  .strictObject({ family, address: z.string(), length: integer(1, 128) })
  .refine((value) => isTaken(value, (network) => parsePrefix(prefixText(network))));
const upstream = z
  .strictObject({ host: z.string(), kind: z.enum(['address', 'name']), port })
  .refine((value) => isTaken({ ...value, credentials: undefined }, (url) => parseUpstream(upstreamEndpoint(url))));
/** 0xffffffff means no user to the kernel. */
const uid = integer(0, 0xffff_fffe);
const MIB = 1024 * 1024;

/** JSON leaves out what is undefined; Config has the key all the same. */
const optional = <T extends z.ZodType>(schema: T) => schema.optional().transform((value) => value);

const dnsName = z
  .strictObject({ key: z.string(), hostname: optional(z.string()) })
  .refine((value) => isTaken(value, ({ hostname = '' }) => nameFromText(hostname)));
const dohServer = z
  .strictObject({ host: z.string(), port, authority: z.string(), path: z.string() })
  .refine((value) => isTaken(value, ({ authority, path }) => dohUrl(`https://${authority}${path}`)));
const ranges = z
  .strictObject({ v4: prefix, v6: prefix })
  .refine((value) => isTaken(value, ({ v4, v6 }) => virtualPrefixes(`${prefixText(v4)},${prefixText(v6)}`, undefined)));
const dns = z.strictObject({
  mode: z.enum(['virtual', 'over-tcp', 'doh', 'direct']),
  relay: optional(
    z.discriminatedUnion('over', [
      z.strictObject({ over: z.literal('tcp'), servers: z.array(z.strictObject({ address, port })).min(1) }),
      z.strictObject({ over: z.literal('https'), url: dohServer }),
    ]),
  ),
  relaysOtherTypes: flag,
  bypass: z.strictObject({ names: z.array(dnsName), withDefaults: flag }),
  ranges,
});

/** The bounds of src/app/cli.ts, in the units of Config. */
const config = z.strictObject({
  name: textFor(parseTunnelName),
  killswitch: flag,
  dns,
  sniff: flag,
  allowDns: optional(z.array(address)),
  bypass: z.array(prefix),
  lan: z.enum(['allow', 'block']),
  earlyAccept: flag,
  connectTimeoutMs: integer(100, 600_000),
  idleTimeoutMs: integerOrZero(1000, 31_536_000_000),
  keepaliveMs: integerOrZero(1000, 32_767_000),
  memoryBytes: integer(8 * MIB, 1_048_576 * MIB),
  maxFlows: integer(1, 1_000_000),
  queues: integer(1, 16),
  predial: integer(0, 64),
  mtu: integer(1280, 65_535),
  tun: optional(textFor(interfaceName)),
  fwmark: optional(integer(1, 0xffff_ffff)),
  foreground: flag,
  dryRun: flag,
  json: flag,
  verbose: flag,
  routes: flag,
  ipv6: flag,
  upstream,
  bypassUsers: z.array(uid),
  allowInbound: z.strictObject({ ports: z.union([z.literal('all'), z.array(port)]), sshPeer: flag }),
});

const launchSchema = z.strictObject({
  config,
  secret: optional(z.strictObject({ user: word, password: word })),
  claimedSession: optional(
    z.strictObject({ family, localAddress: address, localPort: port, remoteAddress: address, remotePort: port }),
  ),
});

/**
 * The inverse of `encodeLaunch`.
 * @throws Error for what that cannot have written: it need not come from there
 */
export function decodeLaunch(text: string): Launch {
  const read = launchSchema.safeParse(JSON.parse(text));
  // Names what is wrong, but no value.
  if (!read.success) throw new Error(`not a launch: ${z.prettifyError(read.error)}`);
  const { config, secret, claimedSession } = read.data;
  const credentials = secret && new Credentials(secret.user, secret.password);
  return { config: { ...config, upstream: { ...config.upstream, credentials } }, claimedSession };
}
