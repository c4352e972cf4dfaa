import { expect, test } from 'vitest';
import { type Prober, preflight } from '../../../src/app/preflight.ts';
import type { ProbeResult } from '../../../src/native.ts';
import { parseUpstream } from '../../../src/proxy/upstream-url.ts';

const UPSTREAM = parseUpstream('http://ann:MARKERs3cret@proxy.lan:3128');
const FIRST = { address: '10.0.0.1', port: 3128 };
const SECOND = { address: 'fd00::1', port: 3128 };

const reply = (text: string): ProbeResult => ({ errno: 0, code: '', connected: true, reply: Buffer.from(text) });
const refused: ProbeResult = { errno: 111, code: 'ECONNREFUSED', connected: false, reply: Buffer.alloc(0) };
const silent: ProbeResult = { errno: 110, code: 'ETIMEDOUT', connected: true, reply: Buffer.alloc(0) };
const answering =
  (...results: readonly ProbeResult[]): Prober =>
  async ({ address }) =>
    results[address === FIRST.address ? 0 : 1] ?? refused;

const run = (...results: readonly ProbeResult[]) => preflight(UPSTREAM, [FIRST, SECOND], answering(...results));

test('any HTTP answer but a demand for a login shows a proxy', async () => {
  for (const status of ['200 OK', '403 Forbidden', '502 Bad Gateway', '503 Busy'])
    expect(await run(reply(`HTTP/1.1 ${status}\r\n\r\n`))).toEqual({ answered: FIRST, warnings: [] });
});

test('what web servers say to CONNECT is doubted, but does not end `up`', async () => {
  for (const status of ['400 Bad Request', '404 Not Found', '405 Not Allowed', '501 Not Implemented']) {
    const { answered, warnings } = await run(reply(`HTTP/1.1 ${status}\r\n\r\n`));
    expect(answered).toBe(FIRST);
    expect(warnings).toEqual([expect.stringContaining('is it a proxy?')]);
  }
});

test('the next address is tried when one does not take the connection', async () => {
  expect(await run(refused, reply('HTTP/1.1 200 OK\r\n\r\n'))).toMatchObject({ answered: SECOND });
});

test('no address takes it: each is named with its errno', async () => {
  await expect(run(refused, { ...refused, code: 'EHOSTUNREACH' })).rejects.toMatchObject({
    code: 'E_PROXY_UNREACHABLE',
    message: 'cannot connect to the proxy: 10.0.0.1:3128: ECONNREFUSED, [fd00::1]:3128: EHOSTUNREACH',
  });
});

test('407, and the 401 of tinyproxy, end it in words and without the password', async () => {
  for (const status of [407, 401]) {
    const result = reply(`HTTP/1.1 ${status} No\r\nProxy-Authenticate: Basic realm="MARKERs3cret"\r\n\r\n`);
    const error = await run(result).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: 'E_PROXY_AUTH' });
    expect(JSON.stringify(error) + String(error)).not.toContain('MARKER');
  }
});

test('something that is no proxy is told apart', async () => {
  await expect(run(reply('SSH-2.0-OpenSSH\r\n'))).rejects.toMatchObject({
    code: 'E_NOT_A_PROXY',
    message: '10.0.0.1:3128 is not an HTTP proxy: it is an SSH server',
  });
});

test('silence is a warning, for some proxies drop a CONNECT to themselves', async () => {
  expect((await run(silent)).warnings).toEqual([
    'the proxy 10.0.0.1:3128 gave no answer (ETIMEDOUT) to a CONNECT to itself; going on',
  ]);
  expect((await run(reply(''))).warnings[0]).toContain('closed the connection without an answer');
});

test('the probe asks for the proxy itself, with the credentials', async () => {
  let request = '';
  await preflight(UPSTREAM, [SECOND], async (_address, text) => {
    request = text;
    return reply('HTTP/1.1 200 OK\r\n\r\n');
  });
  expect(request).toMatch(
    /^CONNECT \[fd00::1\]:443 HTTP\/1\.1\r\nHost: \[fd00::1\]:443\r\nProxy-Authorization: Basic /,
  );
});
