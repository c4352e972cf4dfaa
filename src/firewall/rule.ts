/** The words of a ruleset: what a rule, a chain, a set and a table are, and their nft text (pure). */
import { endpointText, type Family, familyOf } from '../ip.ts';
import type { FirewallPolicy } from './policy.ts';

/**
 * What the kernel's connection tracking sees: everything, because another firewall asks for state; all but the tunnel's
 * own packets; or nothing, because nobody asks.
 */
export type Tracking = 'all' | 'others' | 'nothing';

export interface Rule {
  /** Matches and statements in nft syntax. */
  readonly text: string;
  /** Stands in the kernel as the rule's comment, at most 127 bytes; verification compares it. */
  readonly why: string;
}

export interface Hook {
  readonly type: 'filter' | 'route';
  readonly hook: 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting';
  readonly priority: number;
  readonly policy: 'accept' | 'drop';
}

export interface Chain {
  readonly name: string;
  /** Undefined: only jumped to. */
  readonly hook: Hook | undefined;
  readonly rules: readonly Rule[];
}

export interface NamedSet {
  readonly name: string;
  readonly type: string;
  /** Holds prefixes, which the kernel may list otherwise than they were written. */
  readonly isInterval: boolean;
  readonly elements: readonly string[];
  /** The kernel removes elements after it. */
  readonly timeoutSeconds?: number;
}

/** One table of family inet. */
export interface Ruleset {
  readonly table: string;
  readonly sets: readonly NamedSet[];
  readonly chains: readonly Chain[];
}

/** By name, as nft(8) has them: include/uapi/linux/netfilter_ipv4.h, enum nf_ip_hook_priorities. */
export const PRIORITY = { raw: -300, mangle: -150, filter: 0 } as const;

/** A SYN that opens a connection, not the one that answers it. */
export const OPENS = 'tcp flags & (syn | ack) == syn';
export const OPENED = 'tcp flags & (syn | ack) != syn';

export const hex = (mark: number): string => `0x${mark.toString(16).padStart(8, '0')}`;

/** What differs between the rule of one family and its twin. */
export const FAMILIES = [
  { family: 4, ip: 'ip', type: 'ipv4_addr' },
  { family: 6, ip: 'ip6', type: 'ipv6_addr' },
] as const;
export type FamilyWords = (typeof FAMILIES)[number];

export const tunAddress = ({ tun }: FirewallPolicy, family: Family): string =>
  family === 4 ? tun.address4 : tun.address6;

/** The same rule for IPv4 and for IPv6. */
export function both(why: string, text: (words: FamilyWords) => string): readonly Rule[] {
  return FAMILIES.map((words) => ({ text: text(words), why }));
}

/** A proxy or two, as most have, are compared faster than looked up in a set (decision 0016). */
const MOST_COMPARED = 8;

/** A rule for each proxy; in a family with many, one for all of them. @param at where the proxy stands in the packet */
export function ofProxies(
  { proxies }: FirewallPolicy,
  at: 'source' | 'destination',
  why: string,
  text: (match: string) => string,
): readonly Rule[] {
  const [address, port] = at === 'source' ? ['saddr', 'tcp sport'] : ['daddr', 'tcp dport'];
  return FAMILIES.flatMap(({ family, ip }): readonly Rule[] => {
    const ours = proxies.filter((proxy) => familyOf(proxy.address) === family);
    if (ours.length > MOST_COMPARED) return [{ text: text(`${ip} ${address} . ${port} @proxies${family}`), why }];
    return ours.map((proxy) => ({
      text: text(`${ip} ${address} ${proxy.address} ${port} ${proxy.port}`),
      // What verification reads back.
      why: `${why}: ${endpointText(proxy.address, proxy.port)}`,
    }));
  });
}

/** The commands that replace the table: nft takes them as one transaction, so that no instant is without rules. */
export function nftText(ruleset: Ruleset): string {
  const name = `inet ${ruleset.table}`;
  const body = [...ruleset.sets.map(setText), ...ruleset.chains.map(chainText)].join('\n');
  // `add` makes sure that there is something to delete.
  return `add table ${name}\ndelete table ${name}\ntable ${name} {\n${body}}\n`;
}

function setText(set: NamedSet): string {
  const interval = set.isInterval ? '    flags interval\n' : '';
  const timeout = set.timeoutSeconds ? `    flags timeout\n    timeout ${set.timeoutSeconds}s\n` : '';
  const flags = interval + timeout;
  const elements = set.elements.length === 0 ? '' : `    elements = { ${set.elements.join(', ')} }\n`;
  return `  set ${set.name} {\n    type ${set.type}\n${flags}${elements}  }\n`;
}

function chainText(chain: Chain): string {
  const { hook } = chain;
  const head = hook
    ? `    type ${hook.type} hook ${hook.hook} priority ${hook.priority}; policy ${hook.policy};\n`
    : '';
  const rules = chain.rules.map((rule) => `    ${rule.text} comment "${rule.why}"\n`).join('');
  return `  chain ${chain.name} {\n${head}${rules}  }\n`;
}

/** The commands that replace the elements of these sets and nothing else, as one transaction. */
export function nftSetText(table: string, sets: readonly NamedSet[]): string {
  return sets
    .flatMap(({ name, elements }) => [
      `flush set inet ${table} ${name}`,
      ...(elements.length === 0 ? [] : [`add element inet ${table} ${name} { ${elements.join(', ')} }`]),
    ])
    .map((line) => `${line}\n`)
    .join('');
}
