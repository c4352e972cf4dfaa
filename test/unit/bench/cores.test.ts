import { expect, test } from 'vitest';
import { Cores } from '../../../bench/cores.ts';
import { report } from '../../../bench/report.ts';
import { results, sample } from './samples.ts';

/** Processors that do, at one look after the other, what the list says; at its end, the last of it for ever. */
function processors(...rates: readonly (readonly [slowest: number, fastest: number])[]): Cores {
  let looks = 0;
  return new Cores(async () => {
    const [slowest = 0, fastest = 0] = rates[Math.min(looks++, rates.length - 1)] ?? [];
    return { slowest, fastest };
  });
}

test('a share is of the best that was ever seen', async () => {
  const cores = processors([700, 700], [350, 700], [400, 400], [600, 800]);
  expect(await cores.share()).toBe(1);
  expect(await cores.share()).toBe(0.5);
  expect(await cores.share()).toBeCloseTo(400 / 700);
  expect(await cores.share()).toBe(0.75);
});

test('a measurement waits for whole processors', async () => {
  const cores = processors([700, 700], [400, 700], [500, 700], [690, 700]);
  await cores.share();
  expect(await cores.wait(60_000)).toBeCloseTo(690 / 700);
});

test('it does not wait for ever, and says what it got', async () => {
  const cores = processors([700, 700], [350, 700]);
  await cores.share();
  expect(await cores.wait(0)).toBe(0.5);
});

test('the report says how often they were whole', () => {
  const samples = [1, 0.95, 0.6].map((coreShare, round) => ({
    ...sample(round, 'ceiling', 'up1', { gbps: 40 }),
    coreShare,
  }));
  const text = report(results(samples, ['ceiling']), undefined);
  expect(text).toContain('whole when 2 of 3 timed measurements began');
  expect(report(results([sample(0, 'ceiling', 'up1', { gbps: 40 })], ['ceiling']), undefined)).not.toContain(
    'whole when',
  );
});
