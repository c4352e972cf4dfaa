/** A response as people and scripts read it, for `proxyvpn dns query` (pure). */
import dnsPacket from 'dns-packet';
import { isTruncated, rcodeOf } from './codec.ts';
import { rcodeName, typeName } from './numbers.ts';

export interface PresentedRecord {
  readonly name: string;
  readonly type: string;
  readonly ttl: number;
  /** As in a zone file where that is usual, else JSON or RFC 3597 §5 hexadecimal. */
  readonly data: string;
}

export interface PresentedResponse {
  readonly rcode: string;
  readonly truncated: boolean;
  readonly answers: readonly PresentedRecord[];
}

/** @returns undefined when the response cannot be read */
export function presentResponse(response: Buffer): PresentedResponse | undefined {
  try {
    const { answers = [] } = dnsPacket.decode(response);
    return {
      rcode: rcodeName(rcodeOf(response)),
      truncated: isTruncated(response),
      answers: answers.filter((answer): answer is ValueRecord => answer.type !== 'OPT').map(presentRecord),
    };
  } catch {
    // The library throws plain errors, and RangeErrors of Buffer, on what is no DNS message.
    return undefined;
  }
}

/** `www.example.com 60 IN A 198.18.3.4` */
export function recordLine({ name, type, ttl, data }: PresentedRecord): string {
  return `${name} ${ttl} IN ${type} ${data}`;
}

type ValueRecord = Exclude<dnsPacket.Answer, dnsPacket.OptAnswer>;

function presentRecord(record: ValueRecord): PresentedRecord {
  const unknown = /^UNKNOWN_(\d+)$/.exec(record.type)?.[1];
  const type = unknown === undefined ? record.type : typeName(Number(unknown));
  return { name: plain(record.name), type, ttl: record.ttl ?? 0, data: plain(dataText(record)) };
}

function dataText(record: ValueRecord): string {
  const data: unknown = record.data;
  if (record.type === 'MX') return `${record.data.preference ?? 0} ${record.data.exchange}`;
  if (record.type === 'SRV') {
    const { priority = 0, weight = 0, port, target } = record.data;
    return `${priority} ${weight} ${port} ${target}`;
  }
  if (record.type === 'TXT') {
    return [record.data]
      .flat()
      .map((part) => JSON.stringify(part.toString()))
      .join(' ');
  }
  if (typeof data === 'string') return data;
  if (Buffer.isBuffer(data)) return `\\# ${data.length} ${data.toString('hex')}`;
  return JSON.stringify(data, (_, value: unknown) =>
    isBytes(value) ? Buffer.from(value.data).toString('hex') : value,
  );
}

/** A Buffer inside a value, as its toJSON has made it. */
function isBytes(value: unknown): value is { readonly data: readonly number[] } {
  return typeof value === 'object' && value !== null && 'type' in value && value.type === 'Buffer' && 'data' in value;
}

/** Names come from others: nothing in them may reach a terminal as it is. */
function plain(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, '?');
}
