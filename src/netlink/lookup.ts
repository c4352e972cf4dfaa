/** Asks the kernel which way a packet would take, without sending one: what `ip route get` prints. */
import { addressBytes, familyOf } from '../ip.ts';
import { AF, type Attribute, concat, encodeAttributes, StructWriter } from './codec.ts';
import { decodeRoute, type Route, RTM } from './messages.ts';
import { ask, isNetlinkError, type NetlinkRequest } from './socket.ts';

/** include/uapi/linux/rtnetlink.h */
const RTA = { DST: 1, SRC: 2, OIF: 4, MARK: 16, UID: 25, IP_PROTO: 27, SPORT: 28, DPORT: 29 } as const;
/** The answer names the table in which the route was found. IPv6 does so anyway, and refuses the flag. */
const RTM_F_LOOKUP_TABLE = 0x1000;

/** A packet of this host, as far as routing rules look at it. */
export interface PacketQuery {
  readonly destination: string;
  readonly protocol: 'tcp' | 'udp' | 'icmp';
  readonly destinationPort?: number;
  /** Address that the socket is bound to. */
  readonly source?: string;
  readonly mark?: number;
  /** Of the sender; left out: of this process. */
  readonly uid?: number;
  /** ifindex that the socket is bound to. */
  readonly outgoingIndex?: number;
}

export type PacketWay =
  | { readonly kind: 'route'; readonly route: Route; readonly index: number }
  /** No packet leaves: ENETUNREACH (no route), EHOSTUNREACH (unreachable), EACCES (prohibit), EINVAL (blackhole). */
  | { readonly kind: 'none'; readonly symbol: string };

const NO_WAY = ['ENETUNREACH', 'EHOSTUNREACH', 'EACCES', 'EINVAL', 'ENODEV', 'EAFNOSUPPORT', 'EOPNOTSUPP'];

/**
 * Needs no privilege. What a packet filter does with the packet, it does not tell.
 * @throws NetlinkError, ProxyVpnError E_NETLINK_ANSWER
 */
export function wayOf(request: NetlinkRequest, query: PacketQuery): PacketWay {
  const question = {
    request: `ip route get ${query.destination}`,
    type: RTM.GETROUTE,
    payload: encodePacketQuery(query),
  };
  try {
    const message = ask(request, question).find(({ type }) => type === RTM.NEWROUTE);
    const route = message && decodeRoute(message.payload);
    const index = route?.nexthops[0]?.index;
    if (route === undefined || index === undefined) return { kind: 'none', symbol: 'ENETUNREACH' };
    return { kind: 'route', route, index };
  } catch (error) {
    if (isNetlinkError(error, ...NO_WAY)) return { kind: 'none', symbol: error.symbol };
    throw error;
  }
}

/** struct rtmsg, then attributes; ports are big-endian. */
export function encodePacketQuery(query: PacketQuery): Uint8Array {
  const family = familyOf(query.destination);
  const bits = family === 4 ? 32 : 128;
  const header = new StructWriter()
    .u8(AF[family])
    .u8(bits)
    .u8(query.source === undefined ? 0 : bits)
    .zeros(5)
    .u32(family === 4 ? RTM_F_LOOKUP_TABLE : 0);
  const protocol = { tcp: 6, udp: 17, icmp: family === 4 ? 1 : 58 }[query.protocol];
  const attributes: Attribute[] = [
    { type: RTA.DST, value: addressBytes(query.destination) },
    { type: RTA.IP_PROTO, value: Uint8Array.of(protocol) },
  ];
  const { source, destinationPort, mark, uid, outgoingIndex } = query;
  if (source !== undefined) attributes.push({ type: RTA.SRC, value: addressBytes(source) });
  if (destinationPort !== undefined)
    attributes.push({ type: RTA.DPORT, value: new StructWriter().be16(destinationPort).bytes() });
  if (mark !== undefined) attributes.push({ type: RTA.MARK, value: mark });
  if (uid !== undefined) attributes.push({ type: RTA.UID, value: uid });
  if (outgoingIndex !== undefined) attributes.push({ type: RTA.OIF, value: outgoingIndex });
  return concat([header.bytes(), encodeAttributes(attributes)]);
}
