/** The packet filter on the real kernel: what each backend loads, and what may then leave. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { FirewallPolicy } from '../../src/firewall/policy.ts';
import {
  CAP_NET_ADMIN,
  CAP_NET_RAW,
  type Capture,
  ENGINE_UID,
  FirewallLab,
  MARK,
  OTHER_UID,
  POLICY,
  PROXY_PORT,
  type Probe,
  VARIANTS,
  type Variant,
} from './firewall-lab.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { ADDRESS } from './topology.ts';

let lab: FirewallLab;

beforeAll(async () => {
  lab = await FirewallLab.make();
});
afterAll(() => lab?.remove());
afterEach(() => lab.clean());

const OFF: FirewallPolicy = { ...POLICY, killswitch: false };

/** The old kernel interface cannot give back a table once it was used. */
const withoutEmptyTables = (dump: readonly string[]): readonly string[] =>
  dump.filter((line) => !/^ip6?tables-save: (\*|:[A-Z]+ ACCEPT|COMMIT)/.test(line));

async function dump(variant: Variant): Promise<readonly string[]> {
  const all = await dumpHost(lab.app);
  if (variant !== 'iptables-legacy') return all;
  const legacy = await lab.app.must(['sh', '-c', 'iptables-legacy-save; ip6tables-legacy-save']);
  const lines = legacy.split('\n').filter((line) => !line.startsWith('#'));
  return [...all, ...withoutEmptyTables(lines.map((line) => `iptables-save: ${line.replace(/\[\d+:\d+\]/, '')}`))];
}

