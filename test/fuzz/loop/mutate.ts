/** Changes bytes at random, as libFuzzer does: bits, numbers that matter, pieces moved, doubled and cut. */

/** xorshift32 (Marsaglia 2003): the same numbers for the same seed. */
export class Random {
  private state: number;

  constructor(seed: number) {
    this.state = seed >>> 0 || 1;
  }

  /** 0 to `below` - 1. */
  next(below: number): number {
    this.state ^= this.state << 13;
    this.state ^= this.state >>> 17;
    this.state ^= this.state << 5;
    this.state >>>= 0;
    return this.state % Math.max(below, 1);
  }

  pick<T>(from: readonly T[]): T {
    const chosen = from[this.next(from.length)];
    if (chosen === undefined) throw new RangeError('nothing to pick from');
    return chosen;
  }
}

/** Lengths and counts that parsers get wrong. */
const NUMBERS = [0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x7fffffff];
const MOST_BYTES = 16 * 1024;

type Mutation = (bytes: Buffer, random: Random, other: Uint8Array) => Buffer;

const MUTATIONS: readonly Mutation[] = [
  function flipBit(bytes, random) {
    const at = random.next(bytes.length);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << random.next(8));
    return bytes;
  },
  function setByte(bytes, random) {
    bytes[random.next(bytes.length)] = random.next(256);
    return bytes;
  },
  function addToByte(bytes, random) {
    const at = random.next(bytes.length);
    bytes[at] = (bytes[at] ?? 0) + random.next(9) - 4;
    return bytes;
  },
  function setNumber(bytes, random) {
    const width = random.pick([1, 2, 4]);
    if (bytes.length < width) return bytes;
    const at = random.next(bytes.length - width + 1);
    const value = random.pick(NUMBERS) % 2 ** (8 * width);
    if (random.next(2) === 0) bytes.writeUIntLE(value, at, width);
    else bytes.writeUIntBE(value, at, width);
    return bytes;
  },
  function cutOff(bytes, random) {
    return bytes.subarray(0, random.next(bytes.length + 1));
  },
  function remove(bytes, random) {
    const at = random.next(bytes.length);
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random.next(16))]);
  },
  function insert(bytes, random) {
    const at = random.next(bytes.length + 1);
    const piece = Buffer.from(Array.from({ length: 1 + random.next(8) }, () => random.next(256)));
    return Buffer.concat([bytes.subarray(0, at), piece, bytes.subarray(at)]);
  },
  function double(bytes, random) {
    const [at, length] = [random.next(bytes.length), 1 + random.next(64)];
    const to = random.next(bytes.length + 1);
    return Buffer.concat([bytes.subarray(0, to), bytes.subarray(at, at + length), bytes.subarray(to)]);
  },
  function splice(bytes, random, other) {
    const [at, from] = [random.next(bytes.length + 1), random.next(other.length)];
    const rest = random.next(2) === 0 ? bytes.subarray(at) : Buffer.alloc(0);
    return Buffer.concat([bytes.subarray(0, at), other.subarray(from, from + 1 + random.next(200)), rest]);
  },
  function repeat(bytes, random) {
    const at = random.next(bytes.length + 1);
    const piece = Buffer.alloc(1 + random.next(300), random.next(256));
    return Buffer.concat([bytes.subarray(0, at), piece, bytes.subarray(at)]);
  },
];

/** A changed copy. @param other something to take pieces from */
export function mutate(bytes: Uint8Array, random: Random, other: Uint8Array): Uint8Array {
  let changed: Buffer = Buffer.from(bytes);
  for (let i = 1 + random.next(5); i > 0; i--) changed = Buffer.from(random.pick(MUTATIONS)(changed, random, other));
  return changed.subarray(0, MOST_BYTES);
}
