/** Loads, verifies and removes the nftables table of a policy: by libnftables in this process, or by the nft program. */
import { native } from '../native.ts';
import {
  type Backend,
  type CommandResult,
  commandError,
  firstLine,
  isPermission,
  type Purpose,
  permissionError,
  verifyError,
} from './backend.ts';
import { ALIVE } from './dns-guard.ts';
import { EVERY_RULE } from './every-rule.ts';
import { neededState } from './neighbours.ts';
import { differences, type NftObject, parseNft } from './nft-readback.ts';
import type { FirewallPolicy } from './policy.ts';
import { nftSetText, nftText, type Ruleset } from './rule.ts';
import { checkTableName, rulesetOf } from './ruleset.ts';
import { isRoot, runTool } from './tool.ts';

/** Speaks nft's language, whichever way. */
interface Nft {
  readonly name: 'libnftables' | 'nft';
  /** `list ...`, answered in JSON. */
  list(what: readonly string[]): Promise<CommandResult>;
  /** One transaction: all of it, or nothing. @param isDry the kernel checks it and throws it away */
  run(commands: string, isDry: boolean): Promise<CommandResult>;
}

/** include/nftables/libnftables.h, NFT_CTX_OUTPUT_JSON */
const OUTPUT_JSON = 1 << 4;

export interface NftBackend extends Backend {
  /** Every table of the host, as `family name`: what iptables made over nf_tables is among them. */
  tables(): Promise<readonly string[]>;
}

type OpenedNft = NftBackend | { readonly unavailable: string };

/** libnftables in this process: CAP_NET_ADMIN is enough. PROXYVPN_LIBNFTABLES names another file. */
export async function openLibnftables(purpose: Purpose): Promise<OpenedNft> {
  const addon = native();
  const why = addon.nftLoad(process.env['PROXYVPN_LIBNFTABLES'] || 'libnftables.so.1');
  if (why !== null) return { unavailable: why };
  const nft: Nft = {
    name: 'libnftables',
    list: (what) => addon.nftRun(`list ${what.join(' ')}`, OUTPUT_JSON, false),
    run: (commands, isDry) => addon.nftRun(commands, 0, isDry),
  };
  return openNftables(nft, purpose);
}

/** The nft program, for root only. */
export async function openNft(purpose: Purpose): Promise<OpenedNft> {
  if (!isRoot()) return { unavailable: 'only as root' };
  const version = await runTool('nft', ['--version']);
  if (version.rc !== 0) return { unavailable: firstLine(version.err) };
  const nft: Nft = {
    name: 'nft',
    list: (what) => runTool('nft', ['-j', 'list', ...what]),
    run: (commands, isDry) => runTool('nft', [...(isDry ? ['-c'] : []), '-f', '-'], commands),
  };
  return openNftables(nft, purpose);
}

async function openNftables(nft: Nft, purpose: Purpose): Promise<OpenedNft> {
  const everyRule = nftText(rulesetOf(EVERY_RULE, { isUntracked: true }));
  const answer = purpose === 'load' ? await nft.run(everyRule, true) : await nft.list(['tables']);
  if (answer.rc === 0) return nftBackend(nft);
  const why = firstLine(answer.err) || `exit code ${answer.rc}`;
  if (purpose === 'load' && isPermission(answer)) throw permissionError(why);
  return { unavailable: why };
}

function nftBackend(nft: Nft): NftBackend {
  const wanted = async (policy: FirewallPolicy): Promise<Ruleset> =>
    rulesetOf(policy, { isUntracked: !(await neededState(() => list(nft, ['chains']), policy.table)) });
  const verify = async (ruleset: Ruleset): Promise<void> => {
    const found = differences(ruleset, await list(nft, ['table', 'inet', ruleset.table]));
    if (found.length > 0) throw verifyError(ruleset.table, found);
  };
  const tables = async (): Promise<readonly string[]> =>
    (await list(nft, ['tables'])).flatMap(({ table }) => (table ? [`${table.family} ${table.name}`] : []));
  const isLoaded = async (table: string): Promise<boolean> => (await tables()).includes(`inet ${table}`);
  const load = async (policy: FirewallPolicy): Promise<void> => {
    const ruleset = await wanted(policy);
    await change(nft, nftText(ruleset), 'E_FIREWALL_LOAD', `cannot load the table inet ${policy.table}`);
    await verify(ruleset);
  };
  return {
    name: nft.name,
    tables,
    isLoaded,
    load,
    // The proxies stand in the rules: one transaction replaces them all.
    updateProxies: load,
    async verify(policy) {
      await verify(await wanted(policy));
    },
    async unload({ table }) {
      checkTableName(table);
      if (!(await isLoaded(table))) return 'absent';
      await change(nft, `delete table inet ${table}\n`, 'E_FIREWALL_UNLOAD', `cannot remove the table inet ${table}`);
      return 'undone';
    },
    async keepAlive({ table }) {
      await change(nft, nftSetText(table, [ALIVE]), 'E_FIREWALL_LOAD', `cannot refresh the table inet ${table}`);
    },
  };
}

async function change(nft: Nft, commands: string, code: string, what: string): Promise<void> {
  const result = await nft.run(commands, false);
  if (result.rc !== 0) throw commandError(code, what, result);
}

/** @throws ProxyVpnError E_FIREWALL_VERIFY when there is no answer, E_FIREWALL_PERMISSION */
async function list(nft: Nft, what: readonly string[]): Promise<readonly NftObject[]> {
  const result = await nft.list(what);
  if (result.rc !== 0) throw commandError('E_FIREWALL_VERIFY', `cannot list ${what.join(' ')}`, result);
  return parseNft(result.out);
}
