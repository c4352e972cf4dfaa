/** Reads nft's JSON and compares it with the ruleset that was asked for (pure). */
import { ProxyVpnError } from '../errors.ts';
import { canonicalAddress } from '../ip.ts';
import type { Chain, NamedSet, Ruleset } from './rule.ts';

/** libnftables-json(5), as far as it is read. Each object has one member. */
export interface NftObject {
  readonly table?: { readonly family: string; readonly name: string };
  readonly chain?: NftChain;
  readonly rule?: { readonly chain: string; readonly comment?: string };
  readonly set?: { readonly name: string; readonly elem?: readonly unknown[] };
}

export interface NftChain {
  readonly family: string;
  readonly table: string;
  readonly name: string;
  readonly type?: string;
  readonly hook?: string;
  readonly prio?: number;
  readonly policy?: string;
}

/** @throws ProxyVpnError E_FIREWALL_VERIFY when it is no such JSON */
export function parseNft(text: string): readonly NftObject[] {
  try {
    const parsed: unknown = JSON.parse(text);
    if (parsed && typeof parsed === 'object' && 'nftables' in parsed && Array.isArray(parsed.nftables))
      return parsed.nftables;
  } catch {
    // Told below.
  }
  throw new ProxyVpnError('E_FIREWALL_VERIFY', `the packet filter's answer is not JSON: ${text.slice(0, 80)}`);
}

/** What of the ruleset is missing, wrong or too much in the kernel, a sentence each; empty when all is as wanted. */
export function differences(wanted: Ruleset, found: readonly NftObject[]): readonly string[] {
  if (!found.some(({ table }) => table?.name === wanted.table)) return ['the table is missing'];
  const chains = new Map(found.flatMap(({ chain }) => (chain ? [[chain.name, chain] as const] : [])));
  const sets = new Map(found.flatMap(({ set }) => (set ? [[set.name, set.elem ?? []] as const] : [])));
  const why = (name: string): readonly string[] =>
    found.flatMap(({ rule }) => (rule?.chain === name ? [rule.comment ?? ''] : []));
  const names = new Set(wanted.chains.map(({ name }) => name));
  return [
    ...wanted.chains.flatMap((chain) => chainDifferences(chain, chains.get(chain.name), why(chain.name))),
    ...[...chains.keys()].filter((name) => !names.has(name)).map((name) => `chain ${name} is too much`),
    ...wanted.sets.flatMap((set) => setDifferences(set, sets.get(set.name))),
  ];
}

function chainDifferences(wanted: Chain, found: NftChain | undefined, comments: readonly string[]): readonly string[] {
  if (!found) return [`chain ${wanted.name} is missing`];
  const hookText = (type?: string, hook?: string, priority?: number, policy?: string): string =>
    hook ? `${type} ${hook} ${priority} ${policy}` : 'none';
  const { hook } = wanted;
  const wantedHook = hookText(hook?.type, hook?.hook, hook?.priority, hook?.policy);
  const foundHook = hookText(found.type, found.hook, found.prio, found.policy);
  const isHooked = wantedHook === foundHook;
  const hasRules = JSON.stringify(wanted.rules.map((rule) => rule.why)) === JSON.stringify(comments);
  return [
    ...(isHooked ? [] : [`chain ${wanted.name} has the hook ${foundHook} and not ${wantedHook}`]),
    ...(hasRules
      ? []
      : [`chain ${wanted.name} has other rules (${comments.length} found, ${wanted.rules.length} wanted)`]),
  ];
}

function setDifferences(wanted: NamedSet, found: readonly unknown[] | undefined): readonly string[] {
  if (!found) return [`set ${wanted.name} is missing`];
  // The kernel joins neighbouring prefixes, so only emptiness can be compared.
  const isEqual = wanted.isInterval
    ? found.length > 0 === wanted.elements.length > 0
    : sortedText(wanted.elements) === sortedText(found.map(elementText));
  return isEqual ? [] : [`set ${wanted.name} has other elements`];
}

const sortedText = (elements: readonly string[]): string =>
  [
    ...elements.map((element) =>
      element
        .split(' . ')
        .map((part) => canonicalAddress(part) ?? part)
        .join(' . '),
    ),
  ]
    .sort()
    .join(', ');

/** An element is a value, or values under `concat`, and may stand under `elem` with its extras. */
function elementText(element: unknown): string {
  if (element && typeof element === 'object') {
    if ('elem' in element) return elementText((element.elem as { readonly val?: unknown }).val);
    if ('concat' in element && Array.isArray(element.concat)) return element.concat.map(elementText).join(' . ');
  }
  return String(element);
}
