/** Reads what of the host the plan depends on. Changes nothing. */
import fs from 'node:fs';
import type { Connection } from '../firewall/policy.ts';
import { ROUTE_PROTOCOL, SLOTS, schemeFor } from '../mark/scheme.ts';
import type { UpstreamAddress } from '../native.ts';
import { connections } from '../netlink/diag.ts';
import { addresses, links, rules } from '../netlink/read.ts';
import type { NetlinkRequest } from '../netlink/socket.ts';
import { isListeningOnLoopback, systemNameServers } from './resolver.ts';
import { connectionKey } from './ssh-session.ts';
import { readSysctl, sysctlKey } from './sysctl.ts';

export interface Snapshot {
  /** Effective uid of the process that will own the upstream sockets. */
  readonly uid: number;
  readonly slot: number;
  readonly proxies: readonly UpstreamAddress[];
  /** `off-by-default`: some device has it, but a new one would not. */
  readonly ipv6: 'on' | 'off-by-default' | 'absent';
  /** Strict reverse-path filtering (1) is in force, on all devices or on some. */
  readonly isPathFilterStrict: boolean;
  /** /proc/sys is mounted read-only, as in most containers. */
  readonly isSysctlReadOnly: boolean;
  readonly nameServers: readonly string[];
  /** Text of /etc/resolv.conf; empty when there is none. */
  readonly resolvConf: string;
  /** Somebody takes queries on port 53 of this host: a stub resolver. */
  readonly isStubListening: boolean;
  /** TCP connections to and from other hosts that are not over. */
  readonly connections: readonly Connection[];
  /** Tables of other tunnels (`--name`) that all TCP of this host is sent to. */
  readonly otherTables: readonly number[];
  /** The SSH connection in which `up` was typed, if it is really there. */
  readonly sshSession: Connection | undefined;
}

export interface SnapshotInputs {
  readonly slot: number;
  readonly proxies: readonly UpstreamAddress[];
  /** From the environment, not yet checked against the kernel. */
  readonly claimedSession: Connection | undefined;
}

/** @throws NetlinkError, ProxyVpnError E_SYSCTL */
export async function takeSnapshot(request: NetlinkRequest, inputs: SnapshotInputs): Promise<Snapshot> {
  const all = connections(request).filter((connection) => !isLocal(connection));
  const { claimedSession } = inputs;
  const isThere = claimedSession && all.some((one) => connectionKey(one) === connectionKey(claimedSession));
  return {
    uid: process.geteuid?.() ?? 0,
    slot: inputs.slot,
    proxies: inputs.proxies,
    ipv6: await ipv6State(request),
    isPathFilterStrict: await isPathFilterStrict(),
    isSysctlReadOnly: isReadOnly('/proc/sys/net', fs.readFileSync('/proc/self/mountinfo', 'utf8')),
    nameServers: await systemNameServers(),
    resolvConf: readOrEmpty('/etc/resolv.conf'),
    isStubListening: ['/proc/net/udp', '/proc/net/udp6'].some((file) => isListeningOnLoopback(readOrEmpty(file))),
    connections: all,
    otherTables: otherTables(request, inputs.slot),
    sshSession: isThere ? claimedSession : undefined,
  };
}

function readOrEmpty(file: string): string {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch {
    // A host without resolv.conf or IPv6.
    return '';
  }
}

function otherTables(request: NetlinkRequest, slot: number): readonly number[] {
  const tables = Array.from({ length: SLOTS }, (_, other) => schemeFor('', other).table);
  const found = rules(request, 4).filter(
    ({ protocol, action, table }) => protocol === ROUTE_PROTOCOL && action === 'lookup' && tables.includes(table),
  );
  return found.map(({ table }) => table).filter((table) => table !== schemeFor('', slot).table);
}

async function isPathFilterStrict(): Promise<boolean> {
  const devices = fs.readdirSync('/proc/sys/net/ipv4/conf');
  const values = await Promise.all(
    devices.map((device) => readSysctl(sysctlKey('net', 'ipv4', 'conf', device, 'rp_filter'))),
  );
  return values.includes('1');
}

/** Whether the mount that a path lies on is read-only (pure). @param mountinfo text of /proc/PID/mountinfo, proc(5) */
export function isReadOnly(file: string, mountinfo: string): boolean {
  let [longest, isFound] = ['', false];
  for (const line of mountinfo.split('\n')) {
    const [, , , , point = '', options = ''] = line.split(' ');
    const isAbove = point !== '' && `${file}/`.startsWith(point === '/' ? point : `${point}/`);
    // Of two on the same point the later one is on top.
    if (isAbove && point.length >= longest.length) [longest, isFound] = [point, options.split(',').includes('ro')];
  }
  return isFound;
}

function isLocal({ localAddress, remoteAddress }: Connection): boolean {
  const isLoopback = (address: string): boolean => address === '::1' || address.startsWith('127.');
  return isLoopback(localAddress) || isLoopback(remoteAddress) || localAddress === remoteAddress;
}

/** The kernel without IPv6 has no if_inet6; a host that switched it off everywhere has no address and a default of 1. */
async function ipv6State(request: NetlinkRequest): Promise<Snapshot['ipv6']> {
  if (!fs.existsSync('/proc/net/if_inet6')) return 'absent';
  const isOffByDefault = (await readSysctl('net.ipv6.conf.default.disable_ipv6')) !== '0';
  if (!isOffByDefault) return 'on';
  const loopback = new Set(links(request).flatMap((link) => (link.isLoopback ? [link.index] : [])));
  const isUsed = addresses(request).some(({ family, index }) => family === 6 && !loopback.has(index));
  return isUsed ? 'off-by-default' : 'absent';
}
