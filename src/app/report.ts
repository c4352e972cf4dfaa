/** What the CLI prints: text for people, JSON documents with stable keys for scripts (pure). */
import type { DnsMode } from '../dns/decision.ts';
import type { Counters } from '../tunstack/engine.ts';
import type { Config } from './config.ts';
import { type DnsFigures, NO_DNS_FIGURES } from './dns-figures.ts';
import { errorDocument } from './error-document.ts';
import type { TeardownReport } from './teardown.ts';

/** Something that went wrong for one flow or for the daemon, kept for `status`. */
export interface Incident {
  /** ISO 8601, UTC. */
  readonly at: string;
  readonly message: string;
}

export interface DnsStatus extends DnsFigures {
  readonly mode: DnsMode;
  /** Asked through the proxy; with `direct` those that may be asked directly. */
  readonly servers: readonly string[];
  /** Asked directly for names of the local network. */
  readonly localResolvers: readonly string[];
  /** Queries of this host are routed to us. */
  readonly caught: boolean;
}

/** `status --json`. Keys are only ever added. */
export interface StatusDocument {
  readonly name: string;
  /** `degraded`: something is left of a tunnel, or something of it is missing; `problems` tells. */
  readonly state: 'up' | 'down' | 'degraded';
  /** null: no daemon. */
  readonly pid: number | null;
  /** Without credentials; null when not known. */
  readonly proxy: string | null;
  /** Addresses behind the proxy's name. */
  readonly proxyAddresses: readonly string[];
  readonly tun: string | null;
  readonly queues: number;
  readonly killswitch: boolean;
  /** Which packet filter holds the rules; null: none. */
  readonly firewall: string | null;
  readonly dns: DnsStatus;
  readonly uptimeMs: number;
  readonly flows: Counters['flows'];
  readonly tcp: Counters['tcp'];
  readonly bytes: Counters['bytes'];
  readonly packets: Counters['packets'];
  readonly memory: { readonly limitBytes: number; readonly residentBytes: number };
  /** One sentence each; empty when all is well. */
  readonly problems: readonly string[];
  /** The latest refusals and failures, oldest first. */
  readonly lastErrors: readonly Incident[];
}

const NO_COUNTERS: Counters = {
  flows: {
    active: 0,
    pending: 0,
    opened: 0,
    refused: 0,
    failed: 0,
    reset: 0,
    overLimit: 0,
    givenUp: 0,
    unnamed: 0,
    predialled: 0,
  },
  tcp: { connections: 0, timers: 0 },
  bytes: { toUpstream: 0, toApp: 0, buffered: 0 },
  packets: { fromApp: 0, toApp: 0, malformed: 0, ignored: 0, tunWriteErrors: 0 },
  datagrams: { fromApp: 0, toApp: 0, dropped: 0, refused: 0 },
};

/** The document of a tunnel without a daemon. */
export function downDocument(name: string): StatusDocument {
  return {
    name,
    state: 'down',
    pid: null,
    proxy: null,
    proxyAddresses: [],
    tun: null,
    queues: 0,
    killswitch: false,
    firewall: null,
    dns: { mode: 'direct', servers: [], localResolvers: [], caught: false, ...NO_DNS_FIGURES },
    uptimeMs: 0,
    ...NO_COUNTERS,
    memory: { limitBytes: 0, residentBytes: 0 },
    problems: [],
    lastErrors: [],
  };
}

const UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'] as const;

/** `0 bytes`, `1.5 KiB`, `20 MiB`. */
export function bytesText(bytes: number): string {
  if (bytes === 1) return '1 byte';
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit > 0 && value < 10 ? value.toFixed(1) : String(Math.round(value));
  return `${digits} ${UNITS[unit]}`;
}

/** The two largest units: `3 d 4 h`, `5 min 2 s`, `0 s`. */
export function durationText(milliseconds: number): string {
  const seconds = Math.floor(milliseconds / 1000);
  const parts: readonly (readonly [number, string])[] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'min'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return '0 s';
  const shown = parts.slice(first, first + 2).filter(([count]) => count > 0);
  return shown.map(([count, unit]) => `${count} ${unit}`).join(' ');
}

