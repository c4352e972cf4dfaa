/** Which connections live on beside the packet filter, on the real kernel, under strict reverse-path filtering. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { FirewallPolicy } from '../../src/firewall/policy.ts';
import {
  BYPASS_UID,
  CAP_NET_ADMIN,
  ENGINE_UID,
  FirewallLab,
  MARK,
  POLICY,
  PROXY_PORT,
  type Probe,
  type Variant,
} from './firewall-lab.ts';
import type { Background } from './process.ts';
import { ADDRESS } from './topology.ts';

const VARIANTS: readonly Variant[] = ['libnftables', 'iptables', 'iptables-legacy'];
const OFF: FirewallPolicy = { ...POLICY, killswitch: false };
/** More than any receive window: most of it is unsent when the program closes. */
const UPLOAD_BYTES = 6 << 20;
const ENGINE = { uid: ENGINE_UID, caps: CAP_NET_ADMIN, mark: MARK } as const;

let lab: FirewallLab;
/** In net: proxy, resolver and, for who goes around the tunnel, origin. */
let net: Background;

beforeAll(async () => {
  lab = await FirewallLab.make({ reversePathFilter: 1 });
  net = await lab.serve(lab.topology.net, 'net2', 81, PROXY_PORT + 2);
  await lab.serve(lab.app, 'app', 7000, 7001);
  await lab.serve(lab.topology.guest, 'guest', 80);
});
afterAll(() => lab?.remove());
afterEach(() => lab.clean());

const addressOf = (who: keyof typeof ADDRESS, family: 4 | 6): string => ADDRESS[who][family === 4 ? 'v4' : 'v6'];
const answer = (text: string) => ({ ok: true, answer: text });
/** For what must not be answered: long enough for any answer here, short enough to wait for none. */
const SILENT = { timeout_ms: 400 } as const;
const NO_ANSWER = { ok: false, error: 'timeout' };
const REFUSED = { ok: false, error: 'Connection refused' };

const reach = (who: 'peer' | 'guest' | 'net' | 'app', to: string, port: number, more: Partial<Probe> = {}) =>
  lab.probe(lab.topology[who], {
    proto: 'tcp',
    family: to.includes(':') ? 6 : 4,
    to,
    port,
    read: true,
    timeout_ms: 5000,
    ...more,
  });

// The first of all: once iptables-legacy was used, the host cannot be told from one that filters by state.
it('the tunnel is not tracked on a host without such a firewall, and verification notices when one comes', async () => {
  const tracked = async (): Promise<readonly string[]> => {
    const table = await lab.app.must(['cat', '/proc/net/nf_conntrack']);
    return table.split('\n').filter((line) => /198\.18\.0\.1|fd70:|dport=8888/.test(line));
  };
  await lab.must('libnftables', 'load');
  const before = await tracked();
  expect(await reach('app', ADDRESS.origin.v4, 80)).toEqual(answer('tunnel'));
  expect(await reach('app', ADDRESS.origin.v6, 80)).toEqual(answer('tunnel'));
  expect(await reach('app', ADDRESS.net.v4, PROXY_PORT, ENGINE)).toEqual(answer('net'));
  expect((await tracked()).filter((line) => !before.includes(line))).toEqual([]);

  await lab.app.must(['nft', '-f', '-'], { input: STATEFUL_HOST });
  expect(await lab.drive('libnftables', 'verify')).toMatchObject({ code: 'E_FIREWALL_VERIFY' });
  await lab.must('libnftables', 'load');
  await lab.must('libnftables', 'verify');
  expect(await reach('app', ADDRESS.origin.v4, 80)).toEqual(answer('tunnel'));
  expect(await tracked()).not.toEqual([]);
});

