/** The far side of `proxyvpn demo`: a small CONNECT proxy, an HTTP origin and a UDP echo, all embedded. */

import { execFileSync } from 'node:child_process';
import dgram from 'node:dgram';
import http from 'node:http';
import net from 'node:net';
import readline from 'node:readline';

/** The demo's little world. 203.0.113.0/24 is TEST-NET-3 (RFC 5737): it exists only behind the proxy. */
export const DEMO = {
  appAddress: '10.77.0.1',
  netAddress: '10.77.0.2',
  prefixLength: 24,
  proxyPort: 8888,
  originAddress: '203.0.113.10',
  originPort: 80,
  closedPort: 81,
  udpPort: 9999,
  page: 'Hello from the origin, which only the proxy can reach.\n',
} as const;

/** One line of JSON on this process's stdout, read by the demo. */
export type DemoEvent =
  | { readonly event: 'namespace' }
  | { readonly event: 'listening' }
  | { readonly event: 'connect'; readonly client: string; readonly target: string; readonly status: number }
  | { readonly event: 'udp'; readonly client: string };

function emit(event: DemoEvent): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

function splitAuthority(authority: string): { host: string; port: number } {
  const colon = authority.lastIndexOf(':');
  return { host: authority.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(authority.slice(colon + 1)) };
}

/** RFC 9110 §9.3.6, without authentication: it runs for seconds, in a namespace of its own. */
function serveProxy(): http.Server {
  const server = http.createServer((_request, response) => {
    response.writeHead(405).end('this proxy only does CONNECT\n');
  });
  server.on('connect', (request, client: net.Socket, head) => {
    const target = request.url ?? '';
    const report = (status: number): void =>
      emit({ event: 'connect', client: `${client.remoteAddress}:${client.remotePort}`, target, status });
    const upstream = net.connect({ ...splitAuthority(target), allowHalfOpen: true });
    client.on('error', () => upstream.destroy());
    upstream.once('connect', () => {
      report(200);
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      if (head.length > 0) upstream.write(head);
      client.pipe(upstream).pipe(client);
    });
    upstream.on('error', () => {
      if (client.bytesWritten > 0) return client.resetAndDestroy();
      report(502);
      client.end('HTTP/1.1 502 Bad Gateway\r\n\r\n');
    });
  });
  return server;
}

function serveOrigin(): http.Server {
  return http.createServer((request, response) => {
    response.setHeader('X-Seen-From', `${request.socket.remoteAddress}`);
    response.end(DEMO.page);
  });
}

function serveUdpEcho(): dgram.Socket {
  const socket = dgram.createSocket('udp4');
  socket.on('message', (message, peer) => {
    emit({ event: 'udp', client: `${peer.address}:${peer.port}` });
    socket.send(message, peer.port, peer.address);
  });
  return socket;
}

function configureLinks(): void {
  for (const line of [
    'link set dev lo up',
    `addr add ${DEMO.originAddress}/32 dev lo`,
    `addr add ${DEMO.netAddress}/${DEMO.prefixLength} dev veth0`,
    'link set dev veth0 addrgenmode none',
    'link set dev veth0 up',
  ]) {
    execFileSync('ip', line.split(' '), { stdio: ['ignore', 'ignore', 'inherit'] });
  }
}

/** Runs until stdin ends, so that it can never outlive the demo. */
export async function runDemoNet(): Promise<void> {
  emit({ event: 'namespace' });
  const commands = readline.createInterface({ input: process.stdin });
  const ended = new Promise<'ended'>((resolve) => commands.once('close', () => resolve('ended')));
  // The first line says that veth0 has been moved in here.
  const ready = new Promise<'ready'>((resolve) => commands.once('line', () => resolve('ready')));
  if ((await Promise.race([ready, ended])) === 'ended') return;
  configureLinks();
  const proxy = serveProxy();
  const origin = serveOrigin();
  const udp = serveUdpEcho();
  await Promise.all([
    new Promise<void>((resolve) => proxy.listen(DEMO.proxyPort, DEMO.netAddress, resolve)),
    new Promise<void>((resolve) => origin.listen(DEMO.originPort, '0.0.0.0', resolve)),
    new Promise<void>((resolve) => udp.bind(DEMO.udpPort, DEMO.netAddress, resolve)),
  ]);
  emit({ event: 'listening' });
  await ended;
}
