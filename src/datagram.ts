/** A UDP datagram and whose it is: what the engine hands over and the DNS server answers. */
import type { Family } from './ip.ts';

/** Of a program's, or the reply to one: a reply goes back with the same ends. */
export interface Datagram {
  readonly family: Family;
  readonly clientAddress: string;
  readonly clientPort: number;
  /** Whom the client asked: the reply must seem to come from there. */
  readonly serverAddress: string;
  readonly serverPort: number;
  readonly payload: Uint8Array;
}
