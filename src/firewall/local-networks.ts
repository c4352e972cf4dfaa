/** Which destinations "the LAN" means to the packet filter (pure). */

/** Private and link-local unicast, multicast that routers keep local, limited broadcast. Never a public address. */
export const LAN_NETWORKS: { readonly [family in 4 | 6]: readonly string[] } = {
  4: [
    '10.0.0.0/8', // RFC 1918, as the next two
    '172.16.0.0/12',
    '192.168.0.0/16',
    '169.254.0.0/16', // RFC 3927
    '224.0.0.0/24', // RFC 5771 §4: never forwarded (mDNS, LLMNR, IGMP)
    '239.255.0.0/16', // RFC 2365 §6.1: local scope (SSDP)
    '255.255.255.255/32',
  ],
  6: [
    'fc00::/7', // RFC 4193
    'fe80::/10', // RFC 4291 §2.5.6
    'ff02::/16', // RFC 4291 §2.7: link-local scope
    'ff05::/16', // site-local scope (SSDP)
  ],
};
