/** Domain names as bytes, as keys that compare, and as host names that a CONNECT request can hold (pure). */

/** A name as it came, with case folded. */
export interface DnsName {
  /**
   * The wire form without compression, one character per byte, ASCII letters in lower case (RFC 4343), ending in the
   * root's zero. Two names are the same if and only if their keys are; text is not like that, for labels may hold dots.
   */
  readonly key: string;
  /**
   * The name in lower case without a final dot, when it can stand in a CONNECT request: labels of letters, digits, `-`
   * and `_`. A label is any bytes, CR LF and `:` among them, so nothing else may ever get there. Names whose last label
   * is a number are addresses to whoever parses them (WHATWG URL, "ends in a number"), so they are none either.
   */
  readonly hostname: string | undefined;
}

/** Bytes of a name, its root included: RFC 1035 §2.3.4. */
const LONGEST_NAME = 255;
const LONGEST_LABEL = 63;
const HOST_LABEL = /^[a-z0-9_-]+$/;
const NUMBER_LABEL = /^(\d+|0x[0-9a-f]*)$/;

/**
 * Reads a name that is not compressed, as in questions: nothing stands before it that a pointer could mean.
 * @returns undefined when there is no such name at `offset`
 */
export function readName(
  message: Buffer,
  offset: number,
): { readonly name: DnsName; readonly end: number } | undefined {
  let at = offset;
  for (;;) {
    const length = message[at];
    if (length === undefined || length > LONGEST_LABEL) return undefined;
    at += 1 + length;
    if (at > message.length || at - offset > LONGEST_NAME) return undefined;
    if (length === 0) break;
  }
  return { name: nameOfKey(foldCase(message.toString('latin1', offset, at))), end: at };
}

/** Where the name at `offset` ends; a compression pointer (RFC 1035 §4.1.4) ends it. undefined: there is none. */
export function skipName(message: Buffer, offset: number): number | undefined {
  let at = offset;
  for (;;) {
    const length = message[at];
    if (length === undefined) return undefined;
    if ((length & 0xc0) === 0xc0) return at + 2 <= message.length ? at + 2 : undefined;
    if (length > LONGEST_LABEL) return undefined;
    at += 1 + length;
    if (at > message.length || at - offset > LONGEST_NAME) return undefined;
    if (length === 0) return at;
  }
}

/** Reads a host name as people write it, with or without the final dot. undefined when it is none. */
export function nameFromText(text: string): DnsName | undefined {
  const labels = foldCase(text).replace(/\.$/, '').split('.');
  if (!labels.every((label) => label.length <= LONGEST_LABEL && HOST_LABEL.test(label))) return undefined;
  const key = `${labels.map((label) => String.fromCharCode(label.length) + label).join('')}\0`;
  return key.length > LONGEST_NAME ? undefined : nameOfKey(key);
}

/** @param key as in `DnsName` */
export function nameOfKey(key: string): DnsName {
  return { key, hostname: hostnameOf(key) };
}

/** The labels of a key, the topmost last; none for the root. */
export function labelsOf(key: string): string[] {
  const labels: string[] = [];
  for (let at = 0; ; ) {
    const length = key.charCodeAt(at);
    // NaN at the end of a key that is none.
    if (!(length > 0)) return labels;
    labels.push(key.slice(at + 1, at + 1 + length));
    at += 1 + length;
  }
}

/** The name's own key, its parent's, and so on up to the top-level domain's; the root's is not among them. */
export function* keysUpwards(key: string): Generator<string> {
  for (let at = 0; key.charCodeAt(at) > 0; at += 1 + key.charCodeAt(at)) yield key.slice(at);
}

/** For people: RFC 1035 §5.1, other bytes as `\DDD`, without the final dot; `.` for the root. */
export function presentation(key: string): string {
  const labels = labelsOf(key).map((label) =>
    label.replace(/[^A-Za-z0-9_-]/g, (byte) =>
      /[\x21-\x7e]/.test(byte) ? `\\${byte}` : `\\${byte.charCodeAt(0).toString().padStart(3, '0')}`,
    ),
  );
  return labels.length === 0 ? '.' : labels.join('.');
}

function hostnameOf(key: string): string | undefined {
  const labels = labelsOf(key);
  const top = labels.at(-1);
  if (top === undefined || NUMBER_LABEL.test(top)) return undefined;
  return labels.every((label) => HOST_LABEL.test(label)) ? labels.join('.') : undefined;
}

/** ASCII only: toLowerCase() would fold bytes above 127 as well, and make two names one. */
function foldCase(text: string): string {
  return text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
}
