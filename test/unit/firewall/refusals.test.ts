import { expect, it } from 'vitest';
import { sumRefusals } from '../../../src/firewall/refusals.ts';

const rule = (...expr: readonly object[]) => ({ rule: { chain: 'refuse', expr } });

it('counters of resets and of everything else are summed apart, and other rules do not count', () => {
  expect(
    sumRefusals([
      rule({ match: {} }, { counter: { packets: 3, bytes: 180 } }, { reject: { type: 'tcp reset' } }),
      rule({ counter: { packets: 4, bytes: 400 } }, { reject: { type: 'icmpx', expr: 'admin-prohibited' } }),
      rule({ counter: { packets: 5, bytes: 500 } }, { drop: null }),
      rule({ match: {} }, { accept: null }),
    ]),
  ).toEqual({ tcp: 3, other: 9 });
  expect(sumRefusals([])).toEqual({ tcp: 0, other: 0 });
});
