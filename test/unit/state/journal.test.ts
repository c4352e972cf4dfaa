import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import type { AnyOp } from '../../../src/op.ts';
import { crc32 } from '../../../src/state/crc32.ts';
import { Journal } from '../../../src/state/journal.ts';
import { type JournalRecord, journalLine, parseJournal } from '../../../src/state/journal-format.ts';
import { temporaryDirectory } from './temporary-directory.ts';

interface LinkOp extends AnyOp {
  readonly kind: 'link.add';
  readonly name: string;
}
const isKnown = (op: AnyOp): op is LinkOp => op.kind === 'link.add';
const link = (name: string): LinkOp => ({ kind: 'link.add', name });

const RECORDS: JournalRecord[] = [
  { n: 0, is: 'journal', tunnel: 'default' },
  { n: 1, is: 'intended', op: link('a'), before: null },
  { n: 2, is: 'done', of: 1 },
  { n: 3, is: 'intended', op: link('bü\n"b'), before: { was: [1, 2] } },
  { n: 4, is: 'done', of: 3 },
  { n: 5, is: 'intended', op: link('c'), before: null },
  { n: 6, is: 'undone', of: 5 },
  { n: 7, is: 'undone', of: 3 },
  { n: 8, is: 'intended', op: link('d'), before: null },
];
const LINES = RECORDS.map(journalLine);
const WHOLE = Buffer.concat(LINES);
const read = (bytes: Uint8Array) => parseJournal(bytes, isKnown);
const states = (bytes: Uint8Array) => read(bytes).entries.map(({ id, state }) => `${id} ${state}`);

function seal(body: string): Buffer {
  return Buffer.from(`${body},"crc":"${crc32(Buffer.from(body)).toString(16).padStart(8, '0')}"}\n`);
}

