/** The command `killswitch`: a packet filter that blocks without a tunnel, and between tunnels. */
import fs from 'node:fs';
import { EXIT, type ExitCode, ProxyVpnError } from '../errors.ts';
import type { FirewallPolicy } from '../firewall/policy.ts';
import { schemeFor } from '../mark/scheme.ts';
import { parseUpstream, type UpstreamUrl } from '../proxy/upstream-url.ts';
import {
  createStateDirectory,
  removeStateDirectory,
  type StateDirectory,
  stateDirectory,
  stateRoot,
} from '../state/directory.ts';
import type { Journal } from '../state/journal.ts';
import { acquireLockSoon, lockOwner } from '../state/lock.ts';
import { applyOps } from './apply.ts';
import { hasNetAdmin, requireNetAdmin } from './capability.ts';
import type { KillswitchOptions } from './cli-config.ts';
import { type Config, configOf } from './config.ts';
import { hostSources } from './config-sources.ts';
import { failIfLeft, undoByJournal } from './down.ts';
import { runElsewhere } from './elsewhere.ts';
import { errorDocument } from './error-document.ts';
import { type Host, openHost } from './host.ts';
import { rememberProxy } from './known-proxy.ts';
import { type Op, planUp } from './plan.ts';
import { resolveProxy } from './resolver.ts';
import { claimSlot, releaseSlot } from './slot.ts';
import type { Snapshot } from './snapshot.ts';
import { findSshSession } from './ssh-session.ts';
import { isFirewallOp, pendingOf, refuseOthersFilter, standingEntry, takeOver } from './standing.ts';
import { tearDown } from './teardown.ts';
import type { Terminal } from './terminal.ts';

/** `killswitch status --json`. Keys are only ever added. */
export interface KillswitchDocument {
  readonly name: string;
  /** `degraded`: it is on, but the filter is not as it should be; or a tunnel that crashed left its own. */
  readonly state: 'on' | 'off' | 'degraded';
  /** The tunnel's process, while one is up. */
  readonly pid: number | null;
  /** One sentence each. */
  readonly problems: readonly string[];
}

/** @returns 0 done, or on; 1 degraded; 4 off. @throws ProxyVpnError E_TUNNEL_UP (exit code 4), and others of the filter */
export async function runKillswitch(options: KillswitchOptions, terminal: Terminal): Promise<ExitCode> {
  const directory = stateDirectory(options.name, stateRoot());
  const words = ['killswitch', options.action, '--name', options.name, ...(options.json ? ['--json'] : [])];
  const elsewhere = options.action === 'on' ? undefined : runElsewhere(directory, words);
  if (elsewhere !== undefined) return elsewhere;
  switch (options.action) {
    case 'on':
      await switchOn(directory, options, (text) => terminal.warn(text));
      return say(await killswitchStatus(directory), terminal, EXIT.ok);
    case 'off':
      await switchOff(directory, options.name, terminal);
      return say(await killswitchStatus(directory), terminal, EXIT.ok);
    case 'status': {
      const document = await killswitchStatus(directory);
      return say(document, terminal, { on: EXIT.ok, degraded: EXIT.failed, off: EXIT.wrongState }[document.state]);
    }
  }
}

function say(document: KillswitchDocument, terminal: Terminal, exitCode: ExitCode): ExitCode {
  terminal.print(document, killswitchText(document));
  return exitCode;
}

/** For people; no trailing newline. */
export function killswitchText({ name, state, pid, problems }: KillswitchDocument): string {
  const tunnel = pid === null ? '' : `, and a tunnel is up (process ${pid})`;
  const what = {
    on: pid === null ? 'on: nothing gets out but what is permitted, until a tunnel is up' : `on${tunnel}`,
    off: `off${tunnel}`,
    degraded: 'not as it should be',
  }[state];
  return [`${name}: the killswitch is ${what}`, ...problems.map((problem) => `  problem     ${problem}`)].join('\n');
}

/** What the filter permits is what `up --killswitch` would permit; no tunnel, so no proxy. */
function killswitchConfig({ name, up }: KillswitchOptions): Config {
  if (up === undefined) throw new Error('killswitch on without options');
  const noProxy = { proxy: parseUpstream('proxy.invalid:1'), proxyFile: undefined };
  return configOf({ ...up, ...noProxy, name, killswitch: true, routes: false }, hostSources());
}

/** The policy of `killswitch on` (pure). */
export function standingPolicy(config: Config, snapshot: Snapshot): FirewallPolicy {
  // Without a tunnel nobody answers for names, and nobody's sockets need a proxy.
  const { names: _, ...policy } = planUp({ ...config, killswitch: true, routes: false }, snapshot).policy;
  return { ...policy, proxies: [] };
}

/** @throws ProxyVpnError E_TUNNEL_UP */
function refuseBesideTunnel(directory: StateDirectory): void {
  const owner = lockOwner(directory.lockFile);
  if (owner === undefined) return;
  const named = directory.name === 'default' ? '' : ` --name ${directory.name}`;
  throw new ProxyVpnError('E_TUNNEL_UP', `the tunnel ${directory.name} is up (process ${owner.pid})`, {
    hint: `first: proxyvpn down${named}`,
    exitCode: EXIT.wrongState,
  });
}

