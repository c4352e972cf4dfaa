/** Asks the proxy what `up` and programs will ask of it. Changes nothing. */
import { ProxyVpnError } from '../../errors.ts';
import { endpointText } from '../../ip.ts';
import { native, type UpstreamAddress } from '../../native.ts';
import { connectAuthority, connectRequest, connectTemplate } from '../../proxy/connect.ts';
import type { UpstreamUrl } from '../../proxy/upstream-url.ts';
import type { Config } from '../config.ts';
import { errorDocument } from '../error-document.ts';
import { type Prober, preflight } from '../preflight.ts';
import { errorFrom, type Finding, ok, warning } from './finding.ts';
import { type Answer, answerOf, NUMBER, PORTS, ruleFindings } from './proxy-rules.ts';

/** Rules answer at once. */
const ANSWER_MS = 3000;

/** @param fwmark 0: without the capability a mark cannot be set */
export function prober(fwmark: number): Prober {
  return (upstream, request) => native().probe(upstream, { fwmark, request, timeoutMs: ANSWER_MS });
}

/** @param target host name or address to ask CONNECT for */
export async function proxyChecks(
  config: Config,
  addresses: readonly UpstreamAddress[],
  target: string,
  probe: Prober,
): Promise<readonly Finding[]> {
  let answered: UpstreamAddress | undefined;
  const warnings: Finding[] = [];
  try {
    const result = await preflight(config.upstream, addresses, probe);
    answered = result.answered;
    warnings.push(...result.warnings.map((text) => warning('proxy-answer', text)));
  } catch (failure) {
    if (failure instanceof ProxyVpnError) return [errorFrom(idOf(failure), errorDocument(failure))];
    throw failure;
  }
  if (answered === undefined) return warnings;
  const ask = asker(config.upstream, answered, probe);
  // Who needs no login should not be sent one: it travels in the clear.
  const asNobody = asker({ ...config.upstream, credentials: undefined }, answered, probe);
  const [withoutLogin, byNumber, ...byName] = await Promise.all([
    config.upstream.credentials === undefined ? undefined : asNobody(target, 443),
    ask(NUMBER, 443),
    ...PORTS.map(([port]) => ask(target, port)),
  ]);
  const reached = ok('proxy', `the proxy answers at ${endpointText(answered.address, answered.port)}`);
  return [reached, ...warnings, ...ruleFindings(config, { byName, byNumber, withoutLogin })];
}

function asker(upstream: UpstreamUrl, address: UpstreamAddress, probe: Prober) {
  return async (host: string, port: number): Promise<Answer> => {
    const request = connectRequest(connectTemplate(upstream), connectAuthority(host, port));
    return answerOf(host, port, await probe(address, request), upstream);
  };
}

function idOf({ code }: ProxyVpnError): string {
  return code === 'E_PROXY_AUTH' ? 'proxy-auth' : 'proxy';
}
