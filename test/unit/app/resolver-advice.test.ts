import { expect, test } from 'vitest';
import { isListeningOnLoopback } from '../../../src/app/resolver.ts';
import { resolverAdvice } from '../../../src/app/resolver-advice.ts';
import type { Snapshot } from '../../../src/app/snapshot.ts';
import { configFor, PLAIN_HOST } from './sample.ts';

function advice(resolvConf: string, host: Partial<Snapshot> = {}, ...argv: readonly string[]): readonly string[] {
  return resolverAdvice(configFor(...argv), { ...PLAIN_HOST, nameServers: [], resolvConf, ...host });
}

test('an ordinary resolver needs no advice', () => {
  expect(advice('nameserver 10.0.0.53\nsearch corp.example\n', { nameServers: ['10.0.0.53'] })).toEqual([]);
});

test('without a resolver nothing would forward', () => {
  expect(advice('')).toEqual([expect.stringContaining('names no resolver')]);
  // glibc asks 127.0.0.1 then.
  expect(advice('', { isStubListening: true })).toEqual([]);
});

test('a stub on loopback must be there', () => {
  expect(advice('nameserver 127.0.0.53\n', { isStubListening: true })).toEqual([]);
  expect(advice('nameserver 127.0.0.53\n')).toEqual([
    expect.stringContaining('nothing listens on port 53 of 127.0.0.53'),
  ]);
});

test('resolvers that cannot be caught are told', () => {
  const v6 = 'nameserver 2001:db8::53\n';
  expect(advice(v6, {}, '--ipv6', 'off')).toEqual([expect.stringContaining('carries no IPv6')]);
  expect(advice(v6, { ipv6: 'absent' })).toEqual([expect.stringContaining('carries no IPv6')]);
  expect(advice(v6)).toEqual([]);
  expect(advice('nameserver fe80::1%eth0\n')).toEqual([expect.stringContaining('link-local resolvers (fe80::1)')]);
  expect(advice('nameserver fe80::1%eth0\nnameserver 10.0.0.53\n')).toEqual([]);
});

test('a search list beside the killswitch is told, unless its names are for the proxy', () => {
  const text = 'nameserver 10.0.0.53\nsearch corp.example lan\n';
  expect(advice(text, {}, '--killswitch')).toEqual([expect.stringContaining('(corp.example, lan)')]);
  expect(advice(text, {}, '--killswitch', '--dns-bypass', 'none')).toEqual([]);
  expect(advice(text, {}, '--killswitch', '--dns', 'direct')).toEqual([]);
});

test('sockets of port 53 on loopback are found in /proc/net/udp and udp6', () => {
  const head = '   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n';
  const line = (address: string): string =>
    `${head}  123: ${address} 00000000:0000 07 00000000:00000000 00:00000000 0\n`;
  expect(isListeningOnLoopback(line('3500007F:0035'))).toBe(true);
  expect(isListeningOnLoopback(line('00000000:0035'))).toBe(true);
  expect(isListeningOnLoopback(line('00000000000000000000000001000000:0035'))).toBe(true);
  expect(isListeningOnLoopback(line('00000000000000000000000000000000:0035'))).toBe(true);
  expect(isListeningOnLoopback(line('0100007F:0044'))).toBe(false);
  expect(isListeningOnLoopback(line('0100000A:0035'))).toBe(false);
  expect(isListeningOnLoopback('')).toBe(false);
});
