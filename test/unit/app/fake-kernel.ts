/** A host in memory for whole tunnels: one firewall table, everything else as lines; it survives its daemons. */
import type { Host } from '../../../src/app/host.ts';
import { openHost } from '../../../src/app/host.ts';
import type { Op } from '../../../src/app/plan.ts';
import type { Backend } from '../../../src/firewall/backend.ts';
import type { FirewallPolicy } from '../../../src/firewall/policy.ts';
import type { EngineOptions, ProbeResult } from '../../../src/native.ts';
import type { Applier, Appliers, UndoResult } from '../../../src/op.ts';
import type { Engine } from '../../../src/tunstack/engine.ts';
import { readCounters } from '../../../src/tunstack/engine.ts';
import { PLAIN_HOST } from './sample.ts';

export const PROXY_ANSWERS: ProbeResult = {
  errno: 0,
  code: '',
  connected: true,
  reply: Buffer.from('HTTP/1.1 403 Forbidden\r\n\r\n'),
};
export const PROXY_REFUSES: ProbeResult = {
  errno: 111,
  code: 'ECONNREFUSED',
  connected: false,
  reply: Buffer.alloc(0),
};

export class FakeKernel {
  readonly lines = new Set<string>(['route of somebody else']);
  table: FirewallPolicy | undefined;
  /** What happened, in order. */
  readonly events: string[] = [];
  /** Whether nothing could leave, after each event. */
  readonly blocked: boolean[] = [];
  /** Called before each change, with how many there were in this life; may throw. */
  onChange: (count: number) => void = () => {};
  probeResult: ProbeResult = PROXY_ANSWERS;
  /** What the last engine was made with. */
  engineOptions: EngineOptions | undefined;
  #changes = 0;

  get text(): string {
    return JSON.stringify({ lines: [...this.lines].sort(), table: this.table ?? null });
  }

  /** SIGKILL: the kernel takes the device and what belongs to it; rules, sysctls and the table stay. */
  killDaemon(): void {
    for (const line of this.lines) if (line.includes('pvpn')) this.lines.delete(line);
    this.onChange = () => {};
  }

  /** A new process on this host. */
  host(): Host {
    this.#changes = 0;
    const real = openHost();
    const appliers = Object.fromEntries(
      Object.keys(real.appliers).map((kind) => [kind, kind === 'firewall.load' ? this.#firewall() : this.#line(real)]),
    ) as unknown as Appliers<Op>;
    return {
      ...real,
      appliers,
      device: { fds: [], writerFds: [] },
      isSlotInUse: () => false,
      snapshot: async ({ slot, proxies }) => ({ ...PLAIN_HOST, slot, proxies }),
      prober: () => async () => {
        this.#note('probe');
        return this.probeResult;
      },
      startEngine: (options) => this.#engine(options),
      selfTest: async () => this.#change('self-test', () => {}),
      selfTestDns: async () => this.#change('self-test of DNS', () => {}),
      backend: async () => this.#backend(),
      lookForBackend: () => {},
    };
  }

  #note(event: string): void {
    this.events.push(event);
    this.blocked.push(this.table?.killswitch === true);
  }

  #change(event: string, make: () => void): void {
    this.onChange(this.#changes++);
    make();
    this.#note(event);
  }

  #engine(options: EngineOptions): Engine {
    this.#change('engine', () => {
      this.engineOptions = options;
    });
    return {
      counters: () => readCounters(new BigUint64Array(32)),
      setUpstreams: () => {},
      setNames: () => {},
      sendDatagrams: () => {},
      stop: async () => this.#note('engine stopped'),
    };
  }

  #backend(): Backend {
    const load = async (policy: FirewallPolicy): Promise<void> =>
      this.#change(`load ${policy.killswitch ? 'killswitch' : 'marks'}`, () => {
        this.table = policy;
      });
    return {
      name: 'nft',
      load,
      verify: async () => {},
      updateProxies: load,
      keepAlive: async () => {},
      isLoaded: async () => this.table !== undefined,
      unload: async () => {
        if (this.table === undefined) return 'absent';
        this.#change('unload', () => {
          this.table = undefined;
        });
        return 'undone';
      },
    };
  }

  #firewall(): Applier<Op> {
    const backend = this.#backend();
    return {
      observe: async () => ({ backend: 'nft', leftBy: [] }),
      apply: async (op) => (op.kind === 'firewall.load' ? backend.load(op.policy) : undefined),
      undo: async (op): Promise<UndoResult> => ({
        outcome: op.kind === 'firewall.load' ? await backend.unload(op.policy) : 'absent',
      }),
      describe: () => 'nft -f -',
    };
  }

  #line(real: Host): Applier<Op> {
    const lineOf = (op: Op): string => (real.appliers[op.kind] as unknown as Applier<Op>).describe(op);
    return {
      observe: async ({ kind }) => (/^(address|route|rule)/.test(kind) ? { existed: false } : null),
      apply: async (op) => this.#change(lineOf(op), () => this.lines.add(lineOf(op))),
      undo: async (op): Promise<UndoResult> => {
        if (!this.lines.has(lineOf(op))) return { outcome: 'absent' };
        this.#change(`undo ${lineOf(op)}`, () => this.lines.delete(lineOf(op)));
        return { outcome: 'undone' };
      },
      describe: lineOf,
    };
  }
}
