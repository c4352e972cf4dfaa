import { describe, expect, it } from 'vitest';
import { differences, type NftObject, parseNft } from '../../../src/firewall/nft-readback.ts';
import type { Ruleset } from '../../../src/firewall/rule.ts';
import { rulesetOf } from '../../../src/firewall/ruleset.ts';
import { STRICT, WIDE } from './policies.ts';

const WANTED = rulesetOf(WIDE, { isUntracked: true });

/** What nft 1.0 prints for the ruleset, as far as it is read. */
function listed({ table, sets, chains }: Ruleset): NftObject[] {
  const element = (text: string): unknown => {
    const parts = text.split(' . ').map((part) => (/^\d+$/.test(part) ? Number(part) : part));
    return parts.length > 1 ? { concat: parts } : parts[0];
  };
  return [
    { table: { family: 'inet', name: table } },
    ...sets.map(({ name, elements }) => ({
      set: { name, ...(elements.length > 0 && { elem: elements.map(element) }) },
    })),
    ...chains.map(({ name, hook }) => ({
      chain: {
        ...{ family: 'inet', table, name },
        ...(hook && { type: hook.type, hook: hook.hook, prio: hook.priority, policy: hook.policy }),
      },
    })),
    ...chains.flatMap(({ name, rules }) => rules.map(({ why }) => ({ rule: { chain: name, comment: why } }))),
  ];
}

const changed = (change: (object: NftObject) => NftObject | undefined): readonly NftObject[] =>
  listed(WANTED).flatMap((object) => change(object) ?? []);

describe('differences', () => {
  it('finds none in what was asked for, in whatever order sets are listed', () => {
    expect(differences(WANTED, listed(WANTED))).toEqual([]);
    expect(
      differences(
        WANTED,
        listed(WANTED)
          .reverse()
          .filter((o) => !o.rule)
          .concat(listed(WANTED).filter((o) => o.rule)),
      ),
    ).toEqual([]);
  });

  it.each<[string, readonly NftObject[], string, Ruleset?]>([
    ['no table', [], 'the table is missing'],
    ['no chain', changed((o) => (o.chain?.name === 'output' ? undefined : o)), 'chain output is missing'],
    [
      'a rule too few',
      changed((o) => (o.rule?.comment === 'everything else' ? undefined : o)),
      'chain output has other rules (7 found, 8 wanted)',
    ],
    [
      'the rules for another proxy',
      listed(rulesetOf({ ...STRICT, proxies: [{ address: '192.0.2.9', port: 3128 }] }, { isUntracked: true })),
      'chain output has other rules (7 found, 7 wanted)',
      rulesetOf({ ...STRICT, proxies: [{ address: '192.0.2.1', port: 3128 }] }, { isUntracked: true }),
    ],
    [
      'a foreign rule',
      [...listed(WANTED), { rule: { chain: 'refuse' } }],
      'chain refuse has other rules (3 found, 2 wanted)',
    ],
    [
      'another policy',
      changed((o) => (o.chain?.name === 'output' ? { chain: { ...o.chain, policy: 'accept' } } : o)),
      'chain output has the hook filter output 0 accept and not filter output 0 drop',
    ],
    [
      'no hook',
      changed((o) =>
        o.chain?.name === 'prerouting' ? { chain: { family: 'inet', table: WANTED.table, name: 'prerouting' } } : o,
      ),
      'chain prerouting has the hook none and not filter prerouting -150 accept',
    ],
    [
      'a chain too much',
      [...listed(WANTED), { chain: { family: 'inet', table: WANTED.table, name: 'mine' } }],
      'chain mine is too much',
    ],
    ['no set', changed((o) => (o.set?.name === 'dns4' ? undefined : o)), 'set dns4 is missing'],
    [
      'another element',
      changed((o) =>
        o.set?.name === 'proxies4' ? { set: { name: 'proxies4', elem: [{ concat: ['192.0.2.9', 1] }] } } : o,
      ),
      'set proxies4 has other elements',
    ],
    [
      'no network',
      changed((o) => (o.set?.name === 'bypass6' ? { set: { name: 'bypass6' } } : o)),
      'set bypass6 has other elements',
    ],
  ])('finds %s', (_, found, text, wanted = WANTED) => {
    expect(differences(wanted, found)).toContain(text);
  });

  it('knows an element with extras, and an address in another spelling', () => {
    const found = changed((o) =>
      o.set?.name === 'dns6' ? { set: { name: 'dns6', elem: [{ elem: { val: '2001:DB8:0::53', expires: 1 } }] } } : o,
    );
    expect(differences(WANTED, found)).toEqual([]);
  });
});

describe('parseNft', () => {
  it('takes the list out of its wrapping', () => {
    expect(parseNft('{"nftables": [{"table": {"family": "inet", "name": "x"}}]}')).toHaveLength(1);
  });

  it.each(['', 'table inet x', '[]', '{}', '{"nftables": 1}', 'null'])('refuses %j', (text) => {
    expect(() => parseNft(text)).toThrow(expect.objectContaining({ code: 'E_FIREWALL_VERIFY' }));
  });
});
