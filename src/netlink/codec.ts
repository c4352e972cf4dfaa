/** Netlink bytes: message headers, attributes, fixed structures, in host byte order (pure). */
import os from 'node:os';
import { ProxyVpnError } from '../errors.ts';
import { addressText, type Family } from '../ip.ts';

/** Netlink is local, so it speaks the byte order of the machine. */
const LITTLE_ENDIAN = os.endianness() === 'LE';

/** sizeof(struct nlmsghdr), include/uapi/linux/netlink.h */
const HEADER_BYTES = 16;
/** sizeof(struct nlattr) */
const ATTRIBUTE_HEADER_BYTES = 4;
/** NLA_F_NESTED and NLA_F_NET_BYTEORDER are flags in the type. */
const ATTRIBUTE_TYPE_MASK = 0x3fff;

/** sa_family of the two families, include/linux/socket.h */
export const AF = { 4: 2, 6: 10 } as const;

/** undefined for AF_UNSPEC, MPLS, bridges and whatever else shares rtnetlink. */
export function familyOfAf(af: number): Family | undefined {
  return af === AF[4] ? 4 : af === AF[6] ? 6 : undefined;
}

export interface Message {
  /** nlmsg_type */
  readonly type: number;
  /** nlmsg_flags */
  readonly flags: number;
  /** nlmsg_seq */
  readonly sequence: number;
  /** Borrowed from the bytes that were decoded. */
  readonly payload: Uint8Array;
}

/** Bytes that break the format. Not a refusal by the kernel, which is a NetlinkError. */
export function malformed(why: string): ProxyVpnError {
  return new ProxyVpnError('E_NETLINK_ANSWER', `the kernel's netlink answer makes no sense: ${why}`, {
    hint: 'report this as a bug, with the output of: uname -r',
  });
}

/** NLMSG_ALIGN, RTA_ALIGN, RTNH_ALIGN: all round up to 4. */
function aligned(length: number): number {
  return (length + 3) & ~3;
}

/** Fields of a C structure one after the other; the caller names the padding as well. */
export class StructWriter {
  private readonly out: number[] = [];

  u8(value: number): this {
    this.out.push(value & 0xff);
    return this;
  }

  u16(value: number): this {
    return LITTLE_ENDIAN ? this.u8(value).u8(value >>> 8) : this.be16(value);
  }

  u32(value: number): this {
    return LITTLE_ENDIAN ? this.u16(value).u16(value >>> 16) : this.be16(value >>> 16).be16(value);
  }

  be16(value: number): this {
    return this.u8(value >>> 8).u8(value);
  }

  zeros(count: number): this {
    for (let i = 0; i < count; i++) this.out.push(0);
    return this;
  }

  bytes(): Uint8Array {
    return Uint8Array.from(this.out);
  }
}

/** Reads fields one after the other. Every read past the end throws E_NETLINK_ANSWER. */
export class StructReader {
  private offset = 0;

  constructor(
    private readonly data: Uint8Array,
    private readonly what: string,
  ) {}

  u8(): number {
    return this.take(1)[0] ?? 0;
  }

  u16(): number {
    const [a = 0, b = 0] = this.take(2);
    return LITTLE_ENDIAN ? a | (b << 8) : (a << 8) | b;
  }

  u32(): number {
    const first = this.u16();
    const second = this.u16();
    return (LITTLE_ENDIAN ? first | (second << 16) : (first << 16) | second) >>> 0;
  }

  i32(): number {
    return this.u32() | 0;
  }

  be16(): number {
    const [a = 0, b = 0] = this.take(2);
    return (a << 8) | b;
  }

  /** Canonical text of an address of that family. */
  address(family: Family): string {
    return addressText(this.take(family === 4 ? 4 : 16));
  }

  /** The next `count` bytes, borrowed. */
  take(count: number): Uint8Array {
    const end = this.offset + count;
    if (end > this.data.length) throw malformed(`${this.what} ends after ${this.data.length} bytes`);
    const taken = this.data.subarray(this.offset, end);
    this.offset = end;
    return taken;
  }

  skip(count: number): this {
    this.take(count);
    return this;
  }

  /** All that is left, borrowed. */
  rest(): Uint8Array {
    return this.data.subarray(this.offset);
  }
}

