/** Messages on a TCP stream: two bytes of length before each, RFC 1035 §4.2.2 (pure). */

/** @param message at most 65535 bytes */
export function frame(message: Uint8Array): Buffer {
  const framed = Buffer.allocUnsafe(2 + message.length);
  framed.writeUInt16BE(message.length, 0);
  framed.set(message, 2);
  return framed;
}

/** Puts messages together from chunks cut anywhere. Holds at most one message; each byte is copied once. */
export class FrameReader {
  readonly #length = Buffer.alloc(2);
  #lengthBytes = 0;
  #message: Buffer | undefined;
  #messageBytes = 0;

  /** Whether a message has begun that is not whole. */
  get isInMessage(): boolean {
    return this.#lengthBytes > 0;
  }

  /** @returns the messages that are whole now; their memory is their own */
  push(chunk: Uint8Array): Buffer[] {
    const messages: Buffer[] = [];
    for (let at = 0; at < chunk.length; ) {
      at += this.#take(chunk, at);
      if (this.#message === undefined || this.#messageBytes < this.#message.length) continue;
      messages.push(this.#message);
      this.#message = undefined;
      this.#messageBytes = 0;
      this.#lengthBytes = 0;
    }
    return messages;
  }

  /** @returns bytes taken */
  #take(chunk: Uint8Array, at: number): number {
    if (this.#message === undefined) {
      this.#length[this.#lengthBytes++] = chunk[at] ?? 0;
      if (this.#lengthBytes === 2) this.#message = Buffer.allocUnsafeSlow(this.#length.readUInt16BE(0));
      return 1;
    }
    const part = chunk.subarray(at, at + this.#message.length - this.#messageBytes);
    this.#message.set(part, this.#messageBytes);
    this.#messageBytes += part.length;
    return part.length;
  }
}
