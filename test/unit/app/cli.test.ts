import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import manifest from '../../../package.json' with { type: 'json' };
import { type Command, parseArguments, type UpOptions } from '../../../src/app/cli.ts';
import { ProxyVpnError } from '../../../src/errors.ts';

const SECRET = 'MARKERs3cret';
const URL_WITH_SECRET = `http://alice:${SECRET}@h:1`;

const parse = (line: string): Command => parseArguments(line.split(' ').filter((word) => word !== ''));

function up(line: string): UpOptions {
  const command = parse(`up ${line}`);
  if (command.command !== 'up') throw new Error(command.command);
  return command.options;
}

function failure(argv: readonly string[]): ProxyVpnError {
  try {
    parseArguments(argv);
  } catch (error) {
    if (error instanceof ProxyVpnError) return error;
    throw error;
  }
  throw new Error(`accepted: ${argv.join(' ')}`);
}

describe('commands', () => {
  it('up without flags has the documented defaults', () => {
    expect(up('')).toEqual({
      proxy: undefined,
      proxyFile: undefined,
      name: 'default',
      killswitch: false,
      dns: {
        mode: 'virtual',
        relay: undefined,
        relaysOtherTypes: false,
        bypass: { names: [], withDefaults: true },
        ranges: {
          v4: { family: 4, address: '198.18.0.0', length: 15 },
          v6: { family: 6, address: 'fd70:7670:6e00:1::', length: 64 },
        },
      },
      sniff: false,
      allowDns: undefined,
      bypass: [],
      lan: 'block',
      bypassUser: [],
      allowInbound: undefined,
      earlyAccept: false,
      connectTimeoutMs: 30_000,
      idleTimeoutMs: 7_200_000,
      keepaliveMs: 60_000,
      memoryBytes: 256 * 1024 * 1024,
      maxFlows: 65_536,
      queues: undefined,
      predial: 0,
      mtu: 1500,
      tun: undefined,
      fwmark: undefined,
      foreground: false,
      dryRun: false,
      json: false,
      verbose: false,
      routes: true,
      ipv6: true,
    });
  });

  it.each([
    ['down', { command: 'down', options: { name: 'default', force: false, json: false, verbose: false } }],
    [
      'down --force --name work --json -v',
      { command: 'down', options: { name: 'work', force: true, json: true, verbose: true } },
    ],
    ['status', { command: 'status', options: { name: 'default', json: false, watch: false } }],
    ['status --watch --json --name w', { command: 'status', options: { name: 'w', json: true, watch: true } }],
    ['demo', { command: 'demo' }],
    ['dns map', { command: 'dns', options: { action: 'map', name: 'default', json: false } }],
    ['dns flush --json --name w', { command: 'dns', options: { action: 'flush', name: 'w', json: true } }],
    [
      'dns query a.example',
      { command: 'dns', options: { action: 'query', host: 'a.example', type: 'A', name: 'default', json: false } },
    ],
    [
      'dns query a.example AAAA --json',
      { command: 'dns', options: { action: 'query', host: 'a.example', type: 'AAAA', name: 'default', json: true } },
    ],
  ])('%s', (line, command) => {
    expect(parse(line)).toEqual(command);
  });

  it.each(['--version', '-V'])('%s prints the version of package.json', (flag) => {
    expect(parse(flag)).toEqual({ command: 'print', text: `${manifest.version}\n`, exitCode: 0 });
  });

  it.each(['--help', '-h', 'help', 'up --help', 'help up', 'down -h', 'status --help', 'demo --help'])(
    '%s prints help',
    (line) => {
      const command = parse(line);
      expect(command).toMatchObject({ command: 'print', exitCode: 0 });
      expect(command.command === 'print' && command.text).toMatch(/^Usage: proxyvpn/);
      expect(command.command === 'print' && command.text).toMatch(/[^\n]\n$/);
    },
  );

  it('nothing at all prints help and is a usage error', () => {
    expect(parse('')).toMatchObject({ command: 'print', exitCode: 2, text: expect.stringMatching(/^Usage: proxyvpn/) });
  });

  it('help of up names every flag', () => {
    const help = parse('up --help');
    const text = help.command === 'print' ? help.text : '';
    const flags = 'proxy proxy-file name killswitch allow-dns bypass lan bypass-user allow-inbound early-accept';
    const more =
      'connect-timeout idle-timeout keepalive memory max-flows queues predial mtu tun fwmark foreground dry-run';
    for (const flag of `${flags} ${more} json verbose no-routes ipv6`.split(' ')) expect(text).toContain(`--${flag} `);
  });
});

