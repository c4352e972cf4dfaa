/**
 * Loads, verifies and removes the chains of a policy by iptables-restore and ip6tables-restore, for root only.
 *
 * The fallback where nftables cannot be had. Each table of each family is a transaction of its own, so a change has
 * instants in which one family is new and the other old; all of it is checked before any of it is made. Another
 * program may flush the host's chains and our jumps with them (firewalld does): `verify` notices.
 */
import { existsSync } from 'node:fs';
import type { Family } from '../ip.ts';
import { type Backend, commandError, firstLine, type Opened, type Purpose, verifyError } from './backend.ts';
import { EVERY_RULE } from './every-rule.ts';
import { birthLines, forgetLines, removeBorn } from './iptables-births.ts';
import { chainNames, type IptablesChain, iptablesChains, TABLES } from './iptables-rules.ts';
import {
  fillLines,
  iptablesDifferences,
  jumpLine,
  parseSave,
  removeLines,
  restoreText,
  type SavedTables,
  unjumpLines,
} from './iptables-save.ts';
import type { FirewallPolicy } from './policy.ts';
import { checkTableName } from './ruleset.ts';
import { isRoot, runTool } from './tool.ts';

/** One family's programs. */
export interface Iptables {
  readonly family: Family;
  /** `iptables` or `ip6tables`, to which -save and -restore are appended. */
  readonly program: string;
  /** The program speaks to nf_tables, in tables that it makes when they are first used. */
  readonly isNft: boolean;
}

/** Seconds to wait for the lock of another iptables. */
const LOCK_SECONDS = '5';

export async function openIptables(purpose: Purpose): Promise<Opened> {
  if (!isRoot()) return { unavailable: 'only as root' };
  // Without IPv6 in the kernel there is nothing to filter, and ip6tables fails.
  const families: readonly Family[] = existsSync('/proc/sys/net/ipv6') ? [4, 6] : [4];
  const versions = await Promise.all(families.map((family) => runTool(`${programOf(family)}-restore`, ['--version'])));
  const tools: Iptables[] = [];
  // One after the other: they take the same lock, and an older one that finds it taken sleeps for a second.
  for (const [index, family] of families.entries()) {
    const version = versions[index];
    if (version?.rc !== 0) return { unavailable: firstLine(version?.err ?? '') };
    const tool = { family, program: programOf(family), isNft: version.out.includes('nf_tables') };
    const everyRule = purpose === 'load' ? loadText(tool, EVERY_RULE, new Map(), []) : '';
    const checked = await restore(tool, everyRule, true);
    if (checked.rc !== 0) return { unavailable: `${tool.program}: ${firstLine(checked.err)}` };
    tools.push(tool);
  }
  return iptablesBackend(tools);
}

const programOf = (family: Family): string => (family === 4 ? 'iptables' : 'ip6tables');

function iptablesBackend(tools: readonly Iptables[]): Backend {
  const verify = async (policy: FirewallPolicy): Promise<void> => {
    const found: string[] = [];
    for (const tool of tools) {
      const saved = await save(tool);
      const different = iptablesDifferences(iptablesChains(policy, tool.family), chainNames(policy.table), saved);
      found.push(...different.map((text) => `${tool.program}: ${text}`));
    }
    if (found.length > 0) throw verifyError(policy.table, found);
  };
  const unload = async (table: string): Promise<'undone' | 'absent'> => {
    let isUndone = false;
    for (const tool of tools) isUndone = (await remove(tool, table)) || isUndone;
    return isUndone ? 'undone' : 'absent';
  };
  const isLoaded = async (table: string): Promise<boolean> => {
    const saved = await Promise.all(tools.map(save));
    return saved.some((tables) => hasOurs(tables, table));
  };
  return {
    name: 'iptables',
    verify,
    isLoaded,
    async load(policy) {
      const texts: string[] = [];
      for (const tool of tools) {
        const saved = await save(tool);
        texts.push(loadText(tool, policy, saved, await birthLines(tool, policy, saved)));
      }
      const wasLoaded = await isLoaded(policy.table);
      try {
        await restoreAll(tools, texts);
      } catch (error) {
        // Half of a killswitch is kept if there was one before: fail closed.
        if (!wasLoaded) await unload(policy.table);
        throw error;
      }
      await verify(policy);
    },
    async unload({ table }) {
      checkTableName(table);
      return unload(table);
    },
    // Nothing is refused for DNS without the killswitch: iptables cannot forget a rule by itself.
    async keepAlive() {},
    async updateProxies(policy) {
      const naming = (tool: Iptables): readonly IptablesChain[] =>
        iptablesChains(policy, tool.family).filter(({ place }) => place === 'OUT' || place === 'GATE');
      await restoreAll(
        tools,
        tools.map((tool) =>
          restoreText(
            TABLES.map((table) => [
              table,
              naming(tool)
                .filter((c) => c.table === table)
                .flatMap(fillLines),
            ]),
          ),
        ),
      );
      await verify(policy);
    },
  };
}

