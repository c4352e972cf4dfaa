/** The command `down`: by the daemon if it lives, else from the journal, else by the numbers of the scheme. */

import fs from 'node:fs';
import { EXIT, type ExitCode, ProxyVpnError } from '../errors.ts';
import { schemeFor } from '../mark/scheme.ts';
import {
  createStateDirectory,
  removeStateDirectory,
  type StateDirectory,
  stateDirectory,
  stateRoot,
} from '../state/directory.ts';
import { Journal } from '../state/journal.ts';
import { acquireLockSoon, type LockOwner, lockOwner, processStartTicks } from '../state/lock.ts';
import { hasNetAdmin, requireNetAdmin } from './capability.ts';
import type { DownOptions } from './cli.ts';
import { askDaemon } from './control.ts';
import { elsewhereError, hasOtherDaemons, runElsewhere } from './elsewhere.ts';
import { leftByScheme, removeByScheme } from './force.ts';
import { type Host, openHost } from './host.ts';
import { appliersAfterDeath, isKnownOp } from './journal-trust.ts';
import { forgetProxy } from './known-proxy.ts';
import type { Op } from './plan.ts';
import { type DownDocument, downReport, downText } from './report.ts';
import { findSlot, releaseSlot } from './slot.ts';
import { pendingOf, standingEntry, tearDownToStanding } from './standing.ts';
import { controlSocket, logFile } from './state-files.ts';
import { type TeardownReport, tearDown } from './teardown.ts';
import type { Terminal } from './terminal.ts';

/** How long each way of ending the daemon may take before the next, ruder one. */
const ANSWER_MS = 10_000;
const TERM_MS = 5000;
// What takes time after this one is the kernel's: on a crowded host, to let go of a TUN device.
const KILL_MS = 30_000;
const POLL_MS = 20;

/**
 * @returns 0 when all is undone, 1 when something could not be, 4 when there was nothing to do
 * @throws ProxyVpnError E_NOT_PERMITTED, E_DAEMON_STUCK, E_LOCKED, E_JOURNAL_LOST and others of the journal
 */
export async function runDown(options: DownOptions, terminal: Terminal): Promise<ExitCode> {
  const directory = stateDirectory(options.name, stateRoot());
  const words = ['down', '--name', options.name];
  const flags = (['force', 'json', 'verbose'] as const).filter((flag) => options[flag]).map((flag) => `--${flag}`);
  const elsewhere = runElsewhere(directory, [...words, ...flags]);
  if (elsewhere !== undefined) return elsewhere;
  const owner = lockOwner(directory.lockFile);
  const answer = owner && (await byDaemon(directory, owner, terminal));
  let document = answer === 'ended' ? undefined : answer;
  if (document === undefined || options.force)
    document = (await undoByJournal(directory, options, terminal)) ?? document;
  // It undid all by itself, too slowly to be heard.
  if (answer === 'ended') document ??= downReport(options.name, { undone: [], foreign: [], failed: [] });
  if (standingEntry(pendingOf(directory))) terminal.warn(STAYS_ON);
  if (document === undefined) {
    terminal.print(downReport(options.name, { undone: [], foreign: [], failed: [] }), `${options.name}: not up`);
    return EXIT.wrongState;
  }
  terminal.print(document, downText(document, options.verbose));
  return document.failed.length === 0 ? EXIT.ok : EXIT.failed;
}

/** @returns no document when the daemon had to be ended, or died, so that its work may still be to do */
async function byDaemon(
  directory: StateDirectory,
  owner: LockOwner,
  terminal: Terminal,
): Promise<DownDocument | 'ended' | undefined> {
  try {
    const document = (await askDaemon(controlSocket(directory), 'down', ANSWER_MS)) as DownDocument;
    // Its device goes with it.
    await hasEnded(owner, TERM_MS);
    return document;
  } catch (error) {
    if (!(error instanceof ProxyVpnError) || !error.code.startsWith('E_CONTROL_')) throw error;
    if (await hasEnded(owner, 0)) return error.code === 'E_CONTROL_TIMEOUT' ? 'ended' : undefined;
    terminal.warn(`${error.message}; ending process ${owner.pid} by signal`);
  }
  await endBySignals(owner);
  return 'ended';
}

/** Only the very process that holds the lock, never one that got its pid later. */
async function endBySignals(owner: LockOwner): Promise<void> {
  for (const [signal, waitMs] of [
    ['SIGTERM', TERM_MS],
    ['SIGKILL', KILL_MS],
  ] as const) {
    if (await hasEnded(owner, 0)) return;
    try {
      process.kill(owner.pid, signal);
    } catch (cause) {
      throw new ProxyVpnError('E_DAEMON_STUCK', `cannot end process ${owner.pid}: ${(cause as Error).message}`, {
        hint: 'run it as the user who ran `up`',
        cause,
      });
    }
    if (await hasEnded(owner, waitMs)) return;
  }
  throw new ProxyVpnError('E_DAEMON_STUCK', `process ${owner.pid} does not end, not even by SIGKILL`, {
    hint: 'it hangs in the kernel; see its stack in /proc/PID/stack',
  });
}

