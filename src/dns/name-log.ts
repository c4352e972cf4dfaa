/** The file that keeps names and their numbers: appended to before answers are sent, rewritten when it has grown. */
import fs from 'node:fs';
import path from 'node:path';
import { isSystemCallFailure } from '../errors.ts';
import { writeFailure, writeFileAtomic } from '../state/atomic-file.ts';
import { type Binding, bindingLine, headerLine, type ParsedNameLog, parseNameLog } from './name-log-format.ts';

/** Below this size a rewrite gains nothing. */
const LEAST_REWRITE_BYTES = 256 * 1024;

/**
 * Appends without fsync: the lines are there for whoever opens the file after this process was killed. After a power
 * failure the last ones may be missing, but then no program is left that knew their addresses.
 */
export class NameLog {
  readonly file: string;
  readonly #fingerprint: string;
  #fd: number | undefined;
  #bytes = 0;
  #lines = 0;

  private constructor(file: string, fingerprint: string) {
    this.file = file;
    this.#fingerprint = fingerprint;
  }

  /**
   * Reads what is there, and makes the file ready for `append`. The caller is its only writer.
   * @throws ProxyVpnError E_STATE_WRITE when it can be neither read nor made
   */
  static open(
    file: string,
    fingerprint: string,
    slots: number,
  ): { readonly log: NameLog; readonly found: ParsedNameLog } {
    removeLeftovers(file);
    const log = new NameLog(file, fingerprint);
    const found = parseNameLog(readIfPresent(file), fingerprint, slots);
    // A damaged or foreign file would say the same again next time.
    if (found.lines === 0 || found.problems.length > 0) log.rewrite(found.bindings);
    else log.#appendTo(found.wholeBytes, found.lines);
    return { log, found };
  }

  /** Whether most of the file is lines that later ones superseded. @param live bindings that still hold */
  isWorthRewriting(live: number): boolean {
    return this.#bytes > LEAST_REWRITE_BYTES && this.#lines > 2 * live;
  }

  /** One write(2) for all. @throws ProxyVpnError E_STATE_WRITE; then the file holds none of these lines */
  append(bindings: readonly Binding[]): void {
    if (this.#fd === undefined) throw new Error('the name log is closed');
    const lines = Buffer.from(bindings.map((binding) => bindingLine(this.#fingerprint, binding)).join(''), 'latin1');
    try {
      for (let written = 0; written < lines.length; ) written += fs.writeSync(this.#fd, lines, written);
    } catch (cause) {
      // A half line would swallow the next one. Should cutting fail too: reading copes with it.
      this.#cut();
      throw writeFailure(this.file, cause);
    }
    this.#bytes += lines.length;
    this.#lines += bindings.length;
  }

  /** Replaces the file by these lines, durably. @throws ProxyVpnError E_STATE_WRITE; the old file then stays */
  rewrite(bindings: readonly Binding[]): void {
    const lines = bindings.map((binding) => bindingLine(this.#fingerprint, binding));
    const text = headerLine(this.#fingerprint) + lines.join('');
    writeFileAtomic(this.file, text);
    this.close();
    this.#appendTo(text.length, lines.length + 1);
  }

  /** Idempotent. */
  close(): void {
    if (this.#fd !== undefined) fs.closeSync(this.#fd);
    this.#fd = undefined;
  }

  #appendTo(bytes: number, lines: number): void {
    const { O_WRONLY, O_APPEND, O_NOFOLLOW } = fs.constants;
    try {
      this.#fd = fs.openSync(this.file, O_WRONLY | O_APPEND | O_NOFOLLOW);
      fs.ftruncateSync(this.#fd, bytes);
    } catch (cause) {
      throw writeFailure(this.file, cause);
    }
    this.#bytes = bytes;
    this.#lines = lines;
  }

  #cut(): void {
    try {
      if (this.#fd !== undefined) fs.ftruncateSync(this.#fd, this.#bytes);
    } catch (error) {
      if (!isSystemCallFailure(error)) throw error;
    }
  }
}

function readIfPresent(file: string): Buffer {
  try {
    return fs.readFileSync(file);
  } catch (cause) {
    if (isSystemCallFailure(cause) && cause.code === 'ENOENT') return Buffer.alloc(0);
    throw writeFailure(file, cause);
  }
}

/** A crash in the middle of a rewrite leaves its temporary file; the name is that of `writeFileAtomic`. */
function removeLeftovers(file: string): void {
  const start = `${path.basename(file)}.`;
  const directory = path.dirname(file);
  try {
    for (const name of fs.readdirSync(directory)) {
      const middle = name.startsWith(start) && name.endsWith('.tmp') ? name.slice(start.length, -4) : '';
      if (/^[0-9a-f]{12}$/.test(middle)) fs.rmSync(path.join(directory, name), { force: true });
    }
  } catch (error) {
    // What cannot be removed does no harm; what is wrong with the directory, writing says.
    if (!isSystemCallFailure(error)) throw error;
  }
}
