/** Whether this process may change the network at all. */
import fs from 'node:fs';
import { EXIT, ProxyVpnError } from '../errors.ts';

/** include/uapi/linux/capability.h */
const CAP_NET_ADMIN = 12n;

function ownStatus(): string {
  return fs.readFileSync('/proc/self/status', 'latin1');
}

/** @param status text of /proc/PID/status, proc(5) */
export function hasNetAdmin(status: string = ownStatus()): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1];
  return effective !== undefined && ((BigInt(`0x${effective}`) >> CAP_NET_ADMIN) & 1n) === 1n;
}

/** @throws ProxyVpnError E_NOT_PERMITTED (exit code 3) */
export function requireNetAdmin(status: string = ownStatus()): void {
  if (hasNetAdmin(status)) return;
  throw new ProxyVpnError('E_NOT_PERMITTED', 'changing the network needs the capability CAP_NET_ADMIN', {
    hint: 'run it as root: sudo proxyvpn ...; or try it without privileges: proxyvpn demo',
    exitCode: EXIT.notPermitted,
  });
}
