/** This host as the app sees it: one applier for every kind of op, and what reads the kernel. */

import type { Datagram } from '../datagram.ts';
import type { Backend } from '../firewall/backend.ts';
import { firewallAppliers } from '../firewall/ops.ts';
import { availableBackends, selectBackend } from '../firewall/select.ts';
import { schemeFor } from '../mark/scheme.ts';
import { type EngineOptions, native } from '../native.ts';
import { netlinkAppliers } from '../netlink/ops.ts';
import { linkByName } from '../netlink/read.ts';
import type { NetlinkRequest } from '../netlink/socket.ts';
import type { Appliers } from '../op.ts';
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
  readonly device: Pick<TunDevice, 'fds' | 'writerFds'>;
  readonly appliers: Appliers<Op>;
  /** Whether somebody holds the device of this slot. @throws NetlinkError */
  isSlotInUse(slot: number): boolean;
  /** @throws NetlinkError, ProxyVpnError E_SYSCTL */
  snapshot(inputs: SnapshotInputs): Promise<Snapshot>;
  /** Asks the proxy over sockets with this mark. */
  prober(fwmark: number): Prober;
  startEngine(
    options: EngineOptions,
    onEvent: (event: FlowEvent) => void,
    onDatagrams?: (datagrams: readonly Datagram[]) => void,
  ): Engine;
  /** @throws ProxyVpnError E_SELF_TEST */
  selfTest(address: string): Promise<void>;
  /** @throws ProxyVpnError E_SELF_TEST */
  selfTestDns(): Promise<void>;
  /** The packet filter that `firewall.load` uses. @throws ProxyVpnError E_FIREWALL_UNAVAILABLE, E_FIREWALL_PERMISSION */
  backend(): Promise<Backend>;
  /** Begins to look for it in the background, for then nobody waits for it later. */
  lookForBackend(): void;
}

/** @throws ProxyVpnError E_ADDON, at the first use of the kernel */
export function openHost(): Host {
  const netlink: NetlinkRequest = (protocol, message) => native().netlinkRequest(protocol, message);
  const select = onceItSucceeds(selectBackend);
  const device = new TunDevice(async (name) => linkByName(netlink, name) !== undefined);
  return {
    netlink,
    device,
    appliers: {
      ...netlinkAppliers(netlink),
      ...firewallAppliers({ select, available: availableBackends }),
      ...sysctlAppliers(),
      'tun.create': device,
    },
    isSlotInUse: (slot) => linkByName(netlink, schemeFor('', slot).tun) !== undefined,
    snapshot: (inputs) => takeSnapshot(netlink, inputs),
    prober: markedProber,
    startEngine,
    selfTest,
    selfTestDns: async () => (await import('./dns-client.ts')).selfTestDns(),
    backend: select,
    lookForBackend: () => {
      select().catch(() => {});
    },
  };
}

export { isKnownOp } from './journal-trust.ts';

/** To choose a packet filter the kernel is asked to check every kind of rule, which takes it 25 ms. */
function onceItSucceeds<T>(ask: () => Promise<T>): () => Promise<T> {
  let answer: Promise<T> | undefined;
  return () => {
    const asked = answer ?? ask();
    answer = asked;
    asked.catch(() => {
      if (answer === asked) answer = undefined;
    });
    return asked;
  };
}
