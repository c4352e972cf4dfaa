/**
 * The bytes of the file that keeps names and their numbers: one line per name given out, later lines win (pure).
 *
 *     8d2f11c3 proxyvpn-names/1 198.18.0.0/15 fd70:7670:6e00:1::/64
 *     0b6c2d7e 40211 www.example.com
 *
 * The first word is the CRC-32 of the range's text and the rest of the line, so that a line counts only where its number
 * means the addresses it meant. A line counts only with its newline: an answer is sent after its line is written.
 */
import { crc32 } from '../state/crc32.ts';

export interface Binding {
  readonly slot: number;
  readonly hostname: string;
}

export interface ParsedNameLog {
  /** A name has one number and a number one name; in the order of their last lines. */
  readonly bindings: readonly Binding[];
  /** Lines read, superseded ones included. */
  readonly lines: number;
  /** Bytes of whole lines; what follows is a half-written one. */
  readonly wholeBytes: number;
  /** One sentence for each damage; empty after any crash at any instant. */
  readonly problems: readonly string[];
  /** It is of another range: no line of it means anything here. */
  readonly isForeign: boolean;
}

const FORMAT = 'proxyvpn-names/1';
const LINE = /^([0-9a-f]{8}) (\d{1,9}) ([a-z0-9_.-]{1,253})$/;
const HEADER = /^([0-9a-f]{8}) (proxyvpn-names\/\d+ .+)$/;

/** @param fingerprint `VirtualRange.fingerprint` */
export function headerLine(fingerprint: string): string {
  const text = `${FORMAT} ${fingerprint}`;
  return `${checksum(text)} ${text}\n`;
}

/** @param hostname as in `DnsName` */
export function bindingLine(fingerprint: string, { slot, hostname }: Binding): string {
  return `${checksum(`${fingerprint} ${slot} ${hostname}`)} ${slot} ${hostname}\n`;
}

/** Uses all that is intact. @param slots numbers from here on are damage */
export function parseNameLog(bytes: Buffer, fingerprint: string, slots: number): ParsedNameLog {
  const bySlot = new Map<number, string>();
  const byName = new Map<string, number>();
  const whole = bytes.lastIndexOf(0x0a) + 1;
  const lines = whole === 0 ? [] : bytes.toString('latin1', 0, whole - 1).split('\n');
  const header = lines[0] === undefined ? undefined : readHeader(lines[0]);
  if (header !== undefined && header !== `${FORMAT} ${fingerprint}`) {
    const problems = [`it is of other ranges (${header}): the names in it are not used`];
    return { bindings: [], lines: lines.length, wholeBytes: whole, problems, isForeign: true };
  }
  let damaged = lines.length > 0 && header === undefined ? 1 : 0;
  for (const line of lines.slice(1)) {
    const binding = readBinding(line, fingerprint, slots);
    if (binding === undefined) {
      damaged++;
      continue;
    }
    const { slot, hostname } = binding;
    const oldName = bySlot.get(slot);
    if (oldName !== undefined) byName.delete(oldName);
    const oldSlot = byName.get(hostname);
    if (oldSlot !== undefined) bySlot.delete(oldSlot);
    // Deleted first, so that the order is that of the last lines.
    bySlot.delete(slot);
    bySlot.set(slot, hostname);
    byName.set(hostname, slot);
  }
  const problems =
    damaged === 0 ? [] : [`${damaged} of its ${lines.length} lines are damaged: those names are forgotten`];
  const bindings = [...bySlot].map(([slot, hostname]) => ({ slot, hostname }));
  return { bindings, lines: lines.length, wholeBytes: whole, problems, isForeign: false };
}

function readHeader(line: string): string | undefined {
  const [, crc, text = ''] = HEADER.exec(line) ?? [];
  return crc === checksum(text) ? text : undefined;
}

function readBinding(line: string, fingerprint: string, slots: number): Binding | undefined {
  const [, crc, number = '', hostname = ''] = LINE.exec(line) ?? [];
  if (crc === undefined || crc !== checksum(`${fingerprint} ${number} ${hostname}`)) return undefined;
  const slot = Number(number);
  // A copy: what the expression found is a view that would keep the text of the whole file in memory.
  return slot < slots ? { slot, hostname: Buffer.from(hostname, 'latin1').toString('latin1') } : undefined;
}

function checksum(text: string): string {
  return crc32(Buffer.from(text, 'latin1')).toString(16).padStart(8, '0');
}
