/**
 * The line by which the engine says whose connection it hands over: the PROXY protocol, version 1, of haproxy's
 * doc/proxy-protocol.txt §2.1 (pure). `PROXY TCP4 10.0.0.1 192.0.2.53 40000 53\r\n`.
 */
import { canonicalAddress, type Family, familyOf } from '../ip.ts';

export interface ProxyHeader {
  readonly family: Family;
  readonly clientAddress: string;
  readonly clientPort: number;
  readonly serverAddress: string;
  readonly serverPort: number;
}

/** The specification's bound, CR LF included. */
const LONGEST = 107;
const LINE = /^PROXY (TCP[46]) (\S+) (\S+) (\d{1,5}) (\d{1,5})$/;

/** Takes the first line off a stream. */
export class ProxyHeaderReader {
  #head = Buffer.alloc(0);

  /**
   * @param chunk the next bytes of the stream
   * @returns the header and what follows it; undefined: more is needed; `'malformed'`: this is no such line
   */
  push(chunk: Uint8Array): { readonly header: ProxyHeader; readonly rest: Buffer } | undefined | 'malformed' {
    const head = Buffer.concat([this.#head, chunk]);
    const end = head.indexOf('\r\n');
    if (end < 0 ? head.length >= LONGEST : end + 2 > LONGEST) return 'malformed';
    this.#head = head;
    if (end < 0) return undefined;
    const header = parseLine(head.toString('latin1', 0, end));
    return header === undefined ? 'malformed' : { header, rest: head.subarray(end + 2) };
  }
}

function parseLine(line: string): ProxyHeader | undefined {
  const [, protocol, client = '', server = '', clientPort, serverPort] = LINE.exec(line) ?? [];
  const family = protocol === 'TCP6' ? 6 : 4;
  const clientAddress = canonicalAddress(client);
  const serverAddress = canonicalAddress(server);
  if (clientAddress === undefined || serverAddress === undefined) return undefined;
  if (familyOf(clientAddress) !== family || familyOf(serverAddress) !== family) return undefined;
  const ports = [Number(clientPort), Number(serverPort)] as const;
  if (ports.some((port) => port > 0xffff)) return undefined;
  return { family, clientAddress, clientPort: ports[0], serverAddress, serverPort: ports[1] };
}
