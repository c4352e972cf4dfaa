/** Node, kernel and privilege: what this process has to work with. Changes nothing. */
import fs from 'node:fs';
import os from 'node:os';
import { isSystemCallFailure, ProxyVpnError } from '../../errors.ts';
import { selectBackend } from '../../firewall/select.ts';
import { native } from '../../native.ts';
import { hasNetAdmin, requireNetAdmin } from '../capability.ts';
import { errorDocument } from '../error-document.ts';
import { error, errorFrom, type Finding, note, ok, warning } from './finding.ts';

const OLDEST_NODE = [20, 12] as const;
/** FRA_IP_PROTO and the port ranges of rules came with 4.17, strict checking of netlink with 4.20; 4.18 is tested. */
const OLDEST_KERNEL = [4, 18] as const;
const TUN = '/dev/net/tun';

export async function processChecks(): Promise<readonly Finding[]> {
  const addon = addonCheck();
  return [
    nodeCheck(process.versions.node),
    kernelCheck(os.release()),
    addon,
    tunCheck(),
    capabilityCheck(),
    ...namespaceCheck(readOr('/proc/self/uid_map')),
    ...(addon.level === 'ok' ? [await filterCheck()] : []),
  ];
}

function isOlder(version: string, [major, minor]: readonly [number, number]): boolean {
  const [a = 0, b = 0] = version.split('.').map((part) => Number.parseInt(part, 10));
  return a < major || (a === major && b < minor);
}

export function nodeCheck(version: string): Finding {
  const oldest = OLDEST_NODE.join('.');
  if (!isOlder(version, OLDEST_NODE)) return ok('node', `Node.js ${version}`);
  return error(
    'node',
    `Node.js ${version} is too old`,
    `${oldest} is the oldest that works`,
    'install a newer Node.js',
  );
}

export function kernelCheck(release: string): Finding {
  const oldest = OLDEST_KERNEL.join('.');
  if (!isOlder(release, OLDEST_KERNEL)) return ok('kernel', `Linux ${release}`);
  const why = `rules by protocol and port need ${oldest}`;
  return error('kernel', `Linux ${release} is too old`, why, 'boot a newer kernel');
}

function addonCheck(): Finding {
  try {
    return ok('addon', `native addon, lwIP ${native().versions.lwip.replace(/^lwip /i, '')}`);
  } catch (failure) {
    return errorFrom('addon', errorDocument(failure));
  }
}

/** What is known of the device file. */
export interface TunFacts {
  readonly mode: number | undefined;
  readonly isDevice: boolean;
  /** The driver is in the kernel; opening the file would load it otherwise, so it is not opened then. */
  readonly isLoaded: boolean;
  /** Symbolic errno of opening it, or of access(2); undefined: it can be opened. */
  readonly failure: string | undefined;
}

function tunCheck(): Finding {
  const stat = fs.statSync(TUN, { throwIfNoEntry: false });
  const isDevice = stat?.isCharacterDevice() === true;
  const isLoaded = /^\s*\d+ tun$/m.test(readOr('/proc/misc'));
  return judgeTun({ mode: stat?.mode, isDevice, isLoaded, failure: isDevice ? openFailure(isLoaded) : undefined });
}

/** Opening makes no device: that takes an ioctl. */
function openFailure(isLoaded: boolean): string | undefined {
  const { O_RDWR, O_NONBLOCK, R_OK, W_OK } = fs.constants;
  try {
    if (isLoaded) fs.closeSync(fs.openSync(TUN, O_RDWR | O_NONBLOCK));
    else fs.accessSync(TUN, R_OK | W_OK);
    return undefined;
  } catch (failure) {
    if (isSystemCallFailure(failure)) return failure.code;
    throw failure;
  }
}

export function judgeTun({ mode, isDevice, isLoaded, failure }: TunFacts): Finding {
  if (mode === undefined) {
    const mend = 'load the module (modprobe tun); into a container pass --device /dev/net/tun';
    return error('tun', `${TUN} is missing`, 'the tunnel is a device of this kind', mend);
  }
  if (!isDevice) return error('tun', `${TUN} is no character device`, null, 'remove it, then: modprobe tun');
  const octal = (mode & 0o7777).toString(8).padStart(4, '0');
  switch (failure) {
    case undefined:
      break;
    case 'EACCES': {
      const why = 'the capability alone does not open it';
      return error('tun', `${TUN} is not for this user (mode ${octal})`, why, `as root: chmod 0666 ${TUN}`);
    }
    case 'EPERM': {
      const why = 'a device policy forbids it, as of a container or a service';
      const mend = 'pass --device /dev/net/tun; in a unit: DeviceAllow=/dev/net/tun rw';
      return error('tun', `${TUN} cannot be opened: EPERM`, why, mend);
    }
    default:
      return error('tun', `${TUN} cannot be opened: ${failure}`, 'the kernel has no TUN driver', 'modprobe tun');
  }
  if (isLoaded) return ok('tun', `${TUN}, mode ${octal}`);
  return note('tun', `${TUN}, mode ${octal}; its driver is not loaded yet`, 'up loads it, where the kernel has it');
}

function readOr(file: string): string {
  try {
    return fs.readFileSync(file, 'latin1');
  } catch {
    return '';
  }
}

function capabilityCheck(): Finding {
  try {
    requireNetAdmin();
  } catch (failure) {
    return errorFrom('capability', errorDocument(failure));
  }
  const by = process.env['PROXYVPN_LAUNCHER'] !== undefined && process.geteuid?.() !== 0 ? ', of the launcher' : '';
  return ok('capability', `CAP_NET_ADMIN${by}`);
}

/** @param uidMap text of /proc/self/uid_map, user_namespaces(7); '' where the kernel has none */
export function namespaceCheck(uidMap: string): readonly Finding[] {
  if (uidMap === '' || /^\s*0\s+0\s+4294967295\s*$/.test(uidMap)) return [];
  const why = 'a capability counts here only for network namespaces that were made in here';
  return [note('user-namespace', 'this is a user namespace, as of a rootless container', why)];
}

/** As `up` selects it, by a ruleset that the kernel checks and throws away. */
async function filterCheck(): Promise<Finding> {
  if (!hasNetAdmin()) {
    const why = native().nftLoad(process.env['PROXYVPN_LIBNFTABLES'] || 'libnftables.so.1');
    if (why === null) return note('firewall', 'libnftables is there; the kernel cannot be asked without CAP_NET_ADMIN');
    const mend = 'install the package libnftables1; only root can do with nft or iptables instead';
    return warning('firewall', `libnftables cannot be used: ${why}`, null, mend);
  }
  try {
    const { name } = await selectBackend();
    if (name !== 'iptables') return ok('firewall', `packet filter by ${name}`);
    const why = 'IPv4 and IPv6 change one after the other, and tools that flush chains cut ours off';
    return warning('firewall', 'packet filter by iptables only', why, 'install the package libnftables1');
  } catch (failure) {
    if (failure instanceof ProxyVpnError) return errorFrom('firewall', errorDocument(failure));
    throw failure;
  }
}
