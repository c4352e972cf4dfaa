/** Real answers of a kernel, and real requests of `ip`, to feed to the code and to compare it with. */
import { readFileSync } from 'node:fs';
import type { NetlinkRequest } from '../../../src/netlink/socket.ts';

interface Captured {
  readonly from: string;
  /** By what was asked; hexadecimal, sequence numbers as they were. */
  readonly answers: Readonly<Record<string, string>>;
  /** What `ip` sent for each line. */
  readonly iproute2: readonly { readonly line: string; readonly hex: string }[];
}

export const captured = JSON.parse(
  readFileSync(new URL('testdata/captured.json', import.meta.url), 'utf8'),
) as Captured;

export function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex, 'hex'));
}

export function answer(name: string): Uint8Array {
  const hex = captured.answers[name];
  if (hex === undefined) throw new Error(`no captured answer: ${name}`);
  return bytesOf(hex);
}

/** Offsets of the message headers in a whole answer. */
export function messageOffsets(data: Uint8Array): number[] {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const offsets: number[] = [];
  for (let offset = 0; offset + 16 <= data.length; offset += (view.getUint32(offset, true) + 3) & ~3)
    offsets.push(offset);
  return offsets;
}

/** The same answer, but to the sequence number of `message`. */
export function answering(data: Uint8Array, message: Uint8Array): Uint8Array {
  const reply = Uint8Array.from(data);
  for (const offset of messageOffsets(data)) reply.set(message.subarray(8, 12), offset + 8);
  return reply;
}

/** A kernel that gives these answers, one after the other, the last one again and again. */
export function kernelThatSays(...replies: readonly Uint8Array[]): NetlinkRequest {
  let asked = 0;
  return (_protocol, message) => {
    const reply = replies[Math.min(asked++, replies.length - 1)] ?? new Uint8Array();
    return Buffer.from(answering(reply, message));
  };
}
