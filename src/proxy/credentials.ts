/** A user name and password that no printer, serializer or error text can show by accident. */
import { inspect } from 'node:util';

const HIDDEN = '***';

export class Credentials {
  readonly #user: string;
  readonly #password: string;

  constructor(user: string, password: string) {
    this.#user = user;
    this.#password = password;
  }

  get user(): string {
    return this.#user;
  }

  get password(): string {
    return this.#password;
  }

  /** The value after `Proxy-Authorization: `: RFC 7617, user-id and password in UTF-8. */
  basicAuthorization(): string {
    return `Basic ${this.#token()}`;
  }

  /** `text`, which somebody else wrote (read as Latin-1), with every form of these credentials blotted out. */
  scrub(text: string): string {
    const forms = [this.#token()];
    for (const secret of [this.#password, this.#user]) {
      forms.push(secret, encodeURIComponent(secret), Buffer.from(secret, 'utf8').toString('latin1'));
    }
    let clean = text;
    for (const form of forms) if (form !== '') clean = clean.replaceAll(form, HIDDEN);
    return clean;
  }

  toString(): string {
    return HIDDEN;
  }

  toJSON(): string {
    return HIDDEN;
  }

  [inspect.custom](): string {
    return HIDDEN;
  }

  #token(): string {
    return Buffer.from(`${this.#user}:${this.#password}`, 'utf8').toString('base64');
  }
}
