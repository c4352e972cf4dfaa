/** Numbers and tables as text (pure). */
import type { Spread } from './figures.ts';

/** Three digits that count: `0.0412`, `4.12`, `41.2`, `4,120`. */
export function numberText(value: number): string {
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return Math.round(value).toLocaleString('en-US');
  const digits = value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(digits, 4));
}

/** `0.61 [0.58..0.63]` */
export function spreadText(spread: Spread | undefined): string {
  if (spread === undefined) return '–';
  const median = numberText(spread.median);
  return spread.count === 1 ? median : `${median} [${numberText(spread.min)}..${numberText(spread.max)}]`;
}

/** Markdown, padded so that it is a table in a terminal too. The first column stands left, the others right. */
export function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) =>
    Math.max(3, title.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  const line = (cells: readonly string[]): string =>
    `| ${widths.map((width, i) => (i === 0 ? (cells[i] ?? '').padEnd(width) : (cells[i] ?? '').padStart(width))).join(' | ')} |`;
  const rule = widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`));
  return [line(head), line(rule), ...rows.map(line)].join('\n');
}
