/** Names of the daemon's own files in a tunnel's state directory, beside lock and journal. */
import path from 'node:path';
import type { StateDirectory } from '../state/directory.ts';

export function controlSocket(directory: StateDirectory): string {
  return path.join(directory.path, 'control');
}

/** The daemon's stderr. Kept when it ends by a failure. */
export function logFile(directory: StateDirectory): string {
  return path.join(directory.path, 'log');
}
