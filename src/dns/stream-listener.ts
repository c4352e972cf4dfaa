/** Where the engine dials TCP flows to port 53: a socket of ours that serves DNS streams. */
import fs from 'node:fs';
import net from 'node:net';
import { isSystemCallFailure, ProxyVpnError } from '../errors.ts';
import type { DnsServer } from './server.ts';
import { serveStream } from './server-stream.ts';

export interface StreamListener {
  /** Of a TCP listener; 0 for a unix socket. */
  readonly port: number;
  /** Ends all streams; a unix socket is removed. */
  close(): Promise<void>;
}

/** Streams at a time; more are closed at once. */
const MOST_STREAMS = 512;

/**
 * @param where a path, which is made 0600 and where a stale socket is replaced, or a loopback address and port
 * @param expectHeader see proxy-header.ts
 * @throws ProxyVpnError E_DNS_LISTEN
 */
export async function listenForStreams(
  server: Pick<DnsServer, 'answerStream'>,
  where: { readonly path: string } | { readonly host: string; readonly port: number },
  expectHeader: boolean,
): Promise<StreamListener> {
  const streams = new Set<net.Socket>();
  const listener = net.createServer({ allowHalfOpen: true, noDelay: true }, (stream) => {
    streams.add(stream);
    stream.once('close', () => streams.delete(stream));
    serveStream(server, stream, { expectHeader });
  });
  listener.maxConnections = MOST_STREAMS;
  const shownWhere = 'path' in where ? where.path : `${where.host}:${where.port}`;
  try {
    if ('path' in where) fs.rmSync(where.path, { force: true });
    await new Promise<void>((resolve, reject) => {
      listener.once('error', reject);
      listener.listen(where, resolve);
    });
    if ('path' in where) fs.chmodSync(where.path, 0o600);
  } catch (cause) {
    listener.close();
    if (!isSystemCallFailure(cause)) throw cause;
    throw new ProxyVpnError('E_DNS_LISTEN', `cannot listen for DNS streams on ${shownWhere}: ${cause.code}`, {
      hint: 'check the state directory',
      cause,
    });
  }
  listener.on('error', () => {});
  const address = listener.address();
  return {
    port: address !== null && typeof address === 'object' ? address.port : 0,
    close: () =>
      new Promise((resolve) => {
        listener.close(() => resolve());
        for (const stream of streams) stream.destroy();
      }),
  };
}
