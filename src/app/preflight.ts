/** Asks the proxy one harmless thing before (or right after) anything changes: is it there, is it one, does it let us in. */
import { EXIT, ProxyVpnError } from '../errors.ts';
import { endpointText } from '../ip.ts';
import { native, type ProbeResult, type UpstreamAddress } from '../native.ts';
import { connectAuthority, connectRequest, connectTemplate, parseReplyHead } from '../proxy/connect.ts';
import { explainRefusal } from '../proxy/refusal.ts';
import type { UpstreamUrl } from '../proxy/upstream-url.ts';

/** The port that proxies allow if they allow any; the target is the proxy itself, so nobody else is bothered. */
const PROBE_PORT = 443;
const PROBE_TIMEOUT_MS = 5000;
/** What web servers say to CONNECT: bad request, not found, method not allowed, not implemented. */
const ODD_STATUSES: readonly number[] = [400, 404, 405, 501];

export type Prober = (upstream: UpstreamAddress, request: string) => Promise<ProbeResult>;

/** A prober whose sockets carry the mark, so that they pass rules and killswitch as the engine's do. */
export function markedProber(fwmark: number): Prober {
  return (upstream, request) => native().probe(upstream, { fwmark, request, timeoutMs: PROBE_TIMEOUT_MS });
}

export interface PreflightResult {
  /** The address that answered first. */
  readonly answered: UpstreamAddress | undefined;
  /** For the reader; none of them ends `up`. */
  readonly warnings: readonly string[];
}

/** What a result means for `up`: good, not reached (try the next address), or an error that ends it (pure). */
export function judgeProbe(
  result: ProbeResult,
  address: UpstreamAddress,
  upstream: UpstreamUrl,
): { readonly kind: 'good' | 'unreachable' | 'silent' } | { readonly kind: 'doubtful'; readonly status: number } {
  const endpoint = endpointText(address.address, address.port);
  if (!result.connected) return { kind: 'unreachable' };
  const parsed = parseReplyHead(result.reply);
  // tinyproxy answers wrong credentials with 401.
  if (parsed.kind === 'head' && (parsed.status === 407 || parsed.status === 401)) {
    const why = explainRefusal(result.reply, connectAuthority(address.address, PROBE_PORT), upstream.credentials);
    throw new ProxyVpnError('E_PROXY_AUTH', `the proxy ${endpoint} wants authentication: ${why}`, {
      hint: 'give user and password: --proxy-file, PROXYVPN_PROXY, or http://USER:PASSWORD@HOST:PORT',
    });
  }
  if (parsed.kind === 'head' && ODD_STATUSES.includes(parsed.status))
    return { kind: 'doubtful', status: parsed.status };
  if (parsed.kind === 'head') return { kind: 'good' };
  if (parsed.kind === 'malformed') {
    throw new ProxyVpnError('E_NOT_A_PROXY', `${endpoint} is not an HTTP proxy: ${parsed.why}`, {
      hint: 'check host and port of the proxy',
    });
  }
  // Some proxies drop a CONNECT to themselves without a word; only traffic can tell more.
  return { kind: 'silent' };
}

/**
 * Tries the addresses in order until one speaks HTTP.
 * @throws ProxyVpnError E_PROXY_UNREACHABLE when none accepts a connection, E_PROXY_AUTH, E_NOT_A_PROXY
 */
export async function preflight(
  upstream: UpstreamUrl,
  addresses: readonly UpstreamAddress[],
  probe: Prober,
): Promise<PreflightResult> {
  const failures: string[] = [];
  for (const address of addresses) {
    const endpoint = endpointText(address.address, address.port);
    const request = connectRequest(connectTemplate(upstream), connectAuthority(address.address, PROBE_PORT));
    const result = await probe(address, request);
    const verdict = judgeProbe(result, address, upstream);
    if (verdict.kind === 'good') return { answered: address, warnings: [] };
    if (verdict.kind === 'doubtful') {
      const text = `${endpoint} answers CONNECT with ${verdict.status}, as a web server does; is it a proxy? Going on`;
      return { answered: address, warnings: [text] };
    }
    if (verdict.kind === 'silent') {
      const how = result.errno === 0 ? 'closed the connection without an answer' : `gave no answer (${result.code})`;
      return { answered: address, warnings: [`the proxy ${endpoint} ${how} to a CONNECT to itself; going on`] };
    }
    failures.push(`${endpoint}: ${result.code}`);
  }
  throw new ProxyVpnError('E_PROXY_UNREACHABLE', `cannot connect to the proxy: ${failures.join(', ')}`, {
    hint: 'check that the proxy runs and that its port is reachable from here',
    exitCode: EXIT.failed,
  });
}