describe('flags of up', () => {
  it.each<[string, Partial<UpOptions>]>([
    ['--killswitch', { killswitch: true }],
    ['--proxy-file /etc/p', { proxyFile: '/etc/p' }],
    ['--name a-1', { name: 'a-1' }],
    ['--dns direct --allow-dns 10.0.0.53', { allowDns: ['10.0.0.53'] }],
    ['--dns direct --allow-dns 10.0.0.53,FD00::53 --allow-dns 10.0.0.53', { allowDns: ['10.0.0.53', 'fd00::53'] }],
    ['--dns direct --sniff', { sniff: true }],
    ['--allow-dns none', { allowDns: [] }],
    ['--bypass 10.0.0.0/8,fd00::/8', { bypass: [ip4('10.0.0.0', 8), { family: 6, address: 'fd00::', length: 8 }] }],
    ['--bypass 10.0.0.0/8 --bypass 10.0.0.0/8', { bypass: [ip4('10.0.0.0', 8)] }],
    ['--bypass=192.0.2.1', { bypass: [ip4('192.0.2.1', 32)] }],
    ['--bypass 10.0.0.0/8 --json', { bypass: [ip4('10.0.0.0', 8)], json: true }],
    ['--lan allow', { lan: 'allow' }],
    ['--bypass-user backup,1001 --bypass-user svc$', { bypassUser: ['backup', '1001', 'svc$'] }],
    ['--killswitch --allow-inbound 8080,22', { allowInbound: { ports: [22, 8080], sshPeer: true } }],
    ['--killswitch --allow-inbound 1 --allow-inbound 2', { allowInbound: { ports: [1, 2], sshPeer: true } }],
    ['--killswitch --allow-inbound all', { allowInbound: { ports: 'all', sshPeer: true } }],
    ['--killswitch --allow-inbound none', { allowInbound: { ports: [], sshPeer: false } }],
    ['--early-accept', { earlyAccept: true }],
    ['--connect-timeout 0.5', { connectTimeoutMs: 500 }],
    ['--idle-timeout 0', { idleTimeoutMs: 0 }],
    ['--keepalive 0', { keepaliveMs: 0 }],
    ['--memory 64', { memoryBytes: 64 * 1024 * 1024 }],
    ['--max-flows 100', { maxFlows: 100 }],
    ['--queues 16', { queues: 16 }],
    ['--predial 8', { predial: 8 }],
    ['--mtu 65535', { mtu: 65535 }],
    ['--mtu 1280', { mtu: 1280 }],
    ['--tun vpn.0', { tun: 'vpn.0' }],
    ['--fwmark 0xFF', { fwmark: 255 }],
    ['--fwmark 4294967295', { fwmark: 0xffffffff }],
    ['--foreground --dry-run --json -v', { foreground: true, dryRun: true, json: true, verbose: true }],
    ['--no-routes', { routes: false }],
    ['--ipv6 off', { ipv6: false }],
  ])('%s', (line, expected) => {
    expect(up(line)).toMatchObject(expected);
  });

  it.each([
    '-p http://alice:x@h:1',
    '-phttp://alice:x@h:1',
    '--proxy http://alice:x@h:1',
    '--proxy=http://alice:x@h:1',
  ])('%s', (line) => {
    const { proxy } = up(line);
    expect([proxy?.host, proxy?.port, proxy?.credentials?.user, proxy?.credentials?.password]).toEqual([
      'h',
      1,
      'alice',
      'x',
    ]);
  });
});

function ip4(address: string, length: number) {
  return { family: 4 as const, address, length };
}

