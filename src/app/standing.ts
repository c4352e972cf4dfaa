/**
 * The killswitch that stands without a tunnel: who finds one, takes it over, and goes back to it, without a moment in
 * which nothing blocks.
 *
 * Two kinds are left in a journal by those who are gone. A tunnel that crashed leaves its own: the next `up` replaces
 * it, `down` removes it. `killswitch on` leaves one marked `standing`: the next `up` replaces its rules in the kernel but
 * keeps its record, and `down` loads them again. Either way it is one transaction of the same table.
 */
import fs from 'node:fs';
import { ProxyVpnError } from '../errors.ts';
import type { FirewallLoadOp } from '../firewall/ops.ts';
import type { FirewallPolicy } from '../firewall/policy.ts';
import type { Log } from '../log.ts';
import { schemeFor } from '../mark/scheme.ts';
import type { StateDirectory } from '../state/directory.ts';
import { Journal } from '../state/journal.ts';
import { type JournalEntry, parseJournal } from '../state/journal-format.ts';
import { elsewhereError } from './elsewhere.ts';
import { errorDocument } from './error-document.ts';
import { type Host, openHost } from './host.ts';
import { appliersAfterDeath, isKnownOp } from './journal-trust.ts';
import type { Op } from './plan.ts';
import { type TeardownReport, tearDown } from './teardown.ts';

export function isFirewallOp(op: Op): op is FirewallLoadOp {
  return op.kind === 'firewall.load';
}

type StandingEntry = JournalEntry<Op> & { readonly op: FirewallLoadOp };

/** The record of `killswitch on`, if it is on. @param pending of a journal */
export function standingEntry(pending: readonly JournalEntry<Op>[]): StandingEntry | undefined {
  return pending.findLast((entry): entry is StandingEntry => isFirewallOp(entry.op) && entry.op.standing === true);
}

/** What the journal says is in force; empty without a journal. Takes no lock. @throws ProxyVpnError E_JOURNAL_VERSION */
export function pendingOf(directory: StateDirectory): readonly JournalEntry<Op>[] {
  if (!fs.existsSync(directory.journalFile)) return [];
  const isKnown = isKnownOp(openHost().appliers, directory.name);
  const { entries } = parseJournal<Op>(fs.readFileSync(directory.journalFile), isKnown);
  return entries.filter(({ state }) => state !== 'undone');
}

export interface TakenOver {
  /** Holds what stays in force, and nothing else. */
  readonly journal: Journal<Op>;
  /** The killswitch that blocks now; undefined when nothing does. */
  readonly inForce: FirewallPolicy | undefined;
}

/**
 * Takes back what an earlier run left, but for a killswitch. The caller holds the tunnel's lock.
 * @throws ProxyVpnError E_OLD_TEARDOWN, E_JOURNAL_READ, E_JOURNAL_VERSION, E_STATE_WRITE
 */
export async function takeOver(context: {
  readonly directory: StateDirectory;
  readonly host: Host;
  readonly log: Pick<Log, 'info'>;
  readonly warn: (text: string) => void;
}): Promise<TakenOver> {
  const { directory, host, log, warn } = context;
  const { journalFile, name } = directory;
  const old = Journal.open<Op>(journalFile, isKnownOp(host.appliers, name));
  if (old === undefined) return { journal: Journal.create<Op>(journalFile, name), inForce: undefined };
  log.info('taking back what an earlier run left');
  for (const problem of [...old.problems, ...old.refused]) warn(`${journalFile}: ${problem}`);
  const inForce = old
    .pending()
    .flatMap(({ op }) => (isFirewallOp(op) && op.policy.killswitch ? [op.policy] : []))
    .at(-1);
  const report = await tearDown(old, appliersAfterDeath(host.appliers), inForce ? isFirewallOp : undefined);
  for (const line of report.foreign) warn(line);
  if (report.failed.length > 0) {
    old.close();
    throw new ProxyVpnError('E_OLD_TEARDOWN', `an earlier run cannot be taken back: ${failures(report)}`, {
      hint: 'see what is in the way, then: proxyvpn down',
    });
  }
  if (inForce !== undefined) return { journal: old, inForce };
  old.remove();
  return { journal: Journal.create<Op>(journalFile, name), inForce: undefined };
}

/**
 * Undoes a tunnel. Where a killswitch stands, its rules take the place of the tunnel's; its record stays pending.
 * @param keep what shall stay in force
 */
export async function tearDownToStanding(
  journal: Journal<Op>,
  host: Pick<Host, 'appliers' | 'backend'>,
  keep: (op: Op) => boolean = () => false,
): Promise<TeardownReport> {
  const standing = standingEntry(journal.pending());
  if (standing === undefined) return tearDown(journal, host.appliers, keep);
  const report = await tearDown(journal, host.appliers, (op) => isFirewallOp(op) || keep(op));
  const replaced = journal.pending().filter(({ id, op }) => isFirewallOp(op) && id !== standing.id && !keep(op));
  if (replaced.length === 0) return report;
  try {
    await (await host.backend()).load(standing.op.policy);
    for (const { id } of replaced) await journal.undone(id);
    return { ...report, undone: [...report.undone, "the tunnel's packet filter, for that of proxyvpn killswitch on"] };
  } catch (error) {
    return { ...report, failed: [...report.failed, { what: 'the killswitch that stood before', error }] };
  }
}

export function failures(report: TeardownReport): string {
  return report.failed.map(({ what, error }) => `${what}: ${errorDocument(error).message}`).join('; ');
}

/**
 * Refuses to touch a filter of this tunnel's name that its journal does not know: another user's tunnel has the same
 * name, or its killswitch stands. Replacing it, and removing it when that fails, would open what it blocks.
 * @throws ProxyVpnError E_TUNNEL_ELSEWHERE (exit code 4), E_FIREWALL_*
 */
export async function refuseOthersFilter(
  host: Pick<Host, 'backend'>,
  { name }: StateDirectory,
  pending: readonly JournalEntry<Op>[],
): Promise<void> {
  if (pending.some(({ op }) => isFirewallOp(op))) return;
  const { firewallTable } = schemeFor(name, 0);
  if (await (await host.backend()).isLoaded(firewallTable))
    throw elsewhereError(`the packet filter ${firewallTable} is loaded`, name);
}
