/** What an earlier run left, and what the host's settings mean for `up`. Changes nothing. */
import fs from 'node:fs';
import path from 'node:path';
import { isSystemCallFailure, ProxyVpnError } from '../../errors.ts';
import type { StateDirectory } from '../../state/directory.ts';
import { lockOwner } from '../../state/lock.ts';
import type { Config } from '../config.ts';
import { errorDocument } from '../error-document.ts';
import { parseResolvConf, remoteServers } from '../resolver.ts';
import type { Snapshot } from '../snapshot.ts';
import { readStatus } from '../status.ts';
import { error, errorFrom, type Finding, note, ok, warning } from './finding.ts';

/** Whether a state directory could be made and written to, without making it. */
export function stateCheck(directory: StateDirectory, uid: number = process.geteuid?.() ?? 0): Finding {
  const mend = 'set PROXYVPN_STATE_DIR to a directory that only you can write to';
  try {
    for (const part of [directory.path, directory.root.path]) {
      const stat = fs.lstatSync(part, { throwIfNoEntry: false });
      if (stat === undefined) continue;
      if (!stat.isDirectory()) return error('state', `${part} is not a directory`, null, mend);
      if (stat.uid !== uid) return error('state', `${part} belongs to uid ${stat.uid}, not to ${uid}`, null, mend);
      if (stat.mode & 0o022) return error('state', `${part} is writable by others`, null, `chmod go-w ${part}`);
    }
    fs.accessSync(nearest(directory.path), fs.constants.W_OK | fs.constants.X_OK);
  } catch (failure) {
    if (!isSystemCallFailure(failure)) throw failure;
    return error('state', `no state can be kept in ${directory.path}: ${failure.code}`, null, mend);
  }
  return ok('state', directory.path);
}

function nearest(file: string): string {
  return fs.existsSync(file) || file === '/' ? file : nearest(path.dirname(file));
}

/** A daemon that runs, or what one that died left. */
export async function leftoverCheck(directory: StateDirectory): Promise<Finding> {
  const owner = lockOwner(directory.lockFile);
  if (owner !== undefined) {
    const why = 'up would end with exit code 4: one tunnel of a name at a time';
    const mend = 'proxyvpn down, or another --name; whether it leaks: proxyvpn leaktest';
    return error('running', `${directory.name} is up already (process ${owner.pid})`, why, mend);
  }
  try {
    const { state, problems, killswitch } = await readStatus(directory);
    if (state === 'down' && killswitch)
      return note('leftovers', 'the killswitch is on', 'up takes it over, down returns to it');
    if (state === 'down') return ok('leftovers', 'nothing is left of an earlier run');
    const why = killswitch ? 'its killswitch still blocks; up takes it over' : 'up takes it back first';
    return warning('leftovers', problems[0] ?? 'something is left of an earlier run', why, 'proxyvpn down, or up');
  } catch (failure) {
    if (failure instanceof ProxyVpnError) return errorFrom('leftovers', errorDocument(failure));
    throw failure;
  }
}

/** What a snapshot says about this host. */
export function snapshotChecks(config: Config, snapshot: Snapshot): readonly Finding[] {
  return [pathFilterCheck(snapshot), ipv6Check(config, snapshot), ...localProxyCheck(config, snapshot)];
}

function pathFilterCheck({ isPathFilterStrict, isSysctlReadOnly }: Snapshot): Finding {
  if (isPathFilterStrict && isSysctlReadOnly) {
    const why = '/proc/sys is read-only here, as in containers, and answers from the tunnel would be dropped';
    const mend = 'from outside: sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.default.rp_filter=2';
    return error('rp-filter', 'strict reverse-path filtering cannot be loosened', why, mend);
  }
  if (isPathFilterStrict)
    return note('rp-filter', 'reverse-path filtering is strict', 'up loosens it for the tunnel alone');
  const readOnly = isSysctlReadOnly ? '; /proc/sys is read-only' : '';
  return ok('rp-filter', `reverse-path filtering is not strict${readOnly}`);
}

