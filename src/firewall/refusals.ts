/** How many packets our own rules have refused so far, by their counters. */
import { native } from '../native.ts';
import { type NftObject, parseNft } from './nft-readback.ts';
import { checkTableName } from './ruleset.ts';

export interface Refusals {
  /** Answered with a reset. */
  readonly tcp: number;
  /** Answered by ICMP, or dropped. */
  readonly other: number;
}

/** include/nftables/libnftables.h, NFT_CTX_OUTPUT_JSON */
const OUTPUT_JSON = 1 << 4;

/**
 * Reads them by libnftables in this process. Changes nothing.
 * @returns undefined where there is no such library, no CAP_NET_ADMIN, or no such table
 */
export async function refusalsOf(table: string): Promise<Refusals | undefined> {
  checkTableName(table);
  const addon = native();
  if (addon.nftLoad(process.env['PROXYVPN_LIBNFTABLES'] || 'libnftables.so.1') !== null) return undefined;
  const listed = await addon.nftRun(`list table inet ${table}`, OUTPUT_JSON, false);
  return listed.rc === 0 ? sumRefusals(parseNft(listed.out)) : undefined;
}

interface Expression {
  readonly counter?: { readonly packets?: unknown };
  readonly reject?: { readonly type?: unknown };
}

/** Of every rule that counts and then refuses. */
export function sumRefusals(objects: readonly NftObject[]): Refusals {
  let [tcp, other] = [0, 0];
  for (const { rule } of objects) {
    const expressions: readonly Expression[] =
      (rule as { readonly expr?: readonly Expression[] } | undefined)?.expr ?? [];
    const packets = expressions.find(({ counter }) => counter !== undefined)?.counter?.packets;
    if (typeof packets !== 'number') continue;
    if (expressions.some(({ reject }) => reject?.type === 'tcp reset')) tcp += packets;
    else other += packets;
  }
  return { tcp, other };
}
