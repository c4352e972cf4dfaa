/** Names that belong to the local network: suffixes, single labels, the search domains of resolv.conf (pure). */
import { type DnsName, keysUpwards, labelsOf, nameFromText } from './name.ts';

export interface BypassRules {
  /** Keys of names; each stands for itself and all below it. */
  readonly suffixes: ReadonlySet<string>;
  /** `printer`, as opposed to `printer.example`. */
  readonly singleLabels: boolean;
}

export const NO_BYPASS: BypassRules = { suffixes: new Set(), singleLabels: false };

export function isBypassed(name: DnsName, rules: BypassRules): boolean {
  if (rules.singleLabels && labelsOf(name.key).length === 1) return true;
  if (rules.suffixes.size === 0) return false;
  for (const key of keysUpwards(name.key)) if (rules.suffixes.has(key)) return true;
  return false;
}

/** @param names as `nameFromText` gave them */
export function bypassRules(names: readonly DnsName[], singleLabels: boolean): BypassRules {
  return { suffixes: new Set(names.map(({ key }) => key)), singleLabels };
}

/**
 * The search list of resolv.conf(5): what programs append to short names. Without these names among the bypassed ones a
 * made-up address would answer the first attempt, `www.example.com.corp.example`, and nobody would ask for the name
 * that was meant. The last `search` or `domain` line counts; `search .` means none.
 */
export function searchDomains(resolvConf: string): readonly DnsName[] {
  let words: readonly string[] = [];
  for (const line of resolvConf.split('\n')) {
    const [keyword, ...rest] = line.trim().split(/\s+/);
    if (keyword === 'search') words = rest;
    else if (keyword === 'domain') words = rest.slice(0, 1);
  }
  return words.map((word) => nameFromText(word)).filter((name) => name !== undefined);
}
