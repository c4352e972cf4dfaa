/** What the host's other packet filters need of our packets. */
import { readFile } from 'node:fs/promises';
import type { NftChain, NftObject } from './nft-readback.ts';

/** Chains of iptables-legacy, which nftables does not list. 0440: only root may read it. */
const LEGACY_TABLES = ['/proc/net/ip_tables_names', '/proc/net/ip6_tables_names'];

/**
 * Whether somebody else's rules may ask for the state of the tunnel's connections: a firewall that lets
 * `established` in (ufw, firewalld) would drop untracked packets, and untracked packets are not translated back
 * for containers behind NAT. A host without such rules saves the cost of tracking, and never fills its table.
 * @param listChains of the whole host
 * @param table ours
 */
export async function neededState(listChains: () => Promise<readonly NftObject[]>, table: string): Promise<boolean> {
  const chains = (await listChains()).flatMap(({ chain }) => (chain ? [chain] : []));
  return chains.some((chain) => looksAtState(chain, table)) || (await hasLegacyTables());
}

function looksAtState(chain: NftChain, table: string): boolean {
  const isOurs = chain.family === 'inet' && (chain.table === table || /^proxyvpn(-|$)/.test(chain.table));
  // Forwarded packets are tracked in any case.
  const isHooked = chain.hook !== undefined && chain.hook !== 'forward';
  return !isOurs && isHooked && ['inet', 'ip', 'ip6'].includes(chain.family);
}

async function hasLegacyTables(): Promise<boolean> {
  const names = await Promise.all(
    // Unreadable: there is iptables-legacy, and what it does cannot be known. Absent: there is none.
    LEGACY_TABLES.map((file) => readFile(file, 'utf8').catch((error) => (error.code === 'ENOENT' ? '' : 'unknown'))),
  );
  return names.some((text) => text.trim() !== '');
}
