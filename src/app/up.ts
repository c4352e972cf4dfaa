/** The command `up`: as a daemon, in the foreground, or as a dry run. */
import { EXIT, type ExitCode } from '../errors.ts';
import { type StateDirectory, stateDirectory, stateRoot } from '../state/directory.ts';
import { describeOps } from './apply.ts';
import { requireNetAdmin } from './capability.ts';
import type { UpOptions } from './cli.ts';
import { configOf } from './config.ts';
import { hostSources } from './config-sources.ts';
import { runTunnel } from './daemon.ts';
import { openHost } from './host.ts';
import { type Launch, startDaemon } from './launch.ts';
import { planUp, upstreamAddresses } from './plan.ts';
import { type StatusDocument, upText } from './report.ts';
import { resolveProxy } from './resolver.ts';
import { findSlot } from './slot.ts';
import { takeSnapshot } from './snapshot.ts';
import { findSshSession } from './ssh-session.ts';
import type { Terminal } from './terminal.ts';

/** @throws ProxyVpnError of the configuration, the daemon, or the step that failed */
export async function runUp(options: UpOptions, terminal: Terminal): Promise<ExitCode> {
  const config = configOf(options, hostSources());
  const launch: Launch = { config, claimedSession: findSshSession(process.env, process.ppid) };
  if (options.dryRun) return dryRun(launch, terminal);
  requireNetAdmin();
  const directory = stateDirectory(config.name, stateRoot());
  const ready = (status: StatusDocument): void => terminal.print(status, upText(status, config));
  if (options.foreground) return runTunnel(launch, directory, { warn: () => {}, ready });
  ready(await startDaemon(launch, directory, (text) => terminal.warn(text)));
  return EXIT.ok;
}

/** Reads the host and prints what `up` would do; needs no privilege. */
async function dryRun({ config, claimedSession }: Launch, terminal: Terminal): Promise<ExitCode> {
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
