import { expect, test } from 'vitest';
import { Figures, spreadOf } from '../../../bench/figures.ts';
import { TARGETS, verdictOf } from '../../../bench/targets.ts';
import { results, sample } from './samples.ts';

const GBPS = { workload: 'up1', key: 'gbps' };

test('the median of an even number of values lies between the middle two', () => {
  expect(spreadOf([4, 1, 3, 2])).toEqual({ median: 2.5, min: 1, max: 4, count: 4 });
});

test('a ratio is taken within each round, so that a machine that slows down does not change it', () => {
  const samples = [10, 20, 40].flatMap((gbps, round) => [
    sample(round, 'ceiling', 'up1', { gbps }),
    sample(round, 'proxyvpn', 'up1', { gbps: gbps / 2 }),
  ]);
  expect(new Figures({ samples }).ratio('proxyvpn', 'ceiling', GBPS)).toEqual({
    median: 0.5,
    min: 0.5,
    max: 0.5,
    count: 3,
  });
});

test('a round that only one of the two has is in no ratio', () => {
  const samples = [sample(0, 'ceiling', 'up1', { gbps: 10 }), sample(1, 'proxyvpn', 'up1', { gbps: 5 })];
  expect(new Figures({ samples }).ratio('proxyvpn', 'ceiling', GBPS)).toBeUndefined();
});

const target = (title: string) => {
  const found = TARGETS.find((candidate) => candidate.title === title);
  if (!found) throw new Error(`no target ${title}`);
  return found;
};

test.each([
  [0.8, 'aim reached'],
  [0.6, 'passed'],
  [0.5, 'missed'],
])('up1 at %f of the ceiling is: %s', (share, verdict) => {
  const samples = [sample(0, 'ceiling', 'up1', { gbps: 10 }), sample(0, 'proxyvpn', 'up1', { gbps: 10 * share })];
  expect(verdictOf(target('up1, of the ceiling'), new Figures({ samples }))).toBe(verdict);
});

test('less CPU time is better', () => {
  const samples = [sample(0, 'proxyvpn', 'up1', { tunnelCpuSPerGib: 0.1 })];
  expect(verdictOf(target('up1, CPU of the tunnel'), new Figures({ samples }))).toBe('aim reached');
});

test('a workload that went wrong fails whatever its figures are', () => {
  const good = sample(0, 'proxyvpn', 'idle19k', { answered: 19_000 });
  const bad = { ...sample(1, 'proxyvpn', 'idle19k', { answered: 19_000 }), problem: 'labload exit 1' };
  const idle = target('idle19k, connections that answer');
  expect(verdictOf(idle, new Figures({ samples: [good] }))).toBe('passed');
  expect(verdictOf(idle, new Figures({ samples: [good, bad] }))).toBe('failed');
});

test('where every connection counts, one bad round is enough', () => {
  const rounds = [3000, 2999, 3000].map((intact, round) => sample(round, 'lossy', 'integrity', { intact }));
  expect(verdictOf(target('integrity, intact connections'), new Figures(results(rounds, ['lossy'])))).toBe('missed');
});
