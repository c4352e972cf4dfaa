/** Links, addresses and routes as rtnetlink messages, to and from (pure); rules are in rule.ts. */
import { addressBytes, type Family, type Prefix, parsePrefix } from '../ip.ts';
import {
  AF,
  type Attribute,
  Attributes,
  concat,
  encodeAttributes,
  familyOfAf,
  malformed,
  StructReader,
  StructWriter,
} from './codec.ts';

/** Message types, include/uapi/linux/rtnetlink.h */
export const RTM = {
  NEWLINK: 16,
  GETLINK: 18,
  NEWADDR: 20,
  DELADDR: 21,
  GETADDR: 22,
  NEWROUTE: 24,
  DELROUTE: 25,
  GETROUTE: 26,
  NEWRULE: 32,
  DELRULE: 33,
  GETRULE: 34,
} as const;

/** include/uapi/linux/if.h */
const IFF = { UP: 0x1, LOOPBACK: 0x8 } as const;
/** include/uapi/linux/if_link.h */
const IFLA = { IFNAME: 3, MTU: 4, TXQLEN: 13, LINKINFO: 18 } as const;
const IFLA_INFO_KIND = 1;

export interface Link {
  /** ifindex: never given twice in a namespace while it lives. */
  readonly index: number;
  readonly name: string;
  /** Bytes. */
  readonly mtu: number;
  /** Packets. */
  readonly txQueueLength: number;
  /** Administratively up (IFF_UP). */
  readonly isUp: boolean;
  readonly isLoopback: boolean;
  /** `tun`, `veth`, `bridge`, ...; undefined for hardware and loopback. */
  readonly kind: string | undefined;
}

/** struct ifinfomsg, then attributes. */
export function decodeLink(payload: Uint8Array): Link {
  const reader = new StructReader(payload, 'a link').skip(4);
  const index = reader.i32();
  const flags = reader.u32();
  const attributes = new Attributes(reader.skip(4).rest());
  return {
    index,
    name: attributes.text(IFLA.IFNAME) ?? '',
    mtu: attributes.u32(IFLA.MTU) ?? 0,
    txQueueLength: attributes.u32(IFLA.TXQLEN) ?? 0,
    isUp: (flags & IFF.UP) !== 0,
    isLoopback: (flags & IFF.LOOPBACK) !== 0,
    kind: attributes.nested(IFLA.LINKINFO)?.text(IFLA_INFO_KIND),
  };
}

function linkHeader(index: number, flags: number, change: number): Uint8Array {
  return new StructWriter().u8(0).u8(0).u16(0).u32(index).u32(flags).u32(change).bytes();
}

/** Payload of RTM_GETLINK: one link, or all of them for a dump. */
export function encodeLinkQuery(name?: string): Uint8Array {
  // The name is NUL-terminated here because kernels before 5.8 compare it as a string.
  const attributes = name === undefined ? [] : [{ type: IFLA.IFNAME, value: `${name}\0` }];
  return concat([linkHeader(0, 0, 0), encodeAttributes(attributes)]);
}

/** What RTM_NEWLINK shall change on an existing link. */
export type LinkChange = Pick<Link, 'index' | 'mtu' | 'txQueueLength' | 'isUp'>;

export function encodeLinkChange(change: LinkChange): Uint8Array {
  return concat([
    linkHeader(change.index, change.isUp ? IFF.UP : 0, IFF.UP),
    encodeAttributes([
      { type: IFLA.MTU, value: change.mtu },
      { type: IFLA.TXQLEN, value: change.txQueueLength },
    ]),
  ]);
}

/** include/uapi/linux/if_addr.h */
const IFA = { ADDRESS: 1, LOCAL: 2, FLAGS: 8 } as const;
export const IFA_F = { NODAD: 0x02, NOPREFIXROUTE: 0x200 } as const;

export interface Address {
  readonly family: Family;
  /** ifindex */
  readonly index: number;
  /** The host's own address (IFA_LOCAL on point-to-point links). */
  readonly address: string;
  readonly prefixLength: number;
  /** The other end of a point-to-point link, when there is one. */
  readonly peer: string | undefined;
  /** IFA_F_* */
  readonly flags: number;
  /** RT_SCOPE_*: 0 universe, 253 link, 254 host */
  readonly scope: number;
}