/** Whether the process that held the lock is gone, waiting for that as long as told. */
async function hasEnded(owner: LockOwner, waitMs: number): Promise<boolean> {
  const deadline = performance.now() + waitMs;
  for (;;) {
    // The file of a lock that is released is gone, but its process may still be ending.
    if (processStartTicks(owner.pid) !== owner.startTicks) return true;
    if (performance.now() >= deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

const STAYS_ON = 'the killswitch stays on, and nothing gets out; to open: proxyvpn killswitch off';

/** Undoes in this process what a dead daemon left. @returns undefined when there is nothing */
export async function undoByJournal(
  directory: StateDirectory,
  { name, force }: Pick<DownOptions, 'name' | 'force'>,
  terminal: Terminal,
  how: 'but the killswitch' | 'killswitch too' = 'but the killswitch',
): Promise<DownDocument | undefined> {
  const isAll = force || how === 'killswitch too';
  const pending = pendingOf(directory);
  const standing = standingEntry(pending);
  if (!isAll && standing && pending.length === 1) return undefined;
  if (!fs.existsSync(directory.journalFile) && !force) {
    await failIfLeft(directory);
    return undefined;
  }
  requireNetAdmin();
  createStateDirectory(directory);
  const lock = await acquireLockSoon(directory.lockFile, `tunnel ${name}`);
  try {
    const host = openHost();
    const journal = Journal.open<Op>(directory.journalFile, isKnownOp(host.appliers, name));
    for (const problem of journal?.problems ?? []) terminal.warn(problem);
    const reports: TeardownReport[] = [];
    const dead = { ...host, appliers: appliersAfterDeath(host.appliers) };
    if (journal) reports.push(await (isAll ? tearDown(journal, dead.appliers) : tearDownToStanding(journal, dead)));
    if (journal) reports.push({ undone: [], foreign: [], failed: journal.refused.map(notOurs) });
    if (force && journal === undefined) refuseOthersDevice(host, directory);
    if (force) reports.push(await removeByScheme(host, directory));
    const report = merged(reports);
    if (journal && journal.pending().length > 0) journal.close();
    else {
      journal?.remove();
      releaseSlot(directory.root, name);
      forgetProxy(directory);
      for (const file of [controlSocket(directory), logFile(directory)]) fs.rmSync(file, { force: true });
    }
    return downReport(name, report);
  } finally {
    lock.release();
    removeStateDirectory(directory);
  }
}

/** Force is for what nobody runs any more. @throws ProxyVpnError E_TUNNEL_ELSEWHERE */
function refuseOthersDevice(host: Host, { root, name }: StateDirectory): void {
  const slot = findSlot(root, name);
  if (!host.isSlotInUse(slot) || !hasOtherDaemons()) return;
  throw elsewhereError(`the device ${schemeFor(name, slot).tun} is in use`, name);
}

/** The journal is a file of the user's; what is in it and cannot be ours is told, and not done. */
function notOurs(line: string): TeardownReport['failed'][number] {
  const message = `${line}: left alone; see: ip rule, ip route show table all, nft list ruleset`;
  return { what: 'the journal', error: new ProxyVpnError('E_JOURNAL_OP', message) };
}

/** @throws ProxyVpnError E_JOURNAL_LOST, E_TUNNEL_ELSEWHERE */
export async function failIfLeft(directory: StateDirectory): Promise<void> {
  const left = hasNetAdmin() ? await leftByScheme(openHost(), directory) : [];
  if (left.length === 0) return;
  const slot = findSlot(directory.root, directory.name);
  if (openHost().isSlotInUse(slot)) throw elsewhereError(`on this host there is: ${left.join('; ')}`, directory.name);
  throw new ProxyVpnError('E_JOURNAL_LOST', `there is no journal, but on this host there is: ${left.join('; ')}`, {
    hint: `if that is of no tunnel that runs: proxyvpn down --force${directory.name === 'default' ? '' : ` --name ${directory.name}`}`,
  });
}

function merged(reports: readonly TeardownReport[]): TeardownReport {
  return {
    undone: reports.flatMap(({ undone }) => undone),
    foreign: reports.flatMap(({ foreign }) => foreign),
    failed: reports.flatMap(({ failed }) => failed),
  };
}
