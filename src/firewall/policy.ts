/** What the packet filter shall permit: the value that every backend turns into its own rules (pure). */
import type { Family } from '../ip.ts';

export interface Connection {
  readonly family: Family;
  readonly localAddress: string;
  readonly localPort: number;
  readonly remoteAddress: string;
  readonly remotePort: number;
}

export interface NamesPolicy {
  /** CIDRs whose addresses stand for names: all that is sent to them goes into the tunnel, and much is refused there. */
  readonly ranges: readonly string[];
  /** Resolvers that proxyvpn itself asks for local names, with its mark. Empty with the killswitch. */
  readonly localResolvers: readonly string[];
  /** See src/mark/scheme.ts. */
  readonly rerouteMark: number;
}

export interface FirewallPolicy {
  /** nftables table name (family inet); prefix of iptables chains. */
  readonly table: string;
  /** Off: only marks (inbound replies, exempted connections) are handled. On: everything else is dropped. */
  readonly killswitch: boolean;
  readonly tun: { readonly name: string; readonly address4: string; readonly address6: string };
  /** The engine's sockets carry it; packets that must be routed by main get it. Full mask. */
  readonly fwmark: number;
  /** Connection mark of inbound and bypassing connections. */
  readonly exemptConnectionMark: number;
  /** The uid whose marked sockets may reach the proxy. */
  readonly uid: number;
  readonly proxies: readonly { readonly address: string; readonly port: number }[];
  /** Resolvers that may be asked directly, udp and tcp port 53. */
  readonly allowDns: readonly string[];
  readonly allowLan: boolean;
  /** CIDRs that go around the tunnel, any protocol. */
  readonly bypass: readonly string[];
  /** uids that go around the tunnel. */
  readonly bypassUsers: readonly number[];
  /** DNS is answered by the tunnel, so port 53 leads nowhere else. Left out with `--dns direct`. */
  readonly names?: NamesPolicy;
  /** Killswitch only: connections from outside that may be answered. */
  readonly inbound: {
    readonly ports: readonly number[] | 'all';
    /** A peer (the SSH client that typed `up`) that may reach one local TCP port. */
    readonly peers: readonly { readonly address: string; readonly localPort: number }[];
  };
  /** TCP connections older than the tunnel that go on outside it. */
  readonly existing: readonly Connection[];
}
