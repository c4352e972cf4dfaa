/** Backward: takes back what the journal says was done, or begun. */
import type { AnyOp, Appliers } from '../op.ts';
import { applierOf, type OpJournal } from './apply.ts';

export interface TeardownReport {
  /** describe() lines of what was taken back. */
  readonly undone: readonly string[];
  /** Changed by somebody else since, and left alone: one sentence each. */
  readonly foreign: readonly string[];
  /** Could not be undone; the journal still holds them. */
  readonly failed: readonly { readonly what: string; readonly error: unknown }[];
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
    const what = applier.describe(op);
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
