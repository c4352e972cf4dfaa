/** A policy that leads to every kind of rule: whoever can load it can load any (pure). */
import type { FirewallPolicy } from './policy.ts';

/** Addresses of RFC 5737 and RFC 3849; it is checked by the kernel and never loaded. */
export const EVERY_RULE: FirewallPolicy = {
  table: 'proxyvpn-probe',
  killswitch: true,
  tun: { name: 'pvpn-probe', address4: '198.18.0.1', address6: 'fd70:7670:6e00::1' },
  fwmark: 1,
  exemptConnectionMark: 2,
  uid: 0,
  proxies: [
    { address: '192.0.2.1', port: 3128 },
    { address: '2001:db8::1', port: 3128 },
  ],
  allowDns: ['192.0.2.1', '2001:db8::1'],
  allowLan: true,
  bypass: ['192.0.2.0/24', '2001:db8::/64'],
  bypassUsers: [0],
  names: {
    ranges: ['198.18.0.0/15', 'fd70:7670:6e00:1::/64'],
    localResolvers: ['192.0.2.1', '2001:db8::1'],
    rerouteMark: 3,
  },
  inbound: {
    ports: [22],
    peers: [
      { address: '192.0.2.1', localPort: 22 },
      { address: '2001:db8::1', localPort: 22 },
    ],
  },
  existing: [
    { family: 4, localAddress: '192.0.2.1', localPort: 1, remoteAddress: '192.0.2.2', remotePort: 2 },
    { family: 6, localAddress: '2001:db8::1', localPort: 1, remoteAddress: '2001:db8::2', remotePort: 2 },
  ],
};
