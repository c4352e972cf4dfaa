/** What the leak test sends: one packet of each kind that might go past a tunnel, each to an address of its own (pure). */
import { type Family, familyOf } from '../../ip.ts';
import type { LeakProbe } from '../../native.ts';
import type { PacketQuery } from '../../netlink/lookup.ts';
import { HEALTH } from '../../tunstack/engine.ts';

/** What proves that the test can tell: it must go through. */
export const CONTROL_ID = 'control';

export interface ProbeSpec {
  /** Stable: `udp4`, `bound-tcp6`. */
  readonly id: string;
  /** For people. */
  readonly what: string;
  readonly packet: LeakProbe;
  /** What the kernel is asked about it beforehand; undefined: it cannot be (IP protocols it takes no question for). */
  readonly query: PacketQuery | undefined;
}

/** What of the host the probes depend on. */
export interface ProbeInputs {
  /** A real destination instead of the documentation addresses of its family. */
  readonly server: string | undefined;
  /** undefined: no way out of this host is known; nothing is bound to it then. */
  readonly uplink: Uplink | undefined;
  /** Of resolv.conf, loopback ones left out. */
  readonly nameServers: readonly string[];
  /** The tunnel's own mark; undefined: none is up, a mark means nothing. */
  readonly fwmark: number | undefined;
}

/** The device by which packets would leave if there were no tunnel. */
export interface Uplink {
  readonly name: string;
  readonly index: number;
  /** Its own addresses, link-local ones left out; undefined: none. */
  readonly address4: string | undefined;
  readonly address6: string | undefined;
}

/** RFC 5737 and RFC 3849: routers pass packets to them nowhere. */
const DOCUMENTATION = { 4: (n: number) => `192.0.2.${n}`, 6: (n: number) => `2001:db8::${n.toString(16)}` } as const;
const FAMILIES: readonly Family[] = [4, 6];
/** RFC 6761 section 6.4: a name that never exists. */
const NAME = 'leaktest.invalid';

/** A question for the address of a name that does not exist, RFC 1035 section 4.1. */
export function dnsQuery(name = NAME): Uint8Array {
  const labels = name.split('.').flatMap((label) => [label.length, ...Buffer.from(label, 'latin1')]);
  return Uint8Array.of(0x50, 0x56, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...labels, 0, 0, 1, 0, 1);
}

/** RFC 1035 section 4.2.2: two bytes of length before each message. */
function dnsOverTcp(): Uint8Array {
  const query = dnsQuery();
  return Uint8Array.of(query.length >> 8, query.length & 0xff, ...query);
}

