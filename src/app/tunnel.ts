/** One tunnel from nothing to traffic and back: the order of the steps, and what happens when one fails. */
import { ProxyVpnError } from '../errors.ts';
import type { FirewallPolicy } from '../firewall/policy.ts';
import type { Log } from '../log.ts';
import type { UpstreamAddress } from '../native.ts';
import { connectTemplate } from '../proxy/connect.ts';
import type { StateDirectory } from '../state/directory.ts';
import { Journal } from '../state/journal.ts';
import type { JournalEntry } from '../state/journal-format.ts';
import type { Engine } from '../tunstack/engine.ts';
import type { FlowEvent } from '../tunstack/flow.ts';
import { applierOf, applyOps } from './apply.ts';
import { errorDocument } from './error-document.ts';
import { type Host, isKnownOp } from './host.ts';
import type { Launch } from './launch.ts';
import { leaveToUs } from './network-manager.ts';
import { type Op, type Plan, planUp, upstreamAddresses } from './plan.ts';
import { preflight } from './preflight.ts';
import { resolveProxy } from './resolver.ts';
import { selfTestAddresses } from './self-test.ts';
import { claimSlot, releaseSlot } from './slot.ts';
import type { Snapshot } from './snapshot.ts';
import { type TeardownReport, tearDown } from './teardown.ts';

/** Bound of flows that wait for the proxy's answer: a SYN flood from this host stops here. */
const MOST_PENDING_FLOWS = 4096;

export interface TunnelContext extends Launch {
  readonly host: Host;
  readonly directory: StateDirectory;
  readonly log: Log;
  /** What the user should know although it does not end `up`. */
  readonly warn: (text: string) => void;
  readonly onEvent: (event: FlowEvent) => void;
}

export function isFirewallOp(op: Op): boolean {
  return op.kind === 'firewall.load';
}

export function isKillswitch(op: Op): boolean {
  return op.kind === 'firewall.load' && op.policy.killswitch;
}

/** A tunnel's changes to the host, and the engine between. The caller holds the tunnel's lock. */
export class Tunnel {
  readonly #context: TunnelContext;
  #journal: Journal<Op> | undefined;
  /** Of a crashed run, still in force: nothing may leak before the new policy takes its place. */
  #standing: FirewallPolicy | undefined;
  #engine: Engine | undefined;
  #plan: Plan | undefined;
  #proxies: readonly UpstreamAddress[] = [];
  #following: Promise<void> = Promise.resolve();
  #isEnding = false;

  constructor(context: TunnelContext) {
    this.#context = context;
  }

  /** undefined before the end of `bringUp`. */
  get plan(): Plan | undefined {
    return this.#plan;
  }

  get engine(): Engine | undefined {
    return this.#engine;
  }

  get proxies(): readonly UpstreamAddress[] {
    return this.#proxies;
  }

  /**
   * Brings the tunnel up; when it returns, traffic flows. When it fails or is aborted, the host is as before,
   * a killswitch that a crashed run had left included.
   * @throws ProxyVpnError of the step that failed
   */
  async bringUp(signal: AbortSignal): Promise<void> {
    const { directory, warn } = this.#context;
    const journal = await this.#finishOldTeardown();
    this.#journal = journal;
    const leftovers = journal.pending();
    try {
      await this.#steps(journal, signal);
      await this.#forget(journal, leftovers);
    } catch (error) {
      const rollback = await this.#rollBack(
        journal,
        leftovers.map(({ id }) => id),
      );
      if (journal.pending().length === 0) {
        journal.remove();
        releaseSlot(directory.root, directory.name);
      } else {
        journal.close();
      }
      if (this.#standing) warn('the killswitch of the earlier run stays: nothing gets out until up succeeds, or down');
      throw withRollback(error, rollback);
    }
  }

