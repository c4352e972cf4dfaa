/**
 * Real DNS peers on loopback, for src/dns alone: no tunnel, no device; the namespace of the test run has lo only.
 *
 *     dig, getent, c-ares ──> 127.0.0.4:53  DnsServer, in the test's process
 *                                ├─ over TCP ──> 127.0.0.2:53   unbound
 *                                ├─ DoH ───────> 127.0.0.5:443  node's http2 with a certificate, before unbound
 *                                └─ UDP, TCP ──> 127.0.0.3:53   dnsmasq, "the LAN's resolver"
 *     dig, getent ──> 127.0.0.6:53  dnsmasq, a caching stub ──> 127.0.0.4
 *     dig ──────────> 127.0.0.7:53  unbound, forwarding with 0x20 ──> 127.0.0.4
 */
import dgram from 'node:dgram';
import fs from 'node:fs';
import http2 from 'node:http2';
import os from 'node:os';
import path from 'node:path';
import type { Datagram } from '../../src/datagram.ts';
import { decodeQuery } from '../../src/dns/codec.ts';
import { DnsServer, type DnsServerOptions } from '../../src/dns/server.ts';
import { listenForStreams } from '../../src/dns/stream-listener.ts';
import type { Upstream } from '../../src/dns/upstream.ts';
import { Background, type Ran, run } from './process.ts';

export const UNBOUND = { address: '127.0.0.2', port: 53 } as const;
export const LAN_RESOLVER = { address: '127.0.0.3', port: 53 } as const;
export const OURS = { address: '127.0.0.4', port: 53 } as const;
export const DOH = { address: '127.0.0.5', port: 443 } as const;
export const STUB = { address: '127.0.0.6', port: 53 } as const;
export const FORWARDER = { address: '127.0.0.7', port: 53 } as const;

export function temporaryDirectory(): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pvt-dns-'));
  fs.chmodSync(directory, 0o755);
  return directory;
}

async function serve(argv: readonly string[], address: string): Promise<Background> {
  const server = new Background(argv);
  const query = ['dig', `@${address}`, '+tries=1', '+time=1', 'version.bind', 'chaos', 'txt'];
  await server.until(`an answer of ${address}`, async () => (await run(query)).code === 0);
  return server;
}

/** Of the names under upstream.test; every TXT of `big` is 200 bytes long, twenty of them. */
export async function startUnbound(directory: string): Promise<Background> {
  const big = Array.from(
    { length: 20 },
    (_, i) => `local-data: 'big.upstream.test. 60 IN TXT "${`${i}-`.padEnd(200, 'x')}"'`,
  );
  const config = path.join(directory, 'unbound.conf');
  const lines = [
    'server:',
    `interface: ${UNBOUND.address}`,
    'do-daemonize: no',
    'chroot: ""',
    'username: ""',
    'use-syslog: no',
    'pidfile: ""',
    'module-config: "iterator"',
    'access-control: 127.0.0.0/8 allow',
    'local-zone: "upstream.test." static',
    "local-data: 'www.upstream.test. 60 IN A 192.0.2.80'",
    "local-data: 'www.upstream.test. 60 IN AAAA 2001:db8::80'",
    "local-data: 'upstream.test. 60 IN MX 10 mail.upstream.test.'",
    "local-data: 'mail.upstream.test. 60 IN A 192.0.2.25'",
    ...big,
    'remote-control:',
    'control-enable: no',
  ];
  fs.writeFileSync(config, `${lines.join('\n')}\n`);
  return serve(['unbound', '-d', '-c', config], UNBOUND.address);
}

const DNSMASQ = [
  'dnsmasq',
  '--keep-in-foreground',
  '--conf-file=/dev/null',
  '--no-resolv',
  '--no-hosts',
  '--bind-interfaces',
  '--user=root',
  '--pid-file',
];

/** Knows printer.local, and a TXT of it that does not fit into a datagram. */
export function startLanResolver(): Promise<Background> {
  const texts = Array.from({ length: 12 }, (_, i) => `${i}-`.padEnd(200, 'y'));
  return serve(
    [
      ...DNSMASQ,
      `--listen-address=${LAN_RESOLVER.address}`,
      '--host-record=printer.local,192.168.1.9,fd00::9',
      '--local=/local/',
      ...texts.map((text) => `--txt-record=printer.local,${text}`),
    ],
    LAN_RESOLVER.address,
  );
}

/** As on a host whose programs ask a local cache. */
export function startStub(): Promise<Background> {
  return serve([...DNSMASQ, `--listen-address=${STUB.address}`, `--server=${OURS.address}`], STUB.address);
}

/** A forwarder that mixes the case of every name and drops answers that do not repeat it (0x20). */
export function startForwarder(directory: string): Promise<Background> {
  const config = path.join(directory, 'forwarder.conf');
  const lines = [
    'server:',
    `interface: ${FORWARDER.address}`,
    'do-daemonize: no',
    'chroot: ""',
    'username: ""',
    'use-syslog: no',
    'pidfile: ""',
    'module-config: "iterator"',
    'access-control: 127.0.0.0/8 allow',
    'do-not-query-localhost: no',
    'use-caps-for-id: yes',
    'private-address: 10.0.0.0/8',
    'forward-zone:',
    'name: "."',
    `forward-addr: ${OURS.address}`,
    'remote-control:',
    'control-enable: no',
  ];
  fs.writeFileSync(config, `${lines.join('\n')}\n`);
  return serve(['unbound', '-d', '-c', config], FORWARDER.address);
}

