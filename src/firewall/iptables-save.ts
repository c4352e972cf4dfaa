/** Reads what iptables-save prints, and writes what iptables-restore takes (pure). */
import type { IptablesChain, Table } from './iptables-rules.ts';

export interface SavedChain {
  /** `ACCEPT` or `DROP` of a built-in chain; `-` of any other. */
  readonly policy: string;
  /** Without the `-A CHAIN` in front. */
  readonly rules: readonly string[];
}

export type SavedTables = ReadonlyMap<string, ReadonlyMap<string, SavedChain>>;

/** @param text of iptables-save, which lists only the tables that exist */
export function parseSave(text: string): SavedTables {
  const tables = new Map<string, Map<string, { policy: string; rules: string[] }>>();
  let table = new Map<string, { policy: string; rules: string[] }>();
  for (const line of text.split('\n')) {
    const [first = '', second = ''] = line.split(' ');
    if (first.startsWith('*')) {
      table = new Map();
      tables.set(first.slice(1), table);
    } else if (first.startsWith(':')) {
      table.set(first.slice(1), { policy: second, rules: [] });
    } else if (first === '-A') {
      table.get(second)?.rules.push(line.slice(`-A ${second} `.length));
    }
  }
  return tables;
}

/** The comment of a saved rule, '' when it has none. */
export function commentOf(rule: string): string {
  const [, quoted, plain] = /--comment (?:"((?:[^"\\]|\\.)*)"|(\S+))/.exec(rule) ?? [];
  return quoted?.replace(/\\(.)/g, '$1') ?? plain ?? '';
}

/** What of the chains is missing, wrong or too much in what was saved, a sentence each. */
export function iptablesDifferences(
  wanted: readonly IptablesChain[],
  known: readonly Pick<IptablesChain, 'table' | 'name'>[],
  saved: SavedTables,
): readonly string[] {
  const names = new Set(wanted.map(({ name }) => name));
  const surplus = known.filter(({ table, name }) => !names.has(name) && saved.get(table)?.has(name));
  return [
    ...wanted.flatMap((chain) => {
      const found = saved.get(chain.table)?.get(chain.name);
      if (!found) return [`chain ${chain.name} is missing`];
      const isSame = JSON.stringify(found.rules.map(commentOf)) === JSON.stringify(chain.rules.map((rule) => rule.why));
      const jumps = saved.get(chain.table)?.get(chain.builtin)?.rules ?? [];
      return [
        ...(isSame
          ? []
          : [`chain ${chain.name} has other rules (${found.rules.length} found, ${chain.rules.length} wanted)`]),
        ...(jumps.includes(`-j ${chain.name}`) ? [] : [`${chain.builtin} does not jump to ${chain.name}`]),
      ];
    }),
    ...surplus.map(({ name }) => `chain ${name} is too much`),
  ];
}

/** Input of `iptables-restore --noflush`: what is between *TABLE and COMMIT is one transaction. */
export function restoreText(tables: readonly (readonly [table: Table, lines: readonly string[]])[]): string {
  return tables
    .filter(([, lines]) => lines.length > 0)
    .map(([table, lines]) => `*${table}\n${lines.join('\n')}\nCOMMIT\n`)
    .join('');
}

/** Makes the chain, or empties it, and fills it. */
export function fillLines(chain: IptablesChain): readonly string[] {
  return [
    `:${chain.name} - [0:0]`,
    ...chain.rules.map(({ text, why }) => `-A ${chain.name} -m comment --comment "${why}" ${text}`),
  ];
}

/** Takes every jump to the chain out of its built-in chain. */
export function unjumpLines(chain: Omit<IptablesChain, 'rules'>, saved: SavedTables): readonly string[] {
  const rules = saved.get(chain.table)?.get(chain.builtin)?.rules ?? [];
  return rules.filter((rule) => rule === `-j ${chain.name}`).map(() => `-D ${chain.builtin} -j ${chain.name}`);
}

/** The jump stands first: what comes before it could accept. */
export function jumpLine(chain: IptablesChain): string {
  return `-I ${chain.builtin} 1 -j ${chain.name}`;
}

/** Removes the chain with its jumps, as far as they are there. */
export function removeLines(chain: Omit<IptablesChain, 'rules'>, saved: SavedTables): readonly string[] {
  const isThere = saved.get(chain.table)?.has(chain.name) ?? false;
  return [...unjumpLines(chain, saved), ...(isThere ? [`-F ${chain.name}`, `-X ${chain.name}`] : [])];
}
