/** What a server of names is to us: something that turns a query into its response, within a time. */
import { ProxyVpnError } from '../errors.ts';
import { endpointText } from '../ip.ts';
import type { Question } from './codec.ts';

export interface Endpoint {
  /** IP address. */
  readonly address: string;
  readonly port: number;
}

export interface Upstream {
  /**
   * @param message a whole query; copied before this returns
   * @returns a response to that question with the query's id; its memory is the caller's
   * @throws ProxyVpnError E_DNS_TIMEOUT, E_DNS_UPSTREAM, E_DNS_BUSY
   */
  query(message: Uint8Array, question: Question): Promise<Buffer>;
  /** Ends connections and fails what waits. Idempotent. */
  close(): void;
}

/** Counts since the start. */
export interface UpstreamCounters {
  readonly sent: number;
  readonly answered: number;
  /** Sent again, because a connection ended or a server kept silent. */
  readonly retried: number;
  readonly failed: number;
  /** Messages that answer nothing we asked. */
  readonly ignored: number;
}

export const DNS_PORT = 53;

export function serverText({ address, port }: Endpoint): string {
  return port === DNS_PORT ? address : endpointText(address, port);
}

export function timedOut(who: string, timeoutMs: number): ProxyVpnError {
  return new ProxyVpnError('E_DNS_TIMEOUT', `no answer from ${who} within ${timeoutMs / 1000} s`, {
    hint: 'check --dns-server, and whether the proxy permits connections to it',
  });
}

export function upstreamFailed(who: string, why: string, cause?: unknown): ProxyVpnError {
  return new ProxyVpnError('E_DNS_UPSTREAM', `${who} cannot be asked: ${why}`, {
    hint: 'check --dns-server, and whether the proxy permits connections to it',
    cause,
  });
}

export function tooBusy(who: string, inFlight: number): ProxyVpnError {
  return new ProxyVpnError('E_DNS_BUSY', `${inFlight} queries wait for ${who}`, { hint: 'it answers too slowly' });
}

/** `ECONNREFUSED`, or the error's own words. */
export function errorWord(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message;
}
