import { describe, expect, test } from 'vitest';
import {
  bytesText,
  downDocument,
  downReport,
  downText,
  durationText,
  type StatusDocument,
  statusText,
  upText,
} from '../../../src/app/report.ts';
import { ProxyVpnError } from '../../../src/errors.ts';

const UP: StatusDocument = {
  ...downDocument('default'),
  state: 'up',
  pid: 4711,
  proxy: 'http://***@proxy.lan:3128',
  proxyAddresses: ['10.0.0.1', 'fd00::1'],
  tun: 'pvpn0',
  queues: 2,
  killswitch: true,
  firewall: 'libnftables',
  dns: { ...downDocument('default').dns, mode: 'direct', servers: ['10.0.0.53'] },
  uptimeMs: 3_661_000,
  flows: {
    active: 3,
    pending: 1,
    opened: 120,
    refused: 2,
    failed: 1,
    reset: 0,
    overLimit: 0,
    givenUp: 0,
    unnamed: 0,
    predialled: 0,
  },
  tcp: { connections: 3, timers: 0 },
  bytes: { toUpstream: 1_500_000, toApp: 31_457_280, buffered: 65_536 },
  memory: { limitBytes: 268_435_456, residentBytes: 80_000_000 },
  lastErrors: [{ at: '2026-01-31T12:00:00.000Z', message: '198.18.0.1:4000 -> 203.0.113.1:25 refused: 403' }],
};

describe('status for people', () => {
  test('up', () => {
    expect(statusText(UP)).toMatchInlineSnapshot(`
      "default: up for 1 h 1 min (process 4711)
        proxy       http://***@proxy.lan:3128 (10.0.0.1, fd00::1)
        device      pvpn0, 2 queues
        killswitch  on (libnftables)
        dns         direct to 10.0.0.53
        flows       3 active, 120 opened, 2 refused, 1 failed
        bytes       1.4 MiB to upstream, 30 MiB to app
        memory      64 KiB of 256 MiB buffered, 76 MiB resident
        error       2026-01-31T12:00:00.000Z 198.18.0.1:4000 -> 203.0.113.1:25 refused: 403"
    `);
  });

  test('down', () => {
    expect(statusText(downDocument('work'))).toBe('work: down');
  });

  test('degraded without a daemon tells what is left', () => {
    const left = { ...downDocument('default'), state: 'degraded', killswitch: true, problems: ['the daemon is gone'] };
    expect(statusText(left as StatusDocument)).toMatchInlineSnapshot(`
      "default: degraded
        problem     the daemon is gone
        killswitch  on"
    `);
  });

  test('degraded with one names what is missing and still counts', () => {
    const text = statusText({ ...UP, state: 'degraded', problems: ['missing: ip rule add priority 5206'] });
    expect(text).toMatch(/^default: degraded\n {2}problem {5}missing: ip rule add priority 5206\n/);
    expect(text).toContain('120 opened');
  });

  test('a proxy that is an address is not said twice', () => {
    expect(statusText({ ...UP, proxy: 'http://10.0.0.1:3128', proxyAddresses: ['10.0.0.1'] })).toContain(
      'http://10.0.0.1:3128\n',
    );
  });
});

test('status for scripts has the promised keys in every state', () => {
  const promised = ['name', 'state', 'pid', 'proxy', 'tun', 'killswitch', 'dns', 'uptimeMs', 'flows', 'bytes'];
  for (const status of [UP, downDocument('default')]) {
    const document = JSON.parse(JSON.stringify(status));
    expect(Object.keys(document)).toEqual(expect.arrayContaining(promised));
    expect(Object.keys(document.flows)).toEqual(expect.arrayContaining(['active', 'opened', 'refused', 'failed']));
    expect(Object.keys(document.bytes)).toEqual(expect.arrayContaining(['toUpstream', 'toApp']));
  }
});

test('up says in one line what it does', () => {
  expect(upText(UP, { routes: true })).toBe(
    'default: up; TCP goes through http://***@proxy.lan:3128 (device pvpn0, killswitch on)',
  );
  expect(upText(UP, { routes: false })).toContain('TCP that you route into pvpn0 goes');
});

describe('down', () => {
  const report = downReport('default', {
    undone: ['ip rule add priority 5206'],
    foreign: ['sysctl -w a=1: left alone, found a = 2'],
    failed: [{ what: 'nft', error: new ProxyVpnError('E_FIREWALL_UNLOAD', 'busy') }],
  });

  test('tells what it could not undo, and why', () => {
    expect(downText(report, false)).toMatchInlineSnapshot(`
      "default: not all could be undone
        left alone  sysctl -w a=1: left alone, found a = 2
        failed      nft: E_FIREWALL_UNLOAD: busy"
    `);
  });

  test('with -v also what it undid', () => {
    expect(downText(report, true)).toContain('undone      ip rule add priority 5206');
  });

  test('is one line when all went well', () => {
    expect(downText(downReport('default', { undone: ['a'], foreign: [], failed: [] }), false)).toBe('default: down');
  });
});

test('bytes have two digits that count', () => {
  expect([0, 1, 1023, 1024, 1536, 10_240, 1_048_575, 5e12].map(bytesText)).toEqual([
    '0 bytes',
    '1 byte',
    '1023 bytes',
    '1.0 KiB',
    '1.5 KiB',
    '10 KiB',
    '1024 KiB',
    '4.5 TiB',
  ]);
});

test('durations have the two largest units', () => {
  expect([0, 999, 1000, 61_000, 3_600_000, 3_661_000, 90_061_000].map(durationText)).toEqual([
    '0 s',
    '0 s',
    '1 s',
    '1 min 1 s',
    '1 h',
    '1 h 1 min',
    '1 d 1 h',
  ]);
});
