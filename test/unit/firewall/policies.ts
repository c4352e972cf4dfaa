/** Policies that the tests of the packet filter share. */
import type { FirewallPolicy } from '../../../src/firewall/policy.ts';

/** No killswitch, no exception. */
export const MARKS_ONLY: FirewallPolicy = {
  table: 'proxyvpn',
  killswitch: false,
  tun: { name: 'pvpn0', address4: '198.18.0.1', address6: 'fd70:7670:6e00::1' },
  fwmark: 0x50560000,
  exemptConnectionMark: 0x50560100,
  uid: 1000,
  proxies: [
    { address: '192.0.2.1', port: 3128 },
    { address: '2001:db8::1', port: 3128 },
  ],
  allowDns: [],
  allowLan: false,
  bypass: [],
  bypassUsers: [],
  inbound: { ports: [], peers: [] },
  existing: [],
};

export const STRICT: FirewallPolicy = { ...MARKS_ONLY, killswitch: true };

/** Every exception there is, for both families alike. */
export const WIDE: FirewallPolicy = {
  ...STRICT,
  table: 'proxyvpn-work',
  // More than are compared one by one.
  proxies: Array.from({ length: 9 }, (_, i) => [
    { address: `192.0.2.${i + 1}`, port: 3128 + i },
    { address: `2001:db8::${i + 1}`, port: 3128 + i },
  ]).flat(),
  allowDns: ['192.0.2.53', '2001:db8::53'],
  allowLan: true,
  bypass: ['198.51.100.0/24', '198.51.100.128/25', '2001:db8:1::/48', '2001:db8:1:2::/64'],
  bypassUsers: [1001, 1002],
  inbound: {
    ports: [22, 443],
    peers: [
      { address: '203.0.113.5', localPort: 2222 },
      { address: '2001:db8:5::5', localPort: 2222 },
    ],
  },
  existing: [
    { family: 4, localAddress: '192.0.2.10', localPort: 22, remoteAddress: '203.0.113.5', remotePort: 50000 },
    { family: 6, localAddress: '2001:db8::10', localPort: 22, remoteAddress: '2001:db8:5::5', remotePort: 50000 },
  ],
};

const NAMES = { ranges: ['198.18.0.0/15', 'fd70:7670:6e00:1::/64'], localResolvers: [], rerouteMark: 0x50560200 };

/** The tunnel answers DNS, and nobody else is asked. */
export const NAMED_STRICT: FirewallPolicy = { ...STRICT, names: NAMES };

/** The same without the killswitch; local names, and users that go around. */
export const NAMED: FirewallPolicy = {
  ...MARKS_ONLY,
  bypassUsers: [1001],
  names: { ...NAMES, localResolvers: ['192.0.2.53', '2001:db8::53'] },
};

export const ALL_INBOUND: FirewallPolicy = { ...STRICT, inbound: { ports: 'all', peers: [] } };
