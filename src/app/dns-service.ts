/** The DNS of a running tunnel: the server, its map of names, whom it asks, and the engine's table kept equal to the map. */
import dgram from 'node:dgram';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import type { Datagram } from '../datagram.ts';
import { LanUpstream } from '../dns/lan-upstream.ts';
import { type DnsName, nameFromText } from '../dns/name.ts';
import { DEFAULT_HOLD_MS, type NameChange, type NameEntry, NameMap, type NameMapCounters } from '../dns/name-map.ts';
import { bypassOf, type DnsConfig } from '../dns/options.ts';
import { DEFAULT_TTL, type DnsCounters, DnsServer } from '../dns/server.ts';
import { listenForStreams, type StreamListener } from '../dns/stream-listener.ts';
import { TcpUpstream } from '../dns/tcp-upstream.ts';
import { DNS_PORT, type Endpoint, type Upstream } from '../dns/upstream.ts';
import { SERVICE_SLOTS, VirtualRange } from '../dns/virtual-range.ts';
import { addressBytes, prefixText } from '../ip.ts';
import { type EngineNames, native } from '../native.ts';
import type { StateDirectory } from '../state/directory.ts';
import { addressesOf } from './dns-client.ts';
import type { DnsFigures } from './dns-figures.ts';
import { dnsSocket, namesFile } from './state-files.ts';

export interface DnsServiceInputs {
  readonly dns: DnsConfig;
  readonly directory: StateDirectory;
  /** Whether the tunnel carries IPv6. */
  readonly carriesIpv6: boolean;
  /** Text of /etc/resolv.conf: its search list. */
  readonly resolvConf: string;
  /** Asked directly, with our mark, for names of the local network. */
  readonly localResolvers: readonly string[];
  readonly fwmark: number;
  /** The proxy's own name is answered with its known addresses. */
  readonly proxyHost: string;
  readonly proxyAddresses: readonly string[];
  /** What the user should know: a file that cannot be written, a server that does not answer. */
  readonly onProblem: (text: string) => void;
}

/** What the service needs of the engine. */
export interface NamedEngine {
  setNames(changes: readonly NameChange[]): void;
  sendDatagrams(datagrams: readonly Datagram[]): void;
}

/** A server of ours: how it is reached, and by what name the proxy is asked for it. */
interface Service {
  readonly slot: number;
  readonly hostname: string;
}

export class DnsService {
  readonly engineNames: EngineNames;
  readonly #names: NameMap;
  readonly #hosts: Map<string, readonly Uint8Array[]>;
  readonly #proxyName: DnsName | undefined;
  readonly #relay: Upstream | undefined;
  readonly #lan: Upstream | undefined;
  readonly #server: DnsServer;
  readonly #services: readonly Service[];
  #streams: StreamListener | undefined;
  #engine: NamedEngine | undefined;
  /** Before there is an engine. */
  #untold: NameChange[] = [];

  /**
   * Opens the map and the socket for streams. Nothing is answered before the engine brings a query.
   * @throws ProxyVpnError E_DNS_LISTEN
   */
  static async start(inputs: DnsServiceInputs): Promise<DnsService> {
    const range = rangeOf(inputs.dns);
    const service = new DnsService(inputs, range, await openRelay(inputs.dns, range));
    try {
      service.#streams = await listenForStreams(service.#server, { path: service.engineNames.dnsSocket }, true);
    } catch (error) {
      await service.close();
      throw error;
    }
    return service;
  }