/** A QUIC Initial of an unknown version, padded as RFC 9000 section 14.1 asks: a server answers, nothing happens. */
function quicInitial(): Uint8Array {
  const packet = new Uint8Array(1200);
  packet.set([0xc0, 0x0a, 0x0a, 0x0a, 0x0a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
  return packet;
}

/** All of them, the control first. */
export function leakProbes(inputs: ProbeInputs): readonly ProbeSpec[] {
  const next = { 4: 10, 6: 0x10 };
  const target = (family: Family): string => {
    const { server } = inputs;
    return server !== undefined && familyOf(server) === family ? server : DOCUMENTATION[family](next[family]++);
  };
  const context = { ...inputs, target };
  return [
    ...controls(),
    ...FAMILIES.flatMap((family) => [...plain(family, context), ...around(family, context)]),
    ...resolvers(inputs.nameServers),
    ...multicast(inputs.uplink),
  ];
}

type Context = ProbeInputs & { readonly target: (family: Family) => string };
type Packet = Omit<LeakProbe, 'address'>;

const TCP: Packet = { kind: 'tcp', port: 443 };
const UDP: Packet = { kind: 'udp', port: 7777, payload: Uint8Array.of(0) };
const DNS_UDP: Packet = { kind: 'udp', port: 53, payload: dnsQuery() };
const DNS_TCP: Packet = { kind: 'tcp', port: 53, payload: dnsOverTcp(), wantsAnswer: true };
const ECHO: Packet = { kind: 'echo', port: 0 };

/** The engine answers here by itself: rule, table, device and engine, and nobody is asked outside. */
function controls(): readonly ProbeSpec[] {
  const packet: Packet = { kind: 'tcp', port: HEALTH.port, wantsAnswer: true };
  return [spec(CONTROL_ID, "TCP to the tunnel's own engine", packet, HEALTH.address4)];
}

function plain(family: Family, { target }: Context): readonly ProbeSpec[] {
  const each: readonly (readonly [string, string, Packet])[] = [
    ['tcp', 'TCP', TCP],
    ['udp', 'UDP', UDP],
    ['quic', 'QUIC', { kind: 'udp', port: 443, payload: quicInitial() }],
    ['dns-udp', 'DNS', DNS_UDP],
    ['dns-tcp', 'DNS over TCP', DNS_TCP],
    ['dot', 'DNS over TLS', { kind: 'tcp', port: 853 }],
    ['icmp', 'ping', ECHO],
    ['raw', 'raw IP (protocol 253)', { kind: 'raw', port: 0, payload: new Uint8Array(8) }],
  ];
  return each.map(([id, what, packet]) => spec(`${id}${family}`, what, packet, target(family)));
}

/** What sockets can choose for themselves, so that no routing rule sees it. */
function around(family: Family, { uplink, fwmark, target }: Context): readonly ProbeSpec[] {
  const ways: (readonly [string, string, Partial<Packet>])[] = [];
  if (uplink !== undefined) {
    ways.push(['bound', `bound to ${uplink.name}`, { device: uplink.name }]);
    const source = family === 4 ? uplink.address4 : uplink.address6;
    if (source !== undefined) ways.push(['source', `from ${source}`, { source }]);
  }
  if (fwmark !== undefined) ways.push(['marked', "with the tunnel's mark", { mark: fwmark }]);
  return ways.flatMap(([id, what, options]) =>
    (
      [
        ['tcp', 'TCP', TCP],
        ['udp', 'UDP', UDP],
        ['dns', 'DNS', DNS_UDP],
        ['icmp', 'ping', ECHO],
      ] as const
    ).map(([kind, name, packet]) =>
      spec(`${id}-${kind}${family}`, `${name} ${what}`, { ...packet, ...options }, target(family), uplink),
    ),
  );
}

function resolvers(nameServers: readonly string[]): readonly ProbeSpec[] {
  return nameServers.flatMap((server, number) => [
    spec(`resolver-udp-${number + 1}`, "DNS, this host's resolver", DNS_UDP, server),
    spec(`resolver-tcp-${number + 1}`, "DNS over TCP, this host's resolver", DNS_TCP, server),
  ]);
}

function multicast(uplink: Uplink | undefined): readonly ProbeSpec[] {
  if (uplink === undefined) return [];
  const groups = [
    ['mdns4', 'mDNS', '224.0.0.251', 5353],
    ['mdns6', 'mDNS', 'ff02::fb', 5353],
    ['llmnr4', 'LLMNR', '224.0.0.252', 5355],
    ['llmnr6', 'LLMNR', 'ff02::1:3', 5355],
  ] as const;
  return groups.map(([id, what, group, port]) => {
    const packet: Packet = { kind: 'udp', port, payload: dnsQuery(), multicastIndex: uplink.index };
    return spec(id, `${what} multicast`, packet, group, uplink);
  });
}

function spec(id: string, what: string, packet: Packet, address: string, uplink?: Uplink): ProbeSpec {
  const isChosen = packet.device !== undefined || packet.multicastIndex !== undefined;
  const query: PacketQuery = {
    destination: address,
    protocol: packet.kind === 'tcp' || packet.kind === 'udp' ? packet.kind : 'icmp',
    ...(packet.port !== 0 && { destinationPort: packet.port }),
    ...(packet.source !== undefined && { source: packet.source }),
    ...(packet.mark !== undefined && { mark: packet.mark }),
    ...(isChosen && uplink !== undefined && { outgoingIndex: uplink.index }),
  };
  return { id, what, packet: { ...packet, address }, query: packet.kind === 'raw' ? undefined : query };
}
