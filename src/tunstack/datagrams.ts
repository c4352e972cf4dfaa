/** Encodes and decodes batches of UDP datagrams (pure). The layout is native/stack/datagrams.h. */
import type { Datagram } from '../datagram.ts';
import { addressBytes, addressText, type Family } from '../ip.ts';

export interface DecodedDatagrams {
  /** All records before the malformed one, if there is one. Their payloads are views of the batch. */
  readonly datagrams: readonly Datagram[];
  /** Set when the batch is not what the engine writes: engine and decoder differ, which is a bug. */
  readonly malformed?: { readonly offset: number; readonly why: string };
}

/** Byte offsets of the fixed part; the payload follows. All little endian but the addresses. */
const AT = {
  length: 0, // u16, of the whole record
  family: 2, // u8: 4 or 6; a zero byte follows
  clientPort: 4, // u16
  serverPort: 6, // u16
  clientAddress: 8, // 16 bytes, IPv4 in the first 4
  serverAddress: 24,
  payload: 40,
} as const;
/** Length of a record without payload. */
export const DATAGRAM_RECORD_BYTES = AT.payload;
const MOST_RECORD_BYTES = 0xffff;

/** Reads the records of one batch. Stops at the first malformed one; never throws. */
export function decodeDatagrams(batch: Uint8Array): DecodedDatagrams {
  const view = new DataView(batch.buffer, batch.byteOffset, batch.byteLength);
  const datagrams: Datagram[] = [];
  for (let offset = 0; offset < batch.length; ) {
    const left = batch.length - offset;
    const length = left < DATAGRAM_RECORD_BYTES ? 0 : view.getUint16(offset + AT.length, true);
    if (length < DATAGRAM_RECORD_BYTES || length > left) {
      const why = left < DATAGRAM_RECORD_BYTES ? `${left} bytes are no record` : `record of ${length} bytes in ${left}`;
      return { datagrams, malformed: { offset, why } };
    }
    const family = view.getUint8(offset + AT.family);
    if (family !== 4 && family !== 6) return { datagrams, malformed: { offset, why: `family ${family}` } };
    const addressLength = family === 4 ? 4 : 16;
    const address = (at: number): string => textOf(batch.subarray(offset + at, offset + at + addressLength));
    datagrams.push({
      family,
      clientAddress: address(AT.clientAddress),
      clientPort: view.getUint16(offset + AT.clientPort, true),
      serverAddress: address(AT.serverAddress),
      serverPort: view.getUint16(offset + AT.serverPort, true),
      payload: batch.subarray(offset + AT.payload, offset + length),
    });
    offset += length;
  }
  return { datagrams };
}

/**
 * Writes a batch. A payload that no record can hold (no packet could either) is left out.
 * @throws RangeError for a port that is none
 */
export function encodeDatagrams(datagrams: readonly Datagram[]): Buffer {
  const fitting = datagrams.filter(({ payload }) => payload.length <= MOST_RECORD_BYTES - DATAGRAM_RECORD_BYTES);
  const bytes = fitting.reduce((sum, { payload }) => sum + DATAGRAM_RECORD_BYTES + payload.length, 0);
  const batch = Buffer.alloc(bytes);
  let offset = 0;
  for (const { family, clientAddress, clientPort, serverAddress, serverPort, payload } of fitting) {
    const length = DATAGRAM_RECORD_BYTES + payload.length;
    batch.writeUInt16LE(length, offset + AT.length);
    batch.writeUInt8(family, offset + AT.family);
    batch.writeUInt16LE(clientPort, offset + AT.clientPort);
    batch.writeUInt16LE(serverPort, offset + AT.serverPort);
    batch.set(bytesOf(family, clientAddress), offset + AT.clientAddress);
    batch.set(bytesOf(family, serverAddress), offset + AT.serverAddress);
    batch.set(payload, offset + AT.payload);
    offset += length;
  }
  return batch;
}

// Thousands of queries a second are nothing special, so no address is parsed for each of them: those of IPv4 are simple,
// and those of IPv6 are few, this host's and its resolvers'.

const KNOWN_6 = 256;
const texts6 = new Map<string, string>();
const bytes6 = new Map<string, Uint8Array>();

function textOf(bytes: Uint8Array): string {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`;
  const key = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');
  return remembered(texts6, key, () => addressText(bytes));
}

function bytesOf(family: Family, address: string): ArrayLike<number> {
  if (family === 4) return address.split('.').map(Number);
  return remembered(bytes6, address, () => addressBytes(address));
}

function remembered<T>(known: Map<string, T>, key: string, find: () => T): T {
  const before = known.get(key);
  if (before !== undefined) return before;
  const found = find();
  if (known.size >= KNOWN_6) known.clear();
  known.set(key, found);
  return found;
}
