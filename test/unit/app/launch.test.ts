import { describe, expect, it } from 'vitest';
import { parseArguments } from '../../../src/app/cli.ts';
import { configOf } from '../../../src/app/config.ts';
import { encodeLaunch, type Launch } from '../../../src/app/launch.ts';
import { decodeLaunch } from '../../../src/app/launch-schema.ts';

function launchOf(...argv: string[]): Launch {
  const command = parseArguments(['up', ...argv]);
  if (command.command !== 'up') throw new Error(command.command);
  const sources = { environment: {}, readTextFile: () => '', uidOf: () => undefined, processors: 2 };
  return { config: configOf(command.options, sources), claimedSession: undefined };
}

const SESSION = {
  family: 6 as const,
  localAddress: 'fd00::1',
  localPort: 22,
  remoteAddress: 'fd00::2',
  remotePort: 50_000,
};

describe('what the command line accepts reaches the daemon unchanged', () => {
  const least = '--connect-timeout 0.1 --idle-timeout 1 --keepalive 1 --memory 8 --max-flows 1 --queues 1 --mtu 1280';
  const most =
    '--connect-timeout 600 --idle-timeout 31536000 --keepalive 32767 --memory 1048576 --max-flows 1000000 ' +
    '--queues 16 --mtu 65535 --fwmark 0xffffffff --tun tun.15-letters_';
  it.each([
    '--proxy 10.0.0.1:3128',
    `--proxy 10.0.0.1:3128 ${least} --fwmark 1 --tun t`,
    `--proxy 10.0.0.1:3128 ${most}`,
    '--proxy [::ffff:10.0.0.1]:3128 --idle-timeout 0 --keepalive 0 --allow-dns none --bypass 10.0.0.0/8,fd00::/8',
    '--proxy [2001:DB8::1]:3128 --dns direct --allow-dns 10.0.0.53,fd00::53 --bypass-user 0,4294967294 --lan allow',
    '--proxy a:1 --dns over-tcp --dns-server 10.0.0.53,[fd00::53]:5353 --dns-bypass .Corp.example,none --sniff',
    '--proxy a:1 --dns doh --dns-server https://DNS.example:8443/dns-query{?dns} --dns-range 10.192.0.0/12',
    '--proxy a:1 --dns-server https://[2001:db8::1]/q --dns-other relay',
    '--proxy http://Proxy.Example --killswitch --allow-inbound 22,65535 --ipv6 off --no-routes --early-accept',
    '--proxy proxy.example.:1 --killswitch --allow-inbound all --name other-name --json --verbose --foreground',
  ])('%s', (line) => {
    const launch = { ...launchOf(...line.split(' ')), claimedSession: SESSION };
    expect(decodeLaunch(encodeLaunch(launch))).toEqual(launch);
  });

  it('credentials included', () => {
    const { config } = decodeLaunch(encodeLaunch(launchOf('--proxy', 'http://al%20ice:p%C3%A4ss%F0%9F%94%91@h:1')));
    expect([config.upstream.credentials?.user, config.upstream.credentials?.password]).toEqual(['al ice', 'päss🔑']);
  });
});

describe('what somebody else wrote is refused', () => {
  const { dns } = launchOf('--proxy', '10.0.0.1:3128').config;
  const url = { host: 'a.example', port: 443, authority: 'a.example', path: '/' };
  const everything = { family: 4, address: '0.0.0.0', length: 0 };
  const valid = JSON.parse(encodeLaunch(launchOf('--proxy', '10.0.0.1:3128', '--bypass', '10.0.0.0/8')));
  it.each<[string, object]>([
    ['a missing value', { mtu: undefined }],
    ['an unknown key', { library: '/tmp/evil.so' }],
    ['a number as text', { mtu: '1500' }],
    ['a fraction', { mtu: 1500.5 }],
    ['too small an MTU', { mtu: 1279 }],
    ['too large an MTU', { mtu: 65_536 }],
    ['too little memory', { memoryBytes: 0 }],
    ['more memory than there is', { memoryBytes: 1e300 }],
    ['no flows', { maxFlows: 0 }],
    ['too many queues', { queues: 17 }],
    ['too many connections ahead of need', { predial: 65 }],
    ['a negative time', { keepaliveMs: -1 }],
    ['a time below the least', { connectTimeoutMs: 1 }],
    ['a mark of 33 bits', { fwmark: 2 ** 32 }],
    ['a name that is a path', { name: '../../etc' }],
    ['a device that is an option', { tun: 'a b' }],
    ['a resolver that is none', { allowDns: ['10.0.0.53; drop'] }],
    ['a mode of DNS that there is not', { dns: { ...dns, mode: 'tcp' } }],
    [
      'a server of DNS that is none',
      { dns: { ...dns, relay: { over: 'tcp', servers: [{ address: 'a b', port: 53 }] } } },
    ],
    ['a URL that is not what it says', { dns: { ...dns, relay: { over: 'https', url: { ...url, host: 'b' } } } }],
    ['a local name with other bytes', { dns: { ...dns, bypass: { names: [{ key: '\x01a\0' }], withDefaults: true } } }],
    ['all addresses as names', { dns: { ...dns, ranges: { ...dns.ranges, v4: everything } } }],
    ['an address in another form', { allowDns: ['FD00::53'] }],
    ['a network with host bits', { bypass: [{ family: 4, address: '10.0.0.1', length: 8 }] }],
    ['a network of the other family', { bypass: [{ family: 6, address: '10.0.0.0', length: 8 }] }],
    ['all networks', { bypass: [{ family: 4, address: '0.0.0.0', length: 0 }] }],
    ['the user that means none', { bypassUsers: [2 ** 32 - 1] }],
    ['port 0', { allowInbound: { ports: [0], sshPeer: true } }],
    ['a proxy name with a line end', { upstream: { host: 'a\r\nX: y', kind: 'name', port: 1 } }],
    ['a name that claims to be an address', { upstream: { host: 'proxy.example', kind: 'address', port: 1 } }],
  ])('%s', (_claim, change) => {
    const text = JSON.stringify({ ...valid, config: { ...valid.config, ...change } });
    expect(() => decodeLaunch(text)).toThrow('not a launch');
  });

  it('credentials with a line end, without repeating them', () => {
    const text = JSON.stringify({ ...valid, secret: { user: 'alice', password: 'MARKER\r\nX: y' } });
    expect(() => decodeLaunch(text)).toThrow(/^not a launch(?!.*MARKER)/s);
  });

  it('a session that is no connection', () => {
    const text = JSON.stringify({ ...valid, claimedSession: { ...SESSION, remotePort: 0 } });
    expect(() => decodeLaunch(text)).toThrow('not a launch');
  });
});
