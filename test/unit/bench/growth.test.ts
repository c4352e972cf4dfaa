import { expect, test } from 'vitest';
import { GROWTH_LIMIT_BYTES, growthOf, type Rest } from '../../../bench/growth.ts';

const rest = (atS: number, change: Partial<Rest> = {}): Rest => ({
  atS,
  anonymousBytes: 50_000_000,
  residentBytes: 90_000_000,
  descriptors: 26,
  stateBytes: 3000,
  leftovers: [],
  ...change,
});
const every20S = (count: number, change: (i: number) => Partial<Rest>): readonly Rest[] =>
  Array.from({ length: count }, (_, i) => rest((i + 1) * 20, change(i)));

test('a tunnel that stays as it is has not grown', () => {
  expect(growthOf(every20S(60, () => ({}))).complaints).toEqual([]);
});

test('what grows in the first minute is forgiven', () => {
  const rests = every20S(60, (i) => ({
    anonymousBytes: i < 2 ? 10_000_000 : 50_000_000,
    descriptors: i < 2 ? 20 : 26,
  }));
  expect(growthOf(rests).complaints).toEqual([]);
});

test('memory that comes and goes is no growth', () => {
  const rests = every20S(60, (i) => ({ anonymousBytes: 50_000_000 + (i % 3) * GROWTH_LIMIT_BYTES }));
  expect(growthOf(rests).complaints).toEqual([]);
});

test('200 KiB with every cycle is growth', () => {
  expect(growthOf(every20S(60, (i) => ({ anonymousBytes: 50_000_000 + i * 200 * 1024 }))).complaints).toHaveLength(1);
});

test('what grows for minutes and then no more is growth', () => {
  const rests = every20S(60, (i) => ({ anonymousBytes: 50_000_000 + Math.min(i, 18) * 400 * 1024 }));
  expect(growthOf(rests).complaints).toEqual([expect.stringMatching(/^anonymous memory grew by [45]/)]);
});

test('one descriptor that stays open is growth', () => {
  expect(growthOf(every20S(9, (i) => ({ descriptors: i < 6 ? 26 : 27 }))).complaints).toEqual([
    'descriptors grew by 1',
  ]);
});

test('a log that is written without end is growth', () => {
  const rests = every20S(60, (i) => ({ stateBytes: i * 100_000 }));
  expect(growthOf(rests).complaints).toEqual(['the state directory grew by 4500000 bytes']);
});

test('what is left at a rest is a complaint even in the first minute', () => {
  const rests = [rest(20, { leftovers: ['3 sockets in CLOSE-WAIT'] }), rest(80), rest(100)];
  expect(growthOf(rests).complaints).toEqual(['at rest after 20 s: 3 sockets in CLOSE-WAIT']);
});

test('a run of a minute is judged by all of its rests', () => {
  expect(growthOf([rest(20), rest(40), rest(58)]).judged).toHaveLength(3);
  expect(growthOf([rest(20)]).complaints).toEqual(['fewer than two rests: nothing can be compared']);
});
