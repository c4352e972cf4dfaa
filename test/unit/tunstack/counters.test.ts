import fs from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { COUNTER, COUNTER_SLOTS } from '../../../src/native.ts';

const HEADER = path.join(import.meta.dirname, '../../../native/engine/counters.h');

test('the counters have the same numbers in the engine and in TypeScript', () => {
  const header = fs.readFileSync(HEADER, 'utf8');
  const [, list = ''] = /enum class Counter : size_t \{([^}]*)\}/.exec(header) ?? [];
  // In order, without numbers of their own: any `=` would not be read here.
  expect(list).toMatch(/^\s*(k\w+,\s*)+$/);
  const names = [...list.matchAll(/k(\w)(\w+)/g)].map(([, first = '', rest]) => first.toLowerCase() + rest);
  expect(COUNTER).toEqual(Object.fromEntries(names.map((name, slot) => [name, slot])));
  expect(header).toContain(`kCounterSlots = ${COUNTER_SLOTS};`);
});