function listText(items: readonly string[]): string {
  return items.length === 0 ? 'none' : items.join(', ');
}

function row(label: string, text: string): string {
  return `  ${label.padEnd(11)} ${text}`;
}

/** For people; no trailing newline. */
export function statusText(status: StatusDocument): string {
  const { name, state, flows, bytes, memory } = status;
  const lines = [
    state === 'up' ? `${name}: up for ${durationText(status.uptimeMs)} (process ${status.pid})` : `${name}: ${state}`,
  ];
  lines.push(...status.problems.map((problem) => row('problem', problem)));
  if (status.proxy !== null) {
    const isName =
      status.proxyAddresses.length > 0 && !status.proxyAddresses.some((address) => status.proxy?.includes(address));
    lines.push(row('proxy', `${status.proxy}${isName ? ` (${listText(status.proxyAddresses)})` : ''}`));
  }
  if (status.tun !== null)
    lines.push(row('device', `${status.tun}, ${status.queues} queue${status.queues === 1 ? '' : 's'}`));
  if (state === 'down' && !status.killswitch) return lines.join('\n');
  lines.push(
    row('killswitch', `${status.killswitch ? 'on' : 'off'}${status.firewall === null ? '' : ` (${status.firewall})`}`),
  );
  if (status.pid === null || status.tun === null) return lines.join('\n');
  lines.push(
    row('dns', dnsText(status.dns)),
    row('flows', `${flows.active} active, ${flows.opened} opened, ${flows.refused} refused, ${flows.failed} failed`),
    row('bytes', `${bytesText(bytes.toUpstream)} to upstream, ${bytesText(bytes.toApp)} to app`),
    row(
      'memory',
      `${bytesText(bytes.buffered)} of ${bytesText(memory.limitBytes)} buffered, ${bytesText(memory.residentBytes)} resident`,
    ),
    ...status.lastErrors.map(({ at, message }) => row('error', `${at} ${message}`)),
  );
  return lines.join('\n');
}

function dnsText({ mode, servers, localResolvers, names, mostNames, queries, failed }: DnsStatus): string {
  if (mode === 'direct') return `direct to ${listText(servers)}`;
  const parts = [
    servers.length > 0 ? `${mode}, ${listText(servers)}` : mode,
    ...(mode === 'virtual' ? [`${names} of ${mostNames} names`] : []),
    `${queries} queries`,
    `${failed} failed`,
    ...(localResolvers.length > 0 ? [`local names by ${listText(localResolvers)}`] : []),
  ];
  return parts.join(', ');
}

/** What `up` says when it returns. */
export function upText(status: StatusDocument, config: Pick<Config, 'routes'>): string {
  const what = config.routes ? 'TCP goes' : `TCP that you route into ${status.tun} goes`;
  return `${status.name}: up; ${what} through ${status.proxy} (device ${status.tun}, killswitch ${status.killswitch ? 'on' : 'off'})`;
}

/** `down --json`. */
export interface DownDocument {
  readonly name: string;
  readonly undone: readonly string[];
  /** Changed by somebody else since, and left alone. */
  readonly leftAlone: readonly string[];
  readonly failed: readonly string[];
}

export function downReport(name: string, report: TeardownReport): DownDocument {
  return {
    name,
    undone: report.undone,
    leftAlone: report.foreign,
    failed: report.failed.map(({ what, error }) => {
      const { code, message } = errorDocument(error);
      return `${what}: ${code}: ${message}`;
    }),
  };
}

/** For people; no trailing newline. @param isVerbose also what was undone, line by line */
export function downText(document: DownDocument, isVerbose: boolean): string {
  const { name, undone, leftAlone, failed } = document;
  const lines = [failed.length === 0 ? `${name}: down` : `${name}: not all could be undone`];
  if (isVerbose) lines.push(...undone.map((line) => row('undone', line)));
  lines.push(...leftAlone.map((line) => row('left alone', line)), ...failed.map((line) => row('failed', line)));
  return lines.join('\n');
}
