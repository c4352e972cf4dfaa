/** The TUN device: the op that creates it and the descriptors that keep it alive. */
import { isSystemCallFailure, ProxyVpnError } from '../errors.ts';
import { native, type OpenedTun } from '../native.ts';
import type { Applier, UndoResult } from '../op.ts';

export interface TunCreate {
  readonly kind: 'tun.create';
  readonly name: string;
  /** IFF_MULTI_QUEUE descriptors, one per engine thread; 1 = a plain device. */
  readonly queues: number;
}

/** Nothing to remember: the device did not exist, or `observe` would have failed. */
export type TunBefore = null;

/** How long a killed daemon's device may take to go: the kernel removes it when the last descriptor closes. */
const VANISH_MS = 1000;
const VANISH_POLL_MS = 20;

/** What opens and closes descriptors; the native addon, or a fake in tests. */
export interface TunOpener {
  openTun(name: string, queues: number): OpenedTun;
  closeFd(fd: number): void;
}

const OPEN_HINTS: { readonly [code: string]: string } = {
  ENOENT: 'load the tun module (modprobe tun), or pass the device into the container (--device /dev/net/tun)',
  EACCES: 'this user may not open /dev/net/tun: chmod 0666 /dev/net/tun (the usual mode), or run as root',
  EPERM: 'CAP_NET_ADMIN is needed: run as root',
  EBUSY: 'another program holds a device of that name: choose another with --tun',
};

/**
 * Creates the non-persistent device and holds its descriptors until `undo` or the end of the
 * process, whichever comes first; the kernel takes its addresses, routes and sysctls with it.
 */
export class TunDevice implements Applier<TunCreate, TunBefore> {
  #fds: readonly number[] = [];
  #writerFds: readonly number[] = [];
  readonly #opener: () => TunOpener;
  readonly #linkExists: (name: string) => Promise<boolean>;

  constructor(linkExists: (name: string) => Promise<boolean>, opener: () => TunOpener = native) {
    this.#linkExists = linkExists;
    this.#opener = opener;
  }

  /** One per queue, owned by this object; empty before `apply` and after `undo`. */
  get fds(): readonly number[] {
    return this.#fds;
  }

  /** See OpenedTun; owned by this object, too. */
  get writerFds(): readonly number[] {
    return this.#writerFds;
  }

  /** @throws ProxyVpnError E_TUN_EXISTS: TUNSETIFF would silently attach to a persistent device of somebody else */
  async observe(op: TunCreate): Promise<TunBefore> {
    if (!(await this.#isGone(op.name))) {
      throw new ProxyVpnError('E_TUN_EXISTS', `a network device named ${op.name} exists already`, {
        hint: `choose another name with --tun, or remove it: ip link del ${op.name}`,
      });
    }
    return null;
  }

  /** @throws ProxyVpnError E_TUN_OPEN with the errno; nothing is left open then */
  async apply(op: TunCreate): Promise<void> {
    try {
      const opened = this.#opener().openTun(op.name, op.queues);
      this.#fds = opened.fds;
      this.#writerFds = opened.writerFds;
    } catch (cause) {
      if (!isSystemCallFailure(cause)) throw cause;
      const hint = OPEN_HINTS[cause.code];
      throw new ProxyVpnError(
        'E_TUN_OPEN',
        `cannot create the TUN device ${op.name}: ${cause.syscall}: ${cause.code}`,
        {
          cause,
          ...(hint === undefined ? {} : { hint }),
        },
      );
    }
  }

  /** Closes our descriptors; in another process, waits for the kernel to have removed a dead daemon's device. */
  async undo(op: TunCreate): Promise<UndoResult> {
    if (this.#fds.length > 0) {
      for (const fd of [...this.#fds, ...this.#writerFds]) this.#opener().closeFd(fd);
      this.#fds = this.#writerFds = [];
      return { outcome: 'undone' };
    }
    if (await this.#isGone(op.name)) return { outcome: 'absent' };
    return { outcome: 'foreign', found: `device ${op.name} is held by another process` };
  }

  /** Looks several times: a daemon that has just ended may still be losing its device. */
  async #isGone(name: string): Promise<boolean> {
    const deadline = Date.now() + VANISH_MS;
    while (await this.#linkExists(name)) {
      if (Date.now() >= deadline) return false;
      await new Promise((resolve) => setTimeout(resolve, VANISH_POLL_MS));
    }
    return true;
  }

  describe(op: TunCreate): string {
    return `ip tuntap add dev ${op.name} mode tun vnet_hdr${op.queues > 1 ? ` multi_queue  # ${op.queues} queues` : ''}`;
  }
}
