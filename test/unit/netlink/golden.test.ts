import { describe, expect, it } from 'vitest';
import { Attributes, decodeMessages, encodeMessage } from '../../../src/netlink/codec.ts';
import { type NetlinkOp, netlinkAppliers, type RouteAddOp, type RuleAddOp } from '../../../src/netlink/ops.ts';
import type { NetlinkRequest } from '../../../src/netlink/socket.ts';
import type { Applier } from '../../../src/op.ts';
import { answer, answering, bytesOf, captured } from './captured.ts';

const route = { kind: 'route.add', table: 52100, protocol: 210 } as const;
const into = { ...route, destination: 'default', type: 'unicast', dev: 'pvpn0', congestionControl: 'reno' } as const;
const rule = { kind: 'rule.add', protocol: 210, ipProto: 'tcp' } as const;
const divert = { ...rule, priority: 5206, invert: true, fwmark: 0x50560000, table: 52100 } as const;

/** Every op beside the line that describes it; `ip` was run with that line, and what it sent was captured. */
const OPS: Readonly<Record<string, NetlinkOp>> = {
  'ip link set dev pvpn0 mtu 1500 txqueuelen 4096 up': {
    kind: 'link.up',
    name: 'pvpn0',
    mtu: 1500,
    txQueueLength: 4096,
  },
  'ip address add 198.18.0.1/32 dev pvpn0 noprefixroute': {
    kind: 'address.add',
    dev: 'pvpn0',
    family: 4,
    address: '198.18.0.1',
    prefixLength: 32,
  },
  'ip -6 address add fd70:7670:6e00::1/128 dev pvpn0 nodad noprefixroute': {
    kind: 'address.add',
    dev: 'pvpn0',
    family: 6,
    address: 'fd70:7670:6e00:0::1',
    prefixLength: 128,
  },
  'ip route add default dev pvpn0 table 52100 proto 210 congctl reno': { ...into, family: 4 },
  'ip -6 route add default dev pvpn0 table 52100 proto 210 congctl reno': { ...into, family: 6 },
  'ip route add throw 10.0.0.0/8 table 52100 proto 210': {
    ...route,
    family: 4,
    destination: '10.0.0.0/8',
    type: 'throw',
  },
  'ip -6 route add throw fd00::/8 table 52100 proto 210': {
    ...route,
    family: 6,
    destination: 'fd00::/8',
    type: 'throw',
  },
  'ip route add unreachable default table 52100 proto 210 metric 9': {
    ...route,
    family: 4,
    destination: '0.0.0.0/0',
    type: 'unreachable',
    metric: 9,
  },
  'ip -6 route add unreachable default table 52100 proto 210 metric 9': {
    ...route,
    family: 6,
    destination: 'default',
    type: 'unreachable',
    metric: 9,
  },
  'ip route add 203.0.113.0/24 dev pvpn0 table main proto 210 metric 7': {
    ...route,
    family: 4,
    destination: '203.0.113.0/24',
    type: 'unicast',
    dev: 'pvpn0',
    table: 254,
    metric: 7,
  },
  'ip rule add priority 5206 not fwmark 0x50560000/0xffffffff ipproto tcp lookup 52100 protocol 210': {
    ...divert,
    family: 4,
  },
  'ip -6 rule add priority 5206 not fwmark 0x50560000/0xffffffff ipproto tcp lookup 52100 protocol 210': {
    ...divert,
    family: 6,
  },
  'ip rule add priority 5207 fwmark 0x520000/0xff0000 lookup main protocol 210': {
    kind: 'rule.add',
    family: 4,
    protocol: 210,
    priority: 5207,
    fwmark: 0x520000,
    fwmask: 0xff0000,
    table: 254,
  },
  'ip rule add priority 5201 to 10.0.0.53/32 ipproto tcp dport 53 lookup main protocol 210': {
    ...rule,
    family: 4,
    priority: 5201,
    destination: '10.0.0.53',
    dport: 53,
    table: 254,
  },
  'ip -6 rule add priority 5201 to fd00::53/128 ipproto udp dport 53 lookup main protocol 210': {
    ...rule,
    family: 6,
    priority: 5201,
    ipProto: 'udp',
    destination: 'fd00::53/128',
    dport: 53,
    table: 254,
  },
  'ip rule add priority 5202 uidrange 1000-1000 ipproto tcp lookup main protocol 210': {
    ...rule,
    family: 4,
    priority: 5202,
    uidRange: [1000, 1000],
    table: 254,
  },
  'ip -6 rule add priority 5202 uidrange 1000-1999 ipproto tcp lookup main protocol 210': {
    ...rule,
    family: 6,
    priority: 5202,
    uidRange: [1000, 1999],
    table: 254,
  },
  'ip rule add priority 5204 ipproto tcp lookup main suppress_prefixlength 0 protocol 210': {
    ...rule,
    family: 4,
    priority: 5204,
    suppressPrefixLength: 0,
    table: 254,
  },
  'ip -6 rule add priority 5204 lookup main suppress_prefixlength 0 protocol 210': {
    kind: 'rule.add',
    family: 6,
    protocol: 210,
    priority: 5204,
    suppressPrefixLength: 0,
    table: 254,
  },
};

