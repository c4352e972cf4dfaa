import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { buildSync } from 'esbuild';
import { describe, expect, it } from 'vitest';
import { FLOW_USED, type NameChange, NameMap, type NameMapOptions } from '../../../src/dns/name-map.ts';
import { DEFAULT_RANGE_4, DEFAULT_RANGE_6, VirtualRange } from '../../../src/dns/virtual-range.ts';
import { addressBytes, parsePrefix } from '../../../src/ip.ts';
import { temporaryDirectory } from '../state/temporary-directory.ts';

const HOLD_MS = 1000;
const range = new VirtualRange(DEFAULT_RANGE_4, DEFAULT_RANGE_6);
/** 238 numbers. */
const small = new VirtualRange(parsePrefix('10.9.8.0/24'), DEFAULT_RANGE_6);

function open(options: Partial<NameMapOptions> = {}, nowMs = 0): NameMap {
  return NameMap.open({ range: small, holdMs: HOLD_MS, ...options }, nowMs);
}

function assign(map: NameMap, hostname: string, nowMs = 0): number {
  const slot = map.assign(hostname, nowMs);
  if (slot === undefined) throw new Error(`${hostname} got no number`);
  return slot;
}

/** Runs a program that has NameMap, a default `range` and `say`. @param wrapper what starts it */
function runChild(directory: string, program: string, wrapper: readonly string[] = []) {
  const from = (file: string): string => JSON.stringify(path.resolve(import.meta.dirname, '../../../src/dns', file));
  const script = `
    import fs from 'node:fs';
    import { NameMap } from ${from('name-map.ts')};
    import { VirtualRange, DEFAULT_RANGE_4, DEFAULT_RANGE_6 } from ${from('virtual-range.ts')};
    const range = new VirtualRange(DEFAULT_RANGE_4, DEFAULT_RANGE_6);
    const say = (text) => fs.writeSync(1, text);
    ${program}`;
  const built = path.join(directory, 'child.cjs');
  buildSync({
    stdin: { contents: script, resolveDir: import.meta.dirname },
    bundle: true,
    platform: 'node',
    format: 'cjs',
    outfile: built,
  });
  const [command = process.execPath, ...args] = [...wrapper, process.execPath, built];
  const child = spawnSync(command, args, { encoding: 'utf8' });
  if (child.stderr !== '') throw new Error(child.stderr);
  return { said: child.stdout, signal: child.signal };
}

const names = (map: NameMap): string[] => [...map.entries(0)].map(({ hostname }) => hostname);

describe('a name', () => {
  it('keeps its number, and the number finds the name in both families', () => {
    const map = open();
    const slot = assign(map, 'www.example.com');
    expect(assign(map, 'other.example')).not.toBe(slot);
    expect(assign(map, 'www.example.com', 5)).toBe(slot);
    for (const address of [small.address4(slot), small.address6(slot)]) {
      expect(map.nameOfAddress(addressBytes(address))).toBe('www.example.com');
    }
  });

  it('is unknown where nothing was assigned', () => {
    const map = open();
    expect(map.nameOf(3)).toBeUndefined();
    expect(map.nameOfAddress(addressBytes('10.9.8.0'))).toBeUndefined();
    expect(map.nameOfAddress(addressBytes('192.0.2.1'))).toBeUndefined();
  });

  it('gets a number from a random place first, so that a lost map does not repeat itself', () => {
    const first = new Set(Array.from({ length: 20 }, () => assign(open({ range }), 'a')));
    expect(first.size).toBeGreaterThan(1);
  });
});

