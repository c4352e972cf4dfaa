import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { claimSlot, findSlot, releaseSlot } from '../../../src/app/slot.ts';
import { SLOTS } from '../../../src/mark/scheme.ts';

let root = { path: '', isOurs: false };
beforeEach(() => {
  root = { path: fs.mkdtempSync(path.join(os.tmpdir(), 'slot-')), isOurs: false };
});
afterEach(() => fs.rmSync(root.path, { recursive: true }));

/** A tunnel that crashed: its journal is there. */
function leaveJournal(name: string): void {
  fs.mkdirSync(path.join(root.path, name));
  fs.writeFileSync(path.join(root.path, name, 'journal'), '');
}

test('slot 0 belongs to the tunnel named default, whoever comes first', () => {
  expect(claimSlot(root, 'work')).toBe(1);
  expect(claimSlot(root, 'default')).toBe(0);
});

test('the lowest free one is taken, and the same again after a crash', () => {
  leaveJournal('a');
  leaveJournal('b');
  expect(claimSlot(root, 'a')).toBe(1);
  expect(claimSlot(root, 'b')).toBe(2);
  expect(claimSlot(root, 'b')).toBe(2);
  releaseSlot(root, 'a');
  expect(findSlot(root, 'c')).toBe(1);
  expect(claimSlot(root, 'b')).toBe(2);
});

test('the slot of a tunnel that left nothing is free', () => {
  expect(claimSlot(root, 'gone')).toBe(1);
  expect(claimSlot(root, 'next')).toBe(1);
  expect(fs.readlinkSync(path.join(root.path, '.slot-1'))).toBe('next');
});

test('looking reserves nothing, and works without a state directory', () => {
  expect(findSlot(root, 'work')).toBe(1);
  expect(fs.readdirSync(root.path)).toEqual([]);
  expect(findSlot({ path: path.join(root.path, 'missing'), isOurs: true }, 'default')).toBe(0);
});

test('when all are taken it says so', () => {
  for (let slot = 1; slot < SLOTS; slot++) {
    leaveJournal(`t${slot}`);
    claimSlot(root, `t${slot}`);
  }
  expect(() => claimSlot(root, 'late')).toThrowError(expect.objectContaining({ code: 'E_SLOTS' }));
  expect(claimSlot(root, 'default')).toBe(0);
});

test('releasing leaves what belongs to others', () => {
  leaveJournal('a');
  claimSlot(root, 'a');
  releaseSlot(root, 'b');
  expect(fs.readdirSync(root.path)).toContain('.slot-1');
});

test("a slot whose device exists is another user's: the next one is taken, but one's own stays", () => {
  leaveJournal('a');
  claimSlot(root, 'a');
  const isInUse = (slot: number): boolean => slot <= 2;
  expect(claimSlot(root, 'a', isInUse)).toBe(1);
  expect(claimSlot(root, 'b', isInUse)).toBe(3);
});
