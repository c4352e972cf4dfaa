import { describe, expect, it } from 'vitest';
import { rules } from '../../../src/netlink/read.ts';
import {
  ANY_RULE,
  decodeRule,
  encodeRule,
  isSameRule,
  isTwinOfAnotherMaker,
  type Rule,
  wouldBeDeleted,
} from '../../../src/netlink/rule.ts';
import { answer, kernelThatSays } from './captured.ts';

const ours: Rule = {
  ...ANY_RULE,
  family: 4,
  priority: 5206,
  table: 52100,
  protocol: 210,
  isInverted: true,
  fwmark: 0x50560000,
  fwmask: 0xffffffff,
  ipProto: 6,
};
const lan: Rule = { ...ANY_RULE, family: 4, priority: 5204, table: 254, protocol: 210, suppressPrefixLength: 0 };

/** One change to every field that a rule has. */
const CHANGES: readonly Partial<Rule>[] = [
  { family: 6 },
  { priority: 5207 },
  { action: 'prohibit' },
  { table: 52101 },
  { isInverted: false },
  { source: '10.0.0.0/8' },
  { destination: '10.0.0.0/8' },
  { tos: 16 },
  { fwmark: 1 },
  { fwmask: 0xff },
  { incomingLink: 'eth0' },
  { outgoingLink: 'eth0' },
  { ipProto: 17 },
  { sourcePorts: [1, 1] },
  { destinationPorts: [53, 53] },
  { uidRange: [0, 0] },
  { suppressPrefixLength: 0 },
  { suppressGroup: 1 },
  { gotoPriority: 1 },
  { otherSelectors: [19] },
];

describe('two rules', () => {
  it('are the same when all fields are', () => {
    expect(isSameRule(ours, JSON.parse(JSON.stringify(ours)) as Rule)).toBe(true);
  });

  it.each(CHANGES)('are not the same when they differ in %j, nor twins', (change) => {
    expect(isSameRule(ours, { ...ours, ...change })).toBe(false);
    expect(isTwinOfAnotherMaker(ours, { ...ours, ...change })).toBe(false);
  });

  it('that differ only in their maker are twins', () => {
    const theirs = { ...ours, protocol: 0 };
    expect(isSameRule(ours, theirs)).toBe(false);
    expect(isTwinOfAnotherMaker(ours, theirs)).toBe(true);
  });
});

describe('naming a rule to the kernel for removal', () => {
  it('may hit one that selects more narrowly, or without the not', () => {
    const narrower: readonly Partial<Rule>[] = [
      { incomingLink: 'eth0' },
      { destinationPorts: [53, 53] },
      { otherSelectors: [19] },
      { isInverted: false },
      { tos: 16 },
    ];
    for (const change of narrower) expect(wouldBeDeleted(ours, { ...ours, ...change })).toBe(true);
  });

  it('never hits one that differs in a selector that was named', () => {
    const other: readonly Partial<Rule>[] = [
      { fwmark: 1 },
      { fwmask: 0xff },
      { ipProto: undefined },
      { table: 254 },
      { priority: 5207 },
      { protocol: 0 },
    ];
    for (const change of other) expect(wouldBeDeleted(ours, { ...ours, ...change })).toBe(false);
    expect(wouldBeDeleted(lan, { ...lan, suppressPrefixLength: undefined })).toBe(false);
  });
});

it('every rule of a real host is encoded to what it was decoded from', () => {
  for (const family of [4, 6] as const)
    for (const rule of rules(kernelThatSays(answer(`rules ${family}`)), family))
      expect(decodeRule(encodeRule(rule))).toEqual({ ...rule, otherSelectors: [] });
});
