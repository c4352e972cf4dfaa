import { spawnSync } from 'node:child_process';
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { parseArguments, type UpOptions } from '../../../src/app/cli.ts';
import { type Config, type ConfigSources, configOf } from '../../../src/app/config.ts';
import { hostSources, uidIn } from '../../../src/app/config-sources.ts';
import { ProxyVpnError } from '../../../src/errors.ts';

const SECRET = 'MARKERs3cret';

function options(...argv: string[]): UpOptions {
  const command = parseArguments(['up', ...argv]);
  if (command.command !== 'up') throw new Error(command.command);
  return command.options;
}

function sources(environment: Record<string, string> = {}, files: Record<string, string> = {}): ConfigSources {
  return {
    environment,
    readTextFile: (path) => {
      const text = files[path];
      if (text !== undefined) return text;
      throw Object.assign(new Error('no such file'), { code: 'ENOENT', syscall: 'open', errno: -2 });
    },
    uidOf: (user) => ({ backup: 34, alice: 1000 })[user],
    processors: 8,
  };
}

function failure(make: () => Config): ProxyVpnError {
  try {
    make();
  } catch (error) {
    if (error instanceof ProxyVpnError) return error;
    throw error;
  }
  throw new Error('accepted');
}

describe('the proxy', () => {
  const hostOf = (argv: string[], environment: Record<string, string>) =>
    configOf(options(...argv), sources(environment, { '/f': 'file:1\n' })).upstream.host;

  it('takes a queue for each processor, at most four, unless told how many', () => {
    const queues = (processors: number, ...argv: string[]) =>
      configOf(options('--proxy', 'h:1', ...argv), { ...sources(), processors }).queues;
    expect([queues(1), queues(2), queues(64), queues(1, '--queues', '16')]).toEqual([1, 2, 4, 16]);
  });

  it('typed beats inherited', () => {
    expect(hostOf(['-p', 'flag:1'], { PROXYVPN_PROXY: 'env:1' })).toBe('flag');
    expect(hostOf(['--proxy-file', '/f'], { PROXYVPN_PROXY: 'env:1' })).toBe('file');
    expect(hostOf([], { PROXYVPN_PROXY: 'env:1' })).toBe('env');
  });

  it('is asked for when there is none, with what the shell has for others', () => {
    expect(failure(() => configOf(options(), sources({ PROXYVPN_PROXY: '' })))).toMatchObject({
      code: 'E_USAGE',
      exitCode: 2,
      hint: 'give --proxy HOST:PORT',
    });
    const hint = failure(() => configOf(options(), sources({ HTTPS_PROXY: `http://u:${SECRET}@h:1` }))).hint;
    expect(hint).toBe('HTTPS_PROXY is set: give --proxy "$HTTPS_PROXY"');
  });

  it.each(['h:1', 'h:1\n', '\n\n  h:1 \r\n\n', '# the office\nh:1\n# end'])('file %j holds one', (text) => {
    const { upstream } = configOf(options('--proxy-file', '/f'), sources({}, { '/f': text }));
    expect([upstream.host, upstream.port]).toEqual(['h', 1]);
  });

  it.each(['', '\n', '# h:1', 'h:1\ni:1', 'h:1\n'.padEnd(70_000, '\n')])('file %j does not', (text) => {
    const error = failure(() => configOf(options('--proxy-file', '/f'), sources({}, { '/f': text })));
    expect(error).toMatchObject({ code: 'E_PROXY_FILE', exitCode: 2, message: '/f does not hold one proxy URL' });
  });

  it('a file that cannot be read is named with the reason', () => {
    const error = failure(() => configOf(options('--proxy-file', '/absent'), sources()));
    expect(error).toMatchObject({ code: 'E_PROXY_FILE', exitCode: 2, message: 'cannot read /absent: ENOENT' });
  });

  it('a bad URL is located, and not repeated', () => {
    const inEnvironment = failure(() => configOf(options(), sources({ PROXYVPN_PROXY: `u:${SECRET}@h:x` })));
    expect(inEnvironment.message).toBe('PROXYVPN_PROXY: not a proxy address: the port is not a number from 1 to 65535');
    expect(inEnvironment).toMatchObject({ code: 'E_PROXY_URL', exitCode: 2 });
    const file = sources({}, { '/f': `socks5://u:${SECRET}@h:1` });
    const inFile = failure(() => configOf(options('--proxy-file', '/f'), file));
    expect(inFile).toMatchObject({ code: 'E_PROXY_SCHEME', message: '/f: socks5:// proxies are not supported yet' });
  });
});

describe('a Config', () => {
  it('shows no credential when printed', () => {
    const config = configOf(options(), sources({ PROXYVPN_PROXY: `http://alice:${SECRET}@h:1` }));
    const shown = inspect(config, { depth: 9, showHidden: true, getters: true }) + JSON.stringify(config);
    expect(shown).not.toContain(SECRET);
    expect(shown).not.toContain('alice');
    expect(config.upstream.credentials?.password).toBe(SECRET);
  });

  it('has uids for users, each once', () => {
    const config = configOf(options('-p', 'h:1', '--bypass-user', 'backup,1000,alice,0'), sources());
    expect(config.bypassUsers).toEqual([34, 1000, 0]);
    const error = failure(() => configOf(options('-p', 'h:1', '--bypass-user', 'bob'), sources()));
    expect(error).toMatchObject({ code: 'E_USAGE', message: '--bypass-user: there is no user bob' });
  });

  it('spares the SSH peer unless told otherwise', () => {
    const inbound = (...argv: string[]) => configOf(options('-p', 'h:1', ...argv), sources()).allowInbound;
    expect(inbound()).toEqual({ ports: [], sshPeer: true });
    expect(inbound('--killswitch', '--allow-inbound', 'none')).toEqual({ ports: [], sshPeer: false });
  });

  it('keeps every other option as it was given', () => {
    const given = options('-p', 'h:1', '--killswitch', '--queues', '3', '--mtu', '9000', '--lan', 'allow');
    const { proxy, proxyFile, bypassUser, allowInbound, ...rest } = given;
    expect([proxyFile, bypassUser, allowInbound]).toEqual([undefined, [], undefined]);
    expect(configOf(given, sources())).toMatchObject({ ...rest, upstream: proxy });
  });
});

describe('the sources of this host', () => {
  it('read passwd(5), where a line may be anything', () => {
    const passwd = 'root:x:0:0:root:/root:/bin/sh\n\n:::\n+nis\nbob:x:x:1::\nbob:x:1002:1:::\nroot:x:7:7:::';
    expect(['root', 'bob', 'eve', '', '+nis'].map((user) => uidIn(passwd, user))).toEqual([
      0,
      1002,
      undefined,
      undefined,
      undefined,
    ]);
  });

  it('know root, and what the name service knows, and nobody else', () => {
    const { uidOf } = hostSources();
    expect(uidOf('root')).toBe(0);
    expect(uidOf('no-such-user-here')).toBeUndefined();
    expect(uidOf('--help')).toBeUndefined();
    const own = spawnSync('id', ['-un'], { encoding: 'utf8' }).stdout.trim();
    expect(uidOf(own)).toBe(process.geteuid?.());
  });

  it('report a missing file as a failed system call', () => {
    expect(() => hostSources().readTextFile('/absent')).toThrow(
      expect.objectContaining({ code: 'ENOENT', syscall: 'open', errno: expect.any(Number) }),
    );
  });
});
