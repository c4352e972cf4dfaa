/** Loads and types the native addon. The only file that may say `any`. */
import path from 'node:path';
import { ProxyVpnError } from './errors.ts';

export interface UpstreamAddress {
  readonly address: string;
  readonly port: number;
}

/** The table of virtual addresses (src/dns/virtual-range.ts) that all queues share, and who answers DNS. */
export interface EngineNames {
  /** CIDR. */
  readonly prefix4: string;
  readonly prefix6: string;
  /** Blocks of the IPv4 range that stand for nothing, ascending: address offset from its beginning, and size. */
  readonly gaps4: readonly { readonly offset: number; readonly size: number }[];
  /**
   * A word per slot, service slots included: the engine sets bit 31 and adds 1 when a SYN to the slot's address comes,
   * and subtracts 1 when the flow is gone, atomically. Its memory is kept alive and shared.
   */
  readonly flowWords: Uint32Array;
  /**
   * Whether UDP datagrams and TCP streams to port 53, of any address but the virtual ones, are DNS of this host:
   * datagrams go to `onDatagrams`, streams to `dnsSocket` behind a line of the PROXY protocol, version 1.
   */
  readonly catchesDns: boolean;
  /** Path of a unix stream socket; '' where `catchesDns` is false. */
  readonly dnsSocket: string;
}

export interface EngineOptions {
  /** Descriptors of one TUN device, one per queue. The engine duplicates them. */
  readonly tunFds: readonly number[];
  /** What `openTun` gave with them. */
  readonly tunWriterFds: readonly number[];
  readonly mtu: number;
  /** Tried in order; the one that answered last is tried first next time. */
  readonly upstreams: readonly UpstreamAddress[];
  /** CONNECT request = head + authority + middle + authority + tail (see src/proxy/connect.ts). */
  readonly request: { readonly head: string; readonly middle: string; readonly tail: string };
  /** SO_MARK of every upstream socket; 0 sets none. */
  readonly fwmark: number;
  readonly earlyAccept: boolean;
  /** From the SYN to the end of the proxy's reply head. */
  readonly connectTimeoutMs: number;
  /** Without a byte either way; 0 = never. */
  readonly idleTimeoutMs: number;
  /** Idle time before TCP keepalive probes, both sides; 0 = none. */
  readonly keepaliveMs: number;
  /** Bound of all payload buffers in bytes. */
  readonly memoryBytes: number;
  /** Bound of flows at a time. */
  readonly maxFlows: number;
  /** Bound of flows that wait for the proxy's answer at a time (SYN flood). */
  readonly maxPendingFlows: number;
  /** Connections to the proxy to keep open ahead of need; 0 = none. */
  readonly predial?: number;
  /** Names instead of numbers; left out: every address is an address, and port 53 a port like others. */
  readonly names?: EngineNames;
  /** Accept early, learn the host's name from the first bytes, CONNECT by it. */
  readonly sniff?: boolean;
  /** Report every opened and closed flow as an event (-v); refusals are always reported. */
  readonly flowEvents: boolean;
  /** Test only: what happens to packets between TUN and engine, each way. */
  readonly faults?: EngineFaults;
}

/** Of 1 packet in N; 0 = of none. */
export interface EngineFaults {
  readonly dropOneIn: number;
  readonly duplicateOneIn: number;
  /** Overtaken by the next one. */
  readonly delayOneIn: number;
  /** Super-segments are cut to the MSS first: so each fault meets one packet of a network. */
  readonly cuts: boolean;
}

/** Indices into `Engine.counters()`. Keep equal to native/engine/counters.h. */
export const COUNTER = {
  activeFlows: 0,
  openedFlows: 1,
  refusedFlows: 2,
  failedFlows: 3,
  bytesToUpstream: 4,
  bytesToApp: 5,
  packetsFromApp: 6,
  packetsToApp: 7,
  malformedPackets: 8,
  ignoredPackets: 9,
  resetFlows: 10,
  pendingFlows: 11,
  overLimitFlows: 12,
  bufferedBytes: 13,
  givenUpFlows: 14,
  tunWriteErrors: 15,
  /** DNS queries handed to `onDatagrams`, replies written, and either of them dropped. */
  datagramsFromApp: 16,
  datagramsToApp: 17,
  droppedDatagrams: 18,
  /** UDP and echo requests answered by "port unreachable". */
  refusedDatagrams: 19,
  /** Flows to virtual addresses that stand for nothing: refused. */
  unnamedFlows: 20,
  connections: 21,
  timers: 22,
  /** Flows that found a connection to the proxy open (`predial`). */
  predialledFlows: 23,
} as const;
export const COUNTER_SLOTS = 32;

export interface NativeEngine {
  /** COUNTER_SLOTS sums over all queues, read from shared memory without waking the engine's threads. */
  counters(): BigUint64Array;
  setUpstreams(addresses: readonly UpstreamAddress[]): void;
  /**
   * What slots stand for from now on; undefined: nothing. In force for every queue when this returns. A flow keeps the
   * name of its SYN.
   */
  setNames(changes: readonly { readonly slot: number; readonly hostname: string | undefined }[]): void;
  /** Writes UDP datagrams into the TUN, see src/tunstack/datagrams.ts. Those that do not fit are dropped. */
  sendDatagrams(batch: Uint8Array): void;
  /** Up to `limit` flows as one buffer of records, see src/tunstack/flow.ts. */
  flows(limit: number): Promise<Buffer>;
  /** Resets every flow and joins the thread. Idempotent. */
  stop(): Promise<void>;
}

export interface NftResult {
  readonly rc: number;
  readonly out: string;
  readonly err: string;
}