describe('usage errors, each with exit code 2 and a hint', () => {
  it.each([
    ['--mtu 1279', '1280 to 65535'],
    ['--mtu 65536', '1280 to 65535'],
    ['--mtu 1e4', '1280'],
    ['--mtu -1', '1280'],
    ['--queues 0', '1 to 16'],
    ['--predial 65', '0 to 64'],
    ['--queues 17', '1 to 16'],
    ['--queues 1.5', '1 to 16'],
    ['--max-flows 0', '1 to'],
    ['--memory 7', '8 to'],
    ['--memory 99999999999999999999', '8 to'],
    ['--connect-timeout 0', '0.1 to 600'],
    ['--connect-timeout 601', '0.1 to 600'],
    ['--connect-timeout x', '0.1 to 600'],
    ['--idle-timeout 0.5', '0 for never'],
    ['--keepalive -5', '0 for never'],
    ['--lan maybe', 'allow or block'],
    ['--ipv6 yes', 'on or off'],
    ['--fwmark 0', '0xffffffff'],
    ['--fwmark 0x100000000', '0xffffffff'],
    ['--fwmark 4294967296', '0xffffffff'],
    ['--tun abcdefghijklmnop', '1 to 15'],
    ['--tun a/b', '1 to 15'],
    ['--tun pvpn%d', '1 to 15'],
    ['--tun ..', '1 to 15'],
    ['--allow-dns dns.example', 'IP addresses'],
    ['--allow-dns 10.0.0.1,,10.0.0.2', 'IP addresses'],
    ['--allow-dns 10.0.0.1', '--dns direct'],
    ['--dns over-tcp --dns-server 10.0.0.1 --allow-dns 10.0.0.1', '--dns direct'],
    ['--dns over-tcp', '--dns-server'],
    ['--dns doh --dns-server 10.0.0.1', 'https'],
    ['--dns direct --dns-server 10.0.0.1', '--allow-dns'],
    ['--dns bogus', 'virtual'],
    ['--sniff', 'leave it out'],
    ['--bypass 10.0.0.1/8', '10.0.0.0/8'],
    ['--bypass 10.0.0.0/33', '192.168.0.0/16'],
    ['--bypass lan', '192.168.0.0/16'],
    ['--bypass 0.0.0.0/0', 'smaller networks'],
    ['--bypass ::/0', 'smaller networks'],
    ['--bypass-user a:b', 'user names or uids'],
    ['--bypass-user 4294967295', 'user names or uids'],
    ['--bypass-user -x', 'user names or uids'],
    ['--killswitch --allow-inbound 0', 'ports'],
    ['--killswitch --allow-inbound 65536', 'ports'],
    ['--killswitch --allow-inbound ssh', 'ports'],
    ['--allow-inbound 22', '--killswitch'],
    ['--allow-inbound none', '--killswitch'],
    ['-p h:1 --proxy h:2', 'one proxy'],
    ['-p h:1 --proxy-file f', 'proxyvpn'],
    ['--proxy', 'proxyvpn'],
    ['--proxy-file=', 'file'],
    ['--prxy h:1', 'did you mean --proxy?'],
    ['--prxy=h:1', 'did you mean --proxy?'],
    ['--kilswitch', 'did you mean --killswitch?'],
    ['--killswitch=on', 'write --killswitch alone'],
    ['--json=yes', 'write --json alone'],
    ['extra', 'stand alone'],
    ['-x', 'proxyvpn'],
  ])('up %s', (line, hint) => {
    const error = failure(['up', ...line.split(' ')]);
    expect([error.code, error.exitCode]).toEqual(['E_USAGE', 2]);
    expect(error.hint).toContain(hint);
    expect(error.message).not.toMatch(/^error/);
  });

  it.each([
    [['upp'], 'there is no command upp', 'did you mean up?'],
    [['--jsn', 'status'], 'there is no flag --jsn', ''],
    [['status', '--wach'], 'there is no flag --wach', 'did you mean --watch?'],
    [['down', '--proxy', 'h:1'], 'there is no flag --proxy', ''],
    [['demo', 'x'], 'an argument belongs to no flag', ''],
  ])('%j', (argv, message, hint) => {
    const error = failure(argv);
    expect([error.code, error.exitCode, error.message]).toEqual(['E_USAGE', 2, message]);
    expect(error.hint).toContain(hint);
  });

  it.each(['', 'a b', 'a/b', 'x'.repeat(33)])('a tunnel cannot be called %j', (name) => {
    for (const command of ['up', 'down', 'status']) {
      expect(failure([command, '--name', name])).toMatchObject({ code: 'E_NAME', exitCode: 2 });
    }
  });
});

describe('a proxy password behind any flag or in place of anything', () => {
  const flags = [
    ...['-p', '--proxy', '--proxy-file', '--name', '--allow-dns', '--bypass', '--lan', '--bypass-user'],
    ...['--allow-inbound', '--connect-timeout', '--idle-timeout', '--keepalive', '--memory', '--max-flows'],
    ...['--queues', '--mtu', '--tun', '--fwmark', '--ipv6', '--killswitch', '--json', '-v', '--no-routes', '--prxy'],
    ...['-x', '', '--'],
  ];
  const texts = [
    URL_WITH_SECRET,
    `alice:${SECRET}@h`,
    `alice:${SECRET}`,
    `https://u:${SECRET}@h:1`,
    `${URL_WITH_SECRET}/x`,
  ];
  const argvs = flags.flatMap((flag) =>
    texts.flatMap((text) =>
      [
        ['up', flag, text],
        ['up', `${flag}=${text}`],
        ['up', `${flag}${text}`],
        ['up', flag, `10.0.0.1,${text}`],
        ['down', flag, text],
        [flag, text],
        [text, flag],
      ].map((argv) => argv.filter((word) => word !== '')),
    ),
  );

  it('is in no error, hint, stack, help or printed Command', () => {
    for (const argv of argvs) {
      let shown: string;
      try {
        const command = parseArguments(argv);
        // A file may be called anything, and its name is shown.
        if (command.command === 'up' && command.options.proxyFile !== undefined) continue;
        shown = inspect(command, { depth: 9, showHidden: true }) + JSON.stringify(command);
      } catch (error) {
        if (!(error instanceof ProxyVpnError)) throw error;
        shown = `${error.message} ${error.hint} ${error.stack} ${inspect(error, { depth: 9 })}`;
      }
      expect(shown, argv.join(' ')).not.toContain(SECRET);
    }
  });
});

it('random arguments give a Command or a ProxyVpnError', () => {
  const words = ['up', 'down', '-p', '--proxy', 'h:1', '--name', '--json', '--', '-', '', '-v', '=', '--bypass=', '1'];
  let state = 23;
  for (let round = 0; round < 1_000; round++) {
    const argv: string[] = [];
    for (let n = round % 6; n > 0; n--) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      argv.push(words[(state >>> 8) % words.length] ?? '');
    }
    try {
      parseArguments(argv);
    } catch (error) {
      if (!(error instanceof ProxyVpnError)) throw error;
      expect(error.exitCode).toBe(2);
    }
  }
});
