/**
 * The fuzzing loop of the targets in TypeScript, with the habits of libFuzzer: corpus directories are arguments, what
 * is found new goes into the first, a crash is made smaller and written down, and the last line tells how it went.
 *
 *     node TARGET.mjs SECONDS CRASH_PREFIX CORPUS_DIR...
 *     node TARGET.mjs FILE              runs one input
 *     node TARGET.mjs --merge OUT IN... copies the inputs that show something new, the smallest first
 */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { mutate, Random } from './mutate.ts';

/**
 * Runs one input.
 * @returns what it did, in few words: an input that does something new is kept
 * @throws when it found a defect
 */
export type Target = (input: Uint8Array) => string;

/** One input takes microseconds; so much means that its time grows faster than its size. */
const SLOW_MS = 2000;

class Fuzzer {
  readonly corpus: Uint8Array[] = [];
  readonly seen = new Set<string>();
  runs = 0;

  constructor(private readonly target: Target) {}

  /** Why the input is a defect, or undefined. */
  defectOf(input: Uint8Array): unknown {
    const start = process.cpuUsage();
    this.runs++;
    try {
      // The target may keep views of its input, which must not change under them.
      const did = this.target(Uint8Array.from(input));
      // Not by the clock: the machine may have other things to do.
      const { user, system } = process.cpuUsage(start);
      const tookMs = (user + system) / 1000;
      if (tookMs > SLOW_MS) return new Error(`took ${tookMs} ms of CPU time`);
      this.isNew = !this.seen.has(did);
      this.seen.add(did);
      return undefined;
    } catch (error) {
      return error;
    }
  }
  isNew = false;

  /** Leaves out what is not needed for the defect. */
  smaller(input: Uint8Array): Uint8Array {
    let best = input;
    for (let piece = Math.ceil(best.length / 2); piece >= 1; piece = piece === 1 ? 0 : Math.ceil(piece / 2)) {
      for (let at = 0; at < best.length; ) {
        const without = Buffer.concat([best.subarray(0, at), best.subarray(at + piece)]);
        if (this.defectOf(without) === undefined) at += piece;
        else best = without;
      }
    }
    return best;
  }
}

const nameOf = (input: Uint8Array): string => createHash('sha1').update(input).digest('hex');

function inputsOf(directories: readonly string[]): Uint8Array[] {
  return directories
    .filter((directory) => fs.existsSync(directory))
    .flatMap((directory) => fs.readdirSync(directory).map((name) => fs.readFileSync(path.join(directory, name))))
    .sort((a, b) => a.length - b.length || Buffer.compare(a, b));
}

function report(fuzzer: Fuzzer, input: Uint8Array, defect: unknown, prefix: string): never {
  const small = fuzzer.smaller(input);
  const file = `${prefix}crash-${nameOf(small)}`;
  fs.writeFileSync(file, small);
  console.error(defect instanceof Error ? defect.stack : defect);
  console.error(`${small.length} bytes: ${Buffer.from(small).toString('hex').slice(0, 400)}`);
  console.error(`written to ${file}`);
  process.exit(1);
}

function merge(fuzzer: Fuzzer, out: string, from: readonly string[]): void {
  fs.mkdirSync(out, { recursive: true });
  let kept = 0;
  for (const input of inputsOf(from)) {
    if (fuzzer.defectOf(input) !== undefined || !fuzzer.isNew) continue;
    fs.writeFileSync(path.join(out, nameOf(input)), input);
    kept++;
  }
  console.log(`kept ${kept} of ${fuzzer.runs} inputs`);
}

function fuzz(fuzzer: Fuzzer, seconds: number, prefix: string, directories: readonly string[]): void {
  const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 0xffffffff);
  const random = new Random(seed);
  const start = Date.now();
  const found = directories[0] ?? '.';
  for (const input of inputsOf(directories)) {
    const defect = fuzzer.defectOf(input);
    if (defect !== undefined) report(fuzzer, input, defect, prefix);
    fuzzer.corpus.push(input);
  }
  if (fuzzer.corpus.length === 0) fuzzer.corpus.push(Uint8Array.of(0));
  while (Date.now() - start < seconds * 1000) {
    for (let i = 0; i < 100; i++) {
      const input = mutate(random.pick(fuzzer.corpus), random, random.pick(fuzzer.corpus));
      const defect = fuzzer.defectOf(input);
      if (defect !== undefined) report(fuzzer, input, defect, prefix);
      if (!fuzzer.isNew) continue;
      fuzzer.corpus.push(input);
      fs.writeFileSync(path.join(found, nameOf(input)), input);
    }
  }
  const elapsed = Math.round((Date.now() - start) / 1000);
  console.log(`seed ${seed}, corpus ${fuzzer.corpus.length}, kinds of outcome ${fuzzer.seen.size}`);
  console.log(`Done ${fuzzer.runs} runs in ${elapsed} second(s)`);
}

/** The main program of a target. */
export function main(target: Target): void {
  const fuzzer = new Fuzzer(target);
  const [first = '', second = '', ...rest] = process.argv.slice(2);
  if (first === '--merge') {
    merge(fuzzer, second, rest);
  } else if (/^\d+$/.test(first)) {
    fuzz(fuzzer, Number(first), second, rest);
  } else {
    const defect = fuzzer.defectOf(fs.readFileSync(first));
    if (defect !== undefined) throw defect;
    console.log(`${first}: no defect`);
  }
}

/** A claim about what the input did. */
export function insist(holds: boolean, claim: string): asserts holds {
  if (!holds) throw new Error(`does not hold: ${claim}`);
}
