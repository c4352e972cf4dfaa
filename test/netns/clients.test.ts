/** Everyday programs through the tunnel, over proxies that we did not write: every byte arrives, and the proxy saw it. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Cli } from './cli.ts';
import { type Ran, run } from './process.ts';
import {
  makeRepository,
  originUrl,
  type ProxyServer,
  type SecureShell,
  startNginx,
  startSquid,
  startSshd,
  startTinyproxy,
  type WebServer,
} from './servers.ts';
import { ADDRESS, bracketed, makeTopology, type Topology } from './topology.ts';

const GIB = 1024 ** 3;
const LONG_MS = 120_000;

let topology: Topology;
let web: WebServer;
let shell: SecureShell;
let cli: Cli;
let commit: string;
let bigHash: string;
const proxies: { tinyproxy?: ProxyServer; squid?: ProxyServer } = {};

beforeAll(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
  web = await startNginx(topology);
  shell = await startSshd(topology, topology.net);
  commit = await makeRepository(web.root);
  bigHash = await makePseudorandomFile(path.join(web.root, 'big'), GIB);
  proxies.tinyproxy = await startTinyproxy(topology);
  proxies.squid = await startSquid(topology);
}, LONG_MS);
afterAll(async () => {
  await cli.clear();
  await topology.remove();
});

/** AES-128-CTR of zeros: the same bytes each time, and no two blocks alike. @returns sha256 */
async function makePseudorandomFile(file: string, size: number): Promise<string> {
  const key = '00'.repeat(16);
  const command = `head -c ${size} /dev/zero | openssl enc -aes-128-ctr -K ${key} -iv ${key} > ${file}`;
  const ran = await run(['bash', '-c', `set -o pipefail; ${command}`], { timeoutMs: LONG_MS });
  if (ran.code !== 0) throw new Error(ran.stderr);
  return sha256(file);
}

async function sha256(file: string): Promise<string> {
  const { stdout } = await run(['sha256sum', file], { timeoutMs: LONG_MS });
  return stdout.split(' ')[0] ?? '';
}

/** Runs curl with its output behind a pipe. A transfer that stands still for 15 s fails, with what the tunnel says. */
async function curl(args: string, pipe = ''): Promise<Ran> {
  const options = `-sS --fail --speed-limit 1 --speed-time 15 --cacert ${web.authority} -w '%{stderr}%{http_version}'`;
  const script = `set -o pipefail; curl ${options} ${args} ${pipe}`;
  const ran = await topology.app.run(['bash', '-c', script], { timeoutMs: LONG_MS });
  if (ran.code !== 0) throw new Error(`curl ${args}: ${ran.code} ${ran.stderr}\n${(await cli.run(['status'])).stdout}`);
  return ran;
}

/** @returns sha256 of what curl downloaded and the HTTP version it spoke */
async function downloadHash(url: string): Promise<{ hash: string; version: string }> {
  const ran = await curl(url, '| sha256sum');
  return { hash: ran.stdout.split(' ')[0] ?? '', version: ran.stderr };
}

/** @returns sha256 of what the origin stored */
async function uploadHash(url: string, file: string): Promise<{ hash: string; version: string }> {
  const ran = await curl(`-T ${file} ${url}`);
  const stored = path.join(web.root, 'upload', path.basename(url));
  const hash = await sha256(stored);
  fs.rmSync(stored);
  return { hash, version: ran.stderr };
}

const upstreams = [
  { name: 'tinyproxy', port: 8888, at: 'v4' },
  { name: 'squid', port: 3128, at: 'v6' },
] as const;

