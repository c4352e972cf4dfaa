/** Names of the daemon's own files in a tunnel's state directory, beside lock and journal. */
import path from 'node:path';
import type { StateDirectory } from '../state/directory.ts';

export function controlSocket(directory: StateDirectory): string {
  return path.join(directory.path, 'control');
}

/** Where the engine brings DNS queries by TCP. Shorter than the control socket, whose length is checked. */
export function dnsSocket(directory: StateDirectory): string {
  return path.join(directory.path, 'dns');
}

/** Which addresses stand for which names. Beside the tunnel's directory, which goes with `down`: programs keep addresses. */
export function namesFile(directory: StateDirectory): string {
  return path.join(directory.root.path, `.names-${directory.name}`);
}

/** See known-proxy.ts. */
export function knownProxyFile(directory: StateDirectory): string {
  return path.join(directory.path, 'proxy');
}

/** The daemon's stderr. Kept when it ends by a failure. */
export function logFile(directory: StateDirectory): string {
  return path.join(directory.path, 'log');
}