/** struct ifaddrmsg, then attributes. undefined for families other than IPv4 and IPv6. */
export function decodeAddress(payload: Uint8Array): Address | undefined {
  const reader = new StructReader(payload, 'an address');
  const family = familyOfAf(reader.u8());
  const [prefixLength, shortFlags, scope, index] = [reader.u8(), reader.u8(), reader.u8(), reader.u32()];
  const attributes = new Attributes(reader.rest());
  if (family === undefined) return undefined;
  const near = attributes.address(IFA.LOCAL, family);
  const far = attributes.address(IFA.ADDRESS, family);
  const address = near ?? far;
  if (address === undefined) throw malformed(`an address of link ${index} without IFA_LOCAL and IFA_ADDRESS`);
  const flags = attributes.u32(IFA.FLAGS) ?? shortFlags;
  return { family, index, address, prefixLength, peer: far === address ? undefined : far, flags, scope };
}

/** Payload of RTM_NEWADDR and RTM_DELADDR. */
export function encodeAddress(address: Address): Uint8Array {
  const header = new StructWriter()
    .u8(AF[address.family])
    .u8(address.prefixLength)
    .u8(0) // the flags of IFA_FLAGS count instead
    .u8(address.scope)
    .u32(address.index);
  const attributes: Attribute[] = [
    { type: IFA.LOCAL, value: addressBytes(address.address) },
    { type: IFA.ADDRESS, value: addressBytes(address.peer ?? address.address) },
  ];
  if (address.flags !== 0) attributes.push({ type: IFA.FLAGS, value: address.flags });
  return concat([header.bytes(), encodeAttributes(attributes)]);
}

/** Payload of RTM_GETADDR, a dump of all families. */
export function encodeAddressQuery(): Uint8Array {
  return new StructWriter().zeros(8).bytes();
}

/** RTN_* in order, include/uapi/linux/rtnetlink.h */
const ROUTE_TYPES = [
  'unspec',
  'unicast',
  'local',
  'broadcast',
  'anycast',
  'multicast',
  'blackhole',
  'unreachable',
  'prohibit',
  'throw',
  'nat',
  'xresolve',
] as const;
export type RouteType = (typeof ROUTE_TYPES)[number];

const RTA = {
  DST: 1,
  SRC: 2,
  OIF: 4,
  GATEWAY: 5,
  PRIORITY: 6,
  PREFSRC: 7,
  METRICS: 8,
  MULTIPATH: 9,
  TABLE: 15,
  VIA: 18,
} as const;
const RTAX_CC_ALGO = 16;
const SCOPE = { UNIVERSE: 0, LINK: 253 } as const;
/** What IPv6 uses when no metric is given: IP6_RT_PRIO_USER, include/uapi/linux/ipv6_route.h */
export const DEFAULT_METRIC = { 4: 0, 6: 1024 } as const;
/** RT_TABLE_MAIN */
export const MAIN_TABLE = 254;

export interface Nexthop {
  /** ifindex; 0 when the kernel names none. */
  readonly index: number;
  readonly gateway: string | undefined;
}

export interface Route {
  readonly family: Family;
  readonly table: number;
  /** `default` or a CIDR. */
  readonly destination: string;
  /** CIDR of a source-specific route. */
  readonly source: string | undefined;
  readonly type: RouteType;
  /** rtm_protocol: 2 kernel, 3 boot, 4 static, 9 router advertisement, 16 DHCP, 210 ours */
  readonly protocol: number;
  readonly tos: number;
  /** Lower wins. */
  readonly metric: number;
  /** Several for multipath; IPv6 puts `lo` here for types that lead nowhere. */
  readonly nexthops: readonly Nexthop[];
  readonly preferredSource: string | undefined;
  /** `congctl` of ip-route(8). */
  readonly congestionControl: string | undefined;
}

/** struct rtmsg, then attributes. undefined for families other than IPv4 and IPv6. */
export function decodeRoute(payload: Uint8Array): Route | undefined {
  const reader = new StructReader(payload, 'a route');
  const family = familyOfAf(reader.u8());
  const [dstLength, srcLength, tos, table] = [reader.u8(), reader.u8(), reader.u8(), reader.u8()];
  const protocol = reader.u8();
  const type = ROUTE_TYPES[reader.skip(1).u8()] ?? 'unspec';
  const attributes = new Attributes(reader.skip(4).rest());
  if (family === undefined) return undefined;
  return {
    family,
    table: attributes.u32(RTA.TABLE) ?? table,
    destination: cidr(attributes.address(RTA.DST, family), dstLength) ?? 'default',
    source: cidr(attributes.address(RTA.SRC, family), srcLength),
    type,
    protocol,
    tos,
    metric: attributes.u32(RTA.PRIORITY) ?? 0,
    nexthops: decodeNexthops(attributes, family),
    preferredSource: attributes.address(RTA.PREFSRC, family),
    congestionControl: attributes.nested(RTA.METRICS)?.text(RTAX_CC_ALGO),
  };
}

