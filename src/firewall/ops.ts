/** The one change to the packet filter: how it is made, shown and taken back. */
import type { Applier, Appliers, UndoResult } from '../op.ts';
import type { Backend, BackendName } from './backend.ts';
import type { FirewallPolicy } from './policy.ts';
import { nftText } from './rule.ts';
import { rulesetOf } from './ruleset.ts';
import { availableBackends, selectBackend } from './select.ts';

export interface FirewallLoadOp {
  readonly kind: 'firewall.load';
  readonly policy: FirewallPolicy;
}

export interface FirewallBefore {
  /** Loads the rules. */
  readonly backend: BackendName;
  /** Holds rules of the same table already: what a crash left. They are replaced, and removed by undo. */
  readonly leftBy: BackendName | null;
}

/** Which backends there are; another set for tests. */
export interface BackendChoice {
  readonly select: () => Promise<Backend>;
  readonly available: () => Promise<readonly Backend[]>;
}

/** Changing anything needs CAP_NET_ADMIN. Errors as in backend.ts and select.ts. */
export function firewallAppliers(
  choice: BackendChoice = { select: selectBackend, available: availableBackends },
): Appliers<FirewallLoadOp> {
  return { 'firewall.load': firewallLoad(choice) };
}

function firewallLoad(choice: BackendChoice): Applier<FirewallLoadOp, FirewallBefore> {
  return {
    async observe({ policy }) {
      const backend = await choice.select();
      if (await backend.isLoaded(policy.table)) return { backend: backend.name, leftBy: backend.name };
      for (const other of await choice.available())
        if (await other.isLoaded(policy.table)) return { backend: backend.name, leftBy: other.name };
      return { backend: backend.name, leftBy: null };
    },
    async apply({ policy }, { backend: name, leftBy }) {
      const available = await choice.available();
      const backend = available.find((candidate) => candidate.name === name) ?? (await choice.select());
      await backend.load(policy);
      // Rules that the new ones did not replace, because they are elsewhere in the kernel.
      const leftover = available.find((candidate) => candidate.name === leftBy);
      if (leftover && !isSameKernelState(leftover.name, backend.name)) await leftover.unload(policy);
    },
    async undo({ policy }): Promise<UndoResult> {
      let isUndone = false;
      // All of them, not only the recorded one: a table of ours that is left over blocks the host.
      for (const backend of await choice.available())
        isUndone = (await backend.unload(policy)) === 'undone' || isUndone;
      return { outcome: isUndone ? 'undone' : 'absent' };
    },
    describe({ policy }) {
      const ruleset = rulesetOf(policy, { isUntracked: true });
      return `nft -f - <<'END'\n${nftText(ruleset)}END`;
    },
  };
}

/** libnftables and nft make the same table; iptables makes chains of its own. */
function isSameKernelState(a: BackendName, b: BackendName): boolean {
  return (a === 'iptables') === (b === 'iptables');
}
