/** What every backend of the packet filter does, and the errors that they share. */
import { EXIT, ProxyVpnError } from '../errors.ts';
import type { FirewallPolicy } from './policy.ts';

/** Best first. */
export const BACKENDS = ['libnftables', 'nft', 'iptables'] as const;
export type BackendName = (typeof BACKENDS)[number];

export interface Backend {
  readonly name: BackendName;
  /**
   * Puts the policy into the kernel in place of an earlier one of the same table, reads it back and compares.
   * The host is as before when it fails.
   * @throws ProxyVpnError E_FIREWALL_LOAD, E_FIREWALL_VERIFY, E_FIREWALL_PERMISSION, E_FIREWALL_POLICY
   */
  load(policy: FirewallPolicy): Promise<void>;
  /**
   * Compares what is in the kernel with the policy, and with what the host's other firewalls need of us: for a
   * daemon that looks after its rules. Changes nothing; `load` mends.
   * @throws ProxyVpnError E_FIREWALL_VERIFY
   */
  verify(policy: FirewallPolicy): Promise<void>;
  /** Removes what `load` made, also in another process. @throws ProxyVpnError E_FIREWALL_UNLOAD, E_FIREWALL_PERMISSION */
  unload(policy: Pick<FirewallPolicy, 'table'>): Promise<'undone' | 'absent'>;
  isLoaded(table: string): Promise<boolean>;
  /**
   * Replaces the proxies' addresses of a loaded policy by those of this one, at once.
   * @throws ProxyVpnError E_FIREWALL_LOAD, E_FIREWALL_VERIFY
   */
  updateProxies(policy: FirewallPolicy): Promise<void>;
  /**
   * To be called every few seconds while a policy with `names` and without the killswitch is in force, see dns-guard.ts.
   * @throws ProxyVpnError E_FIREWALL_LOAD
   */
  keepAlive(policy: FirewallPolicy): Promise<void>;
}

/** A backend, or why it cannot be used here. */
export type Opened = Backend | { readonly unavailable: string };

/** `load`: the kernel is asked whether it knows every kind of rule, a module may be missing. `look`: enough to unload. */
export type Purpose = 'load' | 'look';

/** The answer of a tool or library. `rc` 0 is success. */
export interface CommandResult {
  readonly rc: number;
  readonly out: string;
  readonly err: string;
}

/**
 * The error for a command that was refused.
 * @param code used unless it is a matter of permission
 */
export function commandError(code: string, what: string, result: CommandResult): ProxyVpnError {
  const said = firstLine(result.err) || `exit code ${result.rc}`;
  return isPermission(result)
    ? permissionError(said)
    : new ProxyVpnError(code, `${what}: ${said}`, {
        hint: 'another packet filter can be chosen: PROXYVPN_FIREWALL=libnftables, nft or iptables',
      });
}

/** Neither the tools nor the library tell it apart but by strerror(3), in the C locale. */
export function isPermission(result: CommandResult): boolean {
  return /Operation not permitted|Permission denied/.test(result.err);
}

export function firstLine(text: string): string {
  return text.trim().split('\n', 1)[0] ?? '';
}

export function permissionError(why: string): ProxyVpnError {
  return new ProxyVpnError('E_FIREWALL_PERMISSION', `the packet filter needs the capability CAP_NET_ADMIN: ${why}`, {
    hint: 'run proxyvpn as root, or install it with its capability: setcap cap_net_admin+ep',
    exitCode: EXIT.notPermitted,
  });
}

/** @param differences at least one, each a sentence */
export function verifyError(table: string, differences: readonly string[]): ProxyVpnError {
  return new ProxyVpnError('E_FIREWALL_VERIFY', `the rules of ${table} are not as wanted: ${differences.join('; ')}`, {
    hint: 'another program may have changed the packet filter',
  });
}
