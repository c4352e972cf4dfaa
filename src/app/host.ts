/** This host as the app sees it: one applier for every kind of op, and what reads the kernel. */
import type { Backend } from '../firewall/backend.ts';
import { firewallAppliers } from '../firewall/ops.ts';
import { selectBackend } from '../firewall/select.ts';
import { type EngineOptions, native } from '../native.ts';
import { netlinkAppliers } from '../netlink/ops.ts';
import { linkByName } from '../netlink/read.ts';
import type { NetlinkRequest } from '../netlink/socket.ts';
import type { AnyOp, Appliers } from '../op.ts';
import { TunDevice } from '../tunstack/device.ts';
import { type Engine, startEngine } from '../tunstack/engine.ts';
import type { FlowEvent } from '../tunstack/flow.ts';
import type { Op } from './plan.ts';
import { markedProber, type Prober } from './preflight.ts';
import { selfTest } from './self-test.ts';
import { type Snapshot, type SnapshotInputs, takeSnapshot } from './snapshot.ts';
import { sysctlAppliers } from './sysctl.ts';

export interface Host {
  readonly netlink: NetlinkRequest;
  readonly device: Pick<TunDevice, 'fds'>;
  readonly appliers: Appliers<Op>;
  /** @throws NetlinkError, ProxyVpnError E_SYSCTL */
  snapshot(inputs: SnapshotInputs): Promise<Snapshot>;
  /** Asks the proxy over sockets with this mark. */
  prober(fwmark: number): Prober;
  startEngine(options: EngineOptions, onEvent: (event: FlowEvent) => void): Engine;
  /** @throws ProxyVpnError E_SELF_TEST */
  selfTest(address: string): Promise<void>;
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
    snapshot: (inputs) => takeSnapshot(netlink, inputs),
    prober: markedProber,
    startEngine,
    selfTest,
    backend: selectBackend,
  };
}

/** Whether this version can undo an op that it reads in a journal. */
export function isKnownOp(appliers: Appliers<Op>): (op: AnyOp) => op is Op {
  return (op): op is Op => Object.hasOwn(appliers, op.kind);
}