describe.each(VARIANTS)('%s', (variant) => {
  it('loads, verifies, unloads, and leaves the host as it was', async () => {
    const before = await dump(variant);
    expect(await lab.must(variant, 'isLoaded')).toBe(false);
    for (const policy of [OFF, POLICY, OFF]) {
      await lab.must(variant, 'load', policy);
      await lab.must(variant, 'verify', policy);
      expect(await lab.must(variant, 'isLoaded')).toBe(true);
    }
    expect(dumpDifference(before, await dump(variant))).not.toEqual([]);
    expect(await lab.must(variant, 'unload')).toBe('undone');
    expect(dumpDifference(before, await dump(variant))).toEqual([]);
    expect(await lab.must(variant, 'unload')).toBe('absent');
    expect(dumpDifference(before, await dump(variant))).toEqual([]);
  });

  it('a policy that the kernel refuses changes nothing', async () => {
    await lab.must(variant, 'load');
    const before = await dump(variant);
    const impossible = { ...POLICY, proxies: [{ address: '192.0.2.1', port: 70_000 }] };
    const answer = await lab.drive(variant, 'load', impossible);
    expect(answer).toMatchObject({ code: 'E_FIREWALL_LOAD', exitCode: 1 });
    expect(await lab.drive(variant, 'updateProxies', impossible)).toMatchObject({ code: 'E_FIREWALL_LOAD' });
    expect(dumpDifference(before, await dump(variant))).toEqual([]);
    await lab.must(variant, 'verify');
  });

  it('notices that somebody took a rule or a chain away, and mends it by loading again', async () => {
    const damage = {
      nft: ['nft flush chain inet proxyvpn postrouting', 'nft delete table inet proxyvpn'],
      iptables: ['-t mangle -F PVPN-default-GATE', '-D OUTPUT -j PVPN-default-OUT'].map((args) => {
        return `${variant === 'iptables-legacy' ? 'iptables-legacy' : 'iptables'} ${args}`;
      }),
    }[variant.startsWith('iptables') ? 'iptables' : 'nft'];
    for (const command of damage) {
      await lab.must(variant, 'load');
      await lab.app.must(command.split(' '));
      expect(await lab.drive(variant, 'verify')).toMatchObject({ code: 'E_FIREWALL_VERIFY', exitCode: 1 });
    }
    await lab.must(variant, 'load');
    await lab.must(variant, 'verify');
  });

  it('is undone by another process, whatever loaded it', async () => {
    const before = await dump(variant);
    await lab.must(variant, 'apply');
    // A legacy table is only seen by the legacy programs.
    const other = variant === 'iptables-legacy' ? variant : 'libnftables';
    expect(await lab.must(other, 'undo')).toBe('undone');
    expect(await lab.must(other, 'undo')).toBe('absent');
    expect(dumpDifference(before, await dump(variant))).toEqual([]);
  });

  it('keeps the rules of others, in the same tables', async () => {
    const iptables = variant === 'iptables-legacy' ? 'iptables-legacy' : 'iptables';
    for (const [table, chain] of [
      ['filter', 'OUTPUT'],
      ['mangle', 'PREROUTING'],
    ] as const)
      await lab.app.must([iptables, '-t', table, '-A', chain, '-d', '192.0.2.77', '-j', 'ACCEPT']);
    const before = await dump(variant);
    await lab.must(variant, 'load');
    await lab.must(variant, 'unload');
    expect(dumpDifference(before, await dump(variant))).toEqual([]);
    for (const [table, chain] of [
      ['filter', 'OUTPUT'],
      ['mangle', 'PREROUTING'],
    ] as const)
      await lab.app.must([iptables, '-t', table, '-D', chain, '-d', '192.0.2.77', '-j', 'ACCEPT']);
  });

  it.each([4, 6] as const)('nothing leaves past the tunnel over IPv%s', async (family) => {
    const attempts = leaks(family, variant);
    // The control: the same capture sees each of them when nothing is filtered.
    await lab.must(variant, 'load', OFF);
    const control = await captured(attempts);
    for (const { name, seen } of attempts)
      expect(
        control.some((line) => seen.test(line)),
        name,
      ).toBe(true);

    await lab.must(variant, 'load', POLICY);
    expect((await captured(attempts)).filter((line) => !isNeighbourDiscovery(line))).toEqual([]);
  });

  it.each([4, 6] as const)('what the policy allows goes through over IPv%s', async (family) => {
    await lab.must(variant, 'load');
    const [net, origin] = [addressOf('net', family), addressOf('origin', family)];
    const read = { family, read: true, timeout_ms: 20_000 } as const;
    const engine = { uid: ENGINE_UID, caps: CAP_NET_ADMIN, mark: MARK } as const;
    const answers = {
      tunnel: await lab.probe(lab.app, { ...read, proto: 'tcp', to: origin, port: 80 }),
      forwarded: await lab.probe(lab.topology.guest, { ...read, proto: 'tcp', to: origin, port: 80 }),
      proxy: await lab.probe(lab.app, { ...read, ...engine, proto: 'tcp', to: net, port: PROXY_PORT }),
      loopback: await lab.probe(lab.app, { family, proto: 'udp', to: family === 4 ? '127.0.0.1' : '::1', port: 9 }),
    };
    expect(answers).toEqual({
      tunnel: { ok: true, answer: 'tunnel' },
      forwarded: { ok: true, answer: 'tunnel' },
      proxy: { ok: true, answer: 'net' },
      loopback: { ok: true, answer: '' },
    });
    const capture = await lab.capture();
    for (const from of [lab.app, lab.topology.guest])
      await lab.probe(from, { family, proto: 'udp', to: net, port: 53, from_port: 4000 });
    const asked = (await capture.stop()).filter((line) => line.includes('.4000 > '));
    expect(asked.map((line) => / (\S+)\.4000 > /.exec(line)?.[1])).toEqual([
      addressOf('app', family),
      addressOf('guest', family),
    ]);
  });

  it('refuses at once, so that no program hangs', async () => {
    await lab.must(variant, 'load');
    const bound = { device: 'uplink', timeout_ms: 20_000 } as const;
    const refused: readonly Probe[] = ([4, 6] as const).flatMap((family) => [
      { ...bound, proto: 'tcp', family, to: addressOf('origin', family), port: 80 } as const,
      { ...bound, proto: 'udp', family, to: addressOf('origin', family), port: 443 } as const,
      { ...bound, proto: 'udp', family, to: addressOf('origin', family), port: 53 } as const,
    ]);
    const outcomes = await Promise.all(refused.map((probe) => lab.probe(lab.app, probe)));
    expect(outcomes.map(({ error }) => error)).toEqual(
      [4, 6].flatMap(() => ['Connection refused', 'Operation not permitted', 'Operation not permitted']),
    );
  });
});

it.each(['libnftables', 'iptables'] as const)(
  '%s: when the tunnel is gone, TCP is refused and nothing leaves',
  async (variant) => {
    await lab.must(variant, 'load');
    const capture = await lab.capture();
    await lab.withoutTunnel(async () => {
      for (const family of [4, 6] as const)
        for (const from_port of [30_000, 30_001]) {
          const probe = { proto: 'tcp', family, to: addressOf('origin', family), port: 80, from_port } as const;
          expect(await lab.probe(lab.app, probe)).toEqual({ ok: false, error: 'Connection refused' });
        }
    });
    expect((await capture.stop()).filter((line) => !isNeighbourDiscovery(line))).toEqual([]);
  },
);

