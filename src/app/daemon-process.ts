/** The other end of `startDaemon`: the launch on stdin, reports on stdout, the log on stderr. */
import fs from 'node:fs';
import { type ExitCode, ProxyVpnError } from '../errors.ts';
import { stateDirectory, stateRoot } from '../state/directory.ts';
import { runTunnel, stackOf } from './daemon.ts';
import { errorDocument } from './error-document.ts';
import { settleSoon } from './idle-memory.ts';
import type { LaunchReport } from './launch.ts';
import { decodeLaunch } from './launch-schema.ts';

/** @returns what the process exits with, once the tunnel has ended */
export async function runDaemon(): Promise<ExitCode> {
  let isHeard = true;
  const tell = (report: LaunchReport): void => {
    if (!isHeard) return;
    if (report.is !== 'warning') isHeard = false;
    try {
      fs.writeSync(1, `${JSON.stringify(report)}\n`);
    } catch {
      // `up` was killed: nobody listens, the tunnel lives on.
      isHeard = false;
    }
  };
  try {
    const launch = decodeLaunch(fs.readFileSync(0, 'utf8'));
    return await runTunnel(launch, stateDirectory(launch.config.name, stateRoot()), {
      warn: (text) => tell({ is: 'warning', text }),
      ready: (status) => {
        tell({ is: 'ready', status });
        settleSoon();
      },
    });
  } catch (error) {
    if (!(error instanceof ProxyVpnError)) process.stderr.write(`${stackOf(error)}\n`);
    tell({ is: 'error', error: errorDocument(error) });
    return errorDocument(error).exitCode;
  }
}