export interface Certificates {
  /** PEM. */
  readonly ca: string;
  readonly key: string;
  readonly certificate: string;
}

/** An authority, and a certificate of its for the name. */
export async function makeCertificates(directory: string, name: string): Promise<Certificates> {
  const file = (base: string): string => path.join(directory, base);
  const openssl = async (...args: readonly string[]): Promise<void> => {
    const ran = await run(['openssl', ...args]);
    if (ran.code !== 0) throw new Error(`openssl ${args[0]}: ${ran.stderr}`);
  };
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  await openssl(
    'req',
    '-x509',
    ...key,
    '-keyout',
    file('ca.key'),
    '-out',
    file('ca.pem'),
    '-subj',
    '/CN=test',
    '-days',
    '2',
  );
  await openssl('req', ...key, '-keyout', file('key.pem'), '-out', file('csr.pem'), '-subj', `/CN=${name}`);
  fs.writeFileSync(file('ext'), `subjectAltName=DNS:${name}\n`);
  const by = ['-CA', file('ca.pem'), '-CAkey', file('ca.key'), '-CAcreateserial'];
  await openssl(
    'x509',
    '-req',
    '-in',
    file('csr.pem'),
    ...by,
    '-extfile',
    file('ext'),
    '-out',
    file('cert.pem'),
    '-days',
    '2',
  );
  const read = (base: string): string => fs.readFileSync(file(base), 'utf8');
  return { ca: read('ca.pem'), key: read('key.pem'), certificate: read('cert.pem') };
}

/** A DoH server (RFC 8484) that has its answers from `behind`. @returns what ends it */
export async function startDoh({ key, certificate }: Certificates, behind: Upstream): Promise<() => void> {
  const server = http2.createSecureServer({ key, cert: certificate });
  const sessions = new Set<http2.ServerHttp2Session>();
  server.on('session', (session) => sessions.add(session));
  server.on('stream', (stream) => {
    const chunks: Buffer[] = [];
    stream.on('error', () => {});
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('end', async () => {
      const decoded = decodeQuery(Buffer.concat(chunks));
      if (decoded.kind !== 'query') return stream.close();
      const response = await behind.query(decoded.query.bytes, decoded.query.question);
      stream.respond({ ':status': 200, 'content-type': 'application/dns-message' });
      stream.end(response);
    });
  });
  await new Promise<void>((resolve) => server.listen(DOH.port, DOH.address, resolve));
  return () => {
    for (const session of sessions) session.destroy();
    server.close();
  };
}

export interface Served {
  readonly server: DnsServer;
  close(): Promise<void>;
}

/** Our server on UDP and TCP. */
export async function startOurs(options: Omit<DnsServerOptions, 'send'>): Promise<Served> {
  const socket = dgram.createSocket('udp4');
  const send = (replies: readonly Datagram[]): void => {
    for (const { payload, clientPort, clientAddress } of replies) socket.send(payload, clientPort, clientAddress);
  };
  const server = new DnsServer({ ...options, send });
  socket.on('message', (payload, { address, port }) => {
    const ends = { family: 4, serverAddress: OURS.address, serverPort: OURS.port } as const;
    server.receive([{ ...ends, clientAddress: address, clientPort: port, payload }]);
  });
  await new Promise<void>((resolve) => socket.bind(OURS.port, OURS.address, resolve));
  const streams = await listenForStreams(server, { host: OURS.address, port: OURS.port }, false);
  return {
    server,
    async close() {
      await streams.close();
      await new Promise<void>((resolve) => socket.close(resolve));
    },
  };
}

export interface Dug {
  readonly status: string;
  /** As dig prints them: `qr rd ra`. */
  readonly flags: readonly string[];
  /** `TYPE DATA` of each record of the answer section. */
  readonly answers: readonly string[];
  /** The line about EDNS, if there is one. */
  readonly edns: string | undefined;
  /** UDP or TCP, of the answer shown. */
  readonly over: string | undefined;
  readonly text: string;
}

/** dig(1). @param args name, type and options */
export async function dig(server: string, ...args: readonly string[]): Promise<Dug> {
  const ran = await run(['dig', `@${server}`, '+tries=1', '+time=5', ...args]);
  if (ran.code !== 0) throw new Error(`dig ${args.join(' ')}: ${ran.stdout}${ran.stderr}`);
  const text = ran.stdout;
  const section = /;; ANSWER SECTION:\n([\s\S]*?)\n\n/.exec(text)?.[1] ?? '';
  return {
    status: /status: (\w+)/.exec(text)?.[1] ?? '',
    flags: (/;; flags: ([^;]*);/.exec(text)?.[1] ?? '').split(' '),
    answers: section
      .split('\n')
      .filter(Boolean)
      .map((line) => line.split(/\s+/).slice(3).join(' ')),
    edns: /^; (EDNS: .*)$/m.exec(text)?.[1],
    over: /;; SERVER: .*\((UDP|TCP)\)/.exec(text)?.[1],
    text,
  };
}

/** Runs a program that finds this server in /etc/resolv.conf, in a mount namespace of its own. */
export async function withResolver(directory: string, server: string, command: readonly string[]): Promise<Ran> {
  const file = path.join(directory, `resolv-${server}`);
  fs.writeFileSync(file, `nameserver ${server}\noptions timeout:20 attempts:1\n`);
  const script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"';
  return run(['unshare', '--mount', 'sh', '-c', script, file, ...command]);
}