const addressOf = (who: keyof typeof ADDRESS, family: 4 | 6): string => ADDRESS[who][family === 4 ? 'v4' : 'v6'];

/** Types 131 to 136 and 143: solicitations, advertisements and reports of group membership. */
const isNeighbourDiscovery = (line: string): boolean =>
  /ICMP6, (neighbor|router) (solicitation|advertisement)|multicast listener/.test(line);

interface Attempt {
  readonly name: string;
  readonly from: 'app' | 'guest';
  readonly probe: Probe;
  /** Its line in the capture. */
  readonly seen: RegExp;
}

/** Every way past the tunnel that a program could try, and none that the policy allows. */
function leaks(family: 4 | 6, variant: Variant): readonly Attempt[] {
  const [net, origin] = [addressOf('net', family), addressOf('origin', family)];
  let port = 20_000;
  const attempt = (
    name: string,
    probe: Partial<Probe> & Pick<Probe, 'proto'>,
    from: 'app' | 'guest' = 'app',
  ): Attempt => {
    const from_port = port++;
    const hasPorts = ['tcp', 'udp', 'ack'].includes(probe.proto);
    const whole = { family, to: origin, timeout_ms: 300, ...(hasPorts && { from_port }), ...probe };
    const what = hasPorts ? `\\.${from_port} > ` : ` > .*(${probe.proto === 'icmp' ? 'echo request' : 'GRE|gre'})`;
    const seen = new RegExp(`IP6? ${addressOf(from, family)}${what}`);
    return { name, from, probe: whole, seen };
  };
  const bound = { device: 'uplink' } as const;
  const engine = { uid: ENGINE_UID, caps: CAP_NET_ADMIN, mark: MARK } as const;
  return [
    attempt('TCP bound to the uplink', { proto: 'tcp', port: 80, ...bound }),
    attempt('TCP with the mark, by root', { proto: 'tcp', port: 80, mark: MARK }),
    attempt('TCP with the mark and our uid', { proto: 'tcp', port: 80, ...engine }),
    attempt('our uid with the mark to another port of the proxy', {
      proto: 'tcp',
      to: net,
      port: PROXY_PORT + 1,
      ...engine,
    }),
    attempt('our uid without the mark to the proxy', {
      proto: 'tcp',
      to: net,
      port: PROXY_PORT,
      ...bound,
      uid: ENGINE_UID,
    }),
    attempt('another uid with CAP_NET_RAW and the mark to the proxy', {
      proto: 'tcp',
      to: net,
      port: PROXY_PORT,
      mark: MARK,
      uid: OTHER_UID,
      caps: CAP_NET_RAW,
    }),
    // iptables cannot tell an orphaned socket's segments from these.
    ...(variant.startsWith('iptables')
      ? []
      : [
          attempt('segments that open nothing, by another uid with CAP_NET_RAW and the mark, to the proxy', {
            ...{ proto: 'ack', to: net, port: PROXY_PORT, mark: MARK, uid: OTHER_UID, caps: CAP_NET_RAW },
          }),
        ]),
    attempt('UDP', { proto: 'udp', port: 5000 }),
    attempt('UDP with the mark', { proto: 'udp', port: 5000, mark: MARK }),
    attempt('UDP to the proxy with mark and uid', { proto: 'udp', to: net, port: PROXY_PORT, ...engine }),
    attempt('QUIC', { proto: 'udp', port: 443 }),
    attempt('DNS to another resolver', { proto: 'udp', port: 53 }),
    attempt('DNS over TCP to another resolver', { proto: 'tcp', port: 53, ...bound }),
    attempt('another service of an allowed resolver', { proto: 'udp', to: net, port: 5353 }),
    attempt('NTP', { proto: 'udp', port: 123 }),
    attempt('ICMP echo', { proto: 'icmp' }),
    attempt('GRE', { proto: 'gre' }),
    attempt('UDP of a container', { proto: 'udp', port: 5000 }, 'guest'),
    attempt('QUIC of a container', { proto: 'udp', port: 443 }, 'guest'),
    attempt('DNS of a container to another resolver', { proto: 'udp', port: 53 }, 'guest'),
    attempt('ICMP echo of a container', { proto: 'icmp' }, 'guest'),
  ];
}

async function captured(attempts: readonly Attempt[]): Promise<readonly string[]> {
  const capture: Capture = await lab.capture();
  for (const { from, probe } of attempts) await lab.probe(lab.topology[from], probe);
  return capture.stop();
}