describe('when all names are taken', () => {
  const full = (options: Partial<NameMapOptions> = {}): NameMap => {
    const map = open({ mostNames: 3, firstSlot: 0, ...options });
    for (const name of ['a', 'b', 'c']) assign(map, name);
    return map;
  };

  it('none is forgotten while its answers may be used', () => {
    const map = full();
    expect(map.assign('d', HOLD_MS - 1)).toBeUndefined();
    expect(map.counters).toEqual({ names: 3, mostNames: 3, assigned: 3, evicted: 0, refused: 1 });
    expect(assign(map, 'd', HOLD_MS)).toBe(3);
    expect(names(map)).toEqual(['b', 'c', 'd']);
  });

  it('the one not asked for longest goes', () => {
    const map = full();
    assign(map, 'a', 1);
    assign(map, 'd', HOLD_MS + 1);
    expect(names(map)).toEqual(['c', 'a', 'd']);
  });

  it('none is forgotten while a connection uses it', () => {
    const map = full();
    map.pin(0);
    assign(map, 'd', HOLD_MS);
    expect(names(map)).toEqual(['c', 'a', 'd']);
    for (const slot of [2, 3]) map.pin(slot);
    expect(map.assign('e', 10 * HOLD_MS)).toBeUndefined();
    map.unpin(2);
    expect(assign(map, 'e', 20 * HOLD_MS)).toBeDefined();
    expect(names(map).sort()).toEqual(['a', 'd', 'e']);
  });

  it('one that a connection has used since it was last looked at gets a second chance', () => {
    const map = full();
    for (const slot of [0, 1]) {
      map.pin(slot);
      map.unpin(slot);
    }
    assign(map, 'd', HOLD_MS);
    expect(names(map)).toEqual(['a', 'b', 'd']);
    assign(map, 'e', 3 * HOLD_MS);
    expect(names(map)).toEqual(['b', 'd', 'e']);
  });

  it('a number is given out again only after all others', () => {
    const map = open({ mostNames: 2, firstSlot: 234 });
    const given = Array.from({ length: 238 }, (_, i) => assign(map, `name-${i}`, i * HOLD_MS));
    expect(new Set(given).size).toBe(238);
    expect(given.slice(0, 6)).toEqual([234, 235, 236, 237, 0, 1]);
    expect(assign(map, 'again', 238 * HOLD_MS)).toBe(234);
  });

  it('a freed number with a flow that began in between waits on', () => {
    const flowWords = new Uint32Array(small.slots);
    const map = open({ mostNames: 1, firstSlot: 0, flowWords });
    assign(map, 'a');
    assign(map, 'b', HOLD_MS);
    for (let slot = 2; slot < small.slots; slot++) flowWords[slot] = 1;
    flowWords[0] = FLOW_USED + 1;
    expect(map.assign('c', 2 * HOLD_MS)).toBe(1);
    expect(names(map)).toEqual(['c']);
  });

  it('a query looks at a bounded number of names, and the next one goes on from there', () => {
    const map = open({ range, mostNames: 1000, firstSlot: 0 });
    for (let i = 0; i < 1000; i++) map.pin(assign(map, `name-${i}`));
    map.unpin(999);
    const rounds = Array.from({ length: 10 }, () => map.assign('new', HOLD_MS) !== undefined);
    // 256 names a round. Those that were looked at are held anew, so nothing is looked at twice.
    expect(rounds.indexOf(true)).toBe(-1);
    expect(map.assign('new', 2 * HOLD_MS)).toBeUndefined();
    expect(
      Array.from({ length: 9 }, (_, i) => map.assign('new', (3 + i) * HOLD_MS)).some((slot) => slot !== undefined),
    ).toBe(true);
    expect(map.nameOf(999)).toBeUndefined();
  });
});

it('counting below zero is a bug that shows', () => {
  expect(() => open().unpin(0)).toThrow(RangeError);
});

describe('the engine', () => {
  it('hears of every change before the answer, and of nothing twice', () => {
    const heard: (readonly NameChange[])[] = [];
    const map = open({ mostNames: 1, firstSlot: 0, onChange: (changes) => heard.push(changes) });
    assign(map, 'a');
    assign(map, 'a');
    expect(heard).toEqual([]);
    map.flush(0);
    map.flush(0);
    assign(map, 'b', HOLD_MS);
    map.flush(HOLD_MS);
    expect(heard).toEqual([
      [{ slot: 0, hostname: 'a' }],
      [
        { slot: 0, hostname: undefined },
        { slot: 1, hostname: 'b' },
      ],
    ]);
  });

  it('hears of all names of an earlier run at once', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const before = open({ file, firstSlot: 4 });
    for (const name of ['a', 'b']) assign(before, name);
    before.close(0);
    const heard: NameChange[] = [];
    open({ file, onChange: (changes) => heard.push(...changes) }).close(0);
    expect(heard).toEqual([
      { slot: 4, hostname: 'a' },
      { slot: 5, hostname: 'b' },
    ]);
  });

  it('shares the flow counts: what another thread counts is seen', () => {
    const flowWords = new Uint32Array(new SharedArrayBuffer(4 * small.slots));
    const map = open({ mostNames: 1, firstSlot: 0, flowWords });
    assign(map, 'a');
    Atomics.add(flowWords, 0, 1);
    expect(map.assign('b', HOLD_MS)).toBeUndefined();
    expect([...map.entries(HOLD_MS)]).toMatchObject([{ hostname: 'a', flows: 1 }]);
    Atomics.sub(flowWords, 0, 1);
    expect(assign(map, 'b', 2 * HOLD_MS)).toBe(1);
  });
});

