/** Backward: takes back what the journal says was done, or begun. */
import type { AnyOp, Appliers } from '../op.ts';
import { applierOf, type OpJournal } from './apply.ts';

export interface TeardownReport {
  /** What was taken back, as the line that had made it. */
  readonly undone: readonly string[];
  /** Changed by somebody else since, and left alone: one sentence each. */
  readonly foreign: readonly string[];
  /** Could not be undone; the journal still holds them. */
  readonly failed: readonly { readonly what: string; readonly error: unknown }[];
}

/** The line that makes this op; of a text of many lines, such as a ruleset, its first with what it is about. */
function titleOf(description: string): string {
  const [first = '', ...rest] = description.split('\n');
  const subject = rest.find((line) => line.startsWith('table '))?.replace(/ \{$/, '');
  return subject === undefined ? first : `${first.replace(/ <<.*/, '')} # ${subject}`;
}

/**
 * Walks the journal backwards. One failure does not keep the rest from being undone.
 * @param keep records that shall stay in force, and in the journal
 */
export async function tearDown<Op extends AnyOp>(
  journal: OpJournal<Op>,
  appliers: Appliers<Op>,
  keep: (op: Op) => boolean = () => false,
): Promise<TeardownReport> {
  const undone: string[] = [];
  const foreign: string[] = [];
  const failed: { what: string; error: unknown }[] = [];
  for (const { id, op, before } of [...journal.pending()].reverse()) {
    if (keep(op)) continue;
    const applier = applierOf(appliers, op);
    const what = titleOf(applier.describe(op));
    try {
      const result = await applier.undo(op, before);
      if (result.outcome === 'undone') undone.push(what);
      if (result.outcome === 'foreign') foreign.push(`${what}: left alone, found ${result.found}`);
      await journal.undone(id);
    } catch (error) {
      failed.push({ what, error });
    }
  }
  return { undone, foreign, failed };
}
