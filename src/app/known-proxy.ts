/**
 * The addresses that the proxy's name had, kept for the next `up` after a crash: the killswitch that the crash left lets
 * no DNS out.
 */
import fs from 'node:fs';
import { z } from 'zod';
import { canonicalAddress } from '../ip.ts';
import { writeFileAtomic } from '../state/atomic-file.ts';
import type { StateDirectory } from '../state/directory.ts';
import { knownProxyFile } from './state-files.ts';

const schema = z.strictObject({
  host: z.string(),
  addresses: z.array(z.string().refine((text) => canonicalAddress(text) === text)).min(1),
});

/** @throws ProxyVpnError E_STATE_WRITE */
export function rememberProxy(directory: StateDirectory, host: string, addresses: readonly string[]): void {
  writeFileAtomic(knownProxyFile(directory), `${JSON.stringify({ host, addresses })}\n`);
}

/** @returns undefined when nothing is known of this very name */
export function rememberedProxy(directory: StateDirectory, host: string): readonly string[] | undefined {
  try {
    const known = schema.parse(JSON.parse(fs.readFileSync(knownProxyFile(directory), 'utf8')));
    return known.host === host ? known.addresses : undefined;
  } catch {
    // None, unreadable or damaged: it would only have been a help.
    return undefined;
  }
}

/** Idempotent. */
export function forgetProxy(directory: StateDirectory): void {
  fs.rmSync(knownProxyFile(directory), { force: true });
}
