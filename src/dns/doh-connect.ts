/** The TLS connection below DNS over HTTPS: made to an address, verified by the name. */
import net from 'node:net';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import type { DohUrl } from './doh-upstream.ts';

export interface DohTarget {
  readonly url: Pick<DohUrl, 'host' | 'port'>;
  /** Where to connect to; the virtual address of the host's name, or the host itself when it is an address. */
  readonly address: string;
  /** PEM; default: the authorities that node knows. */
  readonly ca?: string | readonly string[];
  /** Default 10 s. */
  readonly timeoutMs?: number;
}

/**
 * @returns a connection on which the server agreed to speak HTTP/2 and showed a valid certificate for the URL's host
 * @throws Error of net or tls, or one that says that the server does not speak HTTP/2
 */
export function connectDoh({ url, address, ca, timeoutMs = 10_000 }: DohTarget): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({
      host: address,
      port: url.port,
      // RFC 6066 §3: no literal addresses in SNI.
      ...(net.isIP(url.host) === 0 ? { servername: url.host } : {}),
      checkServerIdentity: (_, certificate) => tls.checkServerIdentity(url.host, certificate),
      ALPNProtocols: ['h2'],
      minVersion: 'TLSv1.2',
      ...(ca === undefined ? {} : { ca: [ca].flat() }),
    });
    const timer = setTimeout(
      () => socket.destroy(new Error(`no TLS connection within ${timeoutMs / 1000} s`)),
      timeoutMs,
    );
    socket.once('error', reject);
    socket.once('close', () => {
      clearTimeout(timer);
      reject(new Error('the connection was closed'));
    });
    socket.once('secureConnect', () => {
      clearTimeout(timer);
      if (socket.alpnProtocol === 'h2') {
        socket.off('error', reject);
        resolve(socket);
        return;
      }
      socket.destroy(new Error('it does not speak HTTP/2'));
    });
  });
}
