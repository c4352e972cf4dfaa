import { describe, expect, it } from 'vitest';
import { proxyChecks } from '../../../../src/app/doctor/proxy-checks.ts';
import type { ProbeResult } from '../../../../src/native.ts';
import { parseUpstream } from '../../../../src/proxy/upstream-url.ts';
import { configFor } from '../sample.ts';

const SECRET = 'MARKERs3cret';
const ADDRESSES = [{ address: '10.0.0.1', port: 3128 }];

const reply = (status: string, headers = ''): ProbeResult => ({
  errno: 0,
  code: '',
  connected: true,
  reply: Buffer.from(`HTTP/1.1 ${status}\r\n${headers}\r\n`),
});
const SILENT: ProbeResult = { errno: 110, code: 'ETIMEDOUT', connected: true, reply: Buffer.alloc(0) };
const CLOSED: ProbeResult = { errno: 111, code: 'ECONNREFUSED', connected: false, reply: Buffer.alloc(0) };

/** What is found of a proxy that answers so to `CONNECT host:port`. */
async function found(
  answer: (authority: string, hasLogin: boolean) => ProbeResult,
  flags: readonly string[] = [],
  login = '',
) {
  const config = { ...configFor(...flags), upstream: parseUpstream(`http://${login}10.0.0.1:3128`) };
  const findings = await proxyChecks(config, ADDRESSES, 'example.com', async (_, request) =>
    answer(/^CONNECT (\S+) /.exec(request)?.[1] ?? '', request.includes('Proxy-Authorization')),
  );
  expect(JSON.stringify(findings)).not.toContain(SECRET);
  return { findings, levels: Object.fromEntries(findings.map(({ id, level }) => [id, level])) };
}

describe('a proxy', () => {
  it('that takes everything is fine', async () => {
    const { levels } = await found(() => reply('200 OK'));
    expect(levels).toEqual({ proxy: 'ok', 'proxy-ports': 'ok', 'proxy-addresses': 'ok' });
  });

  it('that takes 443 only: a note, with the way for ssh', async () => {
    const { findings, levels } = await found((to) => reply(to.endsWith(':443') ? '200 OK' : '403 Forbidden'));
    expect(levels).toEqual({ proxy: 'ok', 'proxy-ports': 'note', 'proxy-addresses': 'ok' });
    const ports = findings.find(({ id }) => id === 'proxy-ports');
    expect(ports?.what).toBe(
      'CONNECT to example.com: 443 open (200), 80 refused (403), 22 refused (403), 53 refused (403), 853 refused (403)',
    );
    expect(ports?.why).toMatch(/ssh\.github\.com/);
  });

  it('that refuses numbers is right for --dns virtual, and a warning for others', async () => {
    const byName = (to: string) => reply(to.startsWith('192.0.2.1:') ? '403 Forbidden' : '200 OK');
    expect((await found(byName)).levels['proxy-addresses']).toBe('note');
    expect((await found(byName, ['--dns', 'direct'])).levels['proxy-addresses']).toBe('warning');
  });

  it('that refuses everything is an error', async () => {
    expect((await found(() => reply('403 Forbidden'))).levels).toEqual({ proxy: 'ok', 'proxy-rules': 'error' });
  });

  it('that tries and does not get there has allowed it, as has one that is still trying', async () => {
    for (const answer of [reply('502 Bad Gateway'), SILENT]) {
      const { findings } = await found((to) => (to.startsWith('10.0.0.1') ? reply('200 OK') : answer));
      expect(findings.find(({ id }) => id === 'proxy-ports')).toMatchObject({
        level: 'ok',
        what: expect.stringMatching(/443 allowed/),
      });
    }
  });

  it('that wants a login is an error that names what it offers', async () => {
    const locked = reply(
      '407 Authentication Required',
      'Proxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n',
    );
    const { findings, levels } = await found(() => locked);
    expect(levels).toEqual({ 'proxy-auth': 'error' });
    expect(findings[0]?.what).toMatch(/NTLM, Negotiate/);
  });

  it('that wants it for others than itself only is found as well', async () => {
    const { levels } = await found((to) => reply(to.startsWith('10.0.0.1') ? '200 OK' : '407 No'));
    expect(levels).toEqual({ proxy: 'ok', 'proxy-auth': 'error' });
  });

  it('that takes the credentials: said, also when it needs none', async () => {
    const locked = await found((_, hasLogin) => reply(hasLogin ? '200 OK' : '407 No'), [], `alice:${SECRET}@`);
    expect(locked.levels['proxy-auth']).toBe('ok');
    const open = await found(() => reply('200 OK'), [], `alice:${SECRET}@`);
    expect(open.levels['proxy-auth']).toBe('note');
  });

  it('that lets nobody know what it does is a warning', async () => {
    const closed = { ...reply(''), reply: Buffer.alloc(0), code: 'ECONNRESET', errno: 104 };
    const { levels } = await found((to) => (to.startsWith('10.0.0.1') ? reply('200 OK') : closed));
    expect(levels['proxy-ports']).toBe('warning');
  });

  it('that is not there, or none, is an error as in up', async () => {
    expect((await found(() => CLOSED)).findings).toMatchObject([
      { id: 'proxy', level: 'error', why: 'E_PROXY_UNREACHABLE' },
    ]);
    const ssh = { ...CLOSED, connected: true, code: '', errno: 0, reply: Buffer.from('SSH-2.0-x\r\n') };
    expect((await found(() => ssh)).findings).toMatchObject([{ id: 'proxy', why: 'E_NOT_A_PROXY' }]);
  });
});
