/** What `status` tells of DNS (pure). */
import type { DnsConfig } from '../dns/options.ts';
import { serverText } from '../dns/upstream.ts';

/** `status --json`, key `dns`, as far as the service knows. */
export interface DnsFigures {
  readonly names: number;
  readonly mostNames: number;
  /** Since the start. */
  readonly queries: number;
  readonly virtual: number;
  readonly relayed: number;
  readonly local: number;
  readonly malformed: number;
  readonly failed: number;
  /** Names that lost their address to others, or got none because all were in use. */
  readonly evicted: number;
  readonly refused: number;
}

export const NO_DNS_FIGURES: DnsFigures = {
  names: 0,
  mostNames: 0,
  queries: 0,
  virtual: 0,
  relayed: 0,
  local: 0,
  malformed: 0,
  failed: 0,
  evicted: 0,
  refused: 0,
};

/** For status and messages: whom the mode asks. */
export function relayTexts({ relay }: DnsConfig): readonly string[] {
  if (relay === undefined) return [];
  if (relay.over === 'https') return [`https://${relay.url.authority}${relay.url.path}`];
  return relay.servers.map(serverText);
}
