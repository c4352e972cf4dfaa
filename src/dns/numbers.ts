/** Numbers of the DNS by their names: record types, classes, response codes (IANA "Domain Name System Parameters"). */

export const TYPE = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  HINFO: 13,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  NAPTR: 35,
  DNAME: 39,
  OPT: 41,
  DS: 43,
  SSHFP: 44,
  RRSIG: 46,
  NSEC: 47,
  DNSKEY: 48,
  TLSA: 52,
  SVCB: 64,
  HTTPS: 65,
  TKEY: 249,
  TSIG: 250,
  IXFR: 251,
  AXFR: 252,
  ANY: 255,
  CAA: 257,
} as const;

export const CLASS = { IN: 1, CH: 3, NONE: 254, ANY: 255 } as const;

export const RCODE = {
  NOERROR: 0,
  FORMERR: 1,
  SERVFAIL: 2,
  NXDOMAIN: 3,
  NOTIMP: 4,
  REFUSED: 5,
  /** RFC 6891 §9: the upper eight bits travel in OPT. */
  BADVERS: 16,
} as const;

/** RFC 8914 §5.2: why, in words that dig(1) prints. */
export const EXTENDED_ERROR = { other: 0, blocked: 15, noReachableAuthority: 22, networkError: 23 } as const;

/** Bits of the second header word, RFC 1035 §4.1.1, RFC 4035 §3. */
export const FLAG = {
  response: 0x8000,
  truncated: 0x0200,
  recursionDesired: 0x0100,
  recursionAvailable: 0x0080,
  checkingDisabled: 0x0010,
} as const;

/** Of the flags in OPT, RFC 3225. */
export const DNSSEC_OK = 0x8000;

const typeNames = new Map<number, string>(Object.entries(TYPE).map(([name, number]) => [number, name]));

/** `AAAA`, or `TYPE1234` of RFC 3597 §5. */
export function typeName(type: number): string {
  return typeNames.get(type) ?? `TYPE${type}`;
}

/** Reads `aaaa`, `TYPE28`; undefined when it is no type. */
export function typeNumber(text: string): number | undefined {
  const name = text.toUpperCase();
  const known = Object.entries(TYPE).find(([candidate]) => candidate === name)?.[1];
  if (known !== undefined) return known;
  const number = /^TYPE(\d{1,5})$/.exec(name)?.[1];
  return number !== undefined && Number(number) <= 0xffff ? Number(number) : undefined;
}

/** `NXDOMAIN`, or `RCODE23`. */
export function rcodeName(rcode: number): string {
  return Object.entries(RCODE).find(([, number]) => number === rcode)?.[0] ?? `RCODE${rcode}`;
}