describe.each(VARIANTS)('%s', (variant) => {
  const cases = ([4, 6] as const).map((family) => [family] as const);

  it.each(cases)('without the killswitch the host answers connections from outside over IPv%s', async (family) => {
    await lab.must(variant, 'load', OFF);
    expect(await reach('peer', addressOf('app', family), 7000)).toEqual(answer('app'));
    expect(await reach('guest', family === 4 ? '10.78.0.1' : 'fd78::1', 7000)).toEqual(answer('app'));
  });

  it.each(cases)(
    'with the killswitch only permitted connections from outside are answered over IPv%s',
    async (family) => {
      const to = addressOf('app', family);
      await lab.must(variant, 'load');
      const capture = await lab.capture();
      expect(await reach('peer', to, 7000, SILENT)).toEqual(NO_ANSWER);
      expect((await capture.stop()).filter((line) => line.includes('.7000 > '))).toEqual([]);

      await lab.must(variant, 'load', { ...POLICY, inbound: { ports: [7000], peers: [] } });
      expect(await reach('peer', to, 7000)).toEqual(answer('app'));
      expect(await reach('peer', to, 7001, SILENT)).toEqual(NO_ANSWER);

      const peers = [{ address: addressOf('peer', family), localPort: 7001 }];
      await lab.must(variant, 'load', { ...POLICY, inbound: { ports: [], peers } });
      expect(await reach('peer', to, 7000, SILENT)).toEqual(NO_ANSWER);
      expect(await reach('peer', to, 7001)).toEqual(answer('app'));
      expect(await reach('net', to, 7001, SILENT)).toEqual(NO_ANSWER);

      await lab.must(variant, 'load', { ...POLICY, inbound: { ports: 'all', peers: [] } });
      expect(await reach('peer', to, 7000)).toEqual(answer('app'));
    },
  );

  it('an answer that an earlier, wider policy allowed is not sent under a narrower one', async () => {
    await lab.must(variant, 'load', { ...POLICY, inbound: { ports: 'all', peers: [] } });
    const talk = await lab.talk(lab.topology.peer, ADDRESS.app.v4, 7000);
    expect(await talk.ask()).toBe('.');
    await lab.must(variant, 'load', { ...POLICY, inbound: { ports: [7001], peers: [] } });
    expect(await talk.ask(700)).toBe(undefined);
  });

  it.each(cases)('connections older than the tunnel go on when they are listed over IPv%s', async (family) => {
    const to = addressOf('app', family);
    const [session, other] = await lab.beforeUp(async () => [
      await lab.talk(lab.topology.peer, to, 7000),
      await lab.talk(lab.topology.peer, to, 7000),
    ]);
    const existing = [
      {
        family,
        localAddress: to,
        localPort: 7000,
        remoteAddress: addressOf('peer', family),
        remotePort: session.localPort,
      },
    ];
    await lab.must(variant, 'load', { ...OFF, existing });
    expect(await session.ask()).toBe('.');
    await lab.must(variant, 'load', { ...POLICY, existing });
    expect(await session.ask()).toBe('.');
    expect(await other.ask(700)).toBe(undefined);
  });

  it('a connection around the tunnel that is older than the killswitch is reset, and sends nothing', async () => {
    await lab.must(variant, 'load', OFF);
    const talk = await lab.talk(lab.app, ADDRESS.origin.v4, 81, MARK);
    expect(await talk.ask()).toBe('.');
    await lab.must(variant, 'load');
    const capture = await lab.capture();
    expect(await talk.ask()).toBe('Connection reset by peer');
    expect((await capture.stop()).filter((line) => line.includes('.81: '))).toEqual([]);
  });

  it.each(cases)('a published port of a container is reached from outside over IPv%s', async (family) => {
    const to = addressOf('app', family);
    await publish();
    await lab.must(variant, 'load', OFF);
    expect(await reach('peer', to, 8080)).toEqual(answer('guest'));
    await lab.must(variant, 'load', { ...POLICY, inbound: { ports: [8080], peers: [] } });
    expect(await reach('peer', to, 8080)).toEqual(answer('guest'));
    await lab.must(variant, 'load', { ...POLICY, inbound: { ports: [80], peers: [] } });
    expect(await reach('peer', to, 8080, SILENT)).toEqual(NO_ANSWER);
  });

  it.each(cases)('a container behind NAT goes through the tunnel over IPv%s', async (family) => {
    await publish();
    for (const policy of [OFF, POLICY]) {
      await lab.must(variant, 'load', policy);
      expect(await reach('guest', addressOf('origin', family), 80)).toEqual(answer('tunnel'));
    }
  });

  it.each(cases)('a container reaches an allowed resolver and a bypassed network over IPv%s', async (family) => {
    const to = addressOf('net', family);
    const bypass = ['10.77.0.0/24', 'fd77::/64'];
    await lab.must(variant, 'load', POLICY);
    await withRule(`to ${to} lookup main`, family, async () => {
      await lab.must(variant, 'load', POLICY);
      expect(await reach('guest', to, 53)).toEqual(answer('net'));
      // The refusal would have to leave by an interface that may be the uplink: it is dropped, too.
      expect(await reach('guest', to, 81, SILENT)).toEqual(NO_ANSWER);
      await lab.must(variant, 'load', { ...POLICY, allowDns: [], bypass });
      expect(await reach('guest', to, 81)).toEqual(answer('net2'));
      expect(await reach('guest', to, 53, SILENT)).not.toEqual(answer('net'));
      expect(await reach('app', to, 81)).toEqual(answer('net2'));
      expect(await reach('app', to, 53)).toEqual(REFUSED);
    });
  });

  it.each(cases)('a container is told of a refusal where the LAN is allowed over IPv%s', async (family) => {
    await lab.must(variant, 'load', { ...POLICY, allowLan: true });
    const quic = { proto: 'udp', ...SILENT } as const;
    const error = family === 4 ? 'No route to host' : 'Permission denied';
    expect(await reach('guest', addressOf('origin', family), 443, quic)).toEqual({ ok: false, error });
  });

  it.each(cases)('a bypassing user goes around the tunnel, nobody else does, over IPv%s', async (family) => {
    const to = addressOf('origin', family);
    await lab.must(variant, 'load', POLICY);
    expect(await reach('app', to, 81, { uid: BYPASS_UID })).toEqual(REFUSED);
    for (const policy of [OFF, POLICY]) {
      await lab.must(variant, 'load', { ...policy, bypassUsers: [BYPASS_UID] });
      expect(await reach('app', to, 81, { uid: BYPASS_UID })).toEqual(answer('net2'));
      expect(await reach('app', to, 80)).toEqual(answer('tunnel'));
    }
  });

  it('what a program has sent arrives also when it closes at once', async () => {
    const policy = {
      ...POLICY,
      proxies: [{ address: ADDRESS.net.v4, port: PROXY_PORT + 2 }],
      bypassUsers: [BYPASS_UID],
    };
    await lab.must(variant, 'load', policy);
    const upload = { send: UPLOAD_BYTES, timeout_ms: 10_000, caps: CAP_NET_ADMIN } as const;
    for (const [to, port, who] of [
      [ADDRESS.net.v4, PROXY_PORT + 2, ENGINE],
      [ADDRESS.origin.v4, 81, { uid: BYPASS_UID }],
    ] as const) {
      const before = uploads().length;
      expect(await reach('app', to, port, { ...upload, ...who })).toEqual(answer('net2'));
      await net.until('end of upload', () => uploads().length > before);
      expect(uploads().slice(before)).toEqual([`END net2 ${UPLOAD_BYTES}`]);
    }
  });

  it('another proxy takes over in place', async () => {
    await lab.must(variant, 'load');
    const other = { ...POLICY, proxies: [{ address: ADDRESS.net.v4, port: PROXY_PORT + 1 }] };
    await lab.must(variant, 'updateProxies', other);
    expect(await reach('app', ADDRESS.net.v4, PROXY_PORT + 1, ENGINE)).toEqual(answer('net'));
    expect(await reach('app', ADDRESS.net.v4, PROXY_PORT, ENGINE)).toEqual(REFUSED);
    expect(await reach('app', ADDRESS.net.v6, PROXY_PORT, ENGINE)).toEqual(REFUSED);
    await lab.must(variant, 'verify', other);
  });

  it("nobody outside reaches the tunnel's address", async () => {
    await lab.topology.net.must(['ip', 'route', 'replace', '198.18.0.1', 'via', ADDRESS.app.v4]);
    await lab.beforeUp(async () => expect(await reach('net', '198.18.0.1', 7000)).toEqual(answer('app')));
    for (const policy of [OFF, { ...POLICY, inbound: { ports: 'all', peers: [] } } as const]) {
      await lab.must(variant, 'load', policy);
      expect(await reach('net', '198.18.0.1', 7000, SILENT)).toEqual(NO_ANSWER);
    }
  });

  it('the tunnel works beside a firewall of the host that lets only established connections in', async () => {
    await lab.app.must(['nft', '-f', '-'], { input: STATEFUL_HOST });
    for (const policy of [OFF, POLICY]) {
      await lab.must(variant, 'load', policy);
      expect(await reach('app', ADDRESS.origin.v4, 80)).toEqual(answer('tunnel'));
      expect(await reach('app', ADDRESS.origin.v6, 80)).toEqual(answer('tunnel'));
      expect(await reach('app', ADDRESS.net.v4, PROXY_PORT, ENGINE)).toEqual(answer('net'));
    }
  });
});

