/** Where the CLI prints: answers to stdout as text or one JSON document, everything else to stderr. */
import { ProxyVpnError } from '../errors.ts';
import { errorDocument } from './error-document.ts';

export class Terminal {
  readonly #isJson: boolean;

  constructor(isJson: boolean) {
    this.#isJson = isJson;
  }

  /** The answer of a command, in the form that was asked for. */
  print(document: unknown, text: string): void {
    process.stdout.write(this.#isJson ? `${JSON.stringify(document)}\n` : `${text}\n`);
  }

  /** Instead of the last answer, where a person is looking. */
  reprint(document: unknown, text: string): void {
    // ED and CUP, ECMA-48: clear the screen, go to its top.
    if (process.stdout.isTTY && !this.#isJson) process.stdout.write('\x1b[2J\x1b[H');
    this.print(document, text);
  }

  warn(text: string): void {
    process.stderr.write(`warning: ${text}\n`);
  }

  note(text: string): void {
    process.stderr.write(`${text}\n`);
  }

  /** With `--json` also as a document on stdout, so that a script needs no second parser. */
  fail(error: unknown): void {
    const { code, message, hint } = errorDocument(error);
    if (this.#isJson) process.stdout.write(`${JSON.stringify({ error: { code, message, hint: hint ?? null } })}\n`);
    process.stderr.write(`error: ${code}: ${message}\n`);
    if (hint !== undefined) process.stderr.write(`hint: ${hint}\n`);
    if (!(error instanceof ProxyVpnError) && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  }
}
