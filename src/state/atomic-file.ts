/** Files that are either the old or the new one, also after a crash: write, fsync, rename, fsync the directory. */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { isSystemCallFailure, ProxyVpnError } from '../errors.ts';

/**
 * Replaces `file`. Readers see all of the old or all of the new content; after the call it survives power loss.
 * Replaces a symbolic link instead of following it. Synchronous: the files are small, and the order of steps is the point.
 * @param mode permission bits, not subject to the umask
 * @throws ProxyVpnError E_STATE_WRITE; the old file is then untouched and nothing is left behind
 */
export function writeFileAtomic(file: string, data: string | Uint8Array, mode = 0o600): void {
  const temporary = `${file}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const fd = fs.openSync(temporary, 'wx', mode);
    try {
      fs.fchmodSync(fd, mode);
      fs.writeFileSync(fd, data);
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
    fs.renameSync(temporary, file);
    syncDirectory(path.dirname(file));
  } catch (cause) {
    fs.rmSync(temporary, { force: true });
    throw writeFailure(file, cause);
  }
}

/** Removes `file` durably. A file that is not there is fine. @throws ProxyVpnError E_STATE_WRITE */
export function removeFileDurably(file: string): void {
  try {
    fs.rmSync(file, { force: true });
    syncDirectory(path.dirname(file));
  } catch (cause) {
    if (isSystemCallFailure(cause) && cause.code === 'ENOENT') return;
    throw writeFailure(file, cause);
  }
}

/** Makes a rename or removal inside `directory` survive power loss. */
export function syncDirectory(directory: string): void {
  const fd = fs.openSync(directory, 'r');
  try {
    fs.fsyncSync(fd);
  } catch (cause) {
    // fsync(2): EINVAL where the file system cannot sync directories; its renames are then ordered or it has no crash safety to offer.
    if (!isSystemCallFailure(cause) || cause.code !== 'EINVAL') throw cause;
  } finally {
    fs.closeSync(fd);
  }
}

/** A failed write to the state directory, as users see it; other errors (bugs) pass through. */
export function writeFailure(file: string, cause: unknown): unknown {
  if (!isSystemCallFailure(cause)) return cause;
  return new ProxyVpnError('E_STATE_WRITE', `cannot write ${file}: ${cause.code}`, {
    hint: 'check the free space and the permissions of this directory',
    cause,
  });
}
