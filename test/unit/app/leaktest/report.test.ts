import { describe, expect, it } from 'vitest';
import { hintFor, type LeakDocument, leakText, type ProbeReport } from '../../../../src/app/leaktest/report.ts';

const probe = (id: string, verdict: ProbeReport['verdict'], why: string): ProbeReport => ({
  id,
  what: id,
  destination: '192.0.2.10:443',
  route: null,
  verdict,
  by: verdict === 'stopped' ? 'filter' : null,
  why,
});
const DOCUMENT: LeakDocument = {
  name: 'default',
  state: 'up',
  killswitch: true,
  tun: 'pvpn0',
  uplink: 'eth0',
  evidence: 'packets',
  control: true,
  probes: [probe('udp4', 'stopped', 'refused (EPERM)'), probe('control', 'tunnel', 'answered by the tunnel')],
  leaks: 0,
  hint: null,
};

describe('text', () => {
  it('of a tight host', () => {
    expect(leakText(DOCUMENT)).toBe(
      `default: up, killswitch on, device pvpn0, uplink eth0; every packet that left was watched
  through the tunnel  control  192.0.2.10:443  answered by the tunnel
  stopped by filter   udp4     192.0.2.10:443  refused (EPERM)
no leak (1 through the tunnel, 1 stopped)`,
    );
  });

  it('has the leaks last, and the hint', () => {
    const leaking = {
      ...DOCUMENT,
      killswitch: false,
      leaks: 1,
      probes: [probe('udp4', 'leaks', 'sent by eth0'), ...DOCUMENT.probes],
    };
    const lines = leakText({ ...leaking, hint: hintFor(leaking) }).split('\n');
    expect(lines.at(-3)).toMatch(/^ {2}LEAKS .* udp4 .* sent by eth0$/);
    expect(lines.at(-2)).toBe('1 of 3 kinds of packets go around the tunnel (1 through the tunnel, 1 stopped)');
    expect(lines.at(-1)).toMatch(/^hint: .*--killswitch/);
  });

  it('says when the control failed: then no leak says little', () => {
    expect(leakText({ ...DOCUMENT, control: false })).toMatch(/no leak; but the control did not/);
  });
});

describe('hint', () => {
  const leaks = { ...DOCUMENT, leaks: 1 };
  it.each([
    ['a tunnel without killswitch', { ...leaks, killswitch: false }, /--killswitch/],
    ['a tunnel whose killswitch is not known', { ...leaks, killswitch: null }, /--killswitch/],
    ['no tunnel', { ...leaks, state: 'down' as const }, /proxyvpn up --killswitch/],
    ['a killswitch that leaks', leaks, /report/],
    ['a tunnel that carries nothing', { ...DOCUMENT, control: false }, /proxyvpn doctor/],
  ])('for %s', (_, document, expected) => {
    expect(hintFor(document)).toMatch(expected);
  });
  it('none where all is well', () => {
    expect(hintFor(DOCUMENT)).toBeNull();
  });
});