describe('forgetting', () => {
  it('drops what nothing uses, for good', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const map = open({ file, firstSlot: 0 });
    for (const name of ['old', 'pinned', 'fresh']) assign(map, name);
    map.pin(1);
    assign(map, 'fresh', HOLD_MS);
    map.flush(HOLD_MS);
    expect(map.forget(HOLD_MS)).toEqual({ forgotten: 1, kept: 2 });
    map.close(HOLD_MS);
    const after = open({ file });
    expect(names(after)).toEqual(['pinned', 'fresh']);
    after.close(0);
  });
});

describe('a restart', () => {
  it('keeps every name, and holds it as if it had just been answered', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const before = open({ file });
    const slots = new Map(['a', 'b', 'c'].map((name) => [name, assign(before, name)]));
    before.flush(0);
    // No close: the process was killed.
    const after = open({ file, mostNames: 4 }, 0);
    for (const [name, slot] of slots) expect(assign(after, name)).toBe(slot);
    assign(after, 'd');
    expect(after.assign('e', HOLD_MS - 1)).toBeUndefined();
    after.close(0);
    before.close(0);
  });

  it('with a full map leaves room for new names at once', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const before = open({ file, mostNames: 100 });
    for (let i = 0; i < 100; i++) assign(before, `name-${i}`);
    before.close(0);
    const after = open({ file, mostNames: 100, firstSlot: 0 });
    expect(after.counters.names).toBe(75);
    expect(names(after)[0]).toBe('name-25');
    const dropped = new Set(Array.from({ length: 25 }, (_, i) => before.nameOf(assign(after, `new-${i}`))));
    // And the addresses of those that gave way are the last to be used again.
    expect([...dropped]).toEqual([undefined]);
    expect(after.assign('one too many', 0)).toBeUndefined();
    after.close(0);
  });

  it('with other ranges starts anew and says so', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const before = open({ file });
    assign(before, 'a');
    before.close(0);
    const problems: string[] = [];
    const after = open({ file, range, onProblem: (text) => problems.push(text) });
    expect([after.counters.names, problems]).toEqual([0, [expect.stringContaining('other ranges')]]);
    after.close(0);
  });

  it('after a crash at any byte of the file never gives an old address to another name', () => {
    const directory = temporaryDirectory();
    const file = path.join(directory, 'names');
    const before = open({ file, mostNames: 6, firstSlot: 0 });
    const answered = new Map<number, string>();
    for (let i = 0; i < 12; i++) {
      const slot = assign(before, `name-${i}.example`, i * HOLD_MS);
      answered.set(slot, `name-${i}.example`);
      before.flush(i * HOLD_MS);
    }
    before.close(0);
    const whole = fs.readFileSync(file);
    const cut = path.join(directory, 'cut');
    for (let length = 0; length <= whole.length; length++) {
      fs.writeFileSync(cut, whole.subarray(0, length));
      const problems: string[] = [];
      const after = open({ file: cut, onProblem: (text) => problems.push(text) });
      for (const { slot, hostname } of after.entries(0)) expect(answered.get(slot)).toBe(hostname);
      // What was written before the cut was answered, so it must still be there.
      const lines = whole.subarray(0, length).toString().split('\n').length - 2;
      expect([after.counters.names, problems]).toEqual([Math.max(0, lines), []]);
      after.close(0);
    }
  });

  it('after SIGKILL in the middle of the work has every name that was flushed', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const child = runChild(
      path.dirname(file),
      `const map = NameMap.open({ range, holdMs: 1000, file: ${JSON.stringify(file)} }, 0);
      let said = '';
      for (let i = 0; i < 2000; i++) {
        const slot = map.assign('name-' + i + '.example', 0);
        map.flush(0);
        said += slot + ' name-' + i + '.example\\n';
      }
      say(said.trimEnd());
      process.kill(process.pid, 'SIGKILL');`,
    );
    expect(child.signal).toBe('SIGKILL');
    const said = child.said.split('\n');
    expect(said).toHaveLength(2000);
    const after = open({ file, range });
    for (const line of said) {
      const [slot, hostname] = line.split(' ');
      expect(after.nameOf(Number(slot))).toBe(hostname);
    }
    after.close(0);
  });
});

