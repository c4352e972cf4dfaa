import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { applyOps, type OpJournal } from '../../../src/app/apply.ts';
import { tearDown } from '../../../src/app/teardown.ts';
import { Journal } from '../../../src/state/journal.ts';
import { FakeHost, isLineOp, type LineOp, lineOps } from './fake-host.ts';

const START = ['theirs', 'shared'];
/** `shared` is there already: undo must leave it. */
const OPS = lineOps('firewall', 'tun', 'shared', 'address', 'route', 'rule');

/** Hundreds of fsync(2) on a disk would make a slow test. */
const MEMORY = fs.existsSync('/dev/shm') ? '/dev/shm' : os.tmpdir();

let directory = '';
let file = '';
beforeEach(() => {
  directory = fs.mkdtempSync(path.join(MEMORY, 'apply-'));
  file = path.join(directory, 'journal');
});
afterEach(() => fs.rmSync(directory, { recursive: true }));

class Crash extends Error {}

/** The process dies before (or after) the n-th write to the journal, counted from 0. */
function crashing(journal: OpJournal<LineOp>, at: number, when: 'before' | 'after'): OpJournal<LineOp> {
  let writes = 0;
  const write = async <T>(make: () => Promise<T>): Promise<T> => {
    const isLast = writes++ === at;
    if (isLast && when === 'before') throw new Crash();
    const result = await make();
    if (isLast) throw new Crash();
    return result;
  };
  return {
    intend: (op, before) => write(() => journal.intend(op, before)),
    done: (id) => write(() => journal.done(id)),
    undone: (id) => write(() => journal.undone(id)),
    pending: () => journal.pending(),
  };
}

async function reopened(): Promise<Journal<LineOp>> {
  const journal = Journal.open<LineOp>(file, isLineOp);
  if (journal === undefined) throw new Error('no journal');
  expect(journal.problems).toEqual([]);
  return journal;
}

/** What ended it, when that was our crash. */
async function untilCrash(work: Promise<unknown>): Promise<boolean> {
  return work.then(
    () => false,
    (error: unknown) => {
      if (error instanceof Crash) return true;
      throw error;
    },
  );
}

test('apply and tear down give back the host as it was, in reverse order', async () => {
  const host = new FakeHost(START);
  const journal = Journal.create<LineOp>(file, 'default');
  await applyOps(OPS, host.appliers, journal);
  expect([...host.lines]).toEqual(['theirs', 'shared', 'firewall', 'tun', 'address', 'route', 'rule']);
  const report = await tearDown(journal, host.appliers);
  expect(report).toEqual({
    undone: ['add rule', 'add route', 'add address', 'add tun', 'add firewall'],
    foreign: [],
    failed: [],
  });
  expect(host.text).toBe(START.join('\n'));
  expect(journal.pending()).toEqual([]);
  journal.close();
});

describe.each(OPS.map((op, k) => [op.line, k] as const))('when op %s fails', (_line, k) => {
  test('the ones before it are undone', async () => {
    const host = new FakeHost(START);
    const journal = Journal.create<LineOp>(file, 'default');
    host.onChange = (count) => {
      if (count === k) throw new Error(`refused ${k}`);
    };
    await expect(applyOps(OPS, host.appliers, journal)).rejects.toThrow(`refused ${k}`);
    host.onChange = () => {};
    expect(await tearDown(journal, host.appliers)).toMatchObject({ foreign: [], failed: [] });
    expect(host.text).toBe(START.join('\n'));
    journal.close();
  });
});

const WRITES = OPS.length * 2;
const moments = Array.from({ length: WRITES }, (_, at) => at).flatMap((at) =>
  (['before', 'after'] as const).map((when) => [when, at] as const),
);

describe.each(moments)('a crash %s journal write %i of apply', (when, at) => {
  test('leaves enough for another process to restore the host', async () => {
    const host = new FakeHost(START);
    const dying = Journal.create<LineOp>(file, 'default');
    expect(await untilCrash(applyOps(OPS, host.appliers, crashing(dying, at, when)))).toBe(true);
    dying.close();
    const journal = await reopened();
    expect(await tearDown(journal, host.appliers)).toMatchObject({ foreign: [], failed: [] });
    expect(host.text).toBe(START.join('\n'));
    journal.close();
  });
});

