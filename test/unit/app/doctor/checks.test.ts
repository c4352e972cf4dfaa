import { describe, expect, it } from 'vitest';
import { doctorDocument, doctorText, error, note, ok, warning } from '../../../../src/app/doctor/finding.ts';
import { conntrackCheck, resolverCheck, snapshotChecks } from '../../../../src/app/doctor/host-checks.ts';
import { neighbourChecks } from '../../../../src/app/doctor/neighbour-checks.ts';
import { judgeTun, kernelCheck, namespaceCheck, nodeCheck } from '../../../../src/app/doctor/process-checks.ts';
import type { Route } from '../../../../src/netlink/messages.ts';
import { configFor, PLAIN_HOST } from '../sample.ts';

describe('the document', () => {
  const findings = [
    error('tun', 'missing', 'why', 'modprobe tun'),
    ok('node', 'Node.js 20'),
    warning('vpn', 'wg0'),
    note('ssh', 'here'),
  ];

  it('is ok without errors only', () => {
    expect(doctorDocument('default', null, findings).ok).toBe(false);
    expect(doctorDocument('default', null, findings.slice(1)).ok).toBe(true);
  });

  it('is printed with the errors last and their mends', () => {
    expect(doctorText(doctorDocument('default', null, findings))).toBe(
      `ok       node  Node.js 20
note     ssh   here
warning  vpn   wg0
error    tun   missing
               why
               mend: modprobe tun
default: up would not work (1 error, 1 warning)`,
    );
  });
});

describe('node and kernel', () => {
  it.each([
    ['20.20.2', 'ok'],
    ['20.12.0', 'ok'],
    ['20.11.1', 'error'],
    ['18.19.0', 'error'],
    ['22.1.0', 'ok'],
  ])('Node.js %s: %s', (version, level) => expect(nodeCheck(version).level).toBe(level));
  it.each([
    ['6.18.44-fc', 'ok'],
    ['4.18.0-553.el8_10.x86_64', 'ok'],
    ['4.15.0-213-generic', 'error'],
    ['3.10.0', 'error'],
  ])('Linux %s: %s', (release, level) => expect(kernelCheck(release).level).toBe(level));
});

describe('the TUN device', () => {
  const fine = { mode: 0o20666, isDevice: true, isLoaded: true, failure: undefined };
  it.each([
    ['it can be opened', {}, 'ok', /mode 0666/],
    ['it is missing', { mode: undefined, isDevice: false }, 'error', /missing/],
    ['it is a file', { isDevice: false }, 'error', /no character device/],
    ["it is root's", { mode: 0o20600, failure: 'EACCES' }, 'error', /mode 0600/],
    ['a container forbids it', { failure: 'EPERM' }, 'error', /EPERM/],
    ['the kernel has no driver', { failure: 'ENODEV' }, 'error', /ENODEV/],
    ['its driver is not loaded yet', { isLoaded: false }, 'note', /not loaded/],
  ])('%s', (_, facts, level, what) => {
    expect(judgeTun({ ...fine, ...facts })).toMatchObject({ level, what: expect.stringMatching(what) });
  });
});

it('a user namespace is told from the host', () => {
  expect(namespaceCheck('         0          0 4294967295\n')).toEqual([]);
  expect(namespaceCheck('')).toEqual([]);
  expect(namespaceCheck('         0       1000          1\n')).toHaveLength(1);
});

describe('reverse-path filtering and IPv6', () => {
  const levels = (host: Partial<typeof PLAIN_HOST>, ...flags: readonly string[]) =>
    Object.fromEntries(
      snapshotChecks(configFor(...flags), { ...PLAIN_HOST, ...host }).map(({ id, level }) => [id, level]),
    );
  it.each([
    ['plain', {}, [], { 'rp-filter': 'ok', ipv6: 'ok' }],
    ['strict', { isPathFilterStrict: true }, [], { 'rp-filter': 'note', ipv6: 'ok' }],
    [
      'strict, not to be changed',
      { isPathFilterStrict: true, isSysctlReadOnly: true },
      [],
      { 'rp-filter': 'error', ipv6: 'ok' },
    ],
    ['a container', { isSysctlReadOnly: true }, [], { 'rp-filter': 'ok', ipv6: 'ok' }],
    ['IPv6 off by default', { ipv6: 'off-by-default' }, [], { 'rp-filter': 'ok', ipv6: 'note' }],
    [
      'the same in a container',
      { ipv6: 'off-by-default', isSysctlReadOnly: true },
      [],
      { 'rp-filter': 'ok', ipv6: 'error' },
    ],
    [
      'and not wanted',
      { ipv6: 'off-by-default', isSysctlReadOnly: true },
      ['--ipv6', 'off'],
      { 'rp-filter': 'ok', ipv6: 'note' },
    ],
    [
      'a proxy on this host',
      { proxies: [{ address: '127.0.0.1', port: 3128 }] },
      [],
      { 'rp-filter': 'ok', ipv6: 'ok', 'local-proxy': 'warning' },
    ],
  ] as const)('%s', (_, host, flags, expected) => expect(levels(host, ...flags)).toEqual(expected));
});