const RTM_GETLINK = 18;
const IS_DUMP = 0x300;
/** Bytes before the attributes, by message type: ifinfomsg, ifaddrmsg, rtmsg, fib_rule_hdr. */
const HEADER_BYTES = new Map([
  [16, 16],
  [20, 8],
  [24, 12],
  [32, 12],
]);

/** A host with nothing but `pvpn0` of ifindex 2; what changes it is put down. */
function emptyHost(): { readonly request: NetlinkRequest; readonly sent: Uint8Array[] } {
  const sent: Uint8Array[] = [];
  const request: NetlinkRequest = (_protocol, message) => {
    const [asked] = decodeMessages(message);
    if (asked?.type === RTM_GETLINK) return Buffer.from(answering(answer('link pvpn0'), message));
    const isDump = ((asked?.flags ?? 0) & IS_DUMP) === IS_DUMP;
    if (!isDump) sent.push(message);
    return Buffer.from(answering(encodeMessage(isDump ? 3 : 2, 0, 1, new Uint8Array(20)), message));
  };
  return { request, sent };
}

function applierOf(op: NetlinkOp, request: NetlinkRequest): Applier<NetlinkOp, never> {
  return netlinkAppliers(request)[op.kind] as Applier<NetlinkOp, never>;
}

/** Type, flags, fixed header and attributes in any order: `ip` writes them as they come on its command line. */
function content(message: Uint8Array): unknown {
  const [decoded] = decodeMessages(message);
  if (!decoded) throw new Error('no message');
  const { type, flags, payload } = decoded;
  const size = HEADER_BYTES.get(type) ?? 0;
  const attributes = new Attributes(payload.subarray(size));
  const hex = (data: Uint8Array | undefined): string => Buffer.from(data ?? []).toString('hex');
  const listed = attributes.types().map((number) => `${number}=${hex(attributes.bytes(number))}`);
  return { type, flags, header: hex(payload.subarray(0, size)), attributes: listed.filter(matters).sort() };
}

/** `ip -6` writes the address of `default` out, and leaves the default metric of 1024 to the kernel. */
function matters(attribute: string): boolean {
  return attribute !== `1=${'00'.repeat(16)}` && attribute !== '6=00040000';
}

describe.each(Object.entries(OPS))('%s', (line, op) => {
  it('is how the op is described', () => {
    expect(applierOf(op, emptyHost().request).describe(op)).toBe(line);
  });

  it('sends what ip sends', async () => {
    const { request, sent } = emptyHost();
    await applierOf(op, request).apply(op, { existed: false } as never);
    const theirs = captured.iproute2.find((one) => one.line === line)?.hex ?? '';
    expect(sent.map(content)).toEqual([content(bytesOf(theirs))]);
  });

  it('stays the same through the journal', () => {
    const copy = JSON.parse(JSON.stringify(op)) as NetlinkOp;
    expect(applierOf(copy, emptyHost().request).describe(copy)).toBe(line);
  });
});

it('every captured line of ip has its op', () => {
  expect(Object.keys(OPS).sort()).toEqual(captured.iproute2.map((one) => one.line).sort());
});

it.each<RouteAddOp | RuleAddOp>([
  { ...route, family: 4, destination: '10.0.0.1/8', type: 'throw' },
  { ...divert, family: 4, destination: 'nonsense' },
])('a destination that is no network is refused before the kernel is asked', async (op) => {
  const { request, sent } = emptyHost();
  await expect(applierOf(op, request).apply(op, { existed: false } as never)).rejects.toMatchObject({
    code: 'E_PREFIX',
  });
  expect(sent).toEqual([]);
});
