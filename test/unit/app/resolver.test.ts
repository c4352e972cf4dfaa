import { describe, expect, test } from 'vitest';
import { parseResolvConf, remoteServers, resolveProxy, systemNameServers } from '../../../src/app/resolver.ts';

describe('resolv.conf', () => {
  test('nameserver lines become canonical addresses, each once', () => {
    const text =
      '# a comment\nsearch lan\nnameserver 10.0.0.53\n\tnameserver  FD00::0053 \nnameserver 10.0.0.53\noptions edns0\n';
    expect(parseResolvConf(text)).toEqual(['10.0.0.53', 'fd00::53']);
  });

  test('what is no address is passed over, and a zone is cut off', () => {
    expect(parseResolvConf('nameserver\nnameserver dns.lan\nnameserverx 1.1.1.1\nnameserver fe80::1%eth0\n')).toEqual([
      'fe80::1',
    ]);
  });

  test('a stub on loopback is no remote server', () => {
    expect(remoteServers('nameserver 127.0.0.53\nnameserver ::1\nnameserver 9.9.9.9\n')).toEqual(['9.9.9.9']);
  });
});

describe('the allowlist when none is given', () => {
  const files = (contents: Record<string, string>) => async (path: string) => {
    const text = contents[path];
    if (text === undefined) throw new Error('ENOENT');
    return text;
  };

  test('is resolv.conf', async () => {
    const read = files({
      '/etc/resolv.conf': 'nameserver 10.0.0.1',
      '/run/systemd/resolve/resolv.conf': 'nameserver 10.0.0.2',
    });
    expect(await systemNameServers(read)).toEqual(['10.0.0.1']);
  });

  test('is what systemd-resolved asks, where resolv.conf names only its stub', async () => {
    const read = files({
      '/etc/resolv.conf': 'nameserver 127.0.0.53',
      '/run/systemd/resolve/resolv.conf': 'nameserver 10.0.0.2',
    });
    expect(await systemNameServers(read)).toEqual(['10.0.0.2']);
  });

  test('is empty where neither file tells', async () => {
    expect(await systemNameServers(files({}))).toEqual([]);
    expect(await systemNameServers(files({ '/etc/resolv.conf': '' }))).toEqual([]);
  });
});

describe('the proxy', () => {
  const never = async (): Promise<readonly string[]> => {
    throw new Error('asked');
  };

  test('a literal address is not looked up', async () => {
    expect(await resolveProxy('2001:DB8::1', never)).toEqual(['2001:db8::1']);
  });

  test('a name gives all its addresses in the order of the resolver', async () => {
    expect(await resolveProxy('proxy.lan', async () => ['fd00::1', '10.0.0.1', 'fd00::1'])).toEqual([
      'fd00::1',
      '10.0.0.1',
    ]);
  });

  test('a name without address, or one that fails, says so', async () => {
    const fail = async (): Promise<readonly string[]> => {
      throw Object.assign(new Error('getaddrinfo ENOTFOUND proxy.lan'), { code: 'ENOTFOUND' });
    };
    await expect(resolveProxy('proxy.lan', fail)).rejects.toMatchObject({
      code: 'E_PROXY_RESOLVE',
      message: "cannot resolve the proxy's name proxy.lan: ENOTFOUND",
    });
    await expect(resolveProxy('proxy.lan', async () => [])).rejects.toMatchObject({ code: 'E_PROXY_RESOLVE' });
  });
});