/** One message, ready to send: nlmsg_pid is 0, the kernel fills it in. */
export function encodeMessage(type: number, flags: number, sequence: number, payload: Uint8Array): Uint8Array {
  const header = new StructWriter()
    .u32(HEADER_BYTES + payload.length)
    .u16(type)
    .u16(flags)
    .u32(sequence)
    .u32(0)
    .bytes();
  return concat([header, payload]);
}

/** @throws ProxyVpnError E_NETLINK_ANSWER when the bytes are not whole messages */
export function decodeMessages(data: Uint8Array): Message[] {
  const messages: Message[] = [];
  for (let offset = 0; offset < data.length; ) {
    const reader = new StructReader(data.subarray(offset), 'a message header');
    const length = reader.u32();
    const [type, flags, sequence] = [reader.u16(), reader.u16(), reader.u32()];
    reader.u32();
    if (length < HEADER_BYTES || length > data.length - offset)
      throw malformed(`a message of ${length} bytes where ${data.length - offset} are left`);
    messages.push({ type, flags, sequence, payload: data.subarray(offset + HEADER_BYTES, offset + length) });
    offset += aligned(length);
  }
  return messages;
}

/** An attribute to encode: a number is a u32, text is sent without a terminator, a list is nested. */
export interface Attribute {
  readonly type: number;
  readonly value: number | string | Uint8Array | readonly Attribute[];
}

export function encodeAttributes(attributes: readonly Attribute[]): Uint8Array {
  return concat(
    attributes.flatMap(({ type, value }) => {
      const payload = attributePayload(value);
      const header = new StructWriter()
        .u16(ATTRIBUTE_HEADER_BYTES + payload.length)
        .u16(type)
        .bytes();
      return [header, payload, new Uint8Array(aligned(payload.length) - payload.length)];
    }),
  );
}

function attributePayload(value: Attribute['value']): Uint8Array {
  if (typeof value === 'number') return new StructWriter().u32(value).bytes();
  if (typeof value === 'string') return Buffer.from(value);
  return value instanceof Uint8Array ? value : encodeAttributes(value);
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts);
}

/** The attributes of one message by type, with checked reads; where one is repeated the last counts, as in nla_parse(). */
export class Attributes {
  private readonly values = new Map<number, Uint8Array>();

  /** @throws ProxyVpnError E_NETLINK_ANSWER when a length lies */
  constructor(data: Uint8Array) {
    // Fewer bytes than a header are padding, which nla_parse() passes over too.
    for (let offset = 0; offset + ATTRIBUTE_HEADER_BYTES <= data.length; ) {
      const reader = new StructReader(data.subarray(offset), 'an attribute');
      const [length, type] = [reader.u16(), reader.u16() & ATTRIBUTE_TYPE_MASK];
      if (length < ATTRIBUTE_HEADER_BYTES || length > data.length - offset)
        throw malformed(`attribute ${type} of ${length} bytes where ${data.length - offset} are left`);
      this.values.set(type, data.subarray(offset + ATTRIBUTE_HEADER_BYTES, offset + length));
      offset += aligned(length);
    }
  }

  types(): number[] {
    return [...this.values.keys()];
  }

  bytes(type: number): Uint8Array | undefined {
    return this.values.get(type);
  }

  /** A structure may have grown in a newer kernel: longer than asked is right. */
  struct(type: number): StructReader | undefined {
    const value = this.values.get(type);
    return value && new StructReader(value, `attribute ${type}`);
  }

  u8(type: number): number | undefined {
    return this.struct(type)?.u8();
  }

  u32(type: number): number | undefined {
    return this.struct(type)?.u32();
  }

  /** Up to the first NUL, if there is one. */
  text(type: number): string | undefined {
    const value = this.values.get(type);
    if (!value) return undefined;
    const end = value.indexOf(0);
    return Buffer.from(end < 0 ? value : value.subarray(0, end)).toString();
  }

  /** Canonical text of an address of that family. */
  address(type: number, family: Family): string | undefined {
    return this.struct(type)?.address(family);
  }

  nested(type: number): Attributes | undefined {
    const value = this.values.get(type);
    return value && new Attributes(value);
  }
}
