import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { NameLog } from '../../../src/dns/name-log.ts';
import { bindingLine, headerLine, parseNameLog } from '../../../src/dns/name-log-format.ts';
import { temporaryDirectory } from '../state/temporary-directory.ts';

const RANGE = '198.18.0.0/15 fd70:7670:6e00:1::/64';
const OTHER = '10.0.0.0/16 fd70:7670:6e00:1::/64';
const SLOTS = 1000;
const BINDINGS = [
  { slot: 7, hostname: 'www.example.com' },
  { slot: 8, hostname: 'a' },
  { slot: 7, hostname: 'other.example' },
  { slot: 999, hostname: 'a' },
];
const LINES = [headerLine(RANGE), ...BINDINGS.map((binding) => bindingLine(RANGE, binding))];
const WHOLE = Buffer.from(LINES.join(''));
const parse = (bytes: Buffer) => parseNameLog(bytes, RANGE, SLOTS);

describe('the format', () => {
  it('is stable: what this version wrote yesterday', () => {
    expect(LINES.slice(0, 2).join('')).toMatchInlineSnapshot(`
      "2f494eac proxyvpn-names/1 198.18.0.0/15 fd70:7670:6e00:1::/64
      f8e851b0 7 www.example.com
      "
    `);
  });

  it('gives a name one number and a number one name: the later line wins', () => {
    expect(parse(WHOLE)).toEqual({
      bindings: [
        { slot: 7, hostname: 'other.example' },
        { slot: 999, hostname: 'a' },
      ],
      lines: 5,
      wholeBytes: WHOLE.length,
      problems: [],
      isForeign: false,
    });
  });

  it('cut at any byte, as a crash does, is what the whole lines say, without a complaint', () => {
    for (let length = 0; length <= WHOLE.length; length++) {
      const parsed = parse(WHOLE.subarray(0, length));
      const whole = WHOLE.subarray(0, length).lastIndexOf(0x0a) + 1;
      expect(parsed.problems).toEqual([]);
      expect(parsed.wholeBytes).toBe(whole);
      expect(parsed.bindings).toEqual(parse(WHOLE.subarray(0, whole)).bindings);
    }
  });

  it('with any byte changed never invents a binding, and says so', () => {
    const honest = new Set(BINDINGS.map(({ slot, hostname }) => `${slot} ${hostname}`));
    for (let at = 0; at < WHOLE.length - 1; at++) {
      for (const change of [0x01, 0x0a, 0x20, 0x80]) {
        const bad = Buffer.from(WHOLE);
        bad[at] = (bad[at] ?? 0) ^ change;
        const { bindings, problems } = parse(bad);
        for (const { slot, hostname } of bindings) expect(honest.has(`${slot} ${hostname}`)).toBe(true);
        expect(problems).toHaveLength(1);
      }
    }
  });

  it('uses what is intact around damage, the header included', () => {
    const bad = Buffer.from(WHOLE);
    bad.fill(0, 3, 9);
    expect(parse(bad)).toMatchObject({
      bindings: parse(WHOLE).bindings,
      problems: [expect.stringContaining('1 of its 5')],
    });
  });

  it('of another range is not used, and says whose it is', () => {
    const parsed = parseNameLog(WHOLE, OTHER, SLOTS);
    expect(parsed).toMatchObject({
      bindings: [],
      isForeign: true,
      problems: [expect.stringContaining('198.18.0.0/15')],
    });
  });

  it('with lines of another range among ours takes only ours', () => {
    const mixed = Buffer.from(headerLine(RANGE) + bindingLine(OTHER, { slot: 1, hostname: 'strange.example' }));
    expect(parse(mixed)).toMatchObject({ bindings: [], problems: [expect.stringContaining('1 of its 2')] });
  });

  it('with a number beyond the range is damage', () => {
    const bytes = Buffer.from(headerLine(RANGE) + bindingLine(RANGE, { slot: SLOTS, hostname: 'a' }));
    expect(parse(bytes).problems).toHaveLength(1);
  });
});

describe('the file', () => {
  const open = (file: string) => NameLog.open(file, RANGE, SLOTS);

  it('is made 0600, and holds what was appended', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const { log, found } = open(file);
    expect([found.lines, fs.statSync(file).mode & 0o777]).toEqual([0, 0o600]);
    log.append(BINDINGS.slice(0, 1));
    log.append(BINDINGS.slice(1));
    log.close();
    expect(fs.readFileSync(file)).toEqual(WHOLE);
    expect(open(file).found.bindings).toEqual(parse(WHOLE).bindings);
  });

  it('loses a half-written line before the next one is appended', () => {
    const file = path.join(temporaryDirectory(), 'names');
    fs.writeFileSync(file, WHOLE.subarray(0, WHOLE.length - 3));
    const { log } = open(file);
    log.append([{ slot: 5, hostname: 'b' }]);
    log.close();
    expect(open(file).found).toMatchObject({ problems: [], lines: 5 });
    expect(open(file).found.bindings).toContainEqual({ slot: 5, hostname: 'b' });
  });

  it('is rewritten when it was damaged, so that the damage is told once', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const bad = Buffer.from(WHOLE);
    bad[WHOLE.length - 4] = 0x21;
    fs.writeFileSync(file, bad);
    expect(open(file).found.problems).toHaveLength(1);
    expect(open(file).found).toMatchObject({ problems: [], lines: 3 });
  });

  it('says when a rewrite is worth it, and is then as short as can be', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const { log } = open(file);
    for (let i = 0; !log.isWorthRewriting(10); i++) log.append([{ slot: i % 10, hostname: `name-${i}.example` }]);
    expect(fs.statSync(file).size).toBeGreaterThan(256 * 1024);
    expect(log.isWorthRewriting(1_000_000)).toBe(false);
    log.rewrite([{ slot: 1, hostname: 'a' }]);
    log.append([{ slot: 2, hostname: 'b' }]);
    expect(log.isWorthRewriting(2)).toBe(false);
    expect(fs.readFileSync(file, 'utf8')).toBe(
      headerLine(RANGE) +
        bindingLine(RANGE, { slot: 1, hostname: 'a' }) +
        bindingLine(RANGE, { slot: 2, hostname: 'b' }),
    );
  });

  it('left beside a half-finished rewrite is used, and the other one removed', () => {
    const file = path.join(temporaryDirectory(), 'names');
    fs.writeFileSync(file, WHOLE);
    fs.writeFileSync(`${file}.0123456789ab.tmp`, 'half');
    fs.writeFileSync(`${file}.backup.tmp`, 'not ours');
    expect(open(file).found.bindings).toEqual(parse(WHOLE).bindings);
    expect(fs.readdirSync(path.dirname(file)).sort()).toEqual(['names', 'names.backup.tmp']);
  });

  it('that cannot be made is E_STATE_WRITE', () => {
    expect(() => open(path.join(temporaryDirectory(), 'missing', 'names'))).toThrow(
      expect.objectContaining({ code: 'E_STATE_WRITE' }),
    );
    expect(() => open(temporaryDirectory())).toThrow(expect.objectContaining({ code: 'E_STATE_WRITE' }));
  });

  it('is not followed through a symbolic link', () => {
    const directory = temporaryDirectory();
    fs.writeFileSync(path.join(directory, 'target'), WHOLE);
    fs.symlinkSync('target', path.join(directory, 'names'));
    expect(() => open(path.join(directory, 'names'))).toThrow(expect.objectContaining({ code: 'E_STATE_WRITE' }));
    expect(fs.readFileSync(path.join(directory, 'target'))).toEqual(WHOLE);
  });
});
