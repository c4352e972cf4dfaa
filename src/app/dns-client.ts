/** Asks for names: the tunnel's own DNS as programs do, and any server for the addresses of a host. */
import { randomInt } from 'node:crypto';
import { decodeQuery, encodeQuery, rcodeOf } from '../dns/codec.ts';
import { LanUpstream } from '../dns/lan-upstream.ts';
import { type DnsName, nameFromText } from '../dns/name.ts';
import { RCODE, TYPE } from '../dns/numbers.ts';
import { presentResponse } from '../dns/present.ts';
import { DNS_PORT, type Upstream } from '../dns/upstream.ts';
import { ProxyVpnError } from '../errors.ts';
import { canonicalAddress } from '../ip.ts';

/** Of TEST-NET-1 (RFC 5737), where nobody is: whatever is asked there, the tunnel answers, or nobody. */
export const ANY_RESOLVER = '192.0.2.53';

/** The tunnel answers within a millisecond, but a server behind it may take its time. */
const QUERY_TIMEOUT_MS = 10_000;
const SELF_TEST_TIMEOUT_MS = 5000;
const SELF_TEST_ATTEMPT_MS = 1000;

/** @throws ProxyVpnError E_DNS_TIMEOUT, E_DNS_UPSTREAM */
export function ask(upstream: Upstream, name: DnsName, type: number): Promise<Buffer> {
  const message = encodeQuery(randomInt(0x10000), name, type);
  const decoded = decodeQuery(message);
  if (decoded.kind !== 'query') throw new Error('a query of our own cannot be read');
  return upstream.query(message, decoded.query.question);
}

/** By UDP, and by TCP where the answer is too long, through the tunnel. @throws as `ask` does */
export async function askTunnel(name: DnsName, type: number): Promise<Buffer> {
  const upstream = new LanUpstream({
    servers: [{ address: ANY_RESOLVER, port: DNS_PORT }],
    timeoutMs: QUERY_TIMEOUT_MS,
    attemptMs: QUERY_TIMEOUT_MS / 2,
  });
  try {
    return await ask(upstream, name, type);
  } finally {
    upstream.close();
  }
}

/** IPv4 first; none for a name that does not exist. @throws as `ask` does */
export async function addressesOf(upstream: Upstream, name: DnsName): Promise<readonly string[]> {
  const responses = await Promise.all([TYPE.A, TYPE.AAAA].map((type) => ask(upstream, name, type)));
  return responses
    .flatMap((response) => presentResponse(response)?.answers ?? [])
    .filter(({ type }) => type === 'A' || type === 'AAAA')
    .map(({ data }) => canonicalAddress(data))
    .filter((address) => address !== undefined);
}

/**
 * A query to some resolver, without a mark, as any program's: the tunnel must answer it.
 * @throws ProxyVpnError E_SELF_TEST
 */
export async function selfTestDns(): Promise<void> {
  const hint = 'another program may hold rules or filters that come before ours: see ip rule, nft list ruleset';
  const name = nameFromText('proxyvpn.invalid');
  if (name === undefined) throw new Error('not a name');
  const servers = [{ address: ANY_RESOLVER, port: DNS_PORT }];
  const upstream = new LanUpstream({ servers, timeoutMs: SELF_TEST_TIMEOUT_MS, attemptMs: SELF_TEST_ATTEMPT_MS });
  try {
    const rcode = rcodeOf(await ask(upstream, name, TYPE.A));
    if (rcode === RCODE.NXDOMAIN) return;
    throw new ProxyVpnError('E_SELF_TEST', `somebody else answered a DNS query (rcode ${rcode})`, { hint });
  } catch (cause) {
    if (!(cause instanceof ProxyVpnError) || cause.code === 'E_SELF_TEST') throw cause;
    throw new ProxyVpnError('E_SELF_TEST', 'a DNS query did not get into the tunnel', { hint, cause });
  } finally {
    upstream.close();
  }
}
