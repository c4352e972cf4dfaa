/** The native engine with names instead of numbers: start, stop, counters. */

import type { Datagram } from '../datagram.ts';
import { COUNTER, type EngineOptions, type NativeEngine, native, type UpstreamAddress } from '../native.ts';
import { decodeDatagrams, encodeDatagrams } from './datagrams.ts';
import { decodeFlowEvents, type FlowEvent } from './flow.ts';

/**
 * Where the engine itself answers, without an upstream: it sends the banner and closes. An unmarked connect
 * to it goes the whole way of an application's packets. Keep equal to native/engine.
 */
export const HEALTH = {
  address4: '198.18.255.254',
  address6: 'fd70:7670:6e00::ffff',
  port: 7,
  banner: 'proxyvpn\n',
} as const;

export interface Counters {
  /** Counts since the start, but for `active` and `pending`, which are numbers of the moment. */
  readonly flows: {
    readonly active: number;
    readonly pending: number;
    readonly opened: number;
    readonly refused: number;
    readonly failed: number;
    readonly reset: number;
    readonly overLimit: number;
    /** Ended because an application's kernel no longer answered. */
    readonly givenUp: number;
    /** To virtual addresses that stand for nothing: refused. */
    readonly unnamed: number;
    /** That found a connection to the proxy open (`--predial`). */
    readonly predialled: number;
  };
  /** What lwIP holds: connections, those in TIME_WAIT too, and timers of theirs that run. */
  readonly tcp: { readonly connections: number; readonly timers: number };
  readonly bytes: { readonly toUpstream: number; readonly toApp: number; readonly buffered: number };
  readonly packets: {
    readonly fromApp: number;
    readonly toApp: number;
    readonly malformed: number;
    readonly ignored: number;
    readonly tunWriteErrors: number;
  };
  readonly datagrams: {
    /** DNS queries. */
    readonly fromApp: number;
    readonly toApp: number;
    /** Of both: too many at once, too large, or not taken by the device. */
    readonly dropped: number;
    /** UDP that is not carried, answered by an ICMP error. */
    readonly refused: number;
  };
}

/** Reads the counters. Numbers stay exact below 2^53. @param slots `NativeEngine.counters()` */
export function readCounters(slots: BigUint64Array): Counters {
  const count = (slot: number): number => Number(slots[slot] ?? 0n);
  return {
    flows: {
      active: count(COUNTER.activeFlows),
      pending: count(COUNTER.pendingFlows),
      opened: count(COUNTER.openedFlows),
      refused: count(COUNTER.refusedFlows),
      failed: count(COUNTER.failedFlows),
      reset: count(COUNTER.resetFlows),
      overLimit: count(COUNTER.overLimitFlows),
      givenUp: count(COUNTER.givenUpFlows),
      unnamed: count(COUNTER.unnamedFlows),
      predialled: count(COUNTER.predialledFlows),
    },
    tcp: { connections: count(COUNTER.connections), timers: count(COUNTER.timers) },
    bytes: {
      toUpstream: count(COUNTER.bytesToUpstream),
      toApp: count(COUNTER.bytesToApp),
      buffered: count(COUNTER.bufferedBytes),
    },
    packets: {
      fromApp: count(COUNTER.packetsFromApp),
      toApp: count(COUNTER.packetsToApp),
      malformed: count(COUNTER.malformedPackets),
      ignored: count(COUNTER.ignoredPackets),
      tunWriteErrors: count(COUNTER.tunWriteErrors),
    },
    datagrams: {
      fromApp: count(COUNTER.datagramsFromApp),
      toApp: count(COUNTER.datagramsToApp),
      dropped: count(COUNTER.droppedDatagrams),
      refused: count(COUNTER.refusedDatagrams),
    },
  };
}

export interface NameChange {
  readonly slot: number;
  /** undefined: the number stands for nothing any more. */
  readonly hostname: string | undefined;
}

export interface Engine {
  counters(): Counters;
  /** Takes effect with the next flow. */
  setUpstreams(addresses: readonly UpstreamAddress[]): void;
  /** What virtual addresses stand for from now on, in force when this returns. Nothing without `EngineOptions.names`. */
  setNames(changes: readonly NameChange[]): void;
  /** Replies to datagrams. What does not fit into a packet is dropped. */
  sendDatagrams(datagrams: readonly Datagram[]): void;
  /** Resets every flow and joins the thread. Idempotent. */
  stop(): Promise<void>;
}

/**
 * Starts the engine's thread on the given TUN queues.
 * @param onEvent called on the event loop; a batch that cannot be decoded becomes one `notice`
 * @param onDatagrams DNS queries, where `names.catchesDns`; left out, they get no answer. The payloads are valid during
 *   the call only
 * @throws SystemCallFailure
 */
export function startEngine(
  options: EngineOptions,
  onEvent: (event: FlowEvent) => void,
  onDatagrams?: (datagrams: readonly Datagram[]) => void,
): Engine {
  const tellUnreadable = (what: string, { offset, why }: { readonly offset: number; readonly why: string }): void => {
    const message = `${what} batch unreadable at byte ${offset}: ${why}`;
    onEvent({ kind: 'notice', errno: 0, code: '', message, suppressed: 0 });
  };
  const takeEvents = (batch: Uint8Array): void => {
    const { events, malformed } = decodeFlowEvents(batch);
    for (const event of events) onEvent(event);
    if (malformed) tellUnreadable('event', malformed);
  };
  const takeDatagrams = (batch: Uint8Array): void => {
    const { datagrams, malformed } = decodeDatagrams(batch);
    if (datagrams.length > 0) onDatagrams?.(datagrams);
    if (malformed) tellUnreadable('datagram', malformed);
  };
  const engine: NativeEngine = native().startEngine(options, takeEvents, onDatagrams && takeDatagrams);
  return {
    counters: () => readCounters(engine.counters()),
    setUpstreams: (addresses) => engine.setUpstreams(addresses),
    setNames: (changes) => engine.setNames(changes),
    sendDatagrams: (datagrams) => engine.sendDatagrams(encodeDatagrams(datagrams)),
    stop: () => engine.stop(),
  };
}
