/** The life of a running tunnel: lock, up, control socket, signals, down. The same for daemon and `--foreground`. */
import fs from 'node:fs';
import { EXIT, type ExitCode, ProxyVpnError } from '../errors.ts';
import { endpointText } from '../ip.ts';
import { createLog, type Log } from '../log.ts';
import { explainRefusal } from '../proxy/refusal.ts';
import { redactUpstream } from '../proxy/upstream-url.ts';
import { createStateDirectory, removeStateDirectory, type StateDirectory } from '../state/directory.ts';
import { acquireLockSoon } from '../state/lock.ts';
import type { FlowEnds, FlowEvent } from '../tunstack/flow.ts';
import { applierOf } from './apply.ts';
import { requireNetAdmin } from './capability.ts';
import { type ControlServer, serveControl } from './control.ts';
import { NO_DNS_FIGURES, relayTexts } from './dns-figures.ts';
import type { DnsService } from './dns-service.ts';
import { errorDocument } from './error-document.ts';
import { openHost } from './host.ts';
import { Incidents } from './incidents.ts';
import type { Launch } from './launch.ts';
import type { Plan } from './plan.ts';
import { type DnsStatus, type DownDocument, downDocument, downReport, type StatusDocument } from './report.ts';
import { notifyServiceManager } from './service-manager.ts';
import { controlSocket, logFile } from './state-files.ts';
import { hasFirewall, isKillswitch, Tunnel } from './tunnel.ts';

/** How often a proxy that fails is looked up again. */
const FOLLOW_PROXY_MS = 10_000;

export interface Audience {
  /** What the user should know although it does not end `up`. */
  readonly warn: (text: string) => void;
  /** Once, when traffic flows. */
  readonly ready: (status: StatusDocument) => void;
}

/** Why the tunnel ends. */
type Ending = { readonly why: 'asked' } | { readonly why: 'broken'; readonly message: string };

/**
 * Runs a tunnel until it is told to end, by `down`, SIGTERM or SIGINT, or until it breaks.
 * @returns 0 when it was told to; 1 when it broke: then the killswitch, if on, stays
 * @throws ProxyVpnError when it does not come up; the host is restored then
 */
export async function runTunnel(launch: Launch, directory: StateDirectory, audience: Audience): Promise<ExitCode> {
  requireNetAdmin();
  createStateDirectory(directory);
  const lock = await acquireLockSoon(directory.lockFile, `tunnel ${directory.name}`);
  const daemon = new Daemon(launch, directory, audience);
  let isOrderly = true;
  try {
    const ending = await daemon.run();
    isOrderly = ending.why === 'asked';
    return isOrderly ? EXIT.ok : EXIT.failed;
  } catch (error) {
    isOrderly = error instanceof ProxyVpnError;
    throw error;
  } finally {
    daemon.stopListening();
    if (isOrderly) fs.rmSync(logFile(directory), { force: true });
    lock.release();
    removeStateDirectory(directory);
    // Only now the one who asked for it hears of it, and may start anew.
    await daemon.dismiss();
  }
}

class Daemon {
  readonly #launch: Launch;
  readonly #directory: StateDirectory;
  readonly #audience: Audience;
  readonly #log: Log;
  readonly #host = openHost();
  readonly #tunnel: Tunnel;
  readonly #incidents: Incidents;
  readonly #starting = new AbortController();
  readonly #ended: Promise<Ending>;
  #end: (ending: Ending) => void = () => {};
  #control: ControlServer | undefined;
  #upSince: number | undefined;
  #followedAt = Number.NEGATIVE_INFINITY;
  /** What `down` is answered with, once everything is released. */
  readonly #dismissed: Promise<void>;
  #dismiss: () => void = () => {};
  #report: DownDocument | undefined;

