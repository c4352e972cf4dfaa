/** Whether this process may change the network at all. */
import fs from 'node:fs';
import { EXIT, ProxyVpnError } from '../errors.ts';
import type { Environment } from '../state/directory.ts';

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
export function requireNetAdmin(status: string = ownStatus(), environment: Environment = process.env): void {
  if (hasNetAdmin(status)) return;
  throw new ProxyVpnError('E_NOT_PERMITTED', 'changing the network needs the capability CAP_NET_ADMIN', {
    hint: howToGetIt(environment),
    exitCode: EXIT.notPermitted,
  });
}

/** By the reason that the launcher has found (PROXYVPN_UNPRIVILEGED), native/launcher/launcher.cc. */
function howToGetIt(environment: Environment): string {
  const launcher = environment['PROXYVPN_LAUNCHER'] ?? 'proxyvpn';
  switch (environment['PROXYVPN_UNPRIVILEGED']) {
    case 'no-file-capability':
      return `${launcher} has none (a copy or a changed file loses it): sudo setcap cap_net_admin+p ${launcher}`;
    case 'no-new-privs':
      return 'no_new_privs is set, by a sandbox or a service: a file capability counts for nothing there';
    case 'nosuid':
      return `${launcher} is on a file system mounted nosuid, where a file capability counts for nothing`;
    case 'bounding-set':
      return 'the bounding set is without it, as in a container: start that with --cap-add NET_ADMIN';
    default:
      return 'install it once (sudo ./scripts/install.sh) or run it as root; proxyvpn demo needs no privilege';
  }
}