  private constructor(inputs: DnsServiceInputs, range: VirtualRange, relay: Upstream | undefined) {
    const { dns, directory, onProblem, proxyHost } = inputs;
    const flowWords = new Uint32Array(range.serviceSlot(SERVICE_SLOTS - 1) + 1);
    this.engineNames = {
      prefix4: prefixText(range.prefix4),
      prefix6: prefixText(range.prefix6),
      gaps4: range.gaps4,
      flowWords,
      catchesDns: true,
      dnsSocket: dnsSocket(directory),
    };
    this.#names = NameMap.open(
      {
        range,
        holdMs: DEFAULT_HOLD_MS,
        ...(dns.mode === 'virtual' ? { file: namesFile(directory) } : {}),
        flowWords,
        onChange: (changes) => this.#tellEngine(changes),
        onProblem,
      },
      performance.now(),
    );
    this.#proxyName = nameFromText(proxyHost);
    this.#hosts = new Map();
    this.setProxyAddresses(inputs.proxyAddresses);
    this.#services = servicesOf(dns, range);
    this.#relay = relay;
    this.#lan = localUpstream(inputs);
    this.#server = new DnsServer({
      rules: {
        mode: dns.mode,
        ipv6: inputs.carriesIpv6,
        bypass: bypassOf(dns, inputs.resolvConf),
        relaysOtherTypes: dns.relaysOtherTypes,
        isVirtual: (address) => range.covers(address),
        hosts: this.#hosts,
        ttl: DEFAULT_TTL.virtual,
      },
      names: this.#names,
      relay,
      lan: this.#lan,
      send: (replies) => this.#engine?.sendDatagrams(replies),
      ttl: DEFAULT_TTL.virtual,
      negativeTtl: DEFAULT_TTL.negative,
      onProblem: (text) => onProblem(`DNS: ${text}`),
    });
  }

  /** The engine's table is filled before this returns: from then on connections to known addresses find their names. */
  attach(engine: NamedEngine): void {
    engine.setNames([...this.#services, ...this.#untold]);
    this.#untold = [];
    this.#engine = engine;
  }

  /** Queries by UDP, as the engine brings them. */
  receive(datagrams: readonly Datagram[]): void {
    this.#server.receive(datagrams);
  }

  setProxyAddresses(addresses: readonly string[]): void {
    if (this.#proxyName !== undefined) this.#hosts.set(this.#proxyName.key, addresses.map(addressBytes));
  }

  /**
   * The addresses of a name by the resolvers of the local network, around the tunnel.
   * @returns none where no resolver may be asked
   * @throws ProxyVpnError E_DNS_TIMEOUT, E_DNS_UPSTREAM
   */
  async resolveLocally(host: string): Promise<readonly string[]> {
    const name = nameFromText(host);
    return this.#lan === undefined || name === undefined ? [] : addressesOf(this.#lan, name);
  }

  entries(): readonly NameEntry[] {
    return [...this.#names.entries(performance.now())];
  }

  forget(): { readonly forgotten: number; readonly kept: number } {
    return this.#names.forget(performance.now());
  }

  get figures(): DnsFigures {
    const { udpQueries, tcpQueries, virtual, relayed, lan, malformed, failed }: DnsCounters = this.#server.counters;
    const { names, mostNames, evicted, refused }: NameMapCounters = this.#names.counters;
    const queries = udpQueries + tcpQueries;
    return { names, mostNames, queries, virtual, relayed, local: lan, malformed, failed, evicted, refused };
  }

  /** After the engine has stopped. The names stay in their file. */
  async close(): Promise<void> {
    this.#engine = undefined;
    await this.#streams?.close();
    this.#relay?.close();
    this.#lan?.close();
    this.#names.close(performance.now());
  }

  #tellEngine(changes: readonly NameChange[]): void {
    if (this.#engine === undefined) this.#untold.push(...changes);
    else this.#engine.setNames(changes);
  }
}

/** Only `virtual` mode gives addresses to names; the servers of ours have theirs in every mode. */
function rangeOf({ mode, ranges }: DnsConfig): VirtualRange {
  return mode === 'virtual' ? new VirtualRange(ranges.v4, ranges.v6) : new VirtualRange(ranges.v4, ranges.v6, 1);
}

/** In an authority IPv6 addresses stand in brackets. */
const authorityHost = (host: string): string => (host.includes(':') ? `[${host}]` : host);

function servicesOf({ relay }: DnsConfig, range: VirtualRange): readonly Service[] {
  if (relay === undefined) return [];
  const hosts = relay.over === 'https' ? [relay.url.host] : usable(relay.servers).map(({ address }) => address);
  return hosts.map((host, index) => ({ slot: range.serviceSlot(index), hostname: authorityHost(host) }));
}

const usable = (servers: readonly Endpoint[]): readonly Endpoint[] => servers.slice(0, SERVICE_SLOTS);

/** Through the tunnel like any program, to addresses that stand for the servers: port 53 of others would be caught. */
async function openRelay({ relay }: DnsConfig, range: VirtualRange): Promise<Upstream | undefined> {
  if (relay === undefined) return undefined;
  const addressOf = (index: number): string => range.address4(range.serviceSlot(index));
  if (relay.over === 'tcp') {
    const servers = usable(relay.servers);
    const connect = (server: Endpoint): Duplex =>
      net.connect({ host: addressOf(servers.indexOf(server)), port: server.port, noDelay: true });
    return new TcpUpstream({ servers, connect });
  }
  const { url } = relay;
  // TLS and HTTP/2 take memory and time that the other modes need not spend.
  const [{ DohUpstream }, { connectDoh }] = await Promise.all([
    import('../dns/doh-upstream.ts'),
    import('../dns/doh-connect.ts'),
  ]);
  return new DohUpstream({ url, connect: () => connectDoh({ url, address: addressOf(0) }) });
}

function localUpstream({ localResolvers, fwmark }: DnsServiceInputs): Upstream | undefined {
  if (localResolvers.length === 0) return undefined;
  const servers = localResolvers.map((address) => ({ address, port: DNS_PORT }));
  const tcp = new TcpUpstream({ servers, connect: (server) => markedConnection(server, fwmark) });
  return new LanUpstream({
    servers,
    openSocket: (family) => {
      const socket = dgram.createSocket(family === 4 ? 'udp4' : 'udp6');
      return socket.bind({ fd: native().markedUdpSocket(family, fwmark) });
    },
    tcp,
  });
}

function markedConnection({ address, port }: Endpoint, fwmark: number): Duplex {
  try {
    return new net.Socket({ fd: native().markedTcpSocket(address, port, fwmark), readable: true, writable: true });
  } catch (error) {
    // A failure of any connection is told by its stream.
    return new net.Socket().destroy(error as Error);
  }
}