/** Loads the filter, or loads it anew; one that blocks already is replaced in one step. */
async function switchOn(
  directory: StateDirectory,
  options: KillswitchOptions,
  warn: (text: string) => void,
): Promise<void> {
  const config = killswitchConfig(options);
  requireNetAdmin();
  refuseBesideTunnel(directory);
  createStateDirectory(directory);
  const lock = await acquireLockSoon(directory.lockFile, `tunnel ${directory.name}`);
  try {
    const addresses = await addressesOf(options.up?.proxy);
    await loadStanding({ directory, config, host: openHost(), warn });
    if (addresses.length > 0) rememberProxy(directory, options.up?.proxy?.host ?? '', addresses);
  } finally {
    lock.release();
    removeStateDirectory(directory);
  }
}

const RESOLVE_MS = 3000;

/** What the proxy's name means now: once the killswitch is on, nobody can ask. Empty when that is not known. */
async function addressesOf(proxy: UpstreamUrl | undefined): Promise<readonly string[]> {
  if (proxy?.kind !== 'name') return [];
  const late = new Promise<readonly string[]>((resolve) => setTimeout(() => resolve([]), RESOLVE_MS).unref());
  return Promise.race([resolveProxy(proxy.host).catch(() => []), late]);
}

export interface StandingContext {
  readonly directory: StateDirectory;
  readonly config: Config;
  readonly host: Host;
  readonly warn: (text: string) => void;
}

/** The caller holds the lock. When it fails, what blocked before blocks still. */
export async function loadStanding({ directory, config, host, warn }: StandingContext): Promise<void> {
  const { journal } = await takeOver({ directory, host, warn, log: { info: () => {} } });
  const before = journal.pending();
  try {
    await refuseOthersFilter(host, directory, before);
    const slot = claimSlot(directory.root, directory.name, host.isSlotInUse);
    const claimedSession = findSshSession(process.env, process.ppid);
    const policy = standingPolicy(config, await host.snapshot({ slot, proxies: [], claimedSession }));
    await applyOps<Op>([{ kind: 'firewall.load', policy, standing: true }], host.appliers, journal);
    for (const { id } of before) await journal.undone(id);
    journal.close();
  } catch (error) {
    await giveUp(journal, new Set(before.map(({ id }) => id)), host, directory);
    throw error;
  }
}

/** A refused change left the old rules; where there were none, none shall stay. */
async function giveUp(
  journal: Journal<Op>,
  before: ReadonlySet<number>,
  host: Host,
  directory: StateDirectory,
): Promise<void> {
  if (before.size === 0) await tearDown(journal, host.appliers);
  else for (const { id } of journal.pending()) if (!before.has(id)) await journal.undone(id);
  if (journal.pending().length > 0) return journal.close();
  journal.remove();
  releaseSlot(directory.root, directory.name);
}

async function switchOff(directory: StateDirectory, name: string, terminal: Terminal): Promise<void> {
  refuseBesideTunnel(directory);
  if (!fs.existsSync(directory.journalFile)) return failIfLeft(directory);
  const report = await undoByJournal(directory, { name, force: false }, terminal, 'killswitch too');
  const [failed] = report?.failed ?? [];
  if (failed !== undefined) {
    throw new ProxyVpnError('E_KILLSWITCH_OFF', `not all could be undone: ${failed}`, {
      hint: 'see what is in the way, then: proxyvpn down --force',
    });
  }
}

async function killswitchStatus(directory: StateDirectory): Promise<KillswitchDocument> {
  const { name } = directory;
  const pid = lockOwner(directory.lockFile)?.pid ?? null;
  const pending = pendingOf(directory);
  const standing = standingEntry(pending);
  if (pid !== null) return { name, state: standing ? 'on' : 'off', pid, problems: [] };
  if (standing === undefined) {
    const isLeft = pending.some(({ op }) => isFirewallOp(op) && op.policy.killswitch);
    const problems = isLeft ? [LEFT] : await unknownFilter(name);
    return { name, state: problems.length > 0 ? 'degraded' : 'off', pid, problems };
  }
  const problems = await filterProblems(standing.op.policy);
  return { name, state: problems.length === 0 ? 'on' : 'degraded', pid, problems };
}

const LEFT = 'a tunnel ended without down and left its own: nothing gets out; run: proxyvpn up, or proxyvpn down';

/** Something blocks, and this user's state does not know why; not known without the capability. */
async function unknownFilter(name: string): Promise<readonly string[]> {
  const { firewallTable } = schemeFor(name, 0);
  if (!hasNetAdmin() || !(await (await openHost().backend()).isLoaded(firewallTable))) return [];
  return [`the packet filter ${firewallTable} is loaded: of another user, or left by one; see: proxyvpn down`];
}

/** What somebody else did to the filter; not known without the capability. */
async function filterProblems(policy: FirewallPolicy): Promise<readonly string[]> {
  if (!hasNetAdmin()) return [];
  try {
    await (await openHost().backend()).verify(policy);
    return [];
  } catch (error) {
    return [`${errorDocument(error).message}; run again: proxyvpn killswitch on`];
  }
}