it('CAP_NET_ADMIN is enough for libnftables, and a user without it is told so', async () => {
  const as = (capabilities: string): readonly string[] => [
    ...['setpriv', '--reuid', String(ENGINE_UID), '--regid', String(ENGINE_UID), '--clear-groups'],
    ...['--inh-caps', capabilities, '--ambient-caps', capabilities],
  ];
  expect(await lab.drive('libnftables', 'load', POLICY, as('+net_admin'))).toMatchObject({ exitCode: 0 });
  const denied = await lab.drive('libnftables', 'load', POLICY, as('-all'));
  expect(denied).toMatchObject({ code: 'E_FIREWALL_PERMISSION', exitCode: 3 });
  const nft = await lab.drive('nft', 'load', POLICY, as('+net_admin'));
  expect(nft).toMatchObject({ code: 'E_FIREWALL_UNAVAILABLE', exitCode: 1 });
  expect(nft.message).toContain('nft: only as root');
});

it('without libnftables the next backend is taken, and a wrong choice is a usage error', async () => {
  const hidden = { PROXYVPN_LIBNFTABLES: 'libnone.so.1' };
  await expect(lab.drive('libnftables', 'load', POLICY, [], hidden)).resolves.toMatchObject({
    code: 'E_FIREWALL_UNAVAILABLE',
  });
  const free = { ...hidden, PROXYVPN_FIREWALL: '' };
  expect(await lab.drive('libnftables', 'load', POLICY, [], free)).toMatchObject({ exitCode: 0 });
  expect(await lab.must('nft', 'isLoaded')).toBe(true);
  const wrong = { PROXYVPN_FIREWALL: 'ipchains' };
  expect(await lab.drive('libnftables', 'load', POLICY, [], wrong)).toMatchObject({
    code: 'E_FIREWALL_BACKEND',
    exitCode: 2,
  });
});

