import path from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  chainKey,
  chainNames,
  type IptablesChain,
  iptablesChains,
  TABLES,
} from '../../../src/firewall/iptables-rules.ts';
import {
  commentOf,
  fillLines,
  iptablesDifferences,
  jumpLine,
  parseSave,
  removeLines,
  restoreText,
} from '../../../src/firewall/iptables-save.ts';
import type { FirewallPolicy } from '../../../src/firewall/policy.ts';
import { ALL_INBOUND, MARKS_ONLY, NAMED, NAMED_STRICT, STRICT, WIDE } from './policies.ts';

const VARIANTS: readonly (readonly [name: string, policy: FirewallPolicy])[] = [
  ['marks-only', MARKS_ONLY],
  ['strict', STRICT],
  ['wide', WIDE],
  ['all-inbound', ALL_INBOUND],
  ['named', NAMED],
  ['named-strict', NAMED_STRICT],
];
const golden = (name: string): string => path.join(import.meta.dirname, 'testdata', name);

const textOf = (chains: readonly IptablesChain[]): string =>
  restoreText(
    TABLES.map((table) => {
      const ours = chains.filter((chain) => chain.table === table);
      return [table, [...ours.flatMap(fillLines), ...ours.map(jumpLine)]];
    }),
  );

/** iptables-save after it was loaded into an empty host. */
function saved(chains: readonly IptablesChain[]): string {
  return TABLES.map((table) => {
    const ours = chains.filter((chain) => chain.table === table);
    const builtins = ['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING'].map(
      (name) => `:${name} ACCEPT [3:42]`,
    );
    const heads = ours.map(({ name }) => `:${name} - [0:0]`);
    const jumps = ours.map(({ builtin, name }) => `-A ${builtin} -j ${name}`);
    const quoted = (why: string): string => why.replace(/(['"\\])/g, '\\$1');
    const rules = ours.flatMap(({ name, rules }) =>
      rules.map(({ text, why }) => `-A ${name} ${text.replace(/(?= ?-j )/, ` -m comment --comment "${quoted(why)}"`)}`),
    );
    return ['# Generated', `*${table}`, ...builtins, ...heads, ...jumps, ...rules, 'COMMIT', ''].join('\n');
  }).join('');
}

describe.each(VARIANTS)('the chains of the policy %s', (name, policy) => {
  it.each([4, 6] as const)('are this text for IPv%s', async (family) => {
    await expect(textOf(iptablesChains(policy, family))).toMatchFileSnapshot(golden(`${name}.ip${family}tables`));
  });

  it('treat IPv4 and IPv6 alike', () => {
    const own = /DHCP|neighbour discovery|group membership|the LAN is allowed|the answer from there/;
    const shapes = (family: 4 | 6): readonly string[] =>
      iptablesChains(policy, family).flatMap((chain) =>
        chain.rules.filter(({ why }) => !own.test(why)).map(({ why }) => `${chain.name}: ${why}`),
      );
    expect(shapes(6)).toEqual(shapes(4));
  });

  it('are found again in what iptables-save prints', () => {
    const chains = iptablesChains(policy, 4);
    expect(iptablesDifferences(chains, chainNames(policy.table), parseSave(saved(chains)))).toEqual([]);
  });

  it('have comments that come back as they were', () => {
    for (const { why } of iptablesChains(policy, 6).flatMap(({ rules }) => rules))
      expect(why).toMatch(/^[^"\\\n]{1,255}$/);
  });
});

describe('iptablesDifferences', () => {
  const chains = iptablesChains(STRICT, 4);
  const find = (text: string) => iptablesDifferences(chains, chainNames(STRICT.table), parseSave(text));
  const whole = saved(chains);
  const gateRules = chains.find(({ place }) => place === 'GATE')?.rules.length ?? 0;

  it.each([
    ['a chain is missing', '', 'chain PVPN-default-OUT is missing'],
    [
      'a jump is missing',
      whole.replace('-A OUTPUT -j PVPN-default-OUT\n', ''),
      'OUTPUT does not jump to PVPN-default-OUT',
    ],
    [
      'a rule is missing',
      whole.replace(/-A PVPN-default-IN .*\n/, ''),
      'chain PVPN-default-IN has other rules (2 found, 3 wanted)',
    ],
    [
      'a rule is too much',
      whole.replace('COMMIT\n', '-A PVPN-default-GATE -j ACCEPT\nCOMMIT'),
      `chain PVPN-default-GATE has other rules (${gateRules + 1} found, ${gateRules} wanted)`,
    ],
  ])('%s', (_, text, expected) => {
    expect(find(text)).toContain(expected);
  });

  it('a chain of an earlier policy is too much', () => {
    const marks = iptablesChains(MARKS_ONLY, 4);
    expect(iptablesDifferences(marks, chainNames(STRICT.table), parseSave(whole))).toEqual([
      'chain PVPN-default-GATE is too much',
      'chain PVPN-default-OUT is too much',
      'chain PVPN-default-FWD is too much',
    ]);
  });
});

it('removal names exactly what is there: each jump, then the chain', () => {
  const [pre] = chainNames('proxyvpn') as [ReturnType<typeof chainNames>[number]];
  const text =
    '*mangle\n:PREROUTING ACCEPT [0:0]\n:PVPN-default-PRE - [0:0]\n' +
    '-A PREROUTING -j PVPN-default-PRE\n-A PREROUTING -j PVPN-default-PRE2\n-A PREROUTING -j PVPN-default-PRE\nCOMMIT\n';
  expect(removeLines(pre, parseSave(text))).toEqual([
    '-D PREROUTING -j PVPN-default-PRE',
    '-D PREROUTING -j PVPN-default-PRE',
    '-F PVPN-default-PRE',
    '-X PVPN-default-PRE',
  ]);
  expect(removeLines(pre, parseSave(''))).toEqual([]);
});

describe('commentOf', () => {
  it.each([
    ['-p tcp -m comment --comment "two words" -j DROP', 'two words'],
    ['-m comment --comment word -j DROP', 'word'],
    ['-m comment --comment "the tunnel\\\'s" -j DROP', "the tunnel's"],
    ['-j DROP', ''],
  ])('of %s', (rule, comment) => expect(commentOf(rule)).toBe(comment));
});

describe('chainKey', () => {
  const tables = [
    'proxyvpn',
    'proxyvpn-default',
    'proxyvpn-a',
    'proxyvpn-A',
    'a',
    'proxyvpn-a-rather-long-name',
    'proxyvpn-a-rather-long-name2',
    'proxyvpn-proxyvpn',
  ];

  it('differs for different tables', () => {
    expect(new Set(tables.map(chainKey)).size).toBe(tables.length);
  });

  it('leaves room for the rest of a name: 28 characters in all', () => {
    for (const table of tables) {
      for (const { name } of chainNames(table)) expect(name.length).toBeLessThanOrEqual(28);
      expect(`PVPN-${chainKey(table)}+table`.length).toBeLessThanOrEqual(28);
    }
  });

  it('is the name of the tunnel where that is short', () => {
    expect([chainKey('proxyvpn'), chainKey('proxyvpn-work')]).toEqual(['default', 'work']);
  });
});
