/** Kernel parameters under /proc/sys: reading, and the op that sets one and puts it back. */
import { constants } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import path from 'node:path';
import { EXIT, ProxyVpnError } from '../errors.ts';
import type { Applier, Appliers, UndoResult } from '../op.ts';

/**
 * Sets one kernel parameter. CAP_NET_ADMIN is enough for `net.ipv4.conf.*` and `net.ipv6.conf.*`.
 * Undo writes the old value back only where ours still stands.
 */
export interface SysctlSetOp {
  readonly kind: 'sysctl.set';
  /** As sysctl(8) writes it: `net.ipv4.conf.eth0/1.rp_filter` is of the device `eth0.1`. See sysctlKey(). */
  readonly key: string;
  readonly value: string;
  /** A kernel without this parameter is fine. */
  readonly optional?: boolean;
}

/** Value before the change; null when the kernel has no such parameter. */
export type SysctlBefore = string | null;

/** `sysctlKey('net', 'ipv4', 'conf', 'eth0.1', 'rp_filter')` is `net.ipv4.conf.eth0/1.rp_filter`. */
export function sysctlKey(...components: readonly string[]): string {
  return components.map((component) => component.replaceAll('.', '/')).join('.');
}

/** The file below the root; sysctl(8): the first separator, dot or slash, tells which of the two separates. */
function fileOf(root: string, key: string): string {
  const isDotted = /[./]/.exec(key)?.[0] === '.';
  const swapped = isDotted ? key.replace(/[./]/g, (separator) => (separator === '.' ? '/' : '.')) : key;
  const components = swapped.split('/');
  if (components.some((component) => ['', '.', '..'].includes(component) || component.includes('\0')))
    throw new ProxyVpnError('E_SYSCTL', `not the name of a kernel parameter: ${key}`, { exitCode: EXIT.usage });
  return path.join(root, ...components);
}

/** The kernel separates the values of a list with tabs and ends with a newline. */
function normal(value: string): string {
  return value.trim().replace(/\s+/g, ' ');
}

/**
 * Value of a parameter, white space made single; undefined when the kernel has none of that name.
 * @throws ProxyVpnError E_SYSCTL
 */
export async function readSysctl(key: string, root = '/proc/sys'): Promise<string | undefined> {
  try {
    return normal(await readFile(fileOf(root, key), 'utf8'));
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return undefined;
    throw refused(error, `read ${key}`);
  }
}

function hasCode(error: unknown, ...codes: readonly string[]): error is Error & { readonly code: string } {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}

function refused(error: unknown, what: string): unknown {
  if (!(error instanceof Error) || !('code' in error)) return error;
  const code = String(error.code);
  const isPermission = hasCode(error, 'EACCES', 'EPERM');
  const hint = isPermission
    ? 'setting it needs the capability CAP_NET_ADMIN'
    : code === 'EROFS'
      ? '/proc/sys is mounted read-only, as containers do; set the parameter from outside'
      : undefined;
  return new ProxyVpnError('E_SYSCTL', `cannot ${what}: ${code}`, {
    ...(hint !== undefined && { hint }),
    exitCode: isPermission ? EXIT.notPermitted : EXIT.failed,
    cause: error,
  });
}

/** Into an existing file only, in one write, as the kernel wants it. */
async function writeSysctl(root: string, key: string, value: string): Promise<void> {
  try {
    const file = await open(fileOf(root, key), constants.O_WRONLY | constants.O_TRUNC);
    try {
      await file.write(`${value}\n`);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw error instanceof ProxyVpnError ? error : refused(error, `set ${key} to ${value}`);
  }
}

function sysctlSet(root: string): Applier<SysctlSetOp, SysctlBefore> {
  return {
    async observe(op) {
      return (await readSysctl(op.key, root)) ?? null;
    },
    async apply(op, before) {
      if (before === normal(op.value) || (before === null && op.optional)) return;
      await writeSysctl(root, op.key, op.value);
    },
    async undo(op, before): Promise<UndoResult> {
      const now = await readSysctl(op.key, root);
      if (now === undefined || before === null || now === before) return { outcome: 'absent' };
      if (now !== normal(op.value)) return { outcome: 'foreign', found: `${op.key} = ${now}` };
      try {
        await writeSysctl(root, op.key, before);
      } catch (error) {
        // The device, and its parameters with it, went away meanwhile.
        if (error instanceof ProxyVpnError && hasCode(error.cause, 'ENOENT')) return { outcome: 'absent' };
        throw error;
      }
      return { outcome: 'undone' };
    },
    describe(op) {
      const setting = `${op.key}=${normal(op.value)}`;
      return `sysctl -w ${setting.includes(' ') ? `'${setting}'` : setting}`;
    },
  };
}

/** @param root of the parameters; another one in tests */
export function sysctlAppliers(root = '/proc/sys'): Appliers<SysctlSetOp> {
  return { 'sysctl.set': sysctlSet(root) };
}