function ipv6Check(config: Config, { ipv6, isSysctlReadOnly }: Snapshot): Finding {
  if (!config.ipv6) return note('ipv6', 'IPv6 TCP will be refused (--ipv6 off)');
  if (ipv6 === 'absent') return note('ipv6', 'this host has no IPv6', 'programs that ask for it are told so at once');
  if (ipv6 === 'on') return ok('ipv6', 'IPv6 is on, and will be carried');
  const why = 'up switches it on for the tunnel alone';
  if (!isSysctlReadOnly) return note('ipv6', 'IPv6 is off for new devices', why);
  const mend = 'proxyvpn up --ipv6 off; or net.ipv6.conf.default.disable_ipv6=0 from outside';
  return error('ipv6', 'IPv6 is off for new devices, and /proc/sys is read-only', null, mend);
}

function localProxyCheck({ bypassUsers }: Config, { proxies }: Snapshot): readonly Finding[] {
  const isLocal = proxies.some(({ address }) => address === '::1' || address.startsWith('127.'));
  if (!isLocal || bypassUsers.length > 0) return [];
  const why = 'its own connections would come back into the tunnel';
  return [warning('local-proxy', 'the proxy runs on this host', why, 'give --bypass-user with the user it runs as')];
}

/** @param read text of a file, or undefined */
export function resolverCheck(config: Pick<Config, 'dns' | 'killswitch'>, read = readText): Finding {
  const text = read('/etc/resolv.conf');
  const servers = parseResolvConf(text ?? '');
  const remote = remoteServers(text ?? '');
  const behind = remoteServers(read('/run/systemd/resolve/resolv.conf') ?? '');
  const names = `resolv.conf: ${servers.join(', ') || 'empty'}`;
  if (config.dns.mode !== 'direct') return catchingResolverCheck(servers, remote, names);
  if (servers.length === 0) {
    const mend = 'name a server in /etc/resolv.conf, or leave names to the proxy: --dns virtual';
    return warning('resolver', `${names}: no name can be resolved`, null, mend);
  }
  if (remote.length > 0) return ok('resolver', names);
  if (behind.length > 0) return ok('resolver', `${names}, which asks ${behind.join(', ')}`);
  if (!config.killswitch) return note('resolver', `${names}: a stub, whose own servers are not known`);
  const why = 'with the killswitch it reaches no server';
  return warning('resolver', `${names}: a stub, whose own servers are not known`, why, 'name them: --allow-dns IP');
}

/** DNS is caught on its way; only what never leaves the host is not. */
function catchingResolverCheck(servers: readonly string[], remote: readonly string[], names: string): Finding {
  if (servers.length === 0) {
    const why = 'libc then asks 127.0.0.1, which never meets the tunnel';
    return warning('resolver', names, why, 'name any server in /etc/resolv.conf, as: nameserver 192.0.2.53');
  }
  if (remote.length > 0) return ok('resolver', `${names}; the tunnel answers in its place`);
  return note(
    'resolver',
    `${names}: a stub on this host`,
    'the tunnel answers what the stub asks, not what it has cached',
  );
}

function readText(file: string): string | undefined {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}

/** The table of connections is finite, and the host's. */
export function conntrackCheck(read = readText): Finding {
  const value = (name: string): number | undefined => {
    const text = read(`/proc/sys/net/netfilter/nf_conntrack_${name}`);
    return text === undefined ? undefined : Number(text);
  };
  const [count, max] = [value('count'), value('max')];
  if (max === undefined || count === undefined)
    return note(
      'conntrack',
      'connection tracking is not loaded',
      'up loads it: answers to connections from outside need it',
    );
  const text = `connection tracking: ${count} of ${max} entries`;
  if (count < max * 0.9) return ok('conntrack', text);
  const mend = `sysctl -w net.netfilter.nf_conntrack_max=${max * 4}`;
  return warning('conntrack', text, 'when it is full, the kernel drops new connections', mend);
}
