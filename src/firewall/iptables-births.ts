/**
 * iptables over nf_tables makes its tables and built-in chains when they are first used, and never removes them. Those
 * that came with our rules are remembered in the kernel itself, by empty chains of telling names, so that removal
 * leaves the host as it was, also in another process. iptables-legacy has no way to give its tables back.
 */
import type { Iptables } from './iptables.ts';
import { chainKey, chainNames, type IptablesChain, iptablesChains, TABLES, type Table } from './iptables-rules.ts';
import type { SavedTables } from './iptables-save.ts';
import { parseNft } from './nft-readback.ts';
import type { FirewallPolicy } from './policy.ts';
import { runTool } from './tool.ts';

interface Line {
  readonly table: Table;
  readonly line: string;
}

const tableMemo = (table: string): string => `PVPN-${chainKey(table)}+table`;
const chainMemo = (table: string, { place }: Pick<IptablesChain, 'place'>): string =>
  `PVPN-${chainKey(table)}+${place}`;

/** What loading the policy will bring into being, written down as chains to make; before it is loaded. */
export async function birthLines(tool: Iptables, policy: FirewallPolicy, saved: SavedTables): Promise<readonly Line[]> {
  if (!tool.isNft) return [];
  const present = await builtins(tool, saved);
  return TABLES.flatMap((table) => {
    const isNew = !saved.has(table);
    const chains = iptablesChains(policy, tool.family).filter((chain) => chain.table === table);
    const born = chains.filter(({ builtin }) => isNew || !present.has(`${table} ${builtin}`));
    return [
      ...(isNew ? [{ table, line: `:${tableMemo(policy.table)} - [0:0]` }] : []),
      ...born.map((chain) => ({ table, line: `:${chainMemo(policy.table, chain)} - [0:0]` })),
    ];
  });
}

/** The commands that remove the memos. */
export function forgetLines(table: string, saved: SavedTables): readonly Line[] {
  return TABLES.flatMap((name) => {
    const memos = [tableMemo(table), ...chainNames(table).map((chain) => chainMemo(table, chain))];
    return memos.filter((memo) => saved.get(name)?.has(memo)).map((memo) => ({ table: name, line: `-X ${memo}` }));
  });
}

/**
 * Removes what came with our rules and is still empty. Best effort: what others use by now stays, and so does an
 * empty table where there is no nft program.
 * @param saved as it was while our rules were loaded
 */
export async function removeBorn(tool: Iptables, table: string, saved: SavedTables): Promise<void> {
  for (const chain of chainNames(table))
    if (saved.get(chain.table)?.has(chainMemo(table, chain)) && isPlain(chain, saved))
      // Refused when it holds rules by now.
      await runTool(tool.program, ['-w', '5', '-t', chain.table, '-X', chain.builtin]);
  for (const name of TABLES) {
    if (!saved.get(name)?.has(tableMemo(table))) continue;
    const family = tool.family === 4 ? 'ip' : 'ip6';
    const listed = await runTool('nft', ['-j', 'list', 'table', family, name]);
    if (listed.rc !== 0) continue;
    const isEmpty = parseNft(listed.out).every((object) => !('chain' in object || 'set' in object));
    if (isEmpty) await runTool('nft', ['delete', 'table', family, name]);
  }
}

const isPlain = ({ table, builtin }: Pick<IptablesChain, 'table' | 'builtin'>, saved: SavedTables): boolean =>
  saved.get(table)?.get(builtin)?.policy === 'ACCEPT';

/** `TABLE CHAIN` of each built-in chain that exists. iptables-save lists them all once there is the table. */
async function builtins(tool: Iptables, saved: SavedTables): Promise<ReadonlySet<string>> {
  const listed = await runTool('nft', ['-j', 'list', 'chains']);
  if (listed.rc === 0) {
    const family = tool.family === 4 ? 'ip' : 'ip6';
    const chains = parseNft(listed.out).flatMap(({ chain }) => (chain?.family === family ? [chain] : []));
    return new Set(chains.map((chain) => `${chain.table} ${chain.name}`));
  }
  return new Set([...saved].flatMap(([table, chains]) => [...chains.keys()].map((name) => `${table} ${name}`)));
}