describe.each(upstreams)('through $name at its $at address', ({ name, port, at }) => {
  beforeEach(() => cli.up(['--proxy', `${bracketed(ADDRESS.net[at])}:${port}`, '--killswitch']));
  afterEach(() => cli.down());

  describe.each(['v4', 'v6'] as const)('to an origin at %s', (family) => {
    const origin = ADDRESS.origin[family];

    test('curl fetches a page, and the proxy logs the CONNECT', async () => {
      const page = await topology.app.must(['curl', '-sS', '--max-time', '10', originUrl(family, '/hello')]);
      expect(page).toBe('hello from the origin\n');
      expect(proxies[name]?.log()).toContain(`${bracketed(origin)}:8080`);
      expect((await cli.status()).flows).toMatchObject({ opened: 1, refused: 0, failed: 0 });
    });

    test('curl speaks HTTP/2 over TLS and accepts the origin certificate', async () => {
      const page = await downloadHash(originUrl(family, '/hello', 'https'));
      expect(page.version).toBe('2');
      expect(page.hash).toBe(createHash('sha256').update('hello from the origin\n').digest('hex'));
    });

    test('ssh logs in and runs a command', async () => {
      const argv = ['ssh', ...shell.clientOptions, '-p', `${shell.port}`, `root@${origin}`, 'cat; echo logged in'];
      expect(await topology.app.must(argv, { input: 'typed\n' })).toBe('typed\nlogged in\n');
    });

    test('scp copies 32 MiB there and back', async () => {
      const [here, there, back] = ['here', 'there', 'back'].map((file) => path.join(topology.directory, file));
      const hash = await makePseudorandomFile(`${here}`, 32 * 1024 ** 2);
      const scp = ['scp', '-q', ...shell.clientOptions, '-P', `${shell.port}`];
      await topology.app.must([...scp, `${here}`, `root@${bracketed(origin)}:${there}`], { timeoutMs: LONG_MS });
      await topology.app.must([...scp, `root@${bracketed(origin)}:${there}`, `${back}`], { timeoutMs: LONG_MS });
      expect([await sha256(`${there}`), await sha256(`${back}`)]).toEqual([hash, hash]);
    });

    test('git clones a repository over HTTP', async () => {
      const clone = path.join(topology.directory, `clone-${name}-${family}`);
      await topology.app.must(['git', 'clone', '-q', originUrl(family, '/repository.git'), clone]);
      const head = await run(['git', '-c', 'safe.directory=*', '-C', clone, 'rev-parse', 'HEAD']);
      expect(head.stdout.trim()).toBe(commit);
    });

    test('python3-requests fetches over one kept-alive connection and over TLS', async () => {
      const script = [
        'import requests, sys',
        'with requests.Session() as s:',
        '    for _ in range(3): print(s.get(sys.argv[1], timeout=10).text, end="")',
        '    print(s.get(sys.argv[2], verify=sys.argv[3], timeout=10).status_code)',
      ].join('\n');
      const urls = [originUrl(family, '/hello'), originUrl(family, '/hello', 'https')];
      const printed = await topology.app.must(['/usr/bin/python3', '-c', script, ...urls, web.authority]);
      expect(printed).toBe(`${'hello from the origin\n'.repeat(3)}200\n`);
      expect((await cli.status()).flows).toMatchObject({ opened: 2 });
    });
  });

  // Each family once: the address of the proxy and that of the origin have met in all pairs above.
  test('1 GiB comes down by HTTP/1.1, every byte right, and is counted', { timeout: LONG_MS }, async () => {
    expect(await downloadHash(originUrl(at, '/big'))).toEqual({ hash: bigHash, version: '1.1' });
    expect((await cli.status()).bytes?.toApp).toBeGreaterThanOrEqual(GIB);
  });

  test('1 GiB goes up by HTTP/1.1, every byte right, and is counted', { timeout: LONG_MS }, async () => {
    const big = path.join(web.root, 'big');
    expect(await uploadHash(originUrl(at, '/upload/one'), big)).toEqual({ hash: bigHash, version: '1.1' });
    expect((await cli.status()).bytes?.toUpstream).toBeGreaterThanOrEqual(GIB);
  });
});

describe('through squid, HTTP/2 over TLS', () => {
  beforeEach(() => cli.up(['--proxy', `${ADDRESS.net.v4}:3128`, '--killswitch']));
  afterEach(() => cli.down());

  test('1 GiB comes down, every byte right', { timeout: LONG_MS }, async () => {
    expect(await downloadHash(originUrl('v4', '/big', 'https'))).toEqual({ hash: bigHash, version: '2' });
  });

  test('1 GiB goes up, every byte right', { timeout: LONG_MS }, async () => {
    const uploaded = await uploadHash(originUrl('v6', '/upload/two', 'https'), path.join(web.root, 'big'));
    expect(uploaded).toEqual({ hash: bigHash, version: '2' });
  });
});