describe('the journal format', () => {
  it('is stable: what this version wrote yesterday', () => {
    expect(LINES.slice(0, 3).join('')).toMatchInlineSnapshot(`
      "{"v":1,"n":0,"is":"journal","tunnel":"default","crc":"da0ffae2"}
      {"v":1,"n":1,"is":"intended","op":{"kind":"link.add","name":"a"},"before":null,"crc":"a197d195"}
      {"v":1,"n":2,"is":"done","of":1,"crc":"9cef07a7"}
      "
    `);
  });

  it('reads back what was written', () => {
    const parsed = read(WHOLE);
    expect(parsed).toMatchObject({ tunnel: 'default', problems: [], nextSequence: 9, wholeBytes: WHOLE.length });
    expect(parsed.entries[1]).toEqual({ id: 3, op: link('bü\n"b'), before: { was: [1, 2] }, state: 'undone' });
    expect(states(WHOLE)).toEqual(['1 done', '3 undone', '5 undone', '8 intended']);
  });

  it('reads a change before which nothing was observed', () => {
    const { entries, problems } = read(journalLine({ n: 0, is: 'intended', op: link('a'), before: undefined }));
    expect([entries[0]?.before, problems]).toEqual([undefined, []]);
  });

  it('cut at any byte, as a crash does, is what the whole lines say, without a complaint', () => {
    for (let length = 0; length <= WHOLE.length; length++) {
      const cut = WHOLE.subarray(0, length);
      const whole = cut.lastIndexOf(0x0a) + 1;
      const parsed = read(cut);
      expect(parsed.problems).toEqual([]);
      expect(parsed.wholeBytes).toBe(whole);
      expect(parsed).toEqual(read(WHOLE.subarray(0, whole)));
    }
  });

  it('with a tail of zeros, as a file system leaves it after power loss, ignores the tail', () => {
    const parsed = read(Buffer.concat([WHOLE, Buffer.alloc(4096)]));
    expect([parsed.problems, parsed.wholeBytes]).toEqual([[], WHOLE.length]);
  });

  it('with any byte changed never invents an entry and always says so', () => {
    const honest = new Map(read(WHOLE).entries.map((entry) => [entry.id, JSON.stringify([entry.op, entry.before])]));
    const wrong: string[] = [];
    for (let at = 0; at < WHOLE.length; at++) {
      const bad = Buffer.from(WHOLE);
      bad[at] = (bad[at] ?? 0) ^ (at % 3 === 0 ? 0x80 : 0x01);
      const parsed = read(bad);
      for (const { id, op, before } of parsed.entries) {
        if (JSON.stringify([op, before]) !== honest.get(id)) wrong.push(`byte ${at} changes entry ${id}`);
      }
      // Without its newline the last line is a half-written one.
      if (at < WHOLE.length - 1 && parsed.problems.length === 0) wrong.push(`byte ${at} is not reported`);
    }
    expect(wrong).toEqual([]);
  });

  it.each(LINES.map((_, index) => index))('with line %i gone is reported, and the rest is used', (index) => {
    const parsed = read(Buffer.concat(LINES.filter((_, at) => at !== index)));
    const isLast = index === LINES.length - 1;
    expect(parsed.problems.length > 0).toBe(!isLast);
    const expected = RECORDS.filter((record, at) => record.is === 'intended' && at !== index).map((record) => record.n);
    expect(parsed.entries.map((entry) => entry.id)).toEqual(expected);
  });

  it('damaged in the middle keeps the changes before and after it', () => {
    const bad = Buffer.from(WHOLE);
    bad.write('XX', (LINES[0]?.length ?? 0) + (LINES[1]?.length ?? 0) + 3);
    const parsed = read(bad);
    expect(parsed.problems).toEqual(['line 3 is damaged: a change may stay on the host']);
    // Its `done` is lost: it is still to be undone.
    expect(parsed.entries.map(({ id, state }) => `${id} ${state}`)).toEqual([
      '1 intended',
      '3 undone',
      '5 undone',
      '8 intended',
    ]);
  });

  it('an unreadable change that was done is named', () => {
    const parsed = read(Buffer.concat([LINES[0] ?? '', Buffer.from('garbage\n'), ...LINES.slice(2)] as Buffer[]));
    expect(parsed.problems).toEqual([
      'line 2 is damaged: a change may stay on the host',
      'change 1 was done, but its record is lost',
    ]);
  });

  it('an unknown change is reported, not passed on', () => {
    const parsed = read(journalLine({ n: 0, is: 'intended', op: { kind: 'moon.move' }, before: null }));
    expect([parsed.entries, parsed.refused]).toEqual([[], ['line 1 is no change of this proxyvpn\'s: "moon.move"']]);
  });

  it('lines out of order or twice are reported, and no entry is lost or replaced', () => {
    const doubled = Buffer.concat([WHOLE, journalLine({ n: 1, is: 'intended', op: link('evil'), before: null })]);
    const parsed = read(doubled);
    expect(parsed.problems).toEqual(['line 10 is out of order']);
    expect(parsed.entries[0]?.op.name).toBe('a');
    expect(parsed.nextSequence).toBe(9);
  });

  it('an intact line that is no record is damage', () => {
    for (const body of ['{"v":1,"n":0,"is":"wish"', '{"v":1,"n":-1,"is":"journal","tunnel":"x"', '{"n":0', '[1']) {
      expect(read(seal(body)).problems, body).toHaveLength(1);
    }
    expect(read(seal('{"v":1,"n":0,"is":"intended","op":{"name":"x"}')).problems).toHaveLength(1);
    expect(read(seal('{"v":1,"n":0,"is":"intended","op":null')).problems).toHaveLength(1);
  });

  it.each([
    ['an older one without checksums', Buffer.from('{"v":0,"tunnel":"default"}\n'), 0],
    ['a newer one', seal('{"v":2,"n":0,"is":"journal","tunnel":"default"'), 2],
    ['a newer line among ours', Buffer.concat([WHOLE, seal('{"v":3,"n":9,"is":"wish"')]), 3],
  ])('of %s is refused by number', (_, bytes, version) => {
    expect(() => read(bytes)).toThrow(
      expect.objectContaining({
        code: 'E_JOURNAL_VERSION',
        message: `the journal has format ${version}, this proxyvpn reads format 1`,
        hint: expect.stringContaining('down --force'),
      }),
    );
  });

  it('a damaged version number is damage, not another version', () => {
    const bad = Buffer.from(WHOLE);
    bad[bad.indexOf('"v":1') + 4] = 0x32;
    expect(read(bad).problems).toContain('line 1 is damaged: a change may stay on the host');
  });

  it('random bytes never throw', () => {
    let state = 5;
    for (let round = 0; round < 3_000; round++) {
      const bytes = Buffer.alloc(round % 120);
      for (let i = 0; i < bytes.length; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        bytes[i] = state % 7 === 0 ? 0x0a : state >>> 24;
      }
      expect(read(bytes).entries).toEqual([]);
    }
  });
});

