import { expect, test } from 'vitest';
import { selfTestAddresses } from '../../../src/app/self-test.ts';
import { HEALTH } from '../../../src/tunstack/engine.ts';
import { configFor } from './sample.ts';

const BOTH = [HEALTH.address4, HEALTH.address6];

test('both families are tried where both are carried', () => {
  expect(selfTestAddresses(configFor(), true, 0)).toEqual(BOTH);
  expect(selfTestAddresses(configFor(), false, 0)).toEqual([HEALTH.address4]);
});

test('not where nothing is diverted, or not for this user', () => {
  expect(selfTestAddresses(configFor('--no-routes'), true, 0)).toEqual([]);
  expect(selfTestAddresses(configFor('--bypass-user', '0'), true, 0)).toEqual([]);
  expect(selfTestAddresses(configFor('--bypass-user', '1000'), true, 0)).toEqual(BOTH);
});

test('not where the health address itself goes around', () => {
  expect(selfTestAddresses(configFor('--bypass', '198.18.0.0/15'), true, 0)).toEqual([HEALTH.address6]);
  expect(selfTestAddresses(configFor('--bypass', '198.18.0.0/16,fd00::/8'), true, 0)).toEqual([]);
  expect(selfTestAddresses(configFor('--bypass', '198.19.0.0/16'), true, 0)).toEqual(BOTH);
});