  constructor(launch: Launch, directory: StateDirectory, audience: Audience) {
    this.#launch = launch;
    this.#directory = directory;
    this.#log = createLog(launch.config.verbose ? 'debug' : 'info');
    this.#incidents = new Incidents((line) => this.#log.warn(line));
    this.#audience = audience;
    this.#ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#dismissed = new Promise((resolve) => {
      this.#dismiss = resolve;
    });
    this.#tunnel = new Tunnel({
      ...launch,
      host: this.#host,
      directory,
      log: this.#log,
      warn: (text) => this.#warn(text),
      onEvent: (event) => this.#onEvent(event),
      onDnsProblem: (text) => this.#incidents.add(text),
    });
  }

  async run(): Promise<Ending> {
    const stopSignals = this.#obeySignals();
    try {
      this.#control = await serveControl(controlSocket(this.#directory), {
        status: () => this.#status(),
        down: () => this.#down(),
        'dns-map': async () => this.#answeringDns().entries(),
        'dns-flush': async () => this.#answeringDns().forget(),
      });
      await this.#tunnel.bringUp(this.#starting.signal);
      this.#upSince = performance.now();
      this.#log.info(`up: TCP goes through ${redactUpstream(this.#launch.config.upstream)}`);
      // Each op was made or read back a moment ago: nothing can be missing yet that would show.
      this.#audience.ready(await this.#status([]));
      await notifyServiceManager('READY=1', this.#log);
      const ending = await this.#ended;
      await notifyServiceManager('STOPPING=1', this.#log);
      await this.#takeDown(ending);
      return ending;
    } finally {
      stopSignals();
    }
  }

  stopListening(): void {
    this.#control?.stopListening();
  }

  async dismiss(): Promise<void> {
    this.#dismiss();
    await this.#control?.close();
  }

  async #takeDown(ending: Ending): Promise<void> {
    // Told to end: everything. Broken: fail closed, what blocks stays until somebody decides.
    const keep = ending.why === 'asked' ? undefined : isKillswitch;
    if (ending.why === 'broken') this.#log.error(ending.message);
    const report = await this.#tunnel.takeDown(keep);
    this.#report = downReport(this.#directory.name, report);
    for (const line of this.#report.leftAlone) this.#log.warn(line);
    for (const line of this.#report.failed) this.#log.error(line);
    this.#log.info(this.#report.failed.length === 0 ? 'down' : 'not all could be undone');
  }

  #obeySignals(): () => void {
    const stop = (signal: NodeJS.Signals): void => this.#stop(`got ${signal}`);
    // A terminal that goes away is no reason to end; a bug must not leave the host half changed.
    const ignore = (): void => {};
    const onBug = (error: unknown): void => this.#break(error);
    process.on('SIGTERM', stop).on('SIGINT', stop).on('SIGHUP', ignore);
    process.on('uncaughtException', onBug).on('unhandledRejection', onBug);
    return () => {
      process.off('SIGTERM', stop).off('SIGINT', stop).off('SIGHUP', ignore);
      process.off('uncaughtException', onBug).off('unhandledRejection', onBug);
    };
  }

  #stop(why: string): void {
    this.#log.info(`ending: ${why}`);
    this.#starting.abort(new ProxyVpnError('E_INTERRUPTED', `up was interrupted: ${why}`));
    this.#end({ why: 'asked' });
  }

  #break(error: unknown): void {
    const message = error instanceof ProxyVpnError ? error.message : stackOf(error);
    this.#starting.abort(error);
    this.#end({ why: 'broken', message });
  }

  async #down(): Promise<DownDocument> {
    this.#stop('down was asked for');
    await this.#dismissed;
    return this.#report ?? { name: this.#directory.name, undone: [], leftAlone: [], failed: [] };
  }

  #warn(text: string): void {
    this.#log.warn(text);
    this.#audience.warn(text);
  }

  #onEvent(event: FlowEvent): void {
    switch (event.kind) {
      case 'opened':
      case 'closed':
        this.#log.debug(`${flowText(event)} ${event.kind}`);
        break;
      case 'refused': {
        const { destinationAddress, destinationPort, hostname } = event;
        const number = endpointText(destinationAddress, destinationPort);
        const destination = hostname === undefined ? number : `${hostname}:${destinationPort}`;
        const why = explainRefusal(event.reply, destination, this.#launch.config.upstream.credentials);
        this.#incidents.add(`${flowText(event)} refused: ${why}`, event.suppressed);
        break;
      }
      case 'failed':
        // Of an address that stands for names, but for none now: no matter of the proxy's.
        if (event.code === 'EADDRNOTAVAIL') {
          this.#incidents.add(`${flowText(event)} refused: ${event.message}`, event.suppressed);
          break;
        }
        this.#incidents.add(`${flowText(event)} failed: ${event.code}`, event.suppressed);
        this.#followProxy();
        break;
      case 'notice':
        this.#incidents.addNotice(`engine: ${event.message}`, event.suppressed);
        break;
      case 'fatal':
        this.#break(new ProxyVpnError('E_ENGINE', `the engine ended: ${event.message} ${event.code}`));
        break;
    }
  }

  #followProxy(): void {
    const now = performance.now();
    if (this.#launch.config.upstream.kind !== 'name' || now - this.#followedAt < FOLLOW_PROXY_MS) return;
    this.#followedAt = now;
    this.#tunnel.followProxy().catch((error: unknown) => this.#incidents.add(errorDocument(error).message));
  }

  /** @param known what is missing, where that need not be asked of the kernel */
  async #status(known?: readonly string[]): Promise<StatusDocument> {
    const { config } = this.#launch;
    const { engine, plan, proxies } = this.#tunnel;
    const base = { ...downDocument(this.#directory.name), pid: process.pid, proxy: redactUpstream(config.upstream) };
    if (this.#upSince === undefined || plan === undefined || engine === undefined) {
      return { ...base, state: 'degraded', problems: ['it is being brought up'] };
    }
    const problems = known ?? (await this.#problems());
    return {
      ...base,
      ...engine.counters(),
      state: problems.length === 0 ? 'up' : 'degraded',
      proxyAddresses: proxies.map(({ address }) => address),
      tun: plan.scheme.tun,
      queues: config.queues,
      killswitch: config.killswitch,
      firewall: hasFirewall(plan) ? (await this.#host.backend()).name : null,
      dns: this.#dnsStatus(plan),
      uptimeMs: Math.round(performance.now() - this.#upSince),
      memory: { limitBytes: config.memoryBytes, residentBytes: process.memoryUsage.rss() },
      problems,
      lastErrors: this.#incidents.latest,
    };
  }

  #dnsStatus({ policy }: Plan): DnsStatus {
    const { dns, routes } = this.#launch.config;
    const isDirect = dns.mode === 'direct';
    return {
      mode: dns.mode,
      servers: isDirect ? policy.allowDns : relayTexts(dns),
      localResolvers: policy.names?.localResolvers ?? [],
      caught: !isDirect && routes,
      ...(this.#tunnel.dns?.figures ?? NO_DNS_FIGURES),
    };
  }

  /** @throws ProxyVpnError E_DNS_MODE */
  #answeringDns(): DnsService {
    const { dns } = this.#tunnel;
    if (dns !== undefined) return dns;
    throw new ProxyVpnError('E_DNS_MODE', 'the tunnel answers no DNS', {
      hint: 'it was started with --dns direct, or is not up yet',
      exitCode: EXIT.wrongState,
    });
  }

  /** What somebody else has taken away since. */
  async #problems(): Promise<readonly string[]> {
    const { plan } = this.#tunnel;
    const problems: string[] = [];
    for (const op of plan ? [...plan.prepare, ...plan.divert] : []) {
      try {
        if (op.kind === 'firewall.load') await (await this.#host.backend()).verify(plan?.policy ?? op.policy);
        if (op.kind !== 'rule.add' && op.kind !== 'route.add') continue;
        const applier = applierOf(this.#host.appliers, op);
        const now = await applier.observe(op);
        const isThere = typeof now === 'object' && now !== null && 'existed' in now && now.existed === true;
        if (!isThere) problems.push(`missing: ${applier.describe(op)}`);
      } catch (error) {
        problems.push(errorDocument(error).message);
      }
    }
    return problems;
  }
}

/** For the log only: what `main.ts` prints of a bug as well. */
export function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? `${error.name}: ${error.message}`) : String(error);
}

function flowText(flow: FlowEnds): string {
  const from = endpointText(flow.localAddress, flow.localPort);
  const to = endpointText(flow.destinationAddress, flow.destinationPort);
  return `${from} -> ${flow.hostname === undefined ? to : `${flow.hostname}:${flow.destinationPort} (${to})`}`;
}