/** Everything in one input: our chains filled, surplus ones of an earlier policy removed, jumps put first. */
function loadText(tool: Iptables, policy: FirewallPolicy, saved: SavedTables, births: readonly BirthLine[]): string {
  const wanted = iptablesChains(policy, tool.family);
  const surplus = chainNames(policy.table).filter(({ name }) => !wanted.some((chain) => chain.name === name));
  return restoreText(
    TABLES.map((table) => [
      table,
      [
        ...births.filter((birth) => birth.table === table).map(({ line }) => line),
        ...wanted.filter((chain) => chain.table === table).flatMap(fillLines),
        ...wanted.filter((chain) => chain.table === table).flatMap((chain) => unjumpLines(chain, saved)),
        ...wanted.filter((chain) => chain.table === table).map(jumpLine),
        ...surplus.filter((chain) => chain.table === table).flatMap((chain) => removeLines(chain, saved)),
      ],
    ]),
  );
}

type BirthLine = Awaited<ReturnType<typeof birthLines>>[number];

const hasOurs = (saved: SavedTables, table: string): boolean =>
  chainNames(table).some((chain) => saved.get(chain.table)?.has(chain.name));

/** @returns whether there was anything of ours */
async function remove(tool: Iptables, table: string): Promise<boolean> {
  const saved = await save(tool);
  const forget = forgetLines(table, saved);
  const text = restoreText(
    TABLES.map((name) => [
      name,
      [
        ...chainNames(table)
          .filter((chain) => chain.table === name)
          .flatMap((chain) => removeLines(chain, saved)),
        ...forget.filter((birth) => birth.table === name).map(({ line }) => line),
      ],
    ]),
  );
  if (text === '') return false;
  const result = await restore(tool, text, false);
  if (result.rc !== 0) throw commandError('E_FIREWALL_UNLOAD', `${tool.program}: cannot remove ${table}`, result);
  await removeBorn(tool, table, saved);
  return true;
}

/** Checks the texts of all families before it commits any. @throws ProxyVpnError E_FIREWALL_LOAD */
async function restoreAll(tools: readonly Iptables[], texts: readonly string[]): Promise<void> {
  for (const isDry of [true, false])
    for (const [index, tool] of tools.entries()) {
      const result = await restore(tool, texts[index] ?? '', isDry);
      if (result.rc !== 0) throw commandError('E_FIREWALL_LOAD', `${tool.program}: cannot load the rules`, result);
    }
}

function restore(tool: Iptables, text: string, isDry: boolean): ReturnType<typeof runTool> {
  return runTool(`${tool.program}-restore`, ['-w', LOCK_SECONDS, '-n', ...(isDry ? ['--test'] : [])], text);
}

async function save(tool: Iptables): Promise<SavedTables> {
  const result = await runTool(`${tool.program}-save`, []);
  if (result.rc !== 0) throw commandError('E_FIREWALL_VERIFY', `${tool.program}-save`, result);
  return parseSave(result.out);
}
