/** What the doctor found: as values, as text, as a document (pure). */
import type { ErrorDocument } from '../error-document.ts';

/** `ok`: as it should be; `note`: worth knowing; `warning`: up works, but not all of it; `error`: up would not work. */
export type Level = 'ok' | 'note' | 'warning' | 'error';

export interface Finding {
  /** Stable: scripts match on it. */
  readonly id: string;
  readonly level: Level;
  /** What was found, one phrase. */
  readonly what: string;
  /** What that means; null where it goes without saying. */
  readonly why: string | null;
  /** What to do about it; null where there is nothing to do. */
  readonly mend: string | null;
}

/** `doctor --json`. Keys are only ever added. */
export interface DoctorDocument {
  readonly name: string;
  /** Without credentials; null: none is given, or it cannot be read. */
  readonly proxy: string | null;
  /** Whether `up` would work, as far as can be told. */
  readonly ok: boolean;
  readonly findings: readonly Finding[];
}

const finding =
  (level: Level) =>
  (id: string, what: string, why: string | null = null, mend: string | null = null): Finding => ({
    id,
    level,
    what,
    why,
    mend,
  });

export const ok = finding('ok');
export const note = finding('note');
export const warning = finding('warning');
export const error = finding('error');

/** The error that `up` would end with. */
export function errorFrom(id: string, { code, message, hint }: ErrorDocument): Finding {
  return error(id, message, code, hint ?? null);
}

export function doctorDocument(name: string, proxy: string | null, findings: readonly Finding[]): DoctorDocument {
  return { name, proxy, ok: findings.every(({ level }) => level !== 'error'), findings };
}

const ORDER: readonly Level[] = ['ok', 'note', 'warning', 'error'];

/** For people; no trailing newline. The errors come last, so that they are on the screen. */
export function doctorText({ name, findings, ok: isOk }: DoctorDocument): string {
  const sorted = findings.toSorted((a, b) => ORDER.indexOf(a.level) - ORDER.indexOf(b.level));
  const width = Math.max(...sorted.map(({ id }) => id.length));
  const indent = ' '.repeat(width + 11);
  const lines = sorted.flatMap(({ id, level, what, why, mend }) => [
    `${level.padEnd(7)}  ${id.padEnd(width)}  ${what}`,
    ...(why === null ? [] : [`${indent}${why}`]),
    ...(mend === null ? [] : [`${indent}mend: ${mend}`]),
  ]);
  const count = (level: Level): string | undefined => {
    const number = findings.filter((one) => one.level === level).length;
    return number === 0 ? undefined : `${number} ${level}${number === 1 ? '' : 's'}`;
  };
  const counts = [count('error'), count('warning')].filter((text) => text !== undefined).join(', ');
  const end = `${name}: up ${isOk ? 'would' : 'would not'} work${counts === '' ? '' : ` (${counts})`}`;
  return [...lines, end].join('\n');
}
