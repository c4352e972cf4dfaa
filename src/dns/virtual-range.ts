/** The addresses that stand for names: one number per name, which is an IPv4 and an IPv6 address (pure). */
import { addressBytes, addressText, type Prefix, parsePrefix, prefixText } from '../ip.ts';

/** RFC 2544 benchmark range: routed nowhere, nobody's LAN. */
export const DEFAULT_RANGE_4: Prefix = parsePrefix('198.18.0.0/15');
/** Of our ULA, beside the addresses of the tunnel; RFC 6724 prefers IPv4 to it for names that have both. */
export const DEFAULT_RANGE_6: Prefix = parsePrefix('fd70:7670:6e00:1::/64');

/** Addresses of the TUN devices and of the engine's health port: src/mark/scheme.ts, src/tunstack/engine.ts. */
export const TUNNEL_PREFIXES: readonly Prefix[] = ['198.18.0.0/24', '198.18.255.0/24', 'fd70:7670:6e00::/112'].map(
  parsePrefix,
);

/** Addresses of each family that stand for servers we ourselves connect to; they are no names of programs. */
export const SERVICE_SLOTS = 16;

/** Numbers of addresses below this one are exact, and a table of them fits into memory. */
const MOST_SLOTS = 1 << 22;

interface Block {
  /** From the beginning of the range. */
  readonly offset: number;
  readonly size: number;
}

export class VirtualRange {
  readonly prefix4: Prefix;
  readonly prefix6: Prefix;
  /** Numbers of names go from 0 to slots - 1. */
  readonly slots: number;
  /** Equal texts: a number means the same addresses. */
  readonly fingerprint: string;
  /** At the end of the range, whatever the bound of names. */
  readonly #firstService: number;
  readonly #base4: number;
  readonly #base6: Uint8Array;
  /** Left out of the IPv4 range, ascending, apart from each other. */
  readonly #reserved: readonly Block[];

  /**
   * @param prefix6 without any of the tunnel's own addresses; its first address is not used (RFC 4291 §2.6.1)
   * @param most bound of `slots`
   */
  constructor(prefix4: Prefix, prefix6: Prefix, most: number = MOST_SLOTS) {
    this.prefix4 = prefix4;
    this.prefix6 = prefix6;
    this.#base4 = numberOf(addressBytes(prefix4.address));
    this.#base6 = addressBytes(prefix6.address);
    const size4 = 2 ** (32 - prefix4.length);
    this.#reserved = reservedIn(this.#base4, size4);
    const usable4 = size4 - this.#reserved.reduce((sum, { size }) => sum + size, 0);
    const usable = Math.min(usable4, 2 ** (128 - prefix6.length) - 1, MOST_SLOTS) - SERVICE_SLOTS;
    this.#firstService = Math.max(0, usable);
    this.slots = Math.min(this.#firstService, most);
    this.fingerprint = `${prefixText(prefix4)} ${prefixText(prefix6)}`;
  }

  /**
   * The number of an address that stands for a server of ours (of `--dns-server`): for our own connections, so that they
   * are told from those of programs. It has no name in the map and is never given to one.
   * @param index 0 to SERVICE_SLOTS - 1
   */
  serviceSlot(index: number): number {
    if (index < 0 || index >= SERVICE_SLOTS) throw new RangeError(`service ${index}`);
    return this.#firstService + index;
  }

  /** What is left out of the IPv4 range, ascending, as offsets from its beginning. */
  get gaps4(): readonly { readonly offset: number; readonly size: number }[] {
    return this.#reserved;
  }

  address4(slot: number): string {
    const bytes = this.bytes4(slot);
    return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`;
  }

  address6(slot: number): string {
    return addressText(this.bytes6(slot));
  }

  /** 4 bytes. */
  bytes4(slot: number): Buffer {
    let offset = slot;
    for (const block of this.#reserved) if (block.offset <= offset) offset += block.size;
    const bytes = Buffer.allocUnsafe(4);
    bytes.writeUInt32BE(this.#base4 + offset);
    return bytes;
  }

  /** 16 bytes. */
  bytes6(slot: number): Buffer {
    const bytes = Buffer.from(this.#base6);
    // The host bits of the prefix are zero, and slot + 1 fits into them.
    bytes.writeUInt32BE((bytes.readUInt32BE(12) | (slot + 1)) >>> 0, 12);
    return bytes;
  }

  /** @param address 4 or 16 bytes. @returns undefined for an address that never stands for a name of the map */
  slotOf(address: Uint8Array): number | undefined {
    const slot = address.length === 4 ? this.#slotOf4(address) : this.#slotOf6(address);
    return slot !== undefined && slot >= 0 && slot < this.slots ? slot : undefined;
  }

  /** Whether the address lies in one of the two prefixes, reserved or not. */
  covers(address: Uint8Array): boolean {
    const [base, prefix] =
      address.length === 4 ? [addressBytes(this.prefix4.address), this.prefix4] : [this.#base6, this.prefix6];
    return hasPrefix(address, base, prefix.length);
  }

  #slotOf4(address: Uint8Array): number | undefined {
    const offset = numberOf(address) - this.#base4;
    let slot = offset;
    for (const block of this.#reserved) {
      if (offset < block.offset) break;
      if (offset < block.offset + block.size) return undefined;
      slot -= block.size;
    }
    return slot;
  }

  #slotOf6(address: Uint8Array): number | undefined {
    if (address.length !== 16 || !hasPrefix(address, this.#base6, 96)) return undefined;
    return numberOf(address.subarray(12)) - numberOf(this.#base6.subarray(12)) - 1;
  }
}

/** The blocks of the tunnel's own addresses, the range's first and its last address. */
function reservedIn(base: number, size: number): readonly Block[] {
  const blocks: Block[] = [];
  const add = (start: number, end: number): void => {
    const from = Math.max(
      start,
      blocks.reduce((last, block) => Math.max(last, block.offset + block.size), 0),
    );
    if (end > from) blocks.push({ offset: from, size: end - from });
  };
  const own = TUNNEL_PREFIXES.filter(({ family }) => family === 4)
    .map((prefix) => ({
      start: numberOf(addressBytes(prefix.address)) - base,
      size: 2 ** (32 - prefix.length),
    }))
    .sort((a, b) => a.start - b.start);
  add(0, 1);
  for (const { start, size: length } of own) add(Math.max(0, start), Math.min(size, start + length));
  add(size - 1, size);
  return blocks;
}

function numberOf(bytes: Uint8Array): number {
  return (((bytes[0] ?? 0) << 24) | ((bytes[1] ?? 0) << 16) | ((bytes[2] ?? 0) << 8) | (bytes[3] ?? 0)) >>> 0;
}

/** Whether two addresses agree in their first bits. */
export function hasPrefix(address: Uint8Array, base: Uint8Array, bits: number): boolean {
  for (let bit = 0; bit < bits; bit += 8) {
    const mask = bits - bit >= 8 ? 0xff : 0xff << (8 - (bits - bit));
    if ((((address[bit >> 3] ?? 0) ^ (base[bit >> 3] ?? 0)) & mask) !== 0) return false;
  }
  return true;
}
