/** Everything about a namespace that `down` must restore, as lines of text that can be compared. */
import type { Namespace } from './topology.ts';

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** Counters, ages and kernel-chosen numbers: they differ between two dumps of an untouched host. */
const VOLATILE_KEYS = new Set(['handle', 'stats', 'stats64', 'used', 'expires', 'users', 'age', 'packets', 'bytes']);

function withoutVolatile(value: Json): Json {
  if (Array.isArray(value)) return value.map(withoutVolatile);
  if (value === null || typeof value !== 'object') return value;
  const kept = Object.entries(value).filter(([key]) => !VOLATILE_KEYS.has(key) && key !== 'metainfo');
  return Object.fromEntries(kept.map(([key, member]) => [key, withoutVolatile(member)]));
}

const lines = (json: string): readonly string[] => {
  const parsed = JSON.parse(json.trim() === '' ? '[]' : json) as Json;
  const list = Array.isArray(parsed) ? parsed : ((parsed as { nftables?: readonly Json[] }).nftables ?? [parsed]);
  return list.map((item: Json) => JSON.stringify(withoutVolatile(item))).filter((line: string) => line !== '{}');
};

const SOURCES: readonly { readonly title: string; readonly command: readonly string[] }[] = [
  { title: 'link', command: ['ip', '-j', '-d', 'link', 'show'] },
  { title: 'address', command: ['ip', '-j', 'address', 'show'] },
  { title: 'route 4', command: ['ip', '-j', '-d', '-4', 'route', 'show', 'table', 'all'] },
  { title: 'route 6', command: ['ip', '-j', '-d', '-6', 'route', 'show', 'table', 'all'] },
  { title: 'rule 4', command: ['ip', '-j', '-d', '-4', 'rule', 'show'] },
  { title: 'rule 6', command: ['ip', '-j', '-d', '-6', 'rule', 'show'] },
  { title: 'nft', command: ['nft', '-j', 'list', 'ruleset'] },
];

/** Random for each namespace, sized by free memory, or a trigger that cannot be read. */
const VOLATILE_SYSCTL = /stable_secret|tcp_fastopen_key|\.route\.|^net\.ipv4\.tcp_mem|^net\.ipv4\.udp_mem/;

/** @returns `title: item` lines, in the kernel's order */
export async function dumpHost(namespace: Namespace): Promise<readonly string[]> {
  const dump: string[] = [];
  for (const { title, command } of SOURCES)
    for (const line of lines(await namespace.must(command))) dump.push(`${title}: ${line}`);
  for (const save of ['iptables-save', 'ip6tables-save']) {
    const text = await namespace.must([save]);
    for (const line of text.split('\n'))
      if (line !== '' && !line.startsWith('#')) dump.push(`${save}: ${line.replace(/\[\d+:\d+\]/, '')}`);
  }
  const sysctls = await namespace.run(['sysctl', '-a', '-r', '^net\\.ipv[46]\\.']);
  for (const line of sysctls.stdout.split('\n'))
    if (line !== '' && !VOLATILE_SYSCTL.test(line)) dump.push(`sysctl: ${line}`);
  return dump;
}

/** What is only in one of two dumps, as a diff; empty when they are equal, order included. */
export function dumpDifference(before: readonly string[], after: readonly string[]): readonly string[] {
  const gone = before.filter((line) => !after.includes(line)).map((line) => `- ${line}`);
  const come = after.filter((line) => !before.includes(line)).map((line) => `+ ${line}`);
  const isReordered = gone.length + come.length === 0 && before.join('\n') !== after.join('\n');
  return [...gone, ...come, ...(isReordered ? ['! the same lines in another order or number'] : [])];
}
