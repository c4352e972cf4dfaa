/** The command `leaktest`: tries every way out of this host and says what became of it. Changes nothing. */
import { EXIT, type ExitCode, ProxyVpnError } from '../../errors.ts';
import { type Refusals, refusalsOf } from '../../firewall/refusals.ts';
import { type LeakProbeResult, native } from '../../native.ts';
import { wayOf } from '../../netlink/lookup.ts';
import type { NetlinkRequest } from '../../netlink/socket.ts';
import { stateDirectory, stateRoot } from '../../state/directory.ts';
import { hasNetAdmin } from '../capability.ts';
import type { LeaktestOptions } from '../cli-diagnosis.ts';
import { systemNameServers } from '../resolver.ts';
import type { Terminal } from '../terminal.ts';
import { type Evidence, judge, type TunnelFacts, type Way } from './judge.ts';
import { leakProbes, type ProbeSpec } from './probes.ts';
import { controlOf, hintFor, type LeakDocument, leakText, probeReport } from './report.ts';
import { readSurroundings, type Surroundings } from './surroundings.ts';

/** All at once, so this is what the whole test takes: enough for a proxy to refuse and for a resolver to answer. */
const TIMEOUT_MS = 2500;

/**
 * @returns 0 no leak; 1 a leak, or a tunnel through which nothing goes
 * @throws ProxyVpnError E_NO_TUNNEL (exit code 4) where none is up and none is needed
 */
export async function runLeaktest(options: LeaktestOptions, terminal: Terminal): Promise<ExitCode> {
  const addon = native();
  const request: NetlinkRequest = (protocol, message) => addon.netlinkRequest(protocol, message);
  const surroundings = await readSurroundings(request, stateDirectory(options.name, stateRoot()));
  if (surroundings.state === 'down' && !options.control) {
    throw new ProxyVpnError('E_NO_TUNNEL', `${options.name}: no tunnel is up, so everything leaves directly`, {
      hint: 'proxyvpn up first; or give --control to see all of it leave',
      exitCode: EXIT.wrongState,
    });
  }
  const specs = leakProbes({
    server: options.server,
    uplink: surroundings.uplink,
    nameServers: await systemNameServers(),
    fwmark: surroundings.fwmark,
  });
  const ways = specs.map((spec) => wayText(request, spec, surroundings));
  const before = await refusals(surroundings);
  const { results, watchCode } = await addon.sendProbes(
    specs.map(({ packet }) => packet),
    TIMEOUT_MS,
  );
  const after = await refusals(surroundings);
  const isWatched = watchCode === '';
  const refused = before && after && { tcp: after.tcp - before.tcp, other: after.other - before.other };
  const document = documentOf(options.name, surroundings, { specs, ways, results, isWatched, refused });
  terminal.print(document, leakText(document));
  return document.leaks > 0 || document.control === false ? EXIT.failed : EXIT.ok;
}

/** What our filter has refused so far; undefined where there is none, or this user may not ask. */
async function refusals({ policy }: Surroundings): Promise<Refusals | undefined> {
  return policy && hasNetAdmin() ? refusalsOf(policy.table) : undefined;
}

function wayText(request: NetlinkRequest, { query }: ProbeSpec, { links }: Surroundings): Way {
  if (query === undefined) return undefined;
  const way = wayOf(request, query);
  if (way.kind === 'none') return { symbol: way.symbol };
  const name = links.find(({ index }) => index === way.index)?.name;
  return name === undefined ? undefined : { device: name };
}

export interface Found {
  readonly specs: readonly ProbeSpec[];
  readonly ways: readonly Way[];
  readonly results: readonly LeakProbeResult[];
  readonly isWatched: boolean;
  readonly refused: Refusals | undefined;
}

export function documentOf(name: string, surroundings: Surroundings, found: Found): LeakDocument {
  const { state, killswitch, tun, uplink, links } = surroundings;
  const evidence = found.specs.map((_, index) => evidenceOf(found, index, links));
  const facts: TunnelFacts = {
    tun,
    policy: surroundings.policy,
    uid: process.geteuid?.() ?? 0,
    areResetsOurs: areResetsOurs(found, evidence, surroundings),
    ownAddresses: surroundings.addresses.map(({ address }) => address),
  };
  const probes = found.specs.flatMap((spec, index) => {
    const one = evidence[index];
    if (one === undefined) return [];
    const route = one.way && ('device' in one.way ? one.way.device : one.way.symbol);
    return [probeReport(spec, judge(spec, one, facts), route)];
  });
  const document = {
    name,
    state,
    killswitch: killswitch ?? null,
    tun: tun ?? null,
    uplink: uplink?.name ?? null,
    evidence: found.isWatched ? 'packets' : found.refused !== undefined ? 'counters' : 'routes',
    control: controlOf(probes, state === 'up' || state === 'foreign'),
    probes,
    leaks: probes.filter(({ verdict }) => verdict === 'leaks').length,
  } as const;
  return { ...document, hint: hintFor(document) };
}

function evidenceOf({ ways, results, isWatched }: Found, index: number, links: Surroundings['links']): Evidence {
  const result = results[index];
  if (result === undefined) throw new Error(`no result of probe ${index}`);
  const names = result.seenOn.map((seen) => links.find((link) => link.index === seen)?.name ?? `device ${seen}`);
  return { result, way: ways[index], seenOn: isWatched ? names : undefined };
}

/** Whether resets of packets on their way around the tunnel were our filter's. */
function areResetsOurs(
  { specs, refused }: Found,
  evidence: readonly Evidence[],
  { tun, killswitch }: Surroundings,
): boolean | undefined {
  const isAround = ({ way }: Evidence): boolean => way !== undefined && 'device' in way && way.device !== tun;
  const resets = evidence.filter(
    (one, index) => specs[index]?.packet.kind === 'tcp' && one.result.code === 'ECONNREFUSED' && isAround(one),
  );
  if (refused !== undefined) return refused.tcp >= resets.length;
  if (killswitch !== undefined) return killswitch;
  // A filter that refuses plain UDP is a killswitch.
  const udp = evidence.filter((_, index) => specs[index]?.id === 'udp4' || specs[index]?.id === 'udp6');
  return udp.some(({ result }) => result.code === 'EPERM') ? true : undefined;
}
