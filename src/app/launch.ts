/** What the CLI tells the daemon it starts, what comes back, and how one starts the other. */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import readline from 'node:readline';
import { ProxyVpnError } from '../errors.ts';
import type { Connection } from '../firewall/policy.ts';
import { createStateDirectory, type StateDirectory } from '../state/directory.ts';
import type { Config } from './config.ts';
import { type ErrorDocument, errorFromDocument } from './error-document.ts';
import type { StatusDocument } from './report.ts';
import { selfCommand } from './self-command.ts';
import { logFile } from './state-files.ts';

export interface Launch {
  readonly config: Config;
  /** The SSH connection in which `up` was typed; the daemon checks it against the kernel. */
  readonly claimedSession: Connection | undefined;
}

/** One line from the daemon; the first `ready` or `error` is the last line. */
export type LaunchReport =
  | { readonly is: 'warning'; readonly text: string }
  | { readonly is: 'ready'; readonly status: StatusDocument }
  | { readonly is: 'error'; readonly error: ErrorDocument };

/**
 * For `decodeLaunch` in launch-schema.ts. Credentials hide from every serializer, so here, and only here, they are
 * taken out by name.
 */
export function encodeLaunch({ config, claimedSession }: Launch): string {
  const { credentials, ...upstream } = config.upstream;
  const secret = credentials && { user: credentials.user, password: credentials.password };
  return JSON.stringify({ config: { ...config, upstream }, secret, claimedSession });
}

/**
 * Starts the daemon and waits until its tunnel carries traffic. The launch goes through a pipe: argv and
 * environment are readable for others.
 * @param onWarning called for what the user should know although it did not end `up`
 * @throws ProxyVpnError the daemon's own error, or E_DAEMON_DIED
 */
export async function startDaemon(
  launch: Launch,
  directory: StateDirectory,
  onWarning: (text: string) => void,
): Promise<StatusDocument> {
  createStateDirectory(directory);
  const log = fs.openSync(logFile(directory), 'a', 0o600);
  const [program, ...args] = selfCommand('__daemon');
  // The launch says it all; a password must not stay readable in the daemon's environment.
  const { PROXYVPN_PROXY: _, ...env } = process.env;
  const child = spawn(program, args, { detached: true, cwd: '/', env, stdio: ['pipe', 'pipe', log] });
  fs.closeSync(log);
  const { stdin, stdout } = child;
  if (stdin === null || stdout === null) throw new Error('spawn made no pipes');
  // Ctrl-C reaches only this process; the daemon then undoes what it has begun and reports that.
  const passOn = (signal: NodeJS.Signals): void => void child.kill(signal);
  process.on('SIGINT', passOn).on('SIGTERM', passOn).on('SIGHUP', passOn);
  try {
    stdin.on('error', () => {});
    stdin.end(encodeLaunch(launch));
    for await (const line of readline.createInterface({ input: stdout })) {
      const report = JSON.parse(line) as LaunchReport;
      if (report.is === 'warning') onWarning(report.text);
      if (report.is === 'error') throw errorFromDocument(report.error);
      if (report.is === 'ready') {
        child.unref();
        return report.status;
      }
    }
  } finally {
    process.off('SIGINT', passOn).off('SIGTERM', passOn).off('SIGHUP', passOn);
    stdout.destroy();
  }
  throw new ProxyVpnError('E_DAEMON_DIED', 'the daemon ended before the tunnel was up', {
    hint: `see ${logFile(directory)}; then run: proxyvpn down`,
  });
}
