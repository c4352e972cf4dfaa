/**
 * Fuzzes a journal that was damaged in any way: whatever is intact in it is used, and it can be written on.
 *
 * Input: the file. Only E_JOURNAL_VERSION may be thrown.
 */
import { isKnownOp } from '../../src/app/journal-trust.ts';
import type { Op } from '../../src/app/plan.ts';
import { ProxyVpnError } from '../../src/errors.ts';
import type { AnyOp, Appliers } from '../../src/op.ts';
import { crc32 } from '../../src/state/crc32.ts';
import { journalLine, type ParsedJournal, parseJournal } from '../../src/state/journal-format.ts';
import { insist, main } from './loop/run.ts';

const KINDS = ['rule.add', 'route.add', 'link.up', 'sysctl.set', 'firewall.load', 'a', ''];
/** The judge of the product: whatever it is shown, it answers. */
const isBelieved = isKnownOp(Object.fromEntries(KINDS.map((kind) => [kind, {}])) as unknown as Appliers<Op>, 'default');
const isKnown = (op: AnyOp, before?: unknown): op is AnyOp => {
  isBelieved(op, before);
  return KINDS.includes(op.kind);
};
const NEWLINE = 0x0a;
const LEAST_CRC_LINE = ',"crc":"01234567"}'.length;

/** Sequence numbers of the `intended` records that stand in the file undamaged. */
function intactIds(bytes: Uint8Array): number[] {
  const ids: number[] = [];
  for (const line of Buffer.from(bytes).toString('latin1').split('\n').slice(0, -1)) {
    const raw = Buffer.from(line, 'latin1');
    const body = raw.subarray(0, Math.max(0, raw.length - LEAST_CRC_LINE));
    if (!line.endsWith(`,"crc":"${crc32(body).toString(16).padStart(8, '0')}"}`)) continue;
    const record = JSON.parse(raw.toString()) as { n: number; is: string; op?: AnyOp };
    if (record.is === 'intended' && record.op && isKnown(record.op)) ids.push(record.n);
  }
  return ids;
}

function examine(bytes: Uint8Array, parsed: ParsedJournal<AnyOp>): void {
  insist(parsed.wholeBytes <= bytes.length, 'whole lines are part of the file');
  insist(parsed.wholeBytes === 0 || bytes[parsed.wholeBytes - 1] === NEWLINE, 'whole lines end with a newline');
  insist(bytes.subarray(parsed.wholeBytes).indexOf(NEWLINE) < 0, 'what is cut off is no whole line');
  const ids = parsed.entries.map((entry) => entry.id);
  insist(new Set(ids).size === ids.length, 'an id names one entry');
  insist(
    ids.every((id) => id < parsed.nextSequence),
    'the next sequence number is new',
  );
  for (const id of intactIds(bytes)) insist(ids.includes(id), `intact record ${id} is used`);
}

main((input) => {
  let parsed: ParsedJournal<AnyOp>;
  try {
    parsed = parseJournal(input, isKnown);
  } catch (error) {
    if (error instanceof ProxyVpnError && error.code === 'E_JOURNAL_VERSION') return error.code;
    throw error;
  }
  examine(input, parsed);

  const whole = input.subarray(0, parsed.wholeBytes);
  insist(JSON.stringify(parseJournal(whole, isKnown)) === JSON.stringify(parsed), 'a half-written record is nothing');
  const next = journalLine({ n: parsed.nextSequence, is: 'intended', op: { kind: 'a' }, before: null });
  const longer = parseJournal(Buffer.concat([whole, next]), isKnown);
  insist(longer.entries.at(-1)?.id === parsed.nextSequence, 'a damaged journal can be written on');
  insist(longer.problems.length === parsed.problems.length, 'writing on is no problem of its own');

  const kinds = new Set(parsed.problems.map((problem) => problem.replace(/\d+|"[^"]*"/g, '#').slice(0, 60)));
  const states = new Set(parsed.entries.map((entry) => entry.state));
  return [Math.min(parsed.entries.length, 4), ...states, ...kinds, parsed.tunnel === undefined].join(' ');
});
