/** What a change to the host is (an op: plain data) and what can carry it out and take it back (an applier). */

/** Every op is plain JSON data with a `kind`; it can be printed, journalled and compared. */
export interface AnyOp {
  readonly kind: string;
}

/** What undo found: it undid, there was nothing (left) to undo, or somebody else changed it since (left alone). */
export type UndoResult =
  | { readonly outcome: 'undone' }
  | { readonly outcome: 'absent' }
  | { readonly outcome: 'foreign'; readonly found: string };

/**
 * Carries out one kind of op. `Before` is what `undo` needs besides the op; it is written to the
 * journal before `apply` runs, so it must be JSON.
 */
export interface Applier<O extends AnyOp, Before = unknown> {
  /** Reads what `undo` will need. Changes nothing. */
  observe(op: O): Promise<Before>;
  /** Changes the host, or throws and leaves it unchanged. */
  apply(op: O, before: Before): Promise<void>;
  /**
   * Takes the change back; possibly in another process, after a crash, or when `apply` never ran.
   * Never throws for "already gone".
   */
  undo(op: O, before: Before): Promise<UndoResult>;
  /** The line(s) an operator would type, without a trailing newline. */
  describe(op: O): string;
}

/** One applier for every kind; a kind without its applier does not compile. */
export type Appliers<Op extends AnyOp> = { readonly [K in Op['kind']]: Applier<Extract<Op, { kind: K }>> };
