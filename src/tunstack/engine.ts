/** The native engine with names instead of numbers: start, stop, counters. */
import { COUNTER, type EngineOptions, type NativeEngine, native, type UpstreamAddress } from '../native.ts';
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
  };
  readonly bytes: { readonly toUpstream: number; readonly toApp: number; readonly buffered: number };
  readonly packets: {
    readonly fromApp: number;
    readonly toApp: number;
    readonly malformed: number;
    readonly ignored: number;
    readonly tunWriteErrors: number;
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
    },
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
  };
}

export interface Engine {
  counters(): Counters;
  /** Takes effect with the next flow. */
  setUpstreams(addresses: readonly UpstreamAddress[]): void;
  /** Resets every flow and joins the thread. Idempotent. */
  stop(): Promise<void>;
}

/**
 * Starts the engine's thread on the given TUN queues.
 * @param onEvent called on the event loop; a batch that cannot be decoded becomes one `notice`
 * @throws SystemCallFailure
 */
export function startEngine(options: EngineOptions, onEvent: (event: FlowEvent) => void): Engine {
  const engine: NativeEngine = native().startEngine(options, (batch) => {
    const { events, malformed } = decodeFlowEvents(batch);
    for (const event of events) onEvent(event);
    if (malformed) {
      const message = `event batch unreadable at byte ${malformed.offset}: ${malformed.why}`;
      onEvent({ kind: 'notice', errno: 0, code: '', message, suppressed: 0 });
    }
  });
  return {
    counters: () => readCounters(engine.counters()),
    setUpstreams: (addresses) => engine.setUpstreams(addresses),
    stop: () => engine.stop(),
  };
}
