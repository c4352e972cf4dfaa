/** TCP sockets of the host: what is connected and what listens, by sock_diag(7). */
import type { Connection } from '../firewall/policy.ts';
import type { Family } from '../ip.ts';
import { addressText } from '../ip.ts';
import { AF, familyOfAf, StructReader, StructWriter } from './codec.ts';
import { dump, NETLINK_SOCK_DIAG, type NetlinkRequest } from './socket.ts';

/** SOCK_DIAG_BY_FAMILY, include/uapi/linux/sock_diag.h */
const SOCK_DIAG_BY_FAMILY = 20;
const IPPROTO_TCP = 6;
/** sizeof(struct inet_diag_sockid), include/uapi/linux/inet_diag.h */
const SOCKID_BYTES = 48;

/** include/net/tcp_states.h */
const TCP = {
  ESTABLISHED: 1,
  SYN_SENT: 2,
  SYN_RECV: 3,
  FIN_WAIT1: 4,
  FIN_WAIT2: 5,
  CLOSE_WAIT: 8,
  LAST_ACK: 9,
  LISTEN: 10,
  CLOSING: 11,
} as const;

/** Those that have more to send or to hear; TIME_WAIT has not. */
const LIVE_STATES = [
  TCP.ESTABLISHED,
  TCP.SYN_SENT,
  TCP.SYN_RECV,
  TCP.FIN_WAIT1,
  TCP.FIN_WAIT2,
  TCP.CLOSE_WAIT,
  TCP.LAST_ACK,
  TCP.CLOSING,
] as const;

/** ::ffff:0:0/96, RFC 4291 section 2.5.5.2 */
const V4_MAPPED = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff);

/** A listening TCP socket. `::` hears IPv4 as well, unless the program forbade it. */
export interface Listener {
  readonly address: string;
  readonly port: number;
}

/**
 * TCP connections of both families that are not over yet: established, being opened and half-closed.
 * An IPv6 socket that talks IPv4 (`::ffff:192.0.2.1`) counts as family 4. Loopback is included.
 * @throws NetlinkError ENOENT where the kernel is built without tcp_diag; ProxyVpnError E_NETLINK_ANSWER
 */
export function connections(request: NetlinkRequest): Connection[] {
  return sockets(request, LIVE_STATES).map(({ family, local, remote }) => ({
    family,
    localAddress: local.address,
    localPort: local.port,
    remoteAddress: remote.address,
    remotePort: remote.port,
  }));
}

/** @throws as connections() */
export function listeners(request: NetlinkRequest): Listener[] {
  return sockets(request, [TCP.LISTEN]).map(({ local }) => local);
}

/** Ports with a listener on any address but loopback: those that others can connect to. Ascending, each once. */
export function listeningPorts(request: NetlinkRequest): number[] {
  const reachable = listeners(request).filter(({ address }) => address !== '::1' && !address.startsWith('127.'));
  return [...new Set(reachable.map(({ port }) => port))].sort((a, b) => a - b);
}

interface SocketPair {
  readonly family: Family;
  readonly local: Listener;
  readonly remote: Listener;
}

function sockets(request: NetlinkRequest, states: readonly number[]): SocketPair[] {
  return ([4, 6] as const).flatMap((family) =>
    dump(request, {
      request: `ss --tcp -${family}`,
      protocol: NETLINK_SOCK_DIAG,
      type: SOCK_DIAG_BY_FAMILY,
      payload: encodeQuery(family, states),
    })
      .filter((message) => message.type === SOCK_DIAG_BY_FAMILY)
      .map((message) => decodeSocket(message.payload))
      .filter((socket) => socket !== undefined),
  );
}

/** struct inet_diag_req_v2 */
function encodeQuery(family: Family, states: readonly number[]): Uint8Array {
  const mask = states.reduce((bits, state) => bits | (1 << state), 0);
  return new StructWriter().u8(AF[family]).u8(IPPROTO_TCP).zeros(2).u32(mask).zeros(SOCKID_BYTES).bytes();
}

/** struct inet_diag_msg. undefined for families other than IPv4 and IPv6. */
function decodeSocket(payload: Uint8Array): SocketPair | undefined {
  const reader = new StructReader(payload, 'a socket');
  const family = familyOfAf(reader.u8());
  const [localPort, remotePort] = [reader.skip(3).be16(), reader.be16()];
  const [local, remote] = [reader.take(16), reader.take(16)];
  if (family === undefined) return undefined;
  const isIpv4 = family === 4 || isV4Mapped(local);
  const address = (bytes: Uint8Array): string =>
    addressText(isIpv4 ? (family === 4 ? bytes.subarray(0, 4) : bytes.subarray(12)) : bytes);
  return {
    family: isIpv4 ? 4 : 6,
    local: { address: address(local), port: localPort },
    remote: { address: address(remote), port: remotePort },
  };
}

function isV4Mapped(address: Uint8Array): boolean {
  return V4_MAPPED.every((byte, index) => address[index] === byte);
}
