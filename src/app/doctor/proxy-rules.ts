/** What a proxy lets through: judged from its answers to CONNECT (pure). */

import type { ProbeResult } from '../../native.ts';
import { connectAuthority, isAccepted, parseReplyHead } from '../../proxy/connect.ts';
import { explainRefusal } from '../../proxy/refusal.ts';
import type { UpstreamUrl } from '../../proxy/upstream-url.ts';
import type { Config } from '../config.ts';
import { error, type Finding, note, ok, warning } from './finding.ts';

/** The ports that matter most, by what they are for. */
export const PORTS = [
  [443, 'https'],
  [80, 'http'],
  [22, 'ssh'],
  [53, 'dns'],
  [853, 'dns over TLS'],
] as const;

/** RFC 5737: nobody is there, so only the proxy's rules decide what it says at once. */
export const NUMBER = '192.0.2.1';

/** `open`: connected; `allowed`: the proxy tried, but did not get there; `refused`: by its rules. */
export type Allowance = 'open' | 'allowed' | 'refused' | 'auth' | 'unknown';

export interface Answer {
  readonly host: string;
  readonly port: number;
  readonly allowance: Allowance;
  /** Status, or how there was none. */
  readonly how: string;
  /** In words; '' when there is nothing to explain. */
  readonly explained: string;
}

/** RFC 9110: what a proxy says that has tried, and failed. */
const TRIED: readonly number[] = [408, 500, 502, 503, 504];

export function answerOf(host: string, port: number, result: ProbeResult, upstream: UpstreamUrl): Answer {
  const base = { host, port, explained: '' };
  if (!result.connected) return { ...base, allowance: 'unknown', how: result.code };
  const parsed = parseReplyHead(result.reply);
  // Rules answer at once; who is silent is on the way to a host that does not answer.
  if (result.reply.length === 0 && result.code === 'ETIMEDOUT')
    return { ...base, allowance: 'allowed', how: 'no answer yet' };
  if (parsed.kind !== 'head') return { ...base, allowance: 'unknown', how: result.code || 'closed without an answer' };
  const how = String(parsed.status);
  if (isAccepted(parsed)) return { ...base, allowance: 'open', how };
  const explained = explainRefusal(result.reply, connectAuthority(host, port), upstream.credentials);
  const allowance = [401, 407].includes(parsed.status) ? 'auth' : TRIED.includes(parsed.status) ? 'allowed' : 'refused';
  return { ...base, allowance, how, explained };
}

export interface Answers {
  /** Port by port. */
  readonly byName: readonly Answer[];
  readonly byNumber: Answer;
  /** To a question without the credentials; undefined: there are none. */
  readonly withoutLogin: Answer | undefined;
}

export function ruleFindings(
  config: Pick<Config, 'dns'>,
  { byName, byNumber, withoutLogin }: Answers,
): readonly Finding[] {
  const all = [...byName, byNumber];
  const locked = all.find(({ allowance }) => allowance === 'auth');
  if (locked) {
    const mend = 'give user and password: --proxy-file, PROXYVPN_PROXY, or http://USER:PASSWORD@HOST:PORT';
    return [error('proxy-auth', 'the proxy wants authentication', locked.explained, mend)];
  }
  if (all.every(({ allowance }) => allowance === 'refused')) {
    const mend = 'ask who runs the proxy what it is for; try another --target';
    return [error('proxy-rules', 'the proxy refuses all that it was asked', byName[0]?.explained ?? null, mend)];
  }
  const login = withoutLogin === undefined ? [] : [loginFinding(withoutLogin)];
  return [...login, portFinding(byName), numberFinding(config, byName, byNumber)];
}

function loginFinding({ allowance }: Answer): Finding {
  if (allowance === 'auth') return ok('proxy-auth', 'the proxy wants credentials, and takes these');
  const why = 'they are sent all the same, and readable on the way to the proxy';
  return note('proxy-auth', 'the proxy takes the credentials, but seems to need none', why);
}

function portFinding(answers: readonly Answer[]): Finding {
  const text = answers.map(({ port, allowance, how }) => `${port} ${allowance} (${how})`).join(', ');
  const what = `CONNECT to ${answers[0]?.host}: ${text}`;
  const refused = answers.filter(({ allowance }) => allowance === 'refused');
  const isUsable = answers.some(({ allowance }) => allowance === 'open' || allowance === 'allowed');
  if (!isUsable) return warning('proxy-ports', what, answers[0]?.explained || null, 'try another --target');
  if (refused.length === 0) return ok('proxy-ports', what);
  const ssh = refused.some(({ port }) => port === 22) ? '; GitHub by ssh: ssh.github.com, port 443' : '';
  const why = 'connections to other ports are refused at once (ECONNREFUSED)';
  return note('proxy-ports', what, `${why}${ssh}`);
}

function numberFinding(config: Pick<Config, 'dns'>, byName: readonly Answer[], byNumber: Answer): Finding {
  const takesNames = byName.some(({ allowance }) => allowance === 'open' || allowance === 'allowed');
  if (byNumber.allowance !== 'refused') {
    const also = takesNames ? 'by name and by address' : 'by address';
    return ok('proxy-addresses', `the proxy takes CONNECT ${also} (${NUMBER}: ${byNumber.how})`);
  }
  const what = `the proxy refuses CONNECT by address (${NUMBER}: ${byNumber.how})`;
  if (!takesNames) return note('proxy-addresses', what, byNumber.explained);
  if (config.dns.mode === 'virtual')
    return note('proxy-addresses', what, 'it is asked by name (--dns virtual), which it takes');
  const mend = 'give --dns virtual, by which the proxy is asked by name';
  return warning('proxy-addresses', what, `--dns ${config.dns.mode} asks by address`, mend);
}