const undoMoments = moments.filter(([, at]) => at < OPS.length);
describe.each(undoMoments)('a crash %s journal write %i of the teardown', (when, at) => {
  test('lets a second teardown finish it', async () => {
    const host = new FakeHost(START);
    const dying = Journal.create<LineOp>(file, 'default');
    await applyOps(OPS, host.appliers, dying);
    expect(await untilCrash(tearDown(crashing(dying, at, when), host.appliers).then(failOnCrash))).toBe(true);
    dying.close();
    const journal = await reopened();
    expect(await tearDown(journal, host.appliers)).toMatchObject({ foreign: [], failed: [] });
    expect(host.text).toBe(START.join('\n'));
    journal.close();
  });
});

/** tearDown gathers every error, so a crash of the journal shows in its report. */
function failOnCrash(report: { readonly failed: readonly { readonly error: unknown }[] }): void {
  for (const { error } of report.failed) throw error;
}

test('a journal line that was only half written counts as never written', async () => {
  const host = new FakeHost(START);
  const dying = Journal.create<LineOp>(file, 'default');
  await applyOps(OPS.slice(0, 3), host.appliers, dying);
  dying.close();
  const whole = fs.readFileSync(file);
  for (let cut = 1; cut < 60; cut++) {
    fs.writeFileSync(file, whole.subarray(0, whole.length - cut));
    const copy = new FakeHost(host.lines);
    const journal = await reopened();
    expect(await tearDown(journal, copy.appliers)).toMatchObject({ failed: [] });
    expect(copy.text).toBe(START.join('\n'));
    journal.close();
  }
});

test('one failure does not keep the rest from being undone, and stays in the journal', async () => {
  const host = new FakeHost(START);
  const journal = Journal.create<LineOp>(file, 'default');
  await applyOps(OPS, host.appliers, journal);
  const stuck = new FakeHost(host.lines);
  let undone = 0;
  stuck.onChange = () => {
    if (undone++ === 2) throw new Error('busy');
  };
  const report = await tearDown(journal, stuck.appliers);
  expect(report.failed.map(({ what }) => what)).toEqual(['add address']);
  expect([...stuck.lines]).toEqual(['theirs', 'shared', 'address']);
  expect(journal.pending().map(({ op }) => op.line)).toEqual(['address']);
  stuck.onChange = () => {};
  expect(await tearDown(journal, stuck.appliers)).toMatchObject({ undone: ['add address'], failed: [] });
  expect(stuck.text).toBe(START.join('\n'));
  journal.close();
});

test('what shall be kept stays in force and in the journal', async () => {
  const host = new FakeHost(START);
  const journal = Journal.create<LineOp>(file, 'default');
  await applyOps(OPS, host.appliers, journal);
  await tearDown(journal, host.appliers, ({ line }) => line === 'firewall');
  expect([...host.lines]).toEqual(['theirs', 'shared', 'firewall']);
  expect(journal.pending().map(({ op }) => op.line)).toEqual(['firewall']);
  journal.close();
});

test('what somebody else has changed is left alone and reported', async () => {
  const host = new FakeHost(START);
  const journal = Journal.create<LineOp>(file, 'default');
  await applyOps(lineOps('route'), host.appliers, journal);
  const { 'line.add': applier } = host.appliers;
  const foreign = { 'line.add': { ...applier, undo: async () => ({ outcome: 'foreign', found: 'theirs' }) as const } };
  expect(await tearDown(journal, foreign)).toEqual({
    undone: [],
    foreign: ['add route: left alone, found theirs'],
    failed: [],
  });
  expect(journal.pending()).toEqual([]);
  journal.close();
});

test('an abort ends apply between two ops', async () => {
  const host = new FakeHost(START);
  const journal = Journal.create<LineOp>(file, 'default');
  const abort = new AbortController();
  host.onChange = (count) => {
    if (count === 1) abort.abort(new Error('interrupted'));
  };
  await expect(applyOps(OPS, host.appliers, journal, abort.signal)).rejects.toThrow('interrupted');
  expect([...host.lines]).toEqual(['theirs', 'shared', 'firewall', 'tun']);
  await tearDown(journal, host.appliers);
  expect(host.text).toBe(START.join('\n'));
  journal.close();
});

test('a ruleset is named by its table, not printed', async () => {
  const host = new FakeHost();
  const journal = Journal.create<LineOp>(file, 'default');
  await applyOps(lineOps('x'), host.appliers, journal);
  const { 'line.add': applier } = host.appliers;
  const long = { 'line.add': { ...applier, describe: () => "nft -f - <<'END'\nadd table a\ntable inet a {\n}\nEND" } };
  expect((await tearDown(journal, long)).undone).toEqual(['nft -f - # table inet a']);
  journal.close();
});
