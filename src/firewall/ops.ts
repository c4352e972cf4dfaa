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
  /** Of `killswitch on`: it stays after `down`, until `killswitch off`. */
  readonly standing?: boolean;
}

export interface FirewallBefore {
  /** What was about to load the rules. For the reader of a journal; undo looks for itself. */
  readonly backend: BackendName;
  /** Where rules of the same table were already, left by a crash. They are replaced, and removed by undo. */
  readonly leftBy: readonly BackendName[];
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
      const leftBy: BackendName[] = [];
      for (const other of await choice.available()) if (await other.isLoaded(policy.table)) leftBy.push(other.name);
      return { backend: backend.name, leftBy };
    },
    async apply({ policy }, { leftBy }) {
      const backend = await choice.select();
      await backend.load(policy);
      // Rules that the new ones did not replace, because they are elsewhere in the kernel.
      const isElsewhere = leftBy.some((name) => !isSameKernelState(name, backend.name));
      if (!isElsewhere) return;
      for (const other of await choice.available())
        if (!isSameKernelState(other.name, backend.name)) await other.unload(policy);
    },
    async undo({ policy }): Promise<UndoResult> {
      const outcomes: ('undone' | 'absent')[] = [];
      const errors: unknown[] = [];
      // Wherever they are, not only where the journal says: rules of ours that are left over block the host.
      for (const backend of await choice.available())
        await backend.unload(policy).then(
          (outcome) => outcomes.push(outcome),
          (error) => errors.push(error),
        );
      if (errors.length > 0) throw errors[0];
      return { outcome: outcomes.includes('undone') ? 'undone' : 'absent' };
    },
    describe({ policy }) {
      const ruleset = rulesetOf(policy, { isUntracked: true });
      const note = '# raw_prerouting and raw_output are left out where another firewall or NAT needs the state\n';
      return `nft -f - <<'END'\n${note}${nftText(ruleset)}END`;
    },
  };
}

/** libnftables and nft make the same table; iptables makes chains of its own. */
function isSameKernelState(a: BackendName, b: BackendName): boolean {
  return (a === 'iptables') === (b === 'iptables');
}
