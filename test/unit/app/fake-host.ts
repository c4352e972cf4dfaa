/** A host in memory: every op adds its line, unless somebody else has it; undo removes it. */
import type { AnyOp, Appliers, UndoResult } from '../../../src/op.ts';

export interface LineOp extends AnyOp {
  readonly kind: 'line.add';
  readonly line: string;
}

export class FakeHost {
  readonly lines: Set<string>;
  /** Called before each change, with how many there were; may throw. */
  onChange: (count: number) => void = () => {};
  #changes = 0;

  constructor(lines: Iterable<string> = []) {
    this.lines = new Set(lines);
  }

  get appliers(): Appliers<LineOp> {
    const change = (make: () => void): void => {
      this.onChange(this.#changes++);
      make();
    };
    return {
      'line.add': {
        observe: async ({ line }) => ({ existed: this.lines.has(line) }),
        apply: async ({ line }) => change(() => this.lines.add(line)),
        undo: async ({ line }, before): Promise<UndoResult> => {
          const existed = (before as { readonly existed: boolean }).existed;
          if (existed || !this.lines.has(line)) return { outcome: 'absent' };
          change(() => this.lines.delete(line));
          return { outcome: 'undone' };
        },
        describe: ({ line }) => `add ${line}`,
      },
    };
  }

  get text(): string {
    return [...this.lines].join('\n');
  }
}

export function isLineOp(op: AnyOp): op is LineOp {
  return op.kind === 'line.add';
}

export function lineOps(...lines: readonly string[]): readonly LineOp[] {
  return lines.map((line) => ({ kind: 'line.add', line }));
}
