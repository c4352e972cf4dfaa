/** This host as the app sees it: one applier for every kind of op, and what reads the kernel. */
import type { Backend } from '../firewall/backend.ts';
import { firewallAppliers } from '../firewall/ops.ts';
import { selectBackend } from '../firewall/select.ts';
import { native } from '../native.ts';
import { netlinkAppliers } from '../netlink/ops.ts';
import { linkByName } from '../netlink/read.ts';
import type { NetlinkRequest } from '../netlink/socket.ts';
import type { AnyOp, Appliers } from '../op.ts';
import { TunDevice } from '../tunstack/device.ts';
import type { Op } from './plan.ts';
import { sysctlAppliers } from './sysctl.ts';

export interface Host {
  readonly netlink: NetlinkRequest;
  readonly device: TunDevice;
  readonly appliers: Appliers<Op>;
  /** The packet filter that `firewall.load` uses. @throws ProxyVpnError E_FIREWALL_UNAVAILABLE, E_FIREWALL_PERMISSION */
  backend(): Promise<Backend>;
}

/** @throws ProxyVpnError E_ADDON, at the first use of the kernel */
export function openHost(): Host {
  const netlink: NetlinkRequest = (protocol, message) => native().netlinkRequest(protocol, message);
  const device = new TunDevice(async (name) => linkByName(netlink, name) !== undefined);
  return {
    netlink,
    device,
    appliers: {
      ...netlinkAppliers(netlink),
      ...firewallAppliers(),
      ...sysctlAppliers(),
      'tun.create': device,
    },
    backend: selectBackend,
  };
}

/** Whether this version can undo an op that it reads in a journal. */
export function isKnownOp(appliers: Appliers<Op>): (op: AnyOp) => op is Op {
  return (op): op is Op => Object.hasOwn(appliers, op.kind);
}
