/** What the leak test found, as text and as a document (pure). */
import { endpointText } from '../../ip.ts';
import type { Judgement, Verdict } from './judge.ts';
import { CONTROL_ID, type ProbeSpec } from './probes.ts';

export interface ProbeReport extends Judgement {
  readonly id: string;
  readonly what: string;
  /** `192.0.2.10:443`, or an address where there are no ports. */
  readonly destination: string;
  /** Device that the kernel would choose, or the errno of its refusal; null: not known. */
  readonly route: string | null;
}

/** `leaktest --json`. Keys are only ever added. */
export interface LeakDocument {
  readonly name: string;
  readonly state: 'up' | 'down' | 'degraded' | 'foreign';
  /** null: not known. */
  readonly killswitch: boolean | null;
  readonly tun: string | null;
  readonly uplink: string | null;
  /** The best that there was: packets seen, our filter's counters, or routes and errors alone. */
  readonly evidence: 'packets' | 'counters' | 'routes';
  /** Whether what must go through the tunnel did; null: there is no tunnel. */
  readonly control: boolean | null;
  readonly probes: readonly ProbeReport[];
  readonly leaks: number;
  readonly hint: string | null;
}

export function probeReport(spec: ProbeSpec, judgement: Judgement, route: string | undefined): ProbeReport {
  const { address, port } = spec.packet;
  const destination = port === 0 ? address : endpointText(address, port);
  return { id: spec.id, what: spec.what, destination, route: route ?? null, ...judgement };
}

/** What to do about leaks; null without. */
export function hintFor(document: Omit<LeakDocument, 'hint'>): string | null {
  if (document.leaks === 0) return document.control === false ? 'see: proxyvpn status, proxyvpn doctor' : null;
  if (document.state === 'down') return 'this is a host without a tunnel: proxyvpn up --killswitch';
  if (document.killswitch !== true)
    return 'without the killswitch a tunnel takes TCP that does not insist on a way of its own: --killswitch stops the rest';
  return 'this must not be: please report it with the output of: proxyvpn leaktest --json, nft list ruleset, ip rule';
}

const WORDS: { readonly [verdict in Verdict]: string } = {
  tunnel: 'through the tunnel',
  stopped: 'stopped',
  permitted: 'permitted',
  leaks: 'LEAKS',
  'not-tried': 'not tried',
  unknown: 'unknown',
};
const EVIDENCE: { readonly [evidence in LeakDocument['evidence']]: string } = {
  packets: 'every packet that left was watched',
  counters: "judged by routes, errors and the filter's counters; root can watch the packets as well",
  routes: 'judged by routes and errors; root can watch the packets as well',
};

/** For people; no trailing newline. Leaks come last. */
export function leakText(document: LeakDocument): string {
  const order: readonly Verdict[] = ['tunnel', 'stopped', 'not-tried', 'permitted', 'unknown', 'leaks'];
  const sorted = document.probes.toSorted((a, b) => order.indexOf(a.verdict) - order.indexOf(b.verdict));
  const cells = sorted.map((probe) => {
    const by = probe.by === null ? '' : ` by ${probe.by}`;
    return [WORDS[probe.verdict] + by, probe.id, probe.destination, probe.why] as const;
  });
  const width = (column: 0 | 1 | 2): number => Math.max(...cells.map((row) => row[column].length));
  const lines = cells.map(
    (row) => `  ${row[0].padEnd(width(0))}  ${row[1].padEnd(width(1))}  ${row[2].padEnd(width(2))}  ${row[3]}`,
  );
  return [
    heading(document),
    ...lines,
    summary(document),
    ...(document.hint === null ? [] : [`hint: ${document.hint}`]),
  ].join('\n');
}

function heading({ name, state, killswitch, tun, uplink, evidence }: LeakDocument): string {
  const words = { up: 'up', down: 'no tunnel', degraded: 'degraded', foreign: "another user's tunnel" }[state];
  const parts = [
    words,
    ...(killswitch === null ? [] : [`killswitch ${killswitch ? 'on' : 'off'}`]),
    ...(tun === null ? [] : [`device ${tun}`]),
    uplink === null ? 'no way out of this host' : `uplink ${uplink}`,
  ];
  return `${name}: ${parts.join(', ')}; ${EVIDENCE[evidence]}`;
}

function summary({ probes, leaks, control }: LeakDocument): string {
  const count = (verdict: Verdict): number => probes.filter((probe) => probe.verdict === verdict).length;
  const counts = (Object.keys(WORDS) as readonly Verdict[])
    .filter((verdict) => verdict !== 'leaks' && count(verdict) > 0)
    .map((verdict) => `${count(verdict)} ${WORDS[verdict]}`);
  const head = leaks > 0 ? `${leaks} of ${probes.length} kinds of packets go around the tunnel` : 'no leak';
  const doubt = control === false ? '; but the control did not go through the tunnel either' : '';
  return `${head}${doubt} (${counts.join(', ')})`;
}

/** Whether the control did what it must: an answer by the tunnel. null where there is no tunnel that could. */
export function controlOf(probes: readonly ProbeReport[], isUp: boolean): boolean | null {
  if (!isUp) return null;
  const control = probes.find(({ id }) => id === CONTROL_ID);
  return control?.verdict === 'tunnel' && control.why.startsWith('answered');
}
