/** The command `down`: by the daemon if it lives, else from the journal, else by the numbers of the scheme. */

import fs from 'node:fs';
import { EXIT, type ExitCode, ProxyVpnError } from '../errors.ts';
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
import { leftByScheme, removeByScheme } from './force.ts';
import { isKnownOp, openHost } from './host.ts';
import type { Op } from './plan.ts';
import { type DownDocument, downReport, downText } from './report.ts';
import { releaseSlot } from './slot.ts';
import { controlSocket, logFile } from './state-files.ts';
import { type TeardownReport, tearDown } from './teardown.ts';
import type { Terminal } from './terminal.ts';

/** How long each way of ending the daemon may take before the next, ruder one. */
const ANSWER_MS = 10_000;
const TERM_MS = 5000;
const KILL_MS = 5000;
const POLL_MS = 20;

/**
 * @returns 0 when all is undone, 1 when something could not be, 4 when there was nothing to do
 * @throws ProxyVpnError E_NOT_PERMITTED, E_DAEMON_STUCK, E_LOCKED, E_JOURNAL_LOST and others of the journal
 */
export async function runDown(options: DownOptions, terminal: Terminal): Promise<ExitCode> {
  const directory = stateDirectory(options.name, stateRoot());
  const owner = lockOwner(directory.lockFile);
  let document = owner && (await byDaemon(directory, owner, terminal));
  if (document === undefined || options.force) document = (await byJournal(directory, options, terminal)) ?? document;
  if (document === undefined) {
    terminal.print(downReport(options.name, { undone: [], foreign: [], failed: [] }), `${options.name}: not up`);
    return EXIT.wrongState;
  }
  terminal.print(document, downText(document, options.verbose));
  return document.failed.length === 0 ? EXIT.ok : EXIT.failed;
}

/** @returns undefined when the daemon had to be killed, or died, so that its work is still to be done */
async function byDaemon(
  directory: StateDirectory,
  owner: LockOwner,
  terminal: Terminal,
): Promise<DownDocument | undefined> {
  try {
    const document = (await askDaemon(controlSocket(directory), 'down', ANSWER_MS)) as DownDocument;
    // Its device goes with it.
    await hasEnded(owner, TERM_MS);
    return document;
  } catch (error) {
    if (!(error instanceof ProxyVpnError) || !error.code.startsWith('E_CONTROL_')) throw error;
    if (await hasEnded(owner, 0)) return undefined;
    terminal.warn(`${error.message}; ending process ${owner.pid} by signal`);
  }
  await endBySignals(owner);
  return undefined;
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

/** Undoes in this process what a dead daemon left. @returns undefined when there is nothing */
async function byJournal(
  directory: StateDirectory,
  { name, force }: DownOptions,
  terminal: Terminal,
): Promise<DownDocument | undefined> {
  if (!fs.existsSync(directory.journalFile) && !force) {
    await failIfLeft(directory);
    return undefined;
  }
  requireNetAdmin();
  createStateDirectory(directory);
  const lock = await acquireLockSoon(directory.lockFile, `tunnel ${name}`);
  try {
    const host = openHost();
    const journal = Journal.open<Op>(directory.journalFile, isKnownOp(host.appliers));
    for (const problem of journal?.problems ?? []) terminal.warn(problem);
    const reports: TeardownReport[] = [];
    if (journal) reports.push(await tearDown(journal, host.appliers));
    if (force) reports.push(await removeByScheme(host, directory));
    const report = merged(reports);
    if (report.failed.length > 0) journal?.close();
    else {
      journal?.remove();
      releaseSlot(directory.root, name);
      for (const file of [controlSocket(directory), logFile(directory)]) fs.rmSync(file, { force: true });
    }
    return downReport(name, report);
  } finally {
    lock.release();
    removeStateDirectory(directory);
  }
}

/** @throws ProxyVpnError E_JOURNAL_LOST */
async function failIfLeft(directory: StateDirectory): Promise<void> {
  const left = hasNetAdmin() ? await leftByScheme(openHost(), directory) : [];
  if (left.length === 0) return;
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