describe('the journal file', () => {
  const journalFile = () => path.join(temporaryDirectory(), 'journal');

  it('tells another process what to undo', async () => {
    const file = journalFile();
    const journal = Journal.create<LinkOp>(file, 'default');
    const a = await journal.intend(link('a'), { was: 1 });
    await journal.done(a);
    const b = await journal.intend(link('b'), null);
    await journal.undone(b);
    await journal.intend(link('c'), null);
    const pending = [
      { id: a, op: link('a'), before: { was: 1 }, state: 'done' },
      { id: 4 + 1, op: link('c'), before: null, state: 'intended' },
    ];
    expect(journal.pending()).toEqual(pending);
    journal.close();
    const later = Journal.open(file, isKnown);
    expect(later?.pending()).toEqual(pending);
    expect(later?.problems).toEqual([]);
    later?.remove();
    expect(fs.existsSync(file)).toBe(false);
    expect(Journal.open(file, isKnown)).toBeUndefined();
  });

  it('is for the owner alone, and every record is on disk when the call resolves', async () => {
    const file = journalFile();
    const journal = Journal.create<LinkOp>(file, 'default');
    expect(fs.statSync(file).mode & 0o777).toBe(0o600);
    const id = await journal.intend(link('a'), null);
    expect(states(fs.readFileSync(file))).toEqual(['1 intended']);
    await journal.done(id);
    expect(states(fs.readFileSync(file))).toEqual(['1 done']);
    journal.close();
  });

  it('is not overwritten while it still has to be undone', () => {
    const file = journalFile();
    Journal.create(file, 'default').close();
    expect(() => Journal.create(file, 'default')).toThrow(expect.objectContaining({ code: 'E_JOURNAL_EXISTS' }));
  });

  it('cut at any byte is opened, cut to whole lines and written on', async () => {
    const directory = temporaryDirectory();
    for (let length = 0; length <= WHOLE.length; length += 1) {
      const file = path.join(directory, `cut-${length}`);
      fs.writeFileSync(file, WHOLE.subarray(0, length));
      const journal = Journal.open(file, isKnown);
      const before = journal?.pending().length ?? -1;
      const id = await journal?.intend(link('new'), null);
      await journal?.done(id ?? -1);
      journal?.close();
      const again = read(fs.readFileSync(file));
      expect(again.problems).toEqual([]);
      expect(again.entries.filter((entry) => entry.state !== 'undone')).toHaveLength(before + 1);
      fs.rmSync(file);
    }
  });

  it('goes on behind damage without a second complaint', async () => {
    const file = journalFile();
    fs.writeFileSync(file, Buffer.concat([...LINES.slice(0, 8), Buffer.from('damaged\n')]));
    const journal = Journal.open(file, isKnown);
    await journal?.intend(link('e'), null);
    journal?.close();
    expect(read(fs.readFileSync(file)).problems).toEqual(['line 9 is damaged: a change may stay on the host']);
  });

  it('refuses to conclude what was never intended', async () => {
    const journal = Journal.create<LinkOp>(journalFile(), 'default');
    await expect(journal.done(7)).rejects.toThrow(RangeError);
    journal.close();
  });

  it('on a full disk refuses the change and stays readable', () => {
    // RLIMIT_FSIZE stands in for the full disk: write(2) is cut short, then fails.
    const file = journalFile();
    const script = `
      import { Journal } from ${JSON.stringify(path.resolve('src/state/journal.ts'))};
      process.on('SIGXFSZ', () => {});
      const journal = Journal.create(${JSON.stringify(file)}, 'default');
      let made = 0;
      try {
        for (;;) { await journal.intend({ kind: 'link.add', name: 'x'.repeat(90) }, null); made++; }
      } catch (error) {
        console.log(JSON.stringify({ made, code: error.code, message: error.message, pending: journal.pending().length }));
      }
    `;
    const bundle = spawnSync(
      'node_modules/.bin/esbuild',
      ['--bundle', '--platform=node', '--format=esm', '--loader=ts'],
      {
        input: script,
        encoding: 'utf8',
      },
    );
    const program = `${file}.mjs`;
    fs.writeFileSync(program, bundle.stdout);
    const run = spawnSync('prlimit', ['--fsize=1000', process.execPath, program], { encoding: 'utf8' });
    const { made, code, message, pending } = JSON.parse(run.stdout);
    expect([code, message, pending]).toEqual(['E_STATE_WRITE', `cannot write ${file}: EFBIG`, made]);
    const parsed = read(fs.readFileSync(file));
    expect([parsed.problems, parsed.entries.length, parsed.wholeBytes]).toEqual([[], made, fs.statSync(file).size]);
    expect(made).toBeGreaterThan(2);
  });
});
