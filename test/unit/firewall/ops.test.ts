import { describe, expect, it } from 'vitest';
import type { Backend, BackendName } from '../../../src/firewall/backend.ts';
import { type FirewallLoadOp, firewallAppliers } from '../../../src/firewall/ops.ts';
import { MARKS_ONLY, STRICT } from './policies.ts';

/** A backend that keeps its tables in memory. */
function backendOf(name: BackendName, tables: Set<string>, refuses?: Error): Backend {
  return {
    name,
    load: async ({ table }) => {
      if (refuses) throw refuses;
      tables.add(table);
    },
    verify: async () => {},
    unload: async ({ table }) => {
      if (refuses) throw refuses;
      return tables.delete(table) ? 'undone' : 'absent';
    },
    isLoaded: async (table) => tables.has(table),
    updateProxies: async () => {},
    keepAlive: async () => {},
  };
}

const host = (chosen: BackendName = 'libnftables') => {
  const nftables = new Set<string>();
  const iptables = new Set<string>();
  const available = [backendOf('libnftables', nftables), backendOf('iptables', iptables)];
  const selected = backendOf(chosen, chosen === 'iptables' ? iptables : nftables);
  const applier = firewallAppliers({ select: async () => selected, available: async () => available })['firewall.load'];
  return { nftables, iptables, applier };
};

const OP: FirewallLoadOp = { kind: 'firewall.load', policy: STRICT };

describe('firewall.load', () => {
  it.each(['libnftables', 'nft', 'iptables'] as const)(
    'is undone after %s made it, also a second time',
    async (name) => {
      const { applier, nftables, iptables } = host(name);
      const before = await applier.observe(OP);
      expect(before).toEqual({ backend: name, leftBy: [] });
      await applier.apply(OP, before);
      expect(nftables.size + iptables.size).toBe(1);
      expect(await applier.undo(OP, before)).toEqual({ outcome: 'undone' });
      expect(nftables.size + iptables.size).toBe(0);
      expect(await applier.undo(OP, before)).toEqual({ outcome: 'absent' });
    },
  );

  it('removes rules that a crash left with another backend, after the new ones are in', async () => {
    const { applier, nftables, iptables } = host();
    iptables.add(STRICT.table);
    const before = await applier.observe(OP);
    expect(before).toEqual({ backend: 'libnftables', leftBy: ['iptables'] });
    await applier.apply(OP, before);
    expect([nftables.size, iptables.size]).toEqual([1, 0]);
  });

  it('leaves the tables of other tunnels alone', async () => {
    const { applier, nftables } = host();
    nftables.add('proxyvpn-other');
    const before = await applier.observe(OP);
    await applier.apply(OP, before);
    await applier.undo(OP, before);
    expect([...nftables]).toEqual(['proxyvpn-other']);
  });

  it('undo tries every place before it reports a failure', async () => {
    const iptables = new Set([STRICT.table]);
    const broken = backendOf('libnftables', new Set(), new Error('broken'));
    const available = [broken, backendOf('iptables', iptables)];
    const applier = firewallAppliers({ select: async () => broken, available: async () => available })['firewall.load'];
    await expect(applier.undo(OP, { backend: 'libnftables', leftBy: [] })).rejects.toThrow('broken');
    expect(iptables.size).toBe(0);
  });

  it('is shown as what an operator would type', () => {
    const text = host().applier.describe({ kind: 'firewall.load', policy: MARKS_ONLY });
    expect(text.split('\n').slice(0, 5)).toEqual([
      "nft -f - <<'END'",
      '# raw_prerouting and raw_output are left out where another firewall or NAT needs the state',
      'add table inet proxyvpn',
      'delete table inet proxyvpn',
      'table inet proxyvpn {',
    ]);
    expect(text.endsWith('}\nEND')).toBe(true);
  });
});
