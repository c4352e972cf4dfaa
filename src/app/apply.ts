/** Forward: observe, record, act, op by op. */
import type { AnyOp, Applier, Appliers } from '../op.ts';

/** What apply and teardown need of the journal; src/state/journal.ts is the real one. */
export interface OpJournal<Op extends AnyOp> {
  /** Durable before it returns. @returns the record's id */
  intend(op: Op, before: unknown): Promise<number>;
  done(id: number): Promise<void>;
  /** The record needs no undo any more. */
  undone(id: number): Promise<void>;
  /** Records that may need undoing, oldest first. */
  pending(): readonly { readonly id: number; readonly op: Op; readonly before: unknown }[];
}

/** The applier of this op's kind. The cast is the correlation that `Appliers` guarantees and TypeScript cannot follow. */
export function applierOf<Op extends AnyOp>(appliers: Appliers<Op>, op: Op): Applier<Op> {
  return appliers[op.kind as Op['kind']] as unknown as Applier<Op>;
}

/**
 * Carries out the ops in order. A crash at any instant leaves a journal from which `tearDown` restores the
 * host: the record is durable before the change.
 * @param signal ends it between two ops, with the signal's reason
 * @throws whatever the first failing applier throws; nothing is rolled back here
 */
export async function applyOps<Op extends AnyOp>(
  ops: readonly Op[],
  appliers: Appliers<Op>,
  journal: OpJournal<Op>,
  signal?: AbortSignal,
): Promise<void> {
  for (const op of ops) {
    signal?.throwIfAborted();
    const applier = applierOf(appliers, op);
    const before = await applier.observe(op);
    const id = await journal.intend(op, before);
    await applier.apply(op, before);
    await journal.done(id);
  }
}

/** The lines an operator would type for these ops. */
export function describeOps<Op extends AnyOp>(ops: readonly Op[], appliers: Appliers<Op>): readonly string[] {
  return ops.map((op) => applierOf(appliers, op).describe(op));
}