/** Answer of one marked TCP exchange with the proxy. Exactly one of `errno` (not 0) and `reply` tells. */
export interface ProbeResult {
  /** 0, or the errno of connect/send/recv; ETIMEDOUT at the deadline. */
  readonly errno: number;
  /** Symbolic name of errno, or ''. */
  readonly code: string;
  readonly connected: boolean;
  /** What the proxy sent up to the end of its header (at most 64 KiB), or up to the failure. */
  readonly reply: Buffer;
}

/** One packet that may go past the tunnel, see native/binding/leak_probe_binding.cc. */
export interface LeakProbe {
  /** `echo`: an ICMP echo request; `raw`: IP protocol 253, which needs CAP_NET_RAW. */
  readonly kind: 'tcp' | 'udp' | 'echo' | 'raw';
  readonly address: string;
  /** 0 where the kind has no ports. */
  readonly port: number;
  /** Address to bind to; left out: the kernel's choice. */
  readonly source?: string;
  /** SO_BINDTODEVICE */
  readonly device?: string;
  /** SO_MARK */
  readonly mark?: number;
  /** ifindex by which multicast leaves. */
  readonly multicastIndex?: number;
  readonly payload?: Uint8Array;
  /** TCP: whether to wait for bytes after the connection is made. The others always do. */
  readonly wantsAnswer?: boolean;
}

/** What became of a LeakProbe. */
export interface LeakProbeResult {
  /**
   * The call that failed at once, or `answer` for what came later, or never; '' when an answer came, or a connection
   * that was all that was wanted.
   */
  readonly step: '' | 'socket' | 'mark' | 'device' | 'source' | 'connect' | 'send' | 'answer';
  /** Symbolic errno, ETIMEDOUT at the deadline; '' without a failure. */
  readonly code: string;
  /** TCP only. */
  readonly isConnected: boolean;
  /** '' when there was none. */
  readonly localAddress: string;
  /** Of the ICMP error that ended it; -1: none. */
  readonly icmpType: number;
  readonly icmpCode: number;
  /** Who sent the ICMP error; '' when not known. */
  readonly icmpFrom: string;
  readonly answer: Buffer;
  /** ifindex of each device by which the packet was seen to leave. */
  readonly seenOn: readonly number[];
}

export interface OpenedTun {
  readonly name: string;
  /** One per queue. */
  readonly fds: readonly number[];
  /** Detached queues to write to, one for each of several queues, none for a single one: native/tun/tun_device.h. */
  readonly writerFds: readonly number[];
}

/** Functions of build/Release/proxyvpn.node. System call failures are thrown as SystemCallFailure. */
export interface NativeAddon {
  /** `lwip 2.1.3` and the like, for bug reports. */
  readonly versions: { readonly lwip: string };

  /** Creates a non-persistent TUN device (IFF_NO_PI, IFF_VNET_HDR, offloads). */
  openTun(name: string, queues: number): OpenedTun;
  closeFd(fd: number): void;

  /** @param onEvents is called with batches of event records, see src/tunstack/flow.ts */
  startEngine(
    options: EngineOptions,
    onEvents: (batch: Buffer) => void,
    onDatagrams?: (batch: Buffer) => void,
  ): NativeEngine;

  probe(
    upstream: UpstreamAddress,
    options: { readonly fwmark: number; readonly request: string; readonly timeoutMs: number },
  ): Promise<ProbeResult>;

  /**
   * Sends all of them at once and waits for what comes back, at most so long.
   * @returns `watchCode`: '' when all that leaves was watched, else why not (EPERM: no CAP_NET_RAW; ENOBUFS: with gaps)
   */
  sendProbes(
    probes: readonly LeakProbe[],
    timeoutMs: number,
  ): Promise<{ readonly results: readonly LeakProbeResult[]; readonly watchCode: string }>;

  /** One request to AF_NETLINK; every answer message back to back, until ACK, ERROR or DONE. */
  netlinkRequest(protocol: number, message: Uint8Array): Buffer;

  /** libnftables by dlopen; null when loaded, else why not. @param library default `libnftables.so.1` */
  nftLoad(library?: string): string | null;
  /** Runs on a worker thread, a context per call. @param outputFlags NFT_CTX_OUTPUT_* */
  nftRun(command: string, outputFlags: number, dryRun: boolean): Promise<NftResult>;

  /** An unbound UDP socket with SO_MARK, for `dgram.Socket.bind({ fd })`, which then owns the descriptor. */
  markedUdpSocket(family: 4 | 6, fwmark: number): number;
  /**
   * A TCP socket with SO_MARK that has begun to connect, for `net.Socket({ fd })`, which then owns the descriptor;
   * whether the connection comes about is seen there.
   */
  markedTcpSocket(address: string, port: number, fwmark: number): number;

  /** flock(2) LOCK_EX|LOCK_NB; false when another holds it. */
  flockExclusive(fd: number): boolean;

  /** Gives freed memory and the program file's own pages back to the kernel; what is needed again comes by faults. */
  trimMemory(): void;
}

let loaded: NativeAddon | undefined;

/**
 * PROXYVPN_ADDON names the file instead; the launcher gives a path without the ending `.node`, so not by `require`.
 * @throws ProxyVpnError E_ADDON when the addon is not built or does not load
 */
export function native(): NativeAddon {
  if (loaded) return loaded;
  const file =
    process.env['PROXYVPN_ADDON'] ?? path.join(import.meta.dirname, '..', 'build', 'Release', 'proxyvpn.node');
  try {
    const module: { exports: unknown } = { exports: {} };
    process.dlopen(module, file);
    loaded = module.exports as NativeAddon;
  } catch (cause) {
    throw new ProxyVpnError('E_ADDON', `cannot load the native addon ${file}: ${(cause as Error).message}`, {
      hint: 'build it with: npm ci && npm run build',
      cause,
    });
  }
  return loaded;
}