const uploads = (): readonly string[] => net.stdout.split('\n').filter((line) => line === `END net2 ${UPLOAD_BYTES}`);

const STATEFUL_HOST = `
table inet host {
  chain input {
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    ct state established,related accept
    meta l4proto ipv6-icmp accept
  }
}
`;

/** What a container engine does: port 8080 of the host is port 80 of guest, and guest's packets get our address. */
async function publish(): Promise<void> {
  const rules = ['ip', 'ip6'].map(
    (family) => `
table ${family} engine {
  chain in { type nat hook prerouting priority -100; fib daddr type local tcp dport 8080 dnat to ${
    family === 'ip' ? `${ADDRESS.guest.v4}:80` : `[${ADDRESS.guest.v6}]:80`
  }; }
  chain out { type nat hook postrouting priority 100; iifname "guest0" oifname != "guest0" masquerade; }
}`,
  );
  await lab.app.must(['nft', '-f', '-'], { input: rules.join('\n') });
}

async function withRule(rule: string, family: 4 | 6, body: () => Promise<void>): Promise<void> {
  const ip = ['ip', `-${family}`, 'rule'];
  const words = ['priority', '5201', ...rule.split(' ')];
  await lab.app.must([...ip, 'add', ...words]);
  try {
    await body();
  } finally {
    await lab.app.must([...ip, 'del', ...words]);
  }
}
