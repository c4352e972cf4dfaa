/** One tunnel from nothing to traffic and back: the order of the steps, and what happens when one fails. */

import type { Datagram } from '../datagram.ts';
import { EXIT, ProxyVpnError } from '../errors.ts';
import type { FirewallPolicy } from '../firewall/policy.ts';
import type { Log } from '../log.ts';
import type { UpstreamAddress } from '../native.ts';
import { connectTemplate } from '../proxy/connect.ts';
import type { StateDirectory } from '../state/directory.ts';
import type { Journal } from '../state/journal.ts';
import type { JournalEntry } from '../state/journal-format.ts';
import type { Engine } from '../tunstack/engine.ts';
import type { FlowEvent } from '../tunstack/flow.ts';
import { applierOf, applyOps } from './apply.ts';
import type { DnsService } from './dns-service.ts';
import { errorDocument } from './error-document.ts';
import type { Host } from './host.ts';
import { forgetProxy, rememberedProxy, rememberProxy } from './known-proxy.ts';
import type { Launch } from './launch.ts';
import { leaveToUs } from './network-manager.ts';
import { localResolvers, type Op, type Plan, planUp, upstreamAddresses } from './plan.ts';
import { preflight } from './preflight.ts';
import { resolveProxy } from './resolver.ts';
import { resolverAdvice } from './resolver-advice.ts';
import { selfTestAddresses } from './self-test.ts';
import { claimSlot, releaseSlot } from './slot.ts';
import type { Snapshot } from './snapshot.ts';
import { failures, isFirewallOp, refuseOthersFilter, standingEntry, takeOver, tearDownToStanding } from './standing.ts';
import { type TeardownReport, tearDown } from './teardown.ts';

/** Three of them fit into the time for which the packet filter takes us for alive, src/firewall/dns-guard.ts. */
const HEARTBEAT_MS = 4000;
/** Bound of flows that wait for the proxy's answer: a SYN flood from this host stops here. */
const MOST_PENDING_FLOWS = 4096;

export interface TunnelContext extends Launch {
  readonly host: Host;
  readonly directory: StateDirectory;
  readonly log: Log;
  /** What the user should know although it does not end `up`. */
  readonly warn: (text: string) => void;
  readonly onEvent: (event: FlowEvent) => void;
  /** What goes wrong with DNS, as often as it does. */
  readonly onDnsProblem: (text: string) => void;
}