  /** Ends every flow and takes the host back. @param keep what shall stay in force */
  async takeDown(keep: (op: Op) => boolean = () => false): Promise<TeardownReport> {
    const { directory, host } = this.#context;
    // What follows the proxy must not load rules behind the back of what removes them.
    this.#isEnding = true;
    await this.#following.catch(() => {});
    // Flows first: while the rules still stand, their resets reach the applications and nothing leaks.
    await this.#engine?.stop();
    if (this.#journal === undefined) return { undone: [], foreign: [], failed: [] };
    const report = await tearDown(this.#journal, host.appliers, keep);
    if (this.#journal.pending().length > 0) {
      this.#journal.close();
      return report;
    }
    this.#journal.remove();
    releaseSlot(directory.root, directory.name);
    return report;
  }

  /** Asks the resolver again and follows the proxy to its new addresses. @throws ProxyVpnError E_PROXY_RESOLVE, E_FIREWALL_* */
  followProxy(): Promise<void> {
    if (!this.#isEnding) this.#following = this.#follow();
    return this.#following;
  }

  async #follow(): Promise<void> {
    const { config, host, log } = this.#context;
    const proxies = upstreamAddresses(await resolveProxy(config.upstream.host), config.upstream.port);
    const isSame = JSON.stringify(proxies) === JSON.stringify(this.#proxies);
    if (isSame || this.#plan === undefined || this.#isEnding) return;
    log.info(`the proxy's name has new addresses: ${proxies.map(({ address }) => address).join(', ')}`);
    const policy = { ...this.#plan.policy, proxies };
    if (config.killswitch) await (await host.backend()).updateProxies(policy);
    this.#engine?.setUpstreams(proxies);
    this.#proxies = proxies;
    this.#plan = { ...this.#plan, policy };
  }

  async #finishOldTeardown(): Promise<Journal<Op>> {
    const { directory, host, log, warn } = this.#context;
    const { journalFile, name } = directory;
    const old = Journal.open<Op>(journalFile, isKnownOp(host.appliers));
    if (old === undefined) return Journal.create<Op>(journalFile, name);
    log.info('taking back what an earlier run left');
    for (const problem of old.problems) warn(`${journalFile}: ${problem}`);
    const killswitches = old
      .pending()
      .flatMap(({ op }) => (op.kind === 'firewall.load' && op.policy.killswitch ? [op.policy] : []));
    this.#standing = killswitches.at(-1);
    const report = await tearDown(old, host.appliers, this.#standing ? isFirewallOp : undefined);
    for (const line of report.foreign) warn(line);
    if (report.failed.length > 0) {
      old.close();
      throw new ProxyVpnError('E_OLD_TEARDOWN', `an earlier run cannot be taken back: ${failures(report)}`, {
        hint: 'see what is in the way, then: proxyvpn down',
      });
    }
    if (this.#standing !== undefined) return old;
    old.remove();
    return Journal.create<Op>(journalFile, name);
  }

  async #steps(journal: Journal<Op>, signal: AbortSignal): Promise<void> {
    const { config, claimedSession, directory, host, log } = this.#context;
    const { upstream } = config;
    this.#proxies = upstreamAddresses(await orAborted(resolveProxy(upstream.host), signal), upstream.port);
    const slot = claimSlot(directory.root, directory.name);
    const snapshot = await host.snapshot({ slot, proxies: this.#proxies, claimedSession });
    const plan = planUp(config, snapshot);
    this.#plan = plan;
    this.#warnOf(snapshot);
    // The old killswitch lets no probe to a new proxy out: then only after the new one is loaded.
    if (!this.#standing) await orAborted(this.#preflight(plan), signal);
    await applyOps(plan.prepare, host.appliers, journal, signal);
    await leaveToUs(plan.scheme.tun, log);
    this.#engine = this.#startEngine(plan);
    if (this.#standing) await orAborted(this.#preflight(plan), signal);
    await applyOps(plan.divert, host.appliers, journal, signal);
    const carriesIpv6 = plan.prepare.some((op) => op.kind === 'address.add' && op.family === 6);
    for (const address of selfTestAddresses(config, carriesIpv6, snapshot.uid))
      await orAborted(host.selfTest(address), signal);
    signal.throwIfAborted();
  }

  /** The new rules have replaced the earlier run's; where there are no new ones, the old ones go now. */
  async #forget(journal: Journal<Op>, leftovers: readonly JournalEntry<Op>[]): Promise<void> {
    const isReplaced = this.#plan?.prepare.some(isFirewallOp) === true;
    for (const { id, op, before } of leftovers) {
      if (!isReplaced) await applierOf(this.#context.host.appliers, op).undo(op, before);
      await journal.undone(id);
    }
  }

  async #preflight(plan: Plan): Promise<void> {
    const { config, host, warn } = this.#context;
    const { warnings } = await preflight(config.upstream, this.#proxies, host.prober(plan.scheme.fwmark));
    for (const text of warnings) warn(text);
  }

  #warnOf(snapshot: Snapshot): void {
    const { claimedSession, config, warn } = this.#context;
    const isLocalProxy = snapshot.proxies.some(({ address }) => address === '::1' || address.startsWith('127.'));
    if (isLocalProxy && config.bypassUsers.length === 0) {
      warn('the proxy runs on this host: its own connections need --bypass-user, or they come back into the tunnel');
    }
    if (claimedSession && !snapshot.sshSession && config.killswitch) {
      warn('the SSH session of this terminal is not among the TCP connections of this host: the killswitch may cut it');
    }
  }

  #startEngine(plan: Plan): Engine {
    const { config, host, onEvent } = this.#context;
    const { head, middle, tail } = connectTemplate(config.upstream);
    return host.startEngine(
      {
        tunFds: host.device.fds,
        mtu: config.mtu,
        upstreams: this.#proxies,
        request: { head, middle, tail },
        fwmark: plan.scheme.fwmark,
        earlyAccept: config.earlyAccept,
        connectTimeoutMs: config.connectTimeoutMs,
        idleTimeoutMs: config.idleTimeoutMs,
        keepaliveMs: config.keepaliveMs,
        memoryBytes: config.memoryBytes,
        maxFlows: config.maxFlows,
        maxPendingFlows: Math.min(config.maxFlows, MOST_PENDING_FLOWS),
        predial: config.predial,
        flowEvents: config.verbose,
        dropOneIn: 0,
      },
      onEvent,
    );
  }

  /** @param leftovers records of the standing killswitch, which stay */
  async #rollBack(journal: Journal<Op>, leftovers: readonly number[]): Promise<TeardownReport> {
    const { host } = this.#context;
    await this.#engine?.stop();
    const standing = this.#standing;
    if (standing === undefined) return tearDown(journal, host.appliers);
    const report = await tearDown(journal, host.appliers, isFirewallOp);
    const replaced = journal.pending().filter(({ id }) => !leftovers.includes(id));
    if (replaced.length === 0) return report;
    try {
      // In place of the new rules, in one transaction.
      await (await host.backend()).load(standing);
      for (const { id } of replaced) await journal.undone(id);
      return report;
    } catch (error) {
      return { ...report, failed: [...report.failed, { what: 'the killswitch of the earlier run', error }] };
    }
  }
}

/** The work's result, or at once the signal's reason; work that only reads may then end by itself. */
function orAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

function failures(report: TeardownReport): string {
  return report.failed.map(({ what, error }) => `${what}: ${errorDocument(error).message}`).join('; ');
}

/** The error of the step; where the way back failed as well, it says so. */
function withRollback(error: unknown, rollback: TeardownReport): unknown {
  if (rollback.failed.length === 0) return error;
  const { code, message, exitCode } = errorDocument(error);
  return new ProxyVpnError(code, `${message} (and the host could not be fully restored: ${failures(rollback)})`, {
    hint: 'run: proxyvpn down',
    exitCode,
    cause: error,
  });
}