/** The kernel leaves the address out, or sends zeros, where the length is 0. */
export function cidr(address: string | undefined, length: number): string | undefined {
  return address === undefined || length === 0 ? undefined : `${address}/${length}`;
}

function decodeNexthops(attributes: Attributes, family: Family): Nexthop[] {
  const single = { index: attributes.u32(RTA.OIF) ?? 0, gateway: gatewayOf(attributes, family) };
  const nexthops = single.index === 0 && single.gateway === undefined ? [] : [single];
  // struct rtnexthop: u16 length, u8 flags, u8 hops, i32 ifindex; then attributes, up to the length.
  const list = attributes.bytes(RTA.MULTIPATH) ?? new Uint8Array();
  for (let offset = 0; offset + 8 <= list.length; ) {
    const reader = new StructReader(list.subarray(offset), 'a nexthop');
    const length = reader.u16();
    const index = reader.skip(2).i32();
    if (length < 8 || length > list.length - offset) throw malformed(`a nexthop of ${length} bytes`);
    const own = new Attributes(list.subarray(offset + 8, offset + length));
    nexthops.push({ index, gateway: gatewayOf(own, family) });
    offset += (length + 3) & ~3;
  }
  return nexthops;
}

/** RTA_VIA (u16 family, address) is an IPv6 router of an IPv4 route, RFC 5549. */
function gatewayOf(attributes: Attributes, family: Family): string | undefined {
  const via = attributes.struct(RTA.VIA);
  const viaFamily = via && familyOfAf(via.u16());
  return via && viaFamily ? via.address(viaFamily) : attributes.address(RTA.GATEWAY, family);
}

/** Payload of RTM_NEWROUTE and RTM_DELROUTE: every attribute that is set. One nexthop at most. */
export function encodeRoute(route: Route): Uint8Array {
  const [destination, source] = [prefixOf(route.destination), prefixOf(route.source)];
  const [nexthop] = route.nexthops;
  const isOnLink = route.family === 4 && route.type === 'unicast' && nexthop?.gateway === undefined;
  const header = new StructWriter()
    .u8(AF[route.family])
    .u8(destination?.length ?? 0)
    .u8(source?.length ?? 0)
    .u8(route.tos)
    .u8(route.table < 256 ? route.table : 0)
    .u8(route.protocol)
    .u8(isOnLink ? SCOPE.LINK : SCOPE.UNIVERSE)
    .u8(ROUTE_TYPES.indexOf(route.type))
    .u32(0);
  const attributes: Attribute[] = route.table < 256 ? [] : [{ type: RTA.TABLE, value: route.table }];
  if (destination) attributes.push({ type: RTA.DST, value: addressBytes(destination.address) });
  if (source) attributes.push({ type: RTA.SRC, value: addressBytes(source.address) });
  if (nexthop?.index) attributes.push({ type: RTA.OIF, value: nexthop.index });
  if (nexthop?.gateway !== undefined) attributes.push({ type: RTA.GATEWAY, value: addressBytes(nexthop.gateway) });
  if (route.metric !== 0) attributes.push({ type: RTA.PRIORITY, value: route.metric });
  if (route.preferredSource !== undefined)
    attributes.push({ type: RTA.PREFSRC, value: addressBytes(route.preferredSource) });
  if (route.congestionControl !== undefined)
    attributes.push({ type: RTA.METRICS, value: [{ type: RTAX_CC_ALGO, value: route.congestionControl }] });
  return concat([header.bytes(), encodeAttributes(attributes)]);
}

export function prefixOf(destination: string | undefined): Prefix | undefined {
  return destination === undefined || destination === 'default' ? undefined : parsePrefix(destination);
}

/** Payload of RTM_GETROUTE, a dump; kernels before 4.20 ignore the table and send all. */
export function encodeRouteQuery(family: Family, table?: number): Uint8Array {
  const attributes = table === undefined ? [] : [{ type: RTA.TABLE, value: table }];
  return concat([new StructWriter().u8(AF[family]).zeros(11).bytes(), encodeAttributes(attributes)]);
}
