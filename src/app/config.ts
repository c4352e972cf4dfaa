/** Flags, environment and files to one Config (pure: what is read comes in as functions). */
import { EXIT, isSystemCallFailure, ProxyVpnError } from '../errors.ts';
import { parseUpstream, type UpstreamUrl } from '../proxy/upstream-url.ts';
import type { Environment } from '../state/directory.ts';
import type { UpOptions } from './cli.ts';
import { type InboundPorts, usageError } from './option-values.ts';

/**
 * All that `up` was asked for; what the host is like is another matter. Plain data but for
 * `upstream.credentials`, which no printer shows.
 */
export interface Config extends Omit<UpOptions, 'proxy' | 'proxyFile' | 'bypassUser' | 'allowInbound' | 'queues'> {
  readonly upstream: UpstreamUrl;
  /** uids. */
  readonly bypassUsers: readonly number[];
  readonly allowInbound: InboundPorts;
  readonly queues: number;
}

/** More threads than this share the memory bus, not the work. */
const MOST_QUEUES_UNASKED = 4;

/** The outside world, as far as a Config depends on it. */
export interface ConfigSources {
  readonly environment: Environment;
  /** @throws SystemCallFailure */
  readonly readTextFile: (path: string) => string;
  /** undefined when there is no such user. */
  readonly uidOf: (user: string) => number | undefined;
  /** How many this process may run on. */
  readonly processors: number;
}

/**
 * The proxy is that of `--proxy` or `--proxy-file`, else of PROXYVPN_PROXY: what is typed beats what is inherited.
 * @throws ProxyVpnError E_USAGE without a proxy or with an unknown user, E_PROXY_URL, E_PROXY_SCHEME, E_PROXY_FILE
 */
export function configOf(options: UpOptions, sources: ConfigSources): Config {
  const { proxy, proxyFile, bypassUser, allowInbound, queues, ...plain } = options;
  return {
    ...plain,
    upstream: proxy ?? proxyFromFile(proxyFile, sources) ?? proxyFromEnvironment(sources.environment),
    bypassUsers: [...new Set(bypassUser.map((user) => uidOrFail(user, sources)))],
    queues: queues ?? Math.min(sources.processors, MOST_QUEUES_UNASKED),
    allowInbound: allowInbound ?? { ports: [], sshPeer: true },
  };
}

/** Above any URL that parseUpstream takes, with room for comments. */
const LONGEST_PROXY_FILE = 64 * 1024;

function proxyFromFile(file: string | undefined, sources: ConfigSources): UpstreamUrl | undefined {
  if (file === undefined) return undefined;
  let text: string;
  try {
    text = sources.readTextFile(file);
  } catch (cause) {
    if (!isSystemCallFailure(cause)) throw cause;
    const hint = 'give a file, readable for you, that holds the proxy URL';
    throw new ProxyVpnError('E_PROXY_FILE', `cannot read ${file}: ${cause.code}`, {
      hint,
      cause,
      exitCode: EXIT.usage,
    });
  }
  const lines = text.length > LONGEST_PROXY_FILE ? [] : text.split('\n').map((line) => line.trim());
  const [url, ...more] = lines.filter((line) => line !== '' && !line.startsWith('#'));
  if (url === undefined || more.length > 0) {
    const hint = 'write the URL alone on a line; lines that begin with # are comments';
    throw new ProxyVpnError('E_PROXY_FILE', `${file} does not hold one proxy URL`, { hint, exitCode: EXIT.usage });
  }
  return parseFrom(file, url);
}

function proxyFromEnvironment(environment: Environment): UpstreamUrl {
  const text = environment['PROXYVPN_PROXY'];
  if (text !== undefined && text !== '') return parseFrom('PROXYVPN_PROXY', text);
  const other = ['https_proxy', 'HTTPS_PROXY', 'http_proxy'].find((name) => environment[name]);
  const hint = other === undefined ? 'give --proxy HOST:PORT' : `${other} is set: give --proxy "$${other}"`;
  throw usageError('no proxy is given', hint);
}

/** Says where the text stands that cannot be read. */
function parseFrom(source: string, text: string): UpstreamUrl {
  try {
    return parseUpstream(text);
  } catch (error) {
    if (!(error instanceof ProxyVpnError)) throw error;
    const { code, message, hint = '', exitCode } = error;
    throw new ProxyVpnError(code, `${source}: ${message}`, { hint, exitCode });
  }
}

function uidOrFail(user: string, sources: ConfigSources): number {
  const uid = /^\d+$/.test(user) ? Number(user) : sources.uidOf(user);
  if (uid === undefined)
    throw usageError(`--bypass-user: there is no user ${user}`, 'see: getent passwd; or give a uid');
  return uid;
}
