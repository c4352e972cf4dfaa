/** Which of the scheme's slots a tunnel has: one symbolic link per slot, made atomically, named after its owner. */
import fs from 'node:fs';
import path from 'node:path';
import { EXIT, isSystemCallFailure, ProxyVpnError } from '../errors.ts';
import { SLOTS, schemeFor } from '../mark/scheme.ts';
import { type StateRoot, stateDirectory } from '../state/directory.ts';
import { lockOwner } from '../state/lock.ts';
import { elsewhereError, hasOtherDaemons } from './elsewhere.ts';

/** The tunnel that has slot 0, mark/scheme.ts. */
const FIRST_NAME = 'default';

/** A leading dot is not allowed in tunnel names, so these never meet a tunnel's directory. */
function slotFile(root: StateRoot, slot: number): string {
  return path.join(root.path, `.slot-${slot}`);
}

function ownerOf(file: string): string | undefined {
  try {
    return fs.readlinkSync(file);
  } catch (error) {
    if (isSystemCallFailure(error) && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

/** A tunnel that neither runs nor has anything left to undo. */
function isGone(root: StateRoot, name: string): boolean {
  const { journalFile, lockFile } = stateDirectory(name, root);
  return !fs.existsSync(journalFile) && lockOwner(lockFile) === undefined;
}

function candidates(name: string): readonly number[] {
  const all = Array.from({ length: SLOTS }, (_, slot) => slot);
  return name === FIRST_NAME ? [0] : all.slice(1);
}

/** Whether the kernel has a slot's device, whoever holds it: state directories know their own user's tunnels only. */
export type IsSlotInUse = (slot: number) => boolean;

/** The slot that `claimSlot` would return. Changes nothing. @throws ProxyVpnError E_SLOTS, E_TUNNEL_ELSEWHERE */
export function findSlot(root: StateRoot, name: string, isInUse: IsSlotInUse = () => false): number {
  const owners = candidates(name).map((slot) => ({ slot, owner: ownerOf(slotFile(root, slot)) }));
  const found =
    owners.find(({ owner }) => owner === name) ??
    owners.find(({ slot, owner }) => (owner === undefined || isGone(root, owner)) && !isInUse(slot));
  if (found !== undefined) return found.slot;
  // A device of that name may be anybody's; then --tun helps.
  if (name === FIRST_NAME && !hasOtherDaemons()) return 0;
  if (name === FIRST_NAME) throw elsewhereError(`the device ${schemeFor(name, 0).tun} exists`, name);
  throw new ProxyVpnError('E_SLOTS', `no more than ${SLOTS} tunnels can be up at a time`, {
    hint: 'take one down: proxyvpn down --name NAME',
    exitCode: EXIT.failed,
  });
}

/**
 * Reserves the lowest slot that no other tunnel has; the same tunnel gets the same one again after a crash.
 * The caller holds the tunnel's lock and has made the state directory.
 * @throws ProxyVpnError E_SLOTS, E_TUNNEL_ELSEWHERE
 */
export function claimSlot(root: StateRoot, name: string, isInUse?: IsSlotInUse): number {
  for (;;) {
    const slot = findSlot(root, name, isInUse);
    const file = slotFile(root, slot);
    const owner = ownerOf(file);
    if (owner === name) return slot;
    if (owner !== undefined) fs.rmSync(file, { force: true });
    try {
      fs.symlinkSync(name, file);
      return slot;
    } catch (error) {
      // Another tunnel was faster: look again.
      if (!isSystemCallFailure(error) || error.code !== 'EEXIST') throw error;
    }
  }
}

/** Gives the tunnel's slot back. Idempotent. */
export function releaseSlot(root: StateRoot, name: string): void {
  for (const slot of candidates(name)) {
    const file = slotFile(root, slot);
    if (ownerOf(file) === name) fs.rmSync(file, { force: true });
  }
}
