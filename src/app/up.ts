/** The command `up`: as a daemon, in the foreground, or as a dry run. */
import fs from 'node:fs';
import { EXIT, type ExitCode } from '../errors.ts';
import { stateDirectory, stateRoot } from '../state/directory.ts';
import { requireNetAdmin } from './capability.ts';
import type { UpOptions } from './cli.ts';
import { type Config, configOf } from './config.ts';
import { hostSources } from './config-sources.ts';
import { type Launch, startDaemon } from './launch.ts';
import { type StatusDocument, upText } from './report.ts';
import { findSshSession } from './ssh-session.ts';
import type { Terminal } from './terminal.ts';

/** @throws ProxyVpnError of the configuration, the daemon, or the step that failed */
export async function runUp(options: UpOptions, terminal: Terminal): Promise<ExitCode> {
  const config = await withStandingKillswitch(configOf(options, hostSources()), (text) => terminal.warn(text));
  const launch: Launch = { config, claimedSession: findSshSession(process.env, process.ppid) };
  // The process that only starts the daemon does without what changes the host.
  if (options.dryRun) return (await import('./dry-run.ts')).dryRun(launch, terminal);
  requireNetAdmin();
  const directory = stateDirectory(config.name, stateRoot());
  const ready = (status: StatusDocument): void => terminal.print(status, upText(status, config));
  if (options.foreground) {
    const { keepYoungGenerationSmall, settleSoon } = await import('./idle-memory.ts');
    await keepYoungGenerationSmall();
    const { runTunnel } = await import('./daemon.ts');
    const readyToRest = (status: StatusDocument): void => {
      ready(status);
      settleSoon();
    };
    return runTunnel(launch, directory, { warn: () => {}, ready: readyToRest });
  }
  ready(await startDaemon(launch, directory, (text) => terminal.warn(text)));
  return EXIT.ok;
}

/** A killswitch that stands is not opened by a tunnel without one. */
async function withStandingKillswitch(config: Config, warn: (text: string) => void): Promise<Config> {
  const directory = stateDirectory(
    config.name,
    stateRoot(process.env, undefined, () => true),
  );
  if (config.killswitch || !fs.existsSync(directory.journalFile)) return config;
  const { pendingOf, standingEntry } = await import('./standing.ts');
  if (!standingEntry(pendingOf(directory))) return config;
  warn('the killswitch is on (proxyvpn killswitch status), so this tunnel has one too');
  return { ...config, killswitch: true };
}
