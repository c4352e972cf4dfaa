/** Finds the SSH connection in which `up` was typed, so that the tunnel never cuts it. */
import fs from 'node:fs';
import type { Connection } from '../firewall/policy.ts';
import { canonicalAddress, familyOf } from '../ip.ts';

/**
 * The value of SSH_CONNECTION, sshd(8): `client-address client-port server-address server-port` (pure).
 * @returns undefined when it is none; IPv4-mapped addresses come back as IPv4
 */
export function parseSshConnection(value: string): Connection | undefined {
  const [client = '', clientPort = '', server = '', serverPort = ''] = value.trim().split(/\s+/);
  const plain = (text: string): string | undefined =>
    canonicalAddress(text.replace(/%.*$/, '').replace(/^::ffff:(?=[\d.]+$)/i, ''));
  const port = (text: string): number => (/^\d{1,5}$/.test(text) ? Number(text) : 0);
  const remoteAddress = plain(client);
  const localAddress = plain(server);
  const remotePort = port(clientPort);
  const localPort = port(serverPort);
  if (remoteAddress === undefined || localAddress === undefined) return undefined;
  if (remotePort < 1 || remotePort > 65535 || localPort < 1 || localPort > 65535) return undefined;
  return { family: familyOf(localAddress), localAddress, localPort, remoteAddress, remotePort };
}

export function connectionKey(connection: Connection): string {
  const { localAddress, localPort, remoteAddress, remotePort } = connection;
  return `${localAddress} ${localPort} ${remoteAddress} ${remotePort}`;
}

/** The two files that tell about a process; a fake in tests. */
export interface ProcReader {
  environ(pid: number): string;
  stat(pid: number): string;
}

const procReader: ProcReader = {
  environ: (pid) => fs.readFileSync(`/proc/${pid}/environ`, 'latin1'),
  stat: (pid) => fs.readFileSync(`/proc/${pid}/stat`, 'latin1'),
};

/** PPID is the second field after the parenthesized name, which may itself hold parentheses, proc(5). */
function parentOf(stat: string): number {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[1] ?? 0);
}

/**
 * Looks at this environment and then, because sudo(8) and su(1) drop the variable, at the
 * environments of the ancestors as far as they may be read.
 */
export function findSshSession(
  env: NodeJS.ProcessEnv,
  parentPid: number,
  proc: ProcReader = procReader,
): Connection | undefined {
  const own = env['SSH_CONNECTION'];
  if (own !== undefined) return parseSshConnection(own);
  // A chain of ancestors cannot be longer than this in earnest; it ends at pid 1.
  for (let pid = parentPid, depth = 0; pid > 1 && depth < 64; depth++) {
    try {
      const variable = proc
        .environ(pid)
        .split('\0')
        .find((entry) => entry.startsWith('SSH_CONNECTION='));
      if (variable !== undefined) return parseSshConnection(variable.slice('SSH_CONNECTION='.length));
    } catch {
      // Another user's process: its parent may still be readable.
    }
    try {
      pid = parentOf(proc.stat(pid));
    } catch {
      return undefined;
    }
  }
  return undefined;
}
