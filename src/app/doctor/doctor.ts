/** The command `doctor`: looks at all that `up` depends on, with `up`'s own eyes, and changes nothing. */
import { EXIT, type ExitCode, ProxyVpnError } from '../../errors.ts';
import { wayOf } from '../../netlink/lookup.ts';
import { links, routes, rules } from '../../netlink/read.ts';
import type { NetlinkRequest } from '../../netlink/socket.ts';
import { redactUpstream } from '../../proxy/upstream-url.ts';
import { type StateDirectory, stateDirectory, stateRoot } from '../../state/directory.ts';
import { HEALTH } from '../../tunstack/engine.ts';
import { hasNetAdmin } from '../capability.ts';
import type { DoctorOptions } from '../cli-diagnosis.ts';
import { type Config, configOf } from '../config.ts';
import { hostSources } from '../config-sources.ts';
import { errorDocument } from '../error-document.ts';
import { openHost } from '../host.ts';
import { type Plan, planUp, upstreamAddresses } from '../plan.ts';
import { resolveProxy } from '../resolver.ts';
import { findSlot } from '../slot.ts';
import type { Snapshot } from '../snapshot.ts';
import { findSshSession } from '../ssh-session.ts';
import { isFirewallOp, pendingOf, refuseOthersFilter } from '../standing.ts';
import type { Terminal } from '../terminal.ts';
import { doctorDocument, doctorText, errorFrom, type Finding, note } from './finding.ts';
import { conntrackCheck, leftoverCheck, resolverCheck, snapshotChecks, stateCheck } from './host-checks.ts';
import { hostFiles, neighbourChecks } from './neighbour-checks.ts';
import { processChecks } from './process-checks.ts';
import { prober, proxyChecks } from './proxy-checks.ts';
import { routingChecks } from './routing-checks.ts';

/** @returns 0 only when `up` would work, else 1 */
export async function runDoctor(options: DoctorOptions, terminal: Terminal): Promise<ExitCode> {
  const findings: Finding[] = [...(await processChecks())];
  const config = await attempt(findings, 'proxy', async () => configOf(options.up, hostSources()));
  const directory = await stateIn(findings, options.name);
  if (isAddonThere(findings)) findings.push(...(await hostFindings(options, directory, config)));
  if (config) findings.push(resolverCheck(config));
  findings.push(conntrackCheck());
  const document = doctorDocument(options.name, config ? redactUpstream(config.upstream) : null, findings);
  terminal.print(document, doctorText(document));
  return document.ok ? EXIT.ok : EXIT.failed;
}

/** undefined when there is none that this user could use: a finding says why. */
async function stateIn(findings: Finding[], name: string): Promise<StateDirectory | undefined> {
  const directory = await attempt(findings, 'state', async () => stateDirectory(name, stateRoot()));
  if (directory === undefined) return undefined;
  const found = stateCheck(directory);
  findings.push(found);
  return found.level === 'error' ? undefined : directory;
}

function isAddonThere(findings: readonly Finding[]): boolean {
  return findings.some(({ id, level }) => id === 'addon' && level === 'ok');
}

/** The work's result; an error that `up` would end with becomes a finding. */
async function attempt<T>(findings: Finding[], id: string, work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (failure) {
    if (!(failure instanceof ProxyVpnError)) throw failure;
    findings.push(errorFrom(id, errorDocument(failure)));
    return undefined;
  }
}

/** What needs the kernel's answers. */
async function hostFindings(
  options: DoctorOptions,
  directory: StateDirectory | undefined,
  config: Config | undefined,
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  if (directory) findings.push(await leftoverCheck(directory));
  if (config === undefined) return findings;
  const host = openHost();
  const pending = (directory && (await attempt([], 'leftovers', async () => pendingOf(directory)))) ?? [];
  if (directory && hasNetAdmin())
    await attempt(findings, 'elsewhere', () => refuseOthersFilter(host, directory, pending));
  const isBlocked = !isRunning(findings) && pending.some(({ op }) => isFirewallOp(op) && op.policy.killswitch);
  const { upstream } = config;
  const found = await attempt(findings, 'proxy', async () => resolveProxy(upstream.host));
  const proxies = upstreamAddresses(found ?? [], upstream.port);
  const slot =
    directory &&
    (await attempt(findings, 'slots', async () => findSlot(directory.root, options.name, host.isSlotInUse)));
  const claimedSession = findSshSession(process.env, process.ppid);
  const snapshot = await host.snapshot({ slot: slot ?? 0, proxies, claimedSession });
  findings.push(...snapshotChecks(config, snapshot), ...sessionCheck(config, snapshot));
  const plan = await attempt(findings, 'other-tunnel', async () => planUp(config, snapshot));
  if (plan) findings.push(...routingFindings(config, plan, host.netlink, isRunning(findings)));
  const fwmark = hasNetAdmin() && plan ? plan.scheme.fwmark : 0;
  if (found) findings.push(...(await proxyChecks(config, proxies, options.target, prober(fwmark))));
  return isBlocked ? findings.map(behindKillswitch) : findings;
}

/** While a killswitch stands, the proxy cannot be asked for certain; `up` asks once its own rules are loaded. */
function behindKillswitch(finding: Finding): Finding {
  const isUnanswered = ['E_PROXY_UNREACHABLE', 'E_PROXY_RESOLVE'].includes(finding.why ?? '');
  if (!isUnanswered) return finding;
  const why = 'the killswitch that stands may be what is in the way; up asks again behind its own';
  return { ...finding, level: 'warning', why };
}

function isRunning(findings: readonly Finding[]): boolean {
  return findings.some(({ id }) => id === 'running');
}

/** Where the tunnel is up, its own device and rules are not in its way. */
function routingFindings(config: Config, plan: Plan, netlink: NetlinkRequest, isUp: boolean): readonly Finding[] {
  const { scheme } = plan;
  const all = ([4, 6] as const).flatMap((family) => routes(netlink, family));
  const found = links(netlink);
  const neighbours = neighbourChecks(config, { links: found, routes: all, ...hostFiles }, scheme.tun);
  if (isUp) return neighbours;
  const health = plan.prepare.some((op) => op.kind === 'address.add' && op.family === 6)
    ? [HEALTH.address4, HEALTH.address6]
    : [HEALTH.address4];
  const routing = {
    rules: ([4, 6] as const).flatMap((family) => rules(netlink, family)),
    routes: all,
    links: found,
    ways: (config.routes ? health : []).map((address) => ({
      address,
      way: wayOf(netlink, { destination: address, protocol: 'tcp', destinationPort: HEALTH.port }),
    })),
    uid: process.geteuid?.() ?? 0,
  };
  return [...routingChecks(plan, routing), ...neighbours];
}

function sessionCheck(config: Config, { sshSession }: Snapshot): readonly Finding[] {
  if (sshSession === undefined) return [];
  const what = `you are here by SSH, from ${sshSession.remoteAddress}`;
  return [note('ssh', what, config.killswitch ? 'the killswitch lets this session live' : 'the session lives on')];
}