describe('a file that cannot be written', () => {
  it('is said, names work without it, and it is written again when it can be', () => {
    const directory = path.join(temporaryDirectory(), 'later');
    const file = path.join(directory, 'names');
    const problems: string[] = [];
    const map = open({ file, onProblem: (text) => problems.push(text) });
    const slot = assign(map, 'a');
    map.flush(0);
    map.flush(5000);
    expect(problems).toEqual([expect.stringContaining('ENOENT')]);
    fs.mkdirSync(directory);
    map.flush(10_000);
    expect(problems[1]).toContain('is written again');
    const after = open({ file });
    expect(after.nameOf(slot)).toBe('a');
    after.close(0);
    map.close(10_000);
  });

  it('at the end is tried once more', () => {
    const directory = path.join(temporaryDirectory(), 'later');
    const file = path.join(directory, 'names');
    const map = open({ file });
    assign(map, 'a');
    map.flush(0);
    fs.mkdirSync(directory);
    map.close(1);
    const after = open({ file });
    expect(names(after)).toEqual(['a']);
    after.close(0);
  });

  it('any further holds whole lines only, and the names it holds are right', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const child = runChild(
      path.dirname(file),
      `const problems = [];
      const map = NameMap.open({ range, holdMs: 1000, file: ${JSON.stringify(file)}, onProblem: (text) => problems.push(text) }, 0);
      for (let i = 0; i < 500; i++) { map.assign('name-' + i + '.example', 0); map.flush(0); }
      say(problems.length + ' ' + problems[0] + ' ' + map.counters.names);`,
      // bash(1): units of 1024 bytes; a write over the limit then fails with EFBIG, as on a full disk with ENOSPC.
      ['bash', '-c', 'trap "" XFSZ; ulimit -f 4; exec "$@"', 'bash'],
    );
    expect(child.said).toMatch(/^1 names are kept in memory only: cannot write .*: EFBIG 500$/);
    expect(fs.readFileSync(file).at(-1)).toBe(0x0a);
    const problems: string[] = [];
    const after = open({ file, range, onProblem: (text) => problems.push(text) });
    expect([problems, after.counters.names > 50]).toEqual([[], true]);
    after.close(0);
  });
});

describe('20,000 names', () => {
  const hostname = (i: number): string => `host-${i}.some-domain-of-usual-length.example`;

  it('are never mixed up, across restarts, evictions and live connections', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const flowWords = new Uint32Array(range.slots);
    const given = new Map<string, number>();
    const used = new Map<number, string>();
    let now = 0;
    let map = open({ range, file, mostNames: 8000, flowWords }, now);
    let live: { readonly slot: number; readonly name: string }[] = [];
    for (let i = 0; i < 20_000; i++) {
      if (i % 100 === 0) {
        map.flush(now);
        now += HOLD_MS / 20;
        for (const { slot, name } of live) expect(map.nameOf(slot)).toBe(name);
      }
      if (i === 9000 || i === 15_000) {
        // Killed: the engine's flows are gone with it.
        map.flush(now);
        flowWords.fill(0);
        live = [];
        map = open({ range, file, mostNames: 8000, flowWords }, now);
      }
      const slot = map.assign(hostname(i), now);
      if (slot === undefined) continue;
      // Nobody else has it, and whoever had it has nothing alive on it.
      const other = used.get(slot);
      if (other !== undefined) expect(live.some((flow) => flow.slot === slot)).toBe(false);
      given.set(hostname(i), slot);
      used.set(slot, hostname(i));
      if (i % 7 === 0) {
        map.pin(slot);
        live.push({ slot, name: hostname(i) });
        if (live.length > 500) map.unpin(live.shift()?.slot ?? 0);
      }
    }
    expect(given.size).toBeGreaterThan(19_000);
    for (const { slot, hostname: name } of map.entries(now)) expect(given.get(name)).toBe(slot);
    expect(map.counters.names).toBeLessThanOrEqual(8000);
    map.close(now);
  });

  it('cost little time and a bounded file', () => {
    const file = path.join(temporaryDirectory(), 'names');
    const map = open({ range, file, mostNames: 1000 });
    for (let i = 0; i < 200_000; i++) {
      map.assign(hostname(i), i * HOLD_MS);
      if (i % 32 === 0) map.flush(i * HOLD_MS);
    }
    map.close(0);
    // Rewritten at 256 KiB; 1000 names are 60 KB.
    expect(fs.statSync(file).size).toBeLessThan(300 * 1024);
  });
});
