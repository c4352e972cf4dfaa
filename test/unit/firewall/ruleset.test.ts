import path from 'node:path';
import { describe, expect, it } from 'vitest';
import type { FirewallPolicy } from '../../../src/firewall/policy.ts';
import { nftSetText, nftText, type Ruleset } from '../../../src/firewall/rule.ts';
import { disjointPrefixes, rulesetOf } from '../../../src/firewall/ruleset.ts';
import { ALL_INBOUND, MARKS_ONLY, NAMED, NAMED_STRICT, STRICT, WIDE } from './policies.ts';

const VARIANTS: readonly (readonly [name: string, policy: FirewallPolicy])[] = [
  ['marks-only', MARKS_ONLY],
  ['strict', STRICT],
  ['wide', WIDE],
  ['all-inbound', ALL_INBOUND],
  ['named', NAMED],
  ['named-strict', NAMED_STRICT],
];
const untracked = { isUntracked: true };
const golden = (name: string): string => path.join(import.meta.dirname, 'testdata', name);
const rules = ({ chains }: Ruleset) =>
  chains.flatMap(({ name, rules }) => rules.map((rule) => ({ chain: name, ...rule })));

describe.each(VARIANTS)('the table of the policy %s', (name, policy) => {
  it('is this text', async () => {
    await expect(nftText(rulesetOf(policy, untracked))).toMatchFileSnapshot(golden(`${name}.nft`));
  });

  it('is the same text for the same policy', () => {
    const copy = JSON.parse(JSON.stringify(policy)) as FirewallPolicy;
    expect(nftText(rulesetOf(copy, untracked))).toBe(nftText(rulesetOf(policy, untracked)));
  });

  it('treats IPv4 and IPv6 alike', () => {
    // What each family has for itself, addresses aside.
    const own = [/udp sport 68 udp dport 67/, /udp sport 546 udp dport 547/, /icmpv6 type/];
    const shapes = (ip: 'ip' | 'ip6'): readonly string[] =>
      rules(rulesetOf(policy, untracked))
        .filter(({ text }) => !own.some((pattern) => pattern.test(text)))
        .filter(({ text }) => new RegExp(`\\b${ip} `).test(text))
        .map(({ chain, text, why }) => `${chain}: ${shape(text)} (${shape(why)})`);
    expect(shapes('ip').length).toBeGreaterThan(0);
    expect(shapes('ip6')).toEqual(shapes('ip'));
    for (const set of rulesetOf(policy, untracked).sets.filter((set) => set.name.endsWith('4'))) {
      const twin = rulesetOf(policy, untracked).sets.find((other) => other.name === set.name.replace('4', '6'));
      expect(twin?.elements.length, set.name).toBe(set.elements.length);
    }
  });

  it('has comments that the kernel keeps', () => {
    for (const { why } of rules(rulesetOf(policy, untracked))) {
      expect(why).toMatch(/^[^"\\\n]+$/);
      // NFTNL_UDATA_COMMENT_MAXLEN with its NUL
      expect(why.length).toBeLessThan(128);
    }
  });

  it('names no set that is not there, and has none that is not named', () => {
    const ruleset = rulesetOf(policy, untracked);
    const named = new Set(rules(ruleset).flatMap(({ text }) => text.match(/(?<=@)\w+/g) ?? []));
    expect(new Set(ruleset.sets.map((set) => set.name))).toEqual(named);
  });

  it('has every chain before those that jump to it', () => {
    const seen = new Set<string>();
    for (const { name, rules } of rulesetOf(policy, untracked).chains) {
      const targets = rules.flatMap(({ text }) => text.match(/(?<=(?:jump|goto) )\w+/g) ?? []);
      const later = targets.filter((target) => !seen.has(target));
      // nft takes the chains of one transaction in any order; only the reader needs theirs.
      expect(
        later.filter((target) => target !== 'orphaned'),
        name,
      ).toEqual([]);
      seen.add(name);
    }
  });
});

/** Addresses of either family become one word. */
function shape(text: string): string {
  return text
    .replaceAll('ip6 ', 'ip ')
    .replace(/@(\w+)6\b/g, '@$14')
    .replace(/\{ [\d./a-f:, ]+ \}/g, '{ networks }')
    .replace(/198\.18\.0\.0\/15|fd70:7670:6e00:1::\/64/g, 'RANGE')
    .replace(/192\.0\.2\.1\b|\[?2001:db8::1\b\]?/g, 'PROXY')
    .replace(/198\.18\.0\.1|fd70:7670:6e00::1/g, 'TUN');
}

it('without the killswitch nothing is dropped but packets from outside to the tunnel', () => {
  const dropping = rules(rulesetOf(MARKS_ONLY, untracked)).filter(({ text }) => /\b(drop|reject)\b/.test(text));
  expect(dropping.map(({ chain, why }) => `${chain}: ${why.slice(0, 14)}`)).toEqual([
    'prerouting: CVE-2019-14899',
    'prerouting: CVE-2019-14899',
  ]);
  expect(rulesetOf(MARKS_ONLY, untracked).chains.every(({ hook }) => hook?.policy !== 'drop')).toBe(true);
});

it('with the killswitch output, forward and postrouting drop by policy, and none accepts every established packet', () => {
  const { chains } = rulesetOf(WIDE, untracked);
  const dropping = chains.filter(({ hook }) => hook?.policy === 'drop').map(({ name }) => name);
  expect(dropping).toEqual(['output', 'forward', 'postrouting']);
  const established = rules(rulesetOf(WIDE, untracked)).filter(({ text }) => text.includes('established'));
  expect(established.map(({ chain, text }) => `${chain}: ${text}`)).toEqual([
    'forward: iifname "pvpn0" ct state established,related accept',
  ]);
});

it('the rules for the tunnel and the proxies are untracked only where asked for', () => {
  const names = (isUntracked: boolean) => rulesetOf(WIDE, { isUntracked }).chains.map(({ name }) => name);
  expect(names(true)).toEqual(['raw_prerouting', 'raw_output', ...names(false)]);
});

it.each<[string, FirewallPolicy, boolean]>([
  ['a killswitch without exceptions', STRICT, false],
  ['the same where the tunnel answers DNS', NAMED_STRICT, false],
  ['no killswitch', MARKS_ONLY, true],
  ['an open port', ALL_INBOUND, true],
  ['the LAN', { ...STRICT, allowLan: true }, true],
  ['a bypassed network', { ...STRICT, bypass: ['192.0.2.0/24'] }, true],
  ['a bypassing user', { ...STRICT, bypassUsers: [1] }, true],
  ['an allowed resolver', { ...STRICT, allowDns: ['192.0.2.1'] }, true],
])('%s asks for the state of connections, or not: %#', (_, policy, asks) => {
  const asking = rules(rulesetOf(policy, untracked)).filter(({ text }) => /\bct |notrack/.test(text));
  expect(asking.length > 0).toBe(asks);
});

describe('what could not stand in a ruleset is refused', () => {
  it.each<[string, Partial<FirewallPolicy>]>([
    ['a table name with a space', { table: 'a b' }],
    ['an empty table name', { table: '' }],
    ['a table name that ends the statement', { table: 'x; flush ruleset' }],
    ['an interface name with a quote', { tun: { ...STRICT.tun, name: 'x" accept' } }],
    ['an interface name that matches others', { tun: { ...STRICT.tun, name: 'eth*' } }],
    ['an interface name that is too long', { tun: { ...STRICT.tun, name: 'abcdefghijklmnop' } }],
    ['an address that is none', { allowDns: ['1.2.3'] }],
    ['an address with a comment', { proxies: [{ address: '1.2.3.4 #', port: 1 }] }],
    ['an address with a zone', { allowDns: ['fe80::1%eth0'] }],
    ['a peer that is none', { inbound: { ports: [], peers: [{ address: 'x', localPort: 1 }] } }],
    ['an old connection without an address', { existing: WIDE.existing.map((old) => ({ ...old, remoteAddress: '' })) }],
    ['a port that is no number', { inbound: { ports: [Number.NaN], peers: [] } }],
    ['a negative uid', { uid: -1 }],
    ['a fractional uid', { bypassUsers: [1.5] }],
  ])('%s', (_, part) => {
    expect(() => rulesetOf({ ...STRICT, ...part }, untracked)).toThrow(
      expect.objectContaining({ code: 'E_FIREWALL_POLICY', exitCode: 2 }),
    );
  });

  it('a network that is none', () => {
    expect(() => rulesetOf({ ...STRICT, bypass: ['10.0.0.0/33'] }, untracked)).toThrow(
      expect.objectContaining({ code: 'E_PREFIX' }),
    );
  });
});

describe('disjointPrefixes', () => {
  it.each([
    [['10.0.0.0/8', '10.1.0.0/16'], 4, ['10.0.0.0/8']],
    [['10.1.0.0/16', '10.0.0.0/8'], 4, ['10.0.0.0/8']],
    [['10.0.0.0/8', '10.0.0.0/8'], 4, ['10.0.0.0/8']],
    [['10.0.0.0/9', '10.128.0.0/9'], 4, ['10.0.0.0/9', '10.128.0.0/9']],
    [['0.0.0.0/0', '10.0.0.0/8', '::/0'], 4, ['0.0.0.0/0']],
    [['192.0.2.1', '192.0.2.0/31', '192.0.2.2'], 4, ['192.0.2.0/31', '192.0.2.2/32']],
    [['2001:DB8::/32', '2001:db8:0:1::/64', '10.0.0.0/8'], 6, ['2001:db8::/32']],
    [[], 6, []],
  ] as const)('of %j, family %i, is %j', (cidrs, family, expected) => {
    expect(disjointPrefixes(cidrs, family)).toEqual(expected);
  });
});

it('the elements of sets are replaced by one transaction', () => {
  const proxies = ([4, 6] as const).map((family) => ({
    name: `proxies${family}`,
    type: family === 4 ? 'ipv4_addr . inet_service' : 'ipv6_addr . inet_service',
    isInterval: false,
    elements: [family === 4 ? '192.0.2.1 . 3128' : '2001:db8::1 . 3128'],
  }));
  expect(
    nftSetText('proxyvpn', [...proxies, ...proxies.map((set) => ({ ...set, elements: [] }))]),
  ).toMatchInlineSnapshot(`
    "flush set inet proxyvpn proxies4
    add element inet proxyvpn proxies4 { 192.0.2.1 . 3128 }
    flush set inet proxyvpn proxies6
    add element inet proxyvpn proxies6 { 2001:db8::1 . 3128 }
    flush set inet proxyvpn proxies4
    flush set inet proxyvpn proxies6
    "
  `);
});
