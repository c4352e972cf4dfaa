import { describe, expect, it } from 'vitest';
import { Credentials } from '../../../src/proxy/credentials.ts';
import { explainRefusal } from '../../../src/proxy/refusal.ts';

const bytes = (text: string) => Buffer.from(text, 'latin1');
const alice = new Credentials('alice', 'MARKERs3cret');

/** What tinyproxy 1.11.1 sends, seen on the wire. */
const tinyproxy = (status: string, text: string) =>
  bytes(`HTTP/1.1 ${status}\r
Server: tinyproxy/1.11.1\r
Content-Type: text/html\r
Connection: close\r
\r
<?xml version="1.0" encoding="UTF-8" ?>
<html>
<head><title>${status}</title></head>
<body>
<h1>${status.slice(4)}</h1>
<p>${text}</p>
</body>
</html>
`);

/** What squid 5.7 sends, seen on the wire, without its page. */
const squid = (status: string, error: string, more = '') =>
  bytes(`HTTP/1.1 ${status}\r
Server: squid/5.7\r
Mime-Version: 1.0\r
Content-Type: text/html;charset=utf-8\r
Content-Length: 3058\r
X-Squid-Error: ${error}\r
Vary: Accept-Language\r
Content-Language: en\r
${more}Via: 1.1 lab (squid/5.7)\r
Connection: keep-alive\r
\r
<!DOCTYPE html PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">`);

const reply = (status: string, headers = '') => bytes(`HTTP/1.1 ${status}\r\n${headers}\r\n`);

describe('real proxies, in words', () => {
  it.each([
    [
      'tinyproxy, ConnectPort',
      tinyproxy('403 Access violation', 'The CONNECT method not allowed with the port you tried to use.'),
      '403: this proxy refuses port 5432',
    ],
    [
      'tinyproxy, Allow',
      tinyproxy(
        '403 Access denied',
        'The administrator of this proxy has not configured it to service requests from your host.',
      ),
      '403: this proxy does not serve this host (its access list)',
    ],
    [
      'tinyproxy, Filter',
      tinyproxy('403 Filtered', 'The request you made has been filtered'),
      '403: this proxy filters 192.0.2.1',
    ],
    [
      'tinyproxy, refused or unresolved',
      tinyproxy('500 Unable to connect', 'Tinyproxy was unable to connect to the remote web server.'),
      '500: the proxy could not connect to 192.0.2.1:5432',
    ],
    [
      'squid, Safe_ports',
      squid('403 Forbidden', 'ERR_ACCESS_DENIED 0'),
      '403: this proxy refuses port 5432 (many allow CONNECT to 443 only), or the host 192.0.2.1',
    ],
    [
      'squid, refused',
      squid('503 Service Unavailable', 'ERR_CONNECT_FAIL 111'),
      '503: the proxy could not connect to 192.0.2.1:5432: connection refused',
    ],
    [
      'squid, unreachable',
      squid('503 Service Unavailable', 'ERR_CONNECT_FAIL 101'),
      '503: the proxy could not connect to 192.0.2.1:5432: network unreachable',
    ],
    [
      'squid, an errno without words',
      squid('503 Service Unavailable', 'ERR_CONNECT_FAIL 1'),
      '503: the proxy could not connect to 192.0.2.1:5432: EPERM',
    ],
    [
      'squid, an errno that is none',
      squid('503 Service Unavailable', 'ERR_CONNECT_FAIL 41'),
      '503: the proxy could not connect to 192.0.2.1:5432',
    ],
    ['squid, DNS', squid('503 Service Unavailable', 'ERR_DNS_FAIL 0'), '503: the proxy cannot resolve 192.0.2.1'],
    [
      'squid, no parent',
      squid('500 Internal Server Error', 'ERR_CANNOT_FORWARD 0'),
      '500: the proxy has no way to 192.0.2.1:5432',
    ],
    [
      'squid, login wanted',
      squid(
        '407 Proxy Authentication Required',
        'ERR_CACHE_ACCESS_DENIED 0',
        'Proxy-Authenticate: Basic realm="lab"\r\n',
      ),
      '407: the proxy wants a user name and password: give http://USER:PASSWORD@HOST:PORT',
    ],
  ])('%s', (_, data, words) => {
    expect(explainRefusal(data, '192.0.2.1:5432')).toBe(words);
  });

  it('tinyproxy answers a wrong password with 401', () => {
    const data = tinyproxy('401 Unauthorized', 'The administrator of this proxy has not configured it');
    expect(explainRefusal(data, '192.0.2.1:443', alice)).toBe('401: wrong user name or password');
    expect(explainRefusal(data, '192.0.2.1:443')).toContain('web server');
  });
});

