/** `up --dry-run`: every operation as the line that an operator would type. */
import { EXIT, type ExitCode } from '../errors.ts';
import { type StateDirectory, stateDirectory, stateRoot } from '../state/directory.ts';
import { describeOps } from './apply.ts';
import { openHost } from './host.ts';
import type { Launch } from './launch.ts';
import { planUp, upstreamAddresses } from './plan.ts';
import { resolveProxy } from './resolver.ts';
import { findSlot } from './slot.ts';
import { takeSnapshot } from './snapshot.ts';
import type { Terminal } from './terminal.ts';

/** Reads the host and prints what `up` would do; needs no privilege. */
export async function dryRun({ config, claimedSession }: Launch, terminal: Terminal): Promise<ExitCode> {
  const host = openHost();
  const directory: StateDirectory = stateDirectory(
    config.name,
    stateRoot(process.env, undefined, () => true),
  );
  const proxies = upstreamAddresses(await resolveProxy(config.upstream.host), config.upstream.port);
  const slot = findSlot(directory.root, directory.name);
  const plan = planUp(config, await takeSnapshot(host.netlink, { slot, proxies, claimedSession }));
  const ops = describeOps([...plan.prepare, ...plan.divert], host.appliers);
  terminal.print({ ops }, ops.join('\n'));
  return EXIT.ok;
}
