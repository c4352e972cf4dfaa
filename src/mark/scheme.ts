/**
 * The numbers proxyvpn claims on a host: fwmark, connection mark, routing table, rule priorities,
 * route protocol. All in one place so that removal can name them exactly.
 *
 * Several tunnels (`--name`) live side by side; each takes a slot.
 */

export const SLOTS = 16;

/** rtm_protocol of every route and FRA_PROTOCOL of every rule that is ours (include/uapi/linux/rtnetlink.h: >= 128 is free for use). */
export const ROUTE_PROTOCOL = 210;

/** Marks are compared with the full mask: another tool's bits are never mistaken for ours. */
export const FULL_MASK = 0xffffffff;

export interface Scheme {
  readonly slot: number;
  /** Of the engine's own sockets and of everything that must not be sent into the TUN. */
  readonly fwmark: number;
  /** Connection mark of connections that came in from outside or leave around the tunnel. */
  readonly exemptConnectionMark: number;
  /** Routing table that holds the default route into the TUN. */
  readonly table: number;
  /** The same without exceptions (`--bypass`), for DNS and for the addresses that stand for names. */
  readonly namesTable: number;
  /** Of DNS datagrams that were routed around the TUN by their socket's choice: changing the mark routes them again. */
  readonly rerouteMark: number;
  readonly priority: {
    /** `fwmark M goto END`: our own sockets pass over all of this */
    readonly own: number;
    /** `--dns direct`: `to DNS ipproto tcp dport 53 goto END` */
    readonly dns: number;
    /** Other modes: `to RANGE lookup NAMES_TABLE`, the addresses that stand for names, for bypassed users as well */
    readonly virtual: number;
    /** `uidrange U-U ipproto tcp goto END` */
    readonly bypassUser: number;
    /** `ipproto udp dport 53 lookup NAMES_TABLE`: DNS to whatever resolver, of the LAN as well */
    readonly caughtDns: number;
    /** `lookup main suppress_prefixlength 0`, only where the LAN is allowed */
    readonly lan: number;
    /** `not iif lo lookup main suppress_prefixlength 0`: what is forwarded to a network of this host */
    readonly forwarded: number;
    /** `ipproto tcp lookup TABLE`: the rule that diverts */
    readonly divert: number;
    /** `nop`: where the exceptions go on, so that rules of others behind ours still count for them */
    readonly end: number;
  };
  readonly tun: string;
  /** RFC 2544 benchmark range: nobody's LAN. The source of every tunnelled connection. */
  readonly tunAddress4: string;
  /** A ULA: RFC 6724 then prefers IPv4 for dual-stack names, as on a host without IPv6. */
  readonly tunAddress6: string;
  /** nftables table of family inet. */
  readonly firewallTable: string;
}

/** @param slot 0 to 15; 0 belongs to the tunnel named `default` */
export function schemeFor(name: string, slot: number): Scheme {
  if (!Number.isInteger(slot) || slot < 0 || slot >= SLOTS) throw new RangeError(`slot ${slot}`);
  const base = 5200 + slot * 10;
  return {
    slot,
    fwmark: 0x50560000 + slot, // "PV"
    exemptConnectionMark: 0x50560100 + slot,
    table: 52100 + slot,
    namesTable: 52120 + slot,
    rerouteMark: 0x50560200 + slot,
    priority: {
      own: base,
      dns: base + 1,
      virtual: base + 1,
      bypassUser: base + 2,
      caughtDns: base + 3,
      lan: base + 4,
      forwarded: base + 5,
      divert: base + 6,
      end: base + 8,
    },
    tun: `pvpn${slot}`,
    tunAddress4: `198.18.0.${slot + 1}`,
    tunAddress6: `fd70:7670:6e00::${(slot + 1).toString(16)}`,
    firewallTable: name === 'default' ? 'proxyvpn' : `proxyvpn-${name}`,
  };
}
