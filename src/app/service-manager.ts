/** Tells systemd how the service is doing, sd_notify(3). */
import { execFile } from 'node:child_process';
import type { Log } from '../log.ts';

const TIMEOUT_MS = 5000;

/**
 * Does nothing outside a service. Node cannot send datagrams to unix sockets, so systemd-notify(1) does; as root
 * it speaks for this process, otherwise the unit needs `NotifyAccess=all`.
 */
export async function notifyServiceManager(state: 'READY=1' | 'STOPPING=1', log: Log): Promise<void> {
  if (process.env['NOTIFY_SOCKET'] === undefined) return;
  await new Promise<void>((resolve) => {
    execFile('systemd-notify', [state], { timeout: TIMEOUT_MS }, (error) => {
      if (error) log.warn(`the service manager was not told ${state}: ${error.message}`);
      resolve();
    });
  });
}
