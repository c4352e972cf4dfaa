import { describe, expect, it } from 'vitest';
import { type Routing, routingChecks, takes } from '../../../../src/app/doctor/routing-checks.ts';
import { planUp } from '../../../../src/app/plan.ts';
import type { PacketWay } from '../../../../src/netlink/lookup.ts';
import type { Route } from '../../../../src/netlink/messages.ts';
import { ruleOf } from '../../../../src/netlink/ops.ts';
import { ANY_RULE, type Rule } from '../../../../src/netlink/rule.ts';
import { configFor, PLAIN_HOST } from '../sample.ts';

const ADDRESS = '198.18.255.254';
const plan = planUp(configFor(), PLAIN_HOST);

const rule = (priority: number, more: Partial<Rule> = {}): Rule => ({
  ...ANY_RULE,
  family: 4,
  priority,
  table: 254,
  protocol: 2,
  ...more,
});
const PLAIN = [rule(0, { table: 255 }), rule(32_766), rule(32_767, { table: 253 })];

const route = (table: number, protocol = 3): Route => ({
  family: 4,
  table,
  destination: 'default',
  source: undefined,
  type: 'unicast',
  protocol,
  tos: 0,
  metric: 0,
  nexthops: [{ index: 2, gateway: undefined }],
  preferredSource: undefined,
  congestionControl: undefined,
});
const way = (table: number): PacketWay => ({ kind: 'route', route: route(table), index: 2 });

const check = (routing: Partial<Routing>): readonly string[] => {
  const plain = { rules: PLAIN, routes: [], links: [], ways: [{ address: ADDRESS, way: way(254) }], uid: 0 };
  return routingChecks(plan, { ...plain, ...routing }).map(({ id, level }) => `${id} ${level}`);
};

describe('rules and routes', () => {
  it('of a plain host are fine', () => expect(check({})).toEqual(['routing ok']));
  it('without policy routing nothing works', () => expect(check({ rules: [] })).toEqual(['policy-routing error']));

  it('a rule of another VPN that is looked at first diverts', () => {
    const rules = [...PLAIN, rule(100, { table: 51820, protocol: 4 })];
    expect(check({ rules, ways: [{ address: ADDRESS, way: way(51820) }] })).toEqual([
      'diverted error',
      'rules-before warning',
    ]);
  });

  it('the same rule without a route for us does not', () => {
    const rules = [...PLAIN, rule(100, { table: 51820, protocol: 4 })];
    expect(check({ rules })).toEqual(['routing ok', 'rules-before warning']);
  });

  it('one behind ours is told, and no more', () => {
    const rules = [
      ...PLAIN,
      rule(32_764, { table: 51820, protocol: 4, isInverted: true, fwmark: 51820, fwmask: 0xffffffff }),
    ];
    expect(check({ rules, ways: [{ address: ADDRESS, way: way(51820) }] })).toEqual([
      'routing ok',
      'rules-behind note',
    ]);
  });

  it('a refusal before ours diverts', () => {
    const rules = [...PLAIN, rule(100, { action: 'prohibit', table: 0, ipProto: 6 })];
    const refused = { kind: 'none', symbol: 'EACCES' } as const;
    expect(check({ rules, ways: [{ address: ADDRESS, way: refused }] })).toContain('diverted error');
  });

  it('our rules and routes of a crashed run are not in the way, those of others in their place are', () => {
    const ours = plan.divert.flatMap((op) => (op.kind === 'rule.add' && op.family === 4 ? [ruleOf(op)] : []));
    expect(check({ rules: [...PLAIN, ...ours], routes: [route(plan.scheme.table, 210)] })).toEqual(['routing ok']);
    const stolen = ours.slice(-1).map((one) => ({ ...one, protocol: 4 }));
    expect(check({ rules: [...PLAIN, ...stolen] })).toContain('rule-taken error');
    expect(check({ routes: [route(plan.scheme.table)] })).toContain('table-taken error');
  });

  it('a device of our name is in the way', () => {
    const link = { index: 3, name: 'pvpn0', mtu: 1500, txQueueLength: 0, isUp: true, isLoopback: false, kind: 'veth' };
    expect(check({ links: [link] })).toContain('tun-name error');
  });
});

describe('whether a rule takes what any program sends', () => {
  it.each([
    ['everything', {}, true],
    ['a mark', { fwmark: 5, fwmask: 0xff }, false],
    ['all but a mark', { fwmark: 5, fwmask: 0xff, isInverted: true }, true],
    ['this user', { uidRange: [1000, 1000] }, true],
    ['another user', { uidRange: [0, 0] }, false],
    ['UDP', { ipProto: 17 }, false],
    ['TCP', { ipProto: 6 }, true],
    ['our network', { destination: '198.18.0.0/15' }, true],
    ['another network', { destination: '10.0.0.0/8' }, false],
    ['what is forwarded', { incomingLink: 'docker0' }, false],
    ['what is forwarded, said the other way', { incomingLink: 'lo', isInverted: true }, false],
    ['another source', { source: '10.0.0.1/32' }, false],
  ] as const)('%s', (_, selectors, expected) => {
    expect(takes(rule(100, selectors), ADDRESS, 1000)).toBe(expected);
  });
});