describe('407', () => {
  const offers = (...values: string[]) =>
    reply('407 Proxy Authentication Required', values.map((value) => `Proxy-Authenticate: ${value}\r\n`).join(''));

  it.each([
    [['NTLM', 'Negotiate'], 'the proxy offers NTLM, Negotiate; proxyvpn can do Basic'],
    [['Negotiate, NTLM'], 'the proxy offers Negotiate, NTLM; proxyvpn can do Basic'],
    [['Digest realm="a, Basic b", qop="auth", nonce=abc=='], 'the proxy offers Digest; proxyvpn can do Basic'],
    [['Negotiate YIIKhgYGKwYB', 'NTLM', 'NTLM'], 'the proxy offers Negotiate, NTLM; proxyvpn can do Basic'],
    [['NTLM', 'basic realm="x"'], 'wrong user name or password'],
    [['Digest realm="x", nonce="y", Basic realm="z"'], 'wrong user name or password'],
    [[], 'the proxy wants a login but names no way to give it'],
    [['=,"'], 'the proxy wants a login but names no way to give it'],
  ])('%j', (values, words) => {
    expect(explainRefusal(offers(...values), 'h:443', alice)).toBe(`407: ${words}`);
  });

  it('without credentials asks for them where Basic is offered', () => {
    expect(explainRefusal(offers('NTLM', 'Basic realm="x"'), 'h:443')).toContain('wants a user name and password');
  });
});

describe('other answers', () => {
  it.each([
    ['403 Forbidden', '', '403: this proxy refuses [2001:db8::1]:443 (some allow CONNECT by host name only)'],
    ['400 Bad Request', '', '400: the proxy does not understand CONNECT [2001:db8::1]:443'],
    ['400 Bad port', '', '400: the proxy does not understand CONNECT [2001:db8::1]:443 ("Bad port")'],
    ['405 Method Not Allowed', '', '405: this server does not do CONNECT: is it an HTTP proxy?'],
    ['501 Not Implemented', '', '501: this server does not do CONNECT: is it an HTTP proxy?'],
    ['502 Bad Gateway', '', '502: the proxy could not connect to [2001:db8::1]:443'],
    ['502 no route', '', '502: the proxy could not connect to [2001:db8::1]:443 ("no route")'],
    ['504 Gateway Time-out', '', '504: the proxy got no answer from [2001:db8::1]:443 in time'],
    ['511 x', '', '511: the network wants a login first (captive portal)'],
    ['418 short and stout', '', '418: the proxy refused [2001:db8::1]:443 ("short and stout")'],
    [
      '302 Found',
      'Location: https://u:p@login.example/start?token=abc\r\n',
      '302: redirected to https://login.example: a login page (captive portal), or no proxy but a web server',
    ],
    ['301 x', 'Location: /else\r\n', '301: redirected: a login page (captive portal), or no proxy but a web server'],
    ['200 OK', '', '200: the proxy accepted'],
    ['101 x', '', '101: the proxy changed the protocol, which nobody asked for'],
  ])('%s %s', (status, headers, words) => {
    expect(explainRefusal(reply(status, headers), '[2001:db8::1]:443')).toBe(words);
  });

  it.each([
    ['', 'the proxy closed the connection without an answer'],
    ['HTTP/1.1 100 Continue\r\n\r\n', 'the proxy closed the connection in the middle of its answer'],
    ['\x15\x03\x01', "the proxy's answer makes no sense: it speaks TLS; is this an https:// proxy?"],
    ['HTTP/1.1 4', "the proxy's answer makes no sense: the status line is not HTTP"],
  ])('%j', (text, words) => {
    expect(explainRefusal(bytes(text), 'h:443')).toBe(words);
  });

  it('a head cut anywhere behind its status line keeps its status', () => {
    const whole = squid('407 Proxy Authentication Required', 'X 0', 'Proxy-Authenticate: NTLM\r\n');
    for (let length = whole.indexOf('\n'); length <= whole.length; length++) {
      expect(explainRefusal(whole.subarray(0, length), 'h:443')).toMatch(/^407: the proxy /);
    }
  });

  it('control characters and endless words of a proxy do not reach the terminal', () => {
    const words = explainRefusal(reply(`499 \x1b[2Jred\x07 \xe9${'x'.repeat(500)}`), 'h:443');
    expect(words).toMatch(/^[\x20-\x7e]{1,160}$/);
  });
});

describe('a proxy that repeats our credentials', () => {
  const sent = alice.basicAuthorization();
  const token = sent.slice('Basic '.length);
  it.each([
    `400 ${sent}`,
    '418 user alice password MARKERs3cret',
    '500 MARKERs3cret',
    '302 x\r\nLocation: http://MARKERs3cret.example/',
    '407 x\r\nProxy-Authenticate: MARKERs3cret',
    `407 x\r\nProxy-Authenticate: ${token.replace('=', '')}`,
  ])('%s does not get them printed', (status) => {
    const words = explainRefusal(reply(status, '\r\n'), 'h:443', alice);
    for (const secret of [token, 'MARKERs3cret', 'markers3cret', 'alice']) expect(words).not.toContain(secret);
  });

  it('nor when they are not ASCII', () => {
    const credentials = new Credentials('bob', 'pässwörd');
    const data = Buffer.from('HTTP/1.1 418 pässwörd\r\n\r\n', 'utf8');
    expect(explainRefusal(data, 'h:443', credentials)).toBe('418: the proxy refused h:443 ("***")');
  });
});

it('random replies are explained in one printable line', () => {
  let state = 11;
  for (let round = 0; round < 5_000; round++) {
    const data = Buffer.alloc(round % 90);
    for (let i = 0; i < data.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      data[i] = state >>> 24;
    }
    const text = Buffer.concat([bytes(round % 2 ? '' : `HTTP/1.1 ${100 + (round % 500)} `), data]);
    expect(explainRefusal(text, 'h:443', alice)).toMatch(/^[\x20-\x7e]+$/);
  }
});
