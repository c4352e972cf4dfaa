/** The command `status`: asks the daemon, or tells from the journal what it left. */
import fs from 'node:fs';
import { EXIT, type ExitCode } from '../errors.ts';
import { type StateDirectory, stateDirectory, stateRoot } from '../state/directory.ts';
import { lockOwner } from '../state/lock.ts';
import { hasNetAdmin } from './capability.ts';
import type { StatusOptions } from './cli.ts';
import { askDaemon } from './control.ts';
import { runElsewhere } from './elsewhere.ts';
import { errorDocument } from './error-document.ts';
import { leftByScheme } from './force.ts';
import { openHost } from './host.ts';
import { downDocument, type StatusDocument, statusText } from './report.ts';
import { pendingOf, standingEntry } from './standing.ts';
import { controlSocket } from './state-files.ts';
import type { Terminal } from './terminal.ts';

/** A healthy daemon answers within milliseconds; one that lists a large ruleset by `nft` takes longer. */
const ANSWER_MS = 5000;
const WATCH_MS = 1000;

const EXIT_OF_STATE: { readonly [state in StatusDocument['state']]: ExitCode } = {
  up: EXIT.ok,
  degraded: EXIT.failed,
  down: EXIT.wrongState,
};

/** @returns 0 up, 1 degraded, 4 down */
export async function runStatus(options: StatusOptions, terminal: Terminal): Promise<ExitCode> {
  const directory = stateDirectory(options.name, stateRoot());
  const flags = (['json', 'watch'] as const).filter((flag) => options[flag]).map((flag) => `--${flag}`);
  const elsewhere = runElsewhere(directory, ['status', '--name', options.name, ...flags]);
  if (elsewhere !== undefined) return elsewhere;
  if (!options.watch) {
    const status = await readStatus(directory);
    terminal.print(status, statusText(status));
    return EXIT_OF_STATE[status.state];
  }
  let isWatching = true;
  let wake = (): void => {};
  const stop = (): void => {
    isWatching = false;
    wake();
  };
  process.once('SIGINT', stop).once('SIGTERM', stop);
  while (isWatching) {
    const status = await readStatus(directory);
    terminal.reprint(status, statusText(status));
    await new Promise<void>((resolve) => {
      wake = resolve;
      if (isWatching) setTimeout(resolve, WATCH_MS);
      else resolve();
    });
  }
  return EXIT.ok;
}

/** Never throws for a daemon that is gone or hangs: that is a state too. */
export async function readStatus(directory: StateDirectory): Promise<StatusDocument> {
  const owner = lockOwner(directory.lockFile);
  if (owner === undefined) return leftStatus(directory);
  try {
    return (await askDaemon(controlSocket(directory), 'status', ANSWER_MS)) as StatusDocument;
  } catch (error) {
    // It may have ended between the look and the question.
    if (lockOwner(directory.lockFile) === undefined) return leftStatus(directory);
    const problems = [`process ${owner.pid} holds the tunnel but does not answer: ${errorDocument(error).message}`];
    return { ...(await leftStatus(directory)), state: 'degraded', pid: owner.pid, problems };
  }
}

/** What a journal without a daemon tells; without a journal, what the kernel does. */
async function leftStatus(directory: StateDirectory): Promise<StatusDocument> {
  const down = downDocument(directory.name);
  if (!fs.existsSync(directory.journalFile)) {
    // Who may not look may not have made anything either.
    const left = hasNetAdmin() ? await leftByScheme(openHost(), directory) : [];
    if (left.length === 0) return down;
    const problems = [`no journal, but on this host there is: ${left.join('; ')}`, 'run: proxyvpn down --force'];
    return { ...down, state: 'degraded', problems };
  }
  const pending = pendingOf(directory);
  // `killswitch on`, and no tunnel: as it shall be.
  if (pending.length === 1 && standingEntry(pending)) return { ...down, killswitch: true };
  const left = pending.map(({ op }) => op);
  const killswitch = left.some((op) => op.kind === 'firewall.load' && op.policy.killswitch);
  return {
    ...down,
    state: 'degraded',
    killswitch,
    problems: [
      `the daemon is gone and left ${left.length} change${left.length === 1 ? '' : 's'} on this host${
        killswitch ? ', the killswitch among them: nothing gets out' : ''
      }; run: proxyvpn down, or proxyvpn up`,
    ],
  };
}
