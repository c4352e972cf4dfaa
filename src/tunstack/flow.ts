/** Decodes the engine's event batches and flow snapshots (pure). The layout is native/engine/events.h. */
import { getSystemErrorName } from 'node:util';
import { addressText, type Family } from '../ip.ts';

/** One TCP connection of an application. */
export interface FlowEnds {
  readonly family: Family;
  /** The application's end. */
  readonly localAddress: string;
  readonly localPort: number;
  readonly destinationAddress: string;
  readonly destinationPort: number;
  /** What the proxy was asked for in place of the address, where a name was known. */
  readonly hostname?: string;
}

/** A live flow, or the counters of one that ended. */
export interface FlowCounters {
  /** Since the SYN. */
  readonly durationMs: number;
  readonly bytesToUpstream: number;
  readonly bytesToApp: number;
}

interface Reported {
  /** Similar events that were dropped since the last one of this kind. */
  readonly suppressed: number;
}

export type FlowEvent =
  | (Reported & FlowEnds & FlowCounters & { readonly kind: 'opened' | 'closed' })
  | (Reported &
      FlowEnds &
      FlowCounters & {
        readonly kind: 'refused';
        /** HTTP status, or 0 where the reply was not HTTP. */
        readonly status: number;
        /** Beginning of the proxy's reply, at most 2 KiB, for `explainRefusal`. Our own copy. */
        readonly reply: Uint8Array;
      })
  | (Reported &
      FlowEnds &
      FlowCounters & {
        readonly kind: 'failed';
        readonly errno: number;
        /** `ETIMEDOUT`; empty when errno is 0. */
        readonly code: string;
        /** What the engine was at: `cannot reach the proxy`. */
        readonly message: string;
      })
  | (Reported & {
      /** `fatal`: the engine has ended and moves no more packets. */
      readonly kind: 'fatal' | 'notice';
      readonly errno: number;
      readonly code: string;
      readonly message: string;
    });

export interface DecodedEvents {
  /** All records before the malformed one, if there is one. */
  readonly events: readonly FlowEvent[];
  /** Set when the batch is not what the engine writes: engine and decoder differ, which is a bug. */
  readonly malformed?: { readonly offset: number; readonly why: string };
}

/** Byte offsets of the fixed part; the text follows. All little endian but the addresses. */
const AT = {
  length: 0, // u16, of the whole record
  kind: 2, // u8
  family: 3, // u8: 4, 6, or 0 where there is no flow
  localPort: 4, // u16
  destinationPort: 6, // u16
  localAddress: 8, // 16 bytes, IPv4 in the first 4
  destinationAddress: 24,
  status: 40, // u16
  errno: 42, // u16
  durationMs: 44, // u32
  bytesToUpstream: 48, // u64
  bytesToApp: 56, // u64
  suppressed: 64, // u32
  hostnameBytes: 68, // u16
  hostname: 70, // the text follows it
} as const;
/** Length of a record without hostname and text. */
export const FLOW_RECORD_BYTES = AT.hostname;

const KINDS = [undefined, 'opened', 'closed', 'refused', 'failed', 'fatal', 'notice'] as const;

/**
 * Reads the records of one batch. Stops at the first malformed one; never throws. The result shares no
 * memory with `batch`, which the engine may reuse.
 */
export function decodeFlowEvents(batch: Uint8Array): DecodedEvents {
  const view = new DataView(batch.buffer, batch.byteOffset, batch.byteLength);
  const events: FlowEvent[] = [];
  for (let offset = 0; offset < batch.length; ) {
    const left = batch.length - offset;
    const length = left < FLOW_RECORD_BYTES ? 0 : view.getUint16(offset + AT.length, true);
    if (length < FLOW_RECORD_BYTES || length > left) {
      const why = left < FLOW_RECORD_BYTES ? `${left} bytes are no record` : `record of ${length} bytes in ${left}`;
      return { events, malformed: { offset, why } };
    }
    const event = decodeRecord(new DataView(batch.buffer, batch.byteOffset + offset, length));
    if (typeof event === 'string') return { events, malformed: { offset, why: event } };
    events.push(event);
    offset += length;
  }
  return { events };
}

/** @returns what is wrong with it, if it is */
function decodeRecord(record: DataView): FlowEvent | string {
  const kind = KINDS[record.getUint8(AT.kind)];
  const family = record.getUint8(AT.family);
  const errno = record.getUint16(AT.errno, true);
  const suppressed = record.getUint32(AT.suppressed, true);
  if (kind === undefined) return `kind ${record.getUint8(AT.kind)}`;
  if (textStart(record) > record.byteLength) return `hostname of ${record.getUint16(AT.hostnameBytes, true)} bytes`;
  if (kind === 'fatal' || kind === 'notice') {
    return { kind, errno, code: errnoName(errno), message: messageOf(record), suppressed };
  }
  if (family !== 4 && family !== 6) return `family ${family}`;
  const hostname = bytesOf(record, AT.hostname, textStart(record));
  const named = hostname.length > 0 ? { hostname: Buffer.from(hostname).toString('latin1') } : {};
  const flow = { ...endsOf(record, family), ...named, ...countersOf(record), suppressed };
  switch (kind) {
    case 'opened':
    case 'closed':
      return { kind, ...flow };
    case 'refused':
      return { kind, ...flow, status: record.getUint16(AT.status, true), reply: textOf(record) };
    case 'failed':
      return { kind, ...flow, errno, code: errnoName(errno), message: messageOf(record) };
  }
}

function endsOf(record: DataView, family: Family): FlowEnds {
  const address = (at: number) => {
    const length = family === 4 ? 4 : 16;
    return addressText(new Uint8Array(record.buffer, record.byteOffset + at, length));
  };
  return {
    family,
    localAddress: address(AT.localAddress),
    localPort: record.getUint16(AT.localPort, true),
    destinationAddress: address(AT.destinationAddress),
    destinationPort: record.getUint16(AT.destinationPort, true),
  };
}

function countersOf(record: DataView): FlowCounters {
  return {
    durationMs: record.getUint32(AT.durationMs, true),
    // Exact up to 2^53: a flow of 8 PiB.
    bytesToUpstream: Number(record.getBigUint64(AT.bytesToUpstream, true)),
    bytesToApp: Number(record.getBigUint64(AT.bytesToApp, true)),
  };
}

function textStart(record: DataView): number {
  return AT.hostname + record.getUint16(AT.hostnameBytes, true);
}

function textOf(record: DataView): Uint8Array {
  return bytesOf(record, textStart(record), record.byteLength);
}

function bytesOf(record: DataView, start: number, end: number): Uint8Array {
  return new Uint8Array(record.buffer, record.byteOffset + start, end - start).slice();
}

function messageOf(record: DataView): string {
  return Buffer.from(textOf(record)).toString('utf8');
}

function errnoName(errno: number): string {
  if (errno === 0) return '';
  const name = getSystemErrorName(-errno);
  return name.startsWith('E') ? name : `errno ${errno}`;
}
