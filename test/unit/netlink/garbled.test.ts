import { describe, expect, it } from 'vitest';
import { ProxyVpnError } from '../../../src/errors.ts';
import { connections, listeners } from '../../../src/netlink/diag.ts';
import { addresses, linkByName, links, routes, rules } from '../../../src/netlink/read.ts';
import { ask, type NetlinkRequest } from '../../../src/netlink/socket.ts';
import { answer, messageOffsets } from './captured.ts';

type Read = (request: NetlinkRequest) => unknown;

const READERS: Readonly<Record<string, Read>> = {
  links,
  'link pvpn0': (request) => linkByName(request, 'pvpn0'),
  'link missing': (request) => linkByName(request, 'nosuch0'),
  addresses,
  'routes 4': (request) => routes(request, 4),
  'routes 6': (request) => routes(request, 6),
  'routes of a missing table': (request) => routes(request, 4, 60000),
  'rules 4': (request) => rules(request, 4),
  'rules 6': (request) => rules(request, 6),
  'refused route 3': (request) => ask(request, { request: 'ip route add', type: 24, payload: new Uint8Array() }),
  connections,
  'connections 2': connections,
  'listeners 2': listeners,
};

/** Bytes of a poisoned buffer around the answer: whoever reads outside gets another result. */
const MARGIN = 64;

// A hundred thousand errors are made here, and nobody reads where.
Error.stackTraceLimit = 0;

/** The result as text, or the code of the ProxyVpnError. Anything else thrown is a failure of the test. */
function outcome(read: Read, data: Uint8Array, sequenceOffsets: readonly number[], poison: number): string {
  const buffer = Buffer.alloc(data.length + 2 * MARGIN, poison);
  buffer.set(data, MARGIN);
  const reply = buffer.subarray(MARGIN, MARGIN + data.length);
  const request: NetlinkRequest = (_protocol, message) => {
    // Where the garbling left the captured number alone, put the one that was asked for.
    for (const offset of sequenceOffsets)
      if (offset + 12 <= reply.length) reply.set(message.subarray(8, 12), offset + 8);
    return reply;
  };
  try {
    return JSON.stringify(read(request)) ?? 'nothing';
  } catch (error) {
    if (error instanceof ProxyVpnError) return error.code;
    throw error;
  }
}

/** The same whatever lies around it. */
function soundOutcome(read: Read, data: Uint8Array, sequenceOffsets: readonly number[]): string {
  const result = outcome(read, data, sequenceOffsets, 0x00);
  expect(outcome(read, data, sequenceOffsets, 0xff)).toBe(result);
  return result;
}

/** Each message as an answer of its own, followed by the end of the whole. */
function messagesAlone(whole: Uint8Array): Uint8Array[] {
  const offsets = messageOffsets(whole);
  const last = whole.subarray(offsets.at(-1));
  const objects = offsets.slice(0, -1).map((offset, index) => whole.subarray(offset, offsets[index + 1]));
  return [last, ...objects.map((object) => Uint8Array.from(Buffer.concat([object, last])))];
}

describe.each(Object.entries(READERS))('the answer "%s"', (name, read) => {
  const whole = answer(name);
  const offsets = messageOffsets(whole);

  it('cut off after any byte is refused', () => {
    for (let length = 0; length < whole.length; length++) {
      const result = soundOutcome(read, whole.subarray(0, length), offsets);
      if (result !== 'E_NETLINK_ANSWER') expect(`${length}: ${result}`).toBe(`${length}: E_NETLINK_ANSWER`);
    }
  });

  it('garbled in any byte gives a value or a ProxyVpnError, and nothing from outside', () => {
    const flips = [(byte: number) => byte ^ 0xff, (byte: number) => byte ^ 0x01, () => 0];
    for (const one of messagesAlone(whole)) {
      for (let at = 0; at < one.length; at++) {
        for (const flip of flips) {
          const garbled = Uint8Array.from(one);
          garbled[at] = flip(garbled[at] ?? 0);
          const intact = messageOffsets(one).filter((offset) => at < offset + 8 || at >= offset + 12);
          soundOutcome(read, garbled, intact);
        }
      }
    }
  });

  it('with any message cut short, its length put right, gives a value or a ProxyVpnError', () => {
    for (const one of messagesAlone(whole)) {
      const [, end = one.length] = messageOffsets(one);
      for (let length = 16; length < end; length++) {
        const short = Buffer.concat([one.subarray(0, length), Buffer.alloc(-length & 3), one.subarray(end)]);
        short.writeUInt32LE(length, 0);
        soundOutcome(read, short, messageOffsets(short));
      }
    }
  });
});

it('random bytes give a value or a ProxyVpnError', () => {
  let state = 0x2545f491;
  const random = (): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  for (let round = 0; round < 1000; round++) {
    const data = Uint8Array.from({ length: random() % 200 }, () => random() & (random() % 4 === 0 ? 0xff : 0x0f));
    for (const read of Object.values(READERS)) soundOutcome(read, data, [0]);
  }
});
