import { describe, expect, it } from 'vitest';
import { DEFAULT_RANGE_4, DEFAULT_RANGE_6, SERVICE_SLOTS, VirtualRange } from '../../../src/dns/virtual-range.ts';
import { addressBytes, parsePrefix, prefixText } from '../../../src/ip.ts';
import { schemeFor } from '../../../src/mark/scheme.ts';
import { HEALTH } from '../../../src/tunstack/engine.ts';

const range = new VirtualRange(DEFAULT_RANGE_4, DEFAULT_RANGE_6);
const slotOf = (address: string, of = range) => of.slotOf(addressBytes(address));

describe('the default range', () => {
  it('has an address of each family for every number, and finds the number again', () => {
    expect(range.slots).toBe(2 ** 17 - 2 * 256 - 1 - SERVICE_SLOTS);
    const seen = new Set<string>();
    const wrong: number[] = [];
    for (let slot = 0; slot < range.slots; slot++) {
      seen.add(range.address4(slot));
      const isFound = range.slotOf(range.bytes4(slot)) === slot && range.slotOf(range.bytes6(slot)) === slot;
      if (!isFound) wrong.push(slot);
    }
    expect([seen.size, wrong]).toEqual([range.slots, []]);
  });

  it('begins and ends where it should', () => {
    expect([range.address4(0), range.address4(range.slots - 1)]).toEqual(['198.18.1.0', '198.19.255.238']);
    expect([range.address6(0), range.address6(range.slots - 1)]).toEqual([
      'fd70:7670:6e00:1::1',
      `fd70:7670:6e00:1::${(range.slots >> 16).toString(16)}:${(range.slots & 0xffff).toString(16)}`,
    ]);
  });

  it("never gives out the tunnel's own addresses", () => {
    const own: string[] = [HEALTH.address4, HEALTH.address6];
    for (let slot = 0; slot < 16; slot++) {
      const { tunAddress4, tunAddress6 } = schemeFor('default', slot);
      own.push(tunAddress4, tunAddress6);
    }
    for (const address of own) expect(slotOf(address)).toBeUndefined();
    expect(slotOf('198.18.254.255')).toBe((slotOf('198.19.0.0') ?? 0) - 1);
  });

  it.each(['198.17.255.255', '198.20.0.0', '198.18.0.0', '198.19.255.255', '10.0.0.1', '0.0.0.0', '255.255.255.255'])(
    '%s stands for nothing',
    (address) => {
      expect(slotOf(address)).toBeUndefined();
    },
  );

  it.each([
    'fd70:7670:6e00:1::',
    'fd70:7670:6e00:1::ffff:ffff',
    'fd70:7670:6e00:1:0:1:0:1',
    'fd70:7670:6e00:2::1',
    '::1',
    'ffff::1',
  ])('%s stands for nothing', (address) => {
    expect(slotOf(address)).toBeUndefined();
  });

  it('has addresses of its own for our servers, which stand for no name', () => {
    const addresses = Array.from({ length: SERVICE_SLOTS }, (_, index) => {
      const slot = range.serviceSlot(index);
      return [range.address4(slot), range.address6(slot)];
    }).flat();
    expect(new Set(addresses).size).toBe(2 * SERVICE_SLOTS);
    expect(addresses).toContain('198.19.255.254');
    for (const address of addresses)
      expect([slotOf(address), range.covers(addressBytes(address))]).toEqual([undefined, true]);
    expect(() => range.serviceSlot(SERVICE_SLOTS)).toThrow(RangeError);
  });

  it('covers all of its prefixes, and nothing else', () => {
    const covers = (address: string) => range.covers(addressBytes(address));
    expect(['198.18.0.0', '198.19.255.255', 'fd70:7670:6e00:1::', 'fd70:7670:6e00:1:ffff::'].map(covers)).not.toContain(
      false,
    );
    expect(['198.17.255.255', '198.20.0.0', 'fd70:7670:6e00:2::', 'fd70:7670:6e00::1'].map(covers)).not.toContain(true);
  });
});

it.each([
  ['10.64.0.0/16', 'fd00::/48', 65_518],
  ['10.0.0.0/24', 'fd00:1:2:3::/64', 238],
  ['10.0.0.0/8', 'fd00:0:0:1::/112', 65_519],
  ['198.18.0.0/16', 'fd00::/64', 65_536 - 512 - 16],
  ['198.18.0.0/24', 'fd00::/64', 0],
  ['198.18.255.0/24', 'fd00::/64', 0],
])('%s with %s has %i numbers, each its own addresses', (v4, v6, slots) => {
  const other = new VirtualRange(parsePrefix(v4), parsePrefix(v6));
  expect(other.slots).toBe(slots);
  expect(other.fingerprint).toBe(`${prefixText(parsePrefix(v4))} ${prefixText(parsePrefix(v6))}`);
  for (const slot of [0, 1, 255, 256, slots - 2, slots - 1].filter((n) => n >= 0 && n < slots)) {
    expect(slotOf(other.address4(slot), other)).toBe(slot);
    expect(slotOf(other.address6(slot), other)).toBe(slot);
    expect([other.covers(other.bytes4(slot)), other.covers(other.bytes6(slot))]).toEqual([true, true]);
  }
});
