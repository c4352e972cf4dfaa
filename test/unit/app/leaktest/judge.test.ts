import { describe, expect, it } from 'vitest';
import { type Evidence, judge, type TunnelFacts, type Way } from '../../../../src/app/leaktest/judge.ts';
import { leakProbes, type ProbeSpec } from '../../../../src/app/leaktest/probes.ts';
import type { LeakProbeResult } from '../../../../src/native.ts';

const UPLINK = { name: 'eth0', index: 2, address4: '10.0.0.5', address6: 'fd00::5' };
const ALL = leakProbes({ server: undefined, uplink: UPLINK, nameServers: ['10.0.0.53'], fwmark: 0x50560000 });

function probe(id: string): ProbeSpec {
  const found = ALL.find((one) => one.id === id);
  if (found === undefined) throw new Error(`no probe ${id}`);
  return found;
}

const SENT: LeakProbeResult = {
  step: 'answer',
  code: 'ETIMEDOUT',
  isConnected: false,
  localAddress: '10.0.0.5',
  icmpType: -1,
  icmpCode: -1,
  icmpFrom: '',
  answer: Buffer.alloc(0),
  seenOn: [],
};
const UP: TunnelFacts = {
  tun: 'pvpn0',
  policy: { allowDns: ['10.0.0.53'], allowLan: false, bypass: [], bypassUsers: [] },
  uid: 1000,
  areResetsOurs: undefined,
  ownAddresses: ['127.0.0.1', '10.0.0.5', 'fd00::5', '198.18.0.1'],
};
const around: Way = { device: 'eth0' };
const into: Way = { device: 'pvpn0' };

const verdict = (
  id: string,
  result: Partial<LeakProbeResult>,
  evidence: Partial<Evidence> = {},
  facts: Partial<TunnelFacts> = {},
) =>
  judge(
    probe(id),
    { way: around, seenOn: undefined, ...evidence, result: { ...SENT, ...result } },
    { ...UP, ...facts },
  );

describe('what was seen decides', () => {
  it('a packet that left by another device than the tunnel leaks, however its sender was answered', () => {
    for (const code of ['ECONNREFUSED', 'EPERM', 'ETIMEDOUT'])
      expect(verdict('tcp4', { code }, { way: into, seenOn: ['pvpn0', 'eth0'] }).verdict).toBe('leaks');
  });

  it('one that left by the tunnel went through it', () => {
    expect(verdict('tcp4', { code: 'ECONNREFUSED' }, { seenOn: ['pvpn0'] })).toEqual({
      verdict: 'tunnel',
      by: null,
      why: 'refused by proxy or destination (ECONNREFUSED)',
    });
  });

  it('a reset of a packet that nobody saw is of the filter', () => {
    expect(verdict('bound-tcp4', { code: 'ECONNREFUSED' }, { seenOn: [] })).toMatchObject({
      verdict: 'stopped',
      by: 'filter',
    });
  });

  it('a packet that was sent without an error and seen nowhere is unknown', () => {
    expect(verdict('udp4', {}, { seenOn: [] }).verdict).toBe('unknown');
  });
});