describe('the resolver', () => {
  const check = (flags: readonly string[], files: Readonly<Record<string, string>>) =>
    resolverCheck(configFor(...flags), (file) => files[file]).level;
  const RESOLV = '/etc/resolv.conf';
  const BEHIND = '/run/systemd/resolve/resolv.conf';
  it.each([
    ['a server', { [RESOLV]: 'nameserver 10.0.0.53\n' }, 'ok', 'ok'],
    ['none', {}, 'warning', 'warning'],
    [
      'a stub with known servers',
      { [RESOLV]: 'nameserver 127.0.0.53\n', [BEHIND]: 'nameserver 10.0.0.53\n' },
      'ok',
      'note',
    ],
    ['a stub', { [RESOLV]: 'nameserver 127.0.0.1\n' }, 'warning', 'note'],
  ])('%s', (_, files, direct, virtual) => {
    expect(check(['--dns', 'direct', '--killswitch'], files)).toBe(direct);
    expect(check(['--dns', 'virtual'], files)).toBe(virtual);
  });
});

it('a full connection table is a warning', () => {
  const of = (count: string) => conntrackCheck((file) => (file.endsWith('count') ? count : '1000')).level;
  expect(of('10')).toBe('ok');
  expect(of('950')).toBe('warning');
  expect(conntrackCheck(() => undefined).level).toBe('note');
});

describe('neighbours', () => {
  const link = (name: string, kind: string | undefined, index = 7) => ({
    ...{ index, name, kind, mtu: 1500, txQueueLength: 0, isUp: true, isLoopback: false },
  });
  const route = (destination: string, index = 7): Route => ({
    family: 4,
    table: 51820,
    destination,
    source: undefined,
    type: 'unicast',
    protocol: 3,
    tos: 0,
    metric: 0,
    nexthops: [{ index, gateway: undefined }],
    preferredSource: undefined,
    congestionControl: undefined,
  });
  const ids = (here: Partial<Parameters<typeof neighbourChecks>[1]>) => {
    const empty = { links: [], routes: [], isThere: () => false, read: () => undefined };
    return neighbourChecks(configFor('--killswitch'), { ...empty, ...here }, 'pvpn0').map(
      ({ id, level }) => `${id} ${level}`,
    );
  };

  it('none on a plain host', () => expect(ids({ links: [link('eth0', undefined), link('pvpn0', 'tun')] })).toEqual([]));
  it.each(['default', '0.0.0.0/1', '128.0.0.0/1'])('a VPN with a route to %s is a warning', (destination) =>
    expect(ids({ links: [link('wg0', 'wireguard')], routes: [route(destination)] })).toEqual(['vpn warning']),
  );
  it('one with routes of its own is a note', () =>
    expect(ids({ links: [link('tailscale0', 'tun')], routes: [route('100.64.0.0/10')] })).toEqual(['vpn note']));
  it('daemons are known by what they leave in /run', () => {
    const there = ['/run/NetworkManager', '/run/systemd/resolve', '/run/firewalld', '/run/docker.sock'];
    expect(ids({ isThere: (file) => there.includes(file) })).toEqual([
      'networkmanager note',
      'resolved note',
      'firewalld note',
      'containers note',
    ]);
  });
  it('ufw counts when it is enabled', () => {
    expect(ids({ read: (file) => (file === '/etc/ufw/ufw.conf' ? 'ENABLED=yes\n' : undefined) })).toEqual(['ufw note']);
    expect(ids({ read: (file) => (file === '/etc/ufw/ufw.conf' ? 'ENABLED=no\n' : undefined) })).toEqual([]);
  });
});