export function hasFirewall({ prepare, divert }: Plan): boolean {
  return [...prepare, ...divert].some(isFirewallOp);
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
  #dns: DnsService | undefined;
  #plan: Plan | undefined;
  #proxies: readonly UpstreamAddress[] = [];
  #following: Promise<void> = Promise.resolve();
  #isEnding = false;
  #heartbeat: NodeJS.Timeout | undefined;
  #beating: Promise<void> = Promise.resolve();

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

  /** undefined with `--dns direct`. */
  get dns(): DnsService | undefined {
    return this.#dns;
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
    const { config, host, warn } = this.#context;
    // The kernel looks at the packet filter's rules while this thread evaluates the DNS server.
    host.lookForBackend();
    if (config.dns.mode !== 'direct') loadDnsService().catch(() => {});
    const { journal, inForce } = await takeOver(this.#context);
    this.#journal = journal;
    this.#standing = inForce;
    const leftovers = journal.pending();
    if (standingEntry(leftovers) && !config.killswitch) throw killswitchIsOn(journal);
    try {
      await this.#steps(journal, signal);
      await this.#forget(journal, leftovers);
    } catch (error) {
      const rollback = await this.#rollBack(
        journal,
        leftovers.map(({ id }) => id),
      );
      if (journal.pending().length === 0) this.#leaveNothing(journal);
      else journal.close();
      if (standingEntry(leftovers))
        warn('the killswitch stays on: nothing gets out until up succeeds, or killswitch off');
      else if (this.#standing)
        warn('the killswitch of the earlier run stays: nothing gets out until up succeeds, or down');
      throw withRollback(error, rollback);
    }
  }

  /** Ends every flow and takes the host back. @param keep what shall stay in force */
  async takeDown(keep: (op: Op) => boolean = () => false): Promise<TeardownReport> {
    const { host } = this.#context;
    // What follows the proxy must not load rules behind the back of what removes them.
    this.#isEnding = true;
    await this.#following.catch(() => {});
    await this.#endHeartbeat();
    // Flows first: while the rules still stand, their resets reach the applications and nothing leaks.
    await this.#stopEngine();
    if (this.#journal === undefined) return { undone: [], foreign: [], failed: [] };
    const report = await tearDownToStanding(this.#journal, host, keep);
    if (this.#journal.pending().length > 0) {
      this.#journal.close();
      return report;
    }
    this.#leaveNothing(this.#journal);
    return report;
  }

  #leaveNothing(journal: Journal<Op>): void {
    const { directory } = this.#context;
    forgetProxy(directory);
    journal.remove();
    releaseSlot(directory.root, directory.name);
  }

  /** Without the killswitch what keeps DNS in the tunnel must not outlive us. */
  #beginHeartbeat({ policy, divert }: Plan): void {
    if (policy.names === undefined || policy.killswitch || !divert.some(isFirewallOp)) return;
    const { host, onDnsProblem } = this.#context;
    this.#heartbeat = setInterval(() => {
      this.#beating = host
        .backend()
        .then((backend) => backend.keepAlive(policy))
        .catch((error: unknown) => onDnsProblem(errorDocument(error).message));
    }, HEARTBEAT_MS).unref();
  }

  async #endHeartbeat(): Promise<void> {
    clearInterval(this.#heartbeat);
    await this.#beating;
  }

  async #stopEngine(): Promise<void> {
    await this.#engine?.stop();
    await this.#dns?.close();
  }

  /** Asks the resolver again and follows the proxy to its new addresses. @throws ProxyVpnError E_PROXY_RESOLVE, E_FIREWALL_* */
  followProxy(): Promise<void> {
    if (!this.#isEnding) this.#following = this.#follow();
    return this.#following;
  }

  async #follow(): Promise<void> {
    const { config, host, log } = this.#context;
    const proxies = upstreamAddresses(await this.#lookUpProxy(), config.upstream.port);
    const isSame = JSON.stringify(proxies) === JSON.stringify(this.#proxies);
    if (isSame || this.#plan === undefined || this.#isEnding) return;
    log.info(`the proxy's name has new addresses: ${proxies.map(({ address }) => address).join(', ')}`);
    const policy = { ...this.#plan.policy, proxies };
    if (config.killswitch) await (await host.backend()).updateProxies(policy);
    this.#engine?.setUpstreams(proxies);
    this.#proxies = proxies;
    this.#plan = { ...this.#plan, policy };
    this.#rememberProxy();
  }

  /** The system's resolver, for /etc/hosts; queries of its come to us, who know what we know: then the LAN's. */
  async #lookUpProxy(): Promise<readonly string[]> {
    const { host } = this.#context.config.upstream;
    const found = await resolveProxy(host);
    const isKnown = found.every((address) => this.#proxies.some((proxy) => proxy.address === address));
    const asked = this.#dns === undefined || !isKnown ? [] : await this.#dns.resolveLocally(host);
    return asked.length > 0 ? asked : found;
  }

  #rememberProxy(): void {
    const { config, directory } = this.#context;
    if (config.upstream.kind !== 'name') return;
    const addresses = this.#proxies.map(({ address }) => address);
    this.#dns?.setProxyAddresses(addresses);
    rememberProxy(directory, config.upstream.host, addresses);
  }

  /** @throws ProxyVpnError E_PROXY_RESOLVE */
  async #findProxy(signal: AbortSignal): Promise<readonly string[]> {
    const { config, directory, warn } = this.#context;
    const { host } = config.upstream;
    try {
      return await orAborted(resolveProxy(host), signal);
    } catch (error) {
      const known = this.#standing === undefined ? undefined : rememberedProxy(directory, host);
      if (known === undefined || signal.aborted) throw error;
      warn(`the killswitch of the earlier run lets no DNS out: the proxy is taken to be at ${known.join(', ')} still`);
      return known;
    }
  }

  async #steps(journal: Journal<Op>, signal: AbortSignal): Promise<void> {
    const { config, claimedSession, directory, host, log } = this.#context;
    const { upstream } = config;
    this.#proxies = upstreamAddresses(await this.#findProxy(signal), upstream.port);
    await refuseOthersFilter(host, directory, journal.pending());
    const slot = claimSlot(directory.root, directory.name, host.isSlotInUse);
    const snapshot = await host.snapshot({ slot, proxies: this.#proxies, claimedSession });
    const plan = planUp(config, snapshot);
    this.#plan = plan;
    this.#warnOf(snapshot);
    // The old killswitch lets no probe to a new proxy out: then only after the new one is loaded.
    if (!this.#standing) await orAborted(this.#preflight(plan), signal);
    await applyOps(plan.prepare, host.appliers, journal, signal);
    await leaveToUs(plan.scheme.tun, log);
    this.#dns = await this.#startDns(plan, snapshot);
    this.#engine = this.#startEngine(plan);
    this.#dns?.attach(this.#engine);
    this.#rememberProxy();
    await applyOps(plan.divert.filter(isFirewallOp), host.appliers, journal, signal);
    if (this.#standing) await orAborted(this.#preflight(plan), signal);
    this.#beginHeartbeat(plan);
    const rules = plan.divert.filter((op) => !isFirewallOp(op));
    await applyOps(rules, host.appliers, journal, signal);
    const addresses = selfTestAddresses(config, carriesIpv6(plan), snapshot.uid);
    for (const address of addresses) await orAborted(host.selfTest(address), signal);
    if (this.#dns && addresses.length > 0) await orAborted(host.selfTestDns(), signal);
    signal.throwIfAborted();
  }

  /** The new rules have replaced the earlier run's; where there are no new ones, the old ones go now. */
  async #forget(journal: Journal<Op>, leftovers: readonly JournalEntry<Op>[]): Promise<void> {
    const isReplaced = this.#plan !== undefined && hasFirewall(this.#plan);
    for (const { id, op, before } of leftovers) {
      if (id === standingEntry(leftovers)?.id) continue;
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
    for (const text of resolverAdvice(config, snapshot)) warn(text);
    if (claimedSession && !snapshot.sshSession && config.killswitch) {
      warn('the SSH session of this terminal is not among the TCP connections of this host: the killswitch may cut it');
    }
  }

  #startEngine(plan: Plan): Engine {
    const { config, host, onEvent } = this.#context;
    const dns = this.#dns;
    const { head, middle, tail } = connectTemplate(config.upstream);
    return host.startEngine(
      {
        tunFds: host.device.fds,
        tunWriterFds: host.device.writerFds,
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
        sniff: config.sniff,
        ...(dns === undefined ? {} : { names: dns.engineNames }),
      },
      onEvent,
      dns && ((datagrams: readonly Datagram[]) => dns.receive(datagrams)),
    );
  }

  async #startDns(plan: Plan, snapshot: Snapshot): Promise<DnsService | undefined> {
    const { config, directory, onDnsProblem } = this.#context;
    if (config.dns.mode === 'direct') return undefined;
    const { DnsService } = await loadDnsService();
    return DnsService.start({
      dns: config.dns,
      directory,
      carriesIpv6: carriesIpv6(plan),
      resolvConf: snapshot.resolvConf,
      localResolvers: localResolvers(config, snapshot),
      fwmark: plan.scheme.fwmark,
      proxyHost: config.upstream.host,
      proxyAddresses: this.#proxies.map(({ address }) => address),
      onProblem: onDnsProblem,
    });
  }

  /** @param leftovers records of the standing killswitch, which stay */
  async #rollBack(journal: Journal<Op>, leftovers: readonly number[]): Promise<TeardownReport> {
    const { host } = this.#context;
    await this.#endHeartbeat();
    await this.#stopEngine();
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

/** Only where it is needed: it is half of the program. */
const loadDnsService = (): Promise<typeof import('./dns-service.ts')> => import('./dns-service.ts');

function carriesIpv6({ prepare }: Plan): boolean {
  return prepare.some((op) => op.kind === 'address.add' && op.family === 6);
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

/** `up` adds it by itself, src/app/up.ts; this is for the instant in which somebody switched it on meanwhile. */
function killswitchIsOn(journal: Journal<Op>): ProxyVpnError {
  journal.close();
  return new ProxyVpnError('E_KILLSWITCH_ON', 'the killswitch is on, and this tunnel would be without', {
    hint: 'give --killswitch, or first: proxyvpn killswitch off',
    exitCode: EXIT.wrongState,
  });
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