describe('nobody watched', () => {
  it('EPERM is the filter', () => {
    expect(verdict('udp4', { step: 'send', code: 'EPERM' })).toMatchObject({ verdict: 'stopped', by: 'filter' });
  });

  it('"administratively prohibited" of this host is the filter; of another, it has left', () => {
    const prohibited = { code: 'EHOSTUNREACH', icmpType: 3, icmpCode: 13 };
    expect(verdict('udp4', { ...prohibited, icmpFrom: '10.0.0.5' })).toMatchObject({ by: 'filter' });
    expect(verdict('udp4', { ...prohibited, icmpFrom: '10.0.0.1' }).verdict).toBe('leaks');
  });

  it.each([
    ['ENETUNREACH', 'no route'],
    ['EHOSTUNREACH', 'route'],
    ['EACCES', 'route'],
    ['EINVAL', 'route'],
  ])('%s at connect() is %s; the same from somebody outside has left', (code, by) => {
    expect(verdict('tcp6', { step: 'connect', code }, { way: { symbol: code } })).toMatchObject({
      verdict: 'stopped',
      by,
    });
    expect(verdict('tcp6', { step: 'answer', code }).verdict).toBe('leaks');
  });

  it('the route tells for what was sent without an error', () => {
    expect(verdict('udp4', {}).verdict).toBe('leaks');
    expect(verdict('tcp4', {}, { way: into })).toMatchObject({ verdict: 'tunnel', why: 'no answer yet' });
    expect(verdict('raw4', {}, { way: undefined }).verdict).toBe('unknown');
    expect(verdict('udp4', {}, { way: { device: 'lo' } }).verdict).toBe('stopped');
  });

  it('an answer by another way than the tunnel is a leak', () => {
    expect(verdict('dns-udp4', { step: '', code: '', answer: Buffer.from('x') }).verdict).toBe('leaks');
    expect(verdict('tcp4', { step: '', code: '', isConnected: true }).verdict).toBe('leaks');
  });

  it('DNS that the tunnel answers went through it', () => {
    const result = { step: '', code: '', answer: Buffer.from('x') } as const;
    expect(verdict('dns-udp4', result, { way: into })).toMatchObject({
      verdict: 'tunnel',
      why: 'answered by the tunnel',
    });
  });

  it('a reset is whose the counters or the killswitch say, and else unknown', () => {
    const refused = { code: 'ECONNREFUSED' };
    expect(verdict('tcp4', refused, {}, { areResetsOurs: true })).toMatchObject({ by: 'filter' });
    expect(verdict('tcp4', refused, {}, { areResetsOurs: false }).verdict).toBe('leaks');
    expect(verdict('tcp4', refused).verdict).toBe('unknown');
  });
});

describe('what could not be tried', () => {
  it.each([
    ['mark', 'EPERM'],
    ['socket', 'EACCES'],
    ['device', 'EPERM'],
    ['socket', 'EAFNOSUPPORT'],
  ] as const)('%s: %s', (step, code) => {
    expect(verdict('marked-tcp4', { step, code }).verdict).toBe('not-tried');
  });
});

describe('what the tunnel was told to let around it is no leak', () => {
  const policy = { allowDns: ['10.0.0.53'], allowLan: false, bypass: [], bypassUsers: [] };

  it('an allowed resolver, by DNS only', () => {
    expect(verdict('resolver-udp-1', {}).verdict).toBe('permitted');
    expect(verdict('dns-udp4', {}).verdict).toBe('leaks');
  });

  it('a bypassed network, but not its port 53', () => {
    const facts = { policy: { ...policy, bypass: ['192.0.2.0/24'] } };
    expect(verdict('udp4', {}, {}, facts).verdict).toBe('permitted');
    expect(verdict('udp6', {}, {}, facts).verdict).toBe('leaks');
    expect(verdict('dns-udp4', {}, {}, facts).verdict).toBe('leaks');
  });

  it('the LAN, multicast included', () => {
    expect(verdict('mdns4', {}, {}, { policy: { ...policy, allowLan: true } }).verdict).toBe('permitted');
    expect(verdict('mdns4', {}).verdict).toBe('leaks');
  });

  it('a user who goes around', () => {
    const facts = { policy: { ...policy, bypassUsers: [1000] } };
    expect(verdict('dns-udp4', {}, {}, facts).verdict).toBe('permitted');
  });
});

describe('the probes', () => {
  it('have names and destinations of their own', () => {
    expect(new Set(ALL.map(({ id }) => id)).size).toBe(ALL.length);
    const own = ALL.filter(({ packet }) => /^(192\.0\.2\.|2001:db8::)/.test(packet.address));
    expect(new Set(own.map(({ packet }) => packet.address)).size).toBe(own.length);
  });

  it("go to documentation addresses, to local multicast, to the host's resolvers and the engine only", () => {
    const known = /^(192\.0\.2\.|2001:db8::|224\.0\.0\.|ff02::|10\.0\.0\.53$|198\.18\.255\.254$)/;
    expect(ALL.filter(({ packet }) => !known.test(packet.address))).toEqual([]);
  });

  it('go to the server that is named, where it is of their family', () => {
    const some = leakProbes({ server: '203.0.113.9', uplink: undefined, nameServers: [], fwmark: undefined });
    expect(some.find(({ id }) => id === 'udp4')?.packet.address).toBe('203.0.113.9');
    expect(some.find(({ id }) => id === 'udp6')?.packet.address).toMatch(/^2001:db8::/);
    expect(some.filter(({ id }) => /bound|marked|source|mdns/.test(id))).toEqual([]);
  });
});
