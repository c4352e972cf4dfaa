import { describe, expect, it } from 'vitest';
import { hasNetAdmin, requireNetAdmin } from '../../../src/app/capability.ts';
import type { ProxyVpnError } from '../../../src/errors.ts';

const status = (effective: string): string => `Name:\tnode\nCapPrm:\tffff\nCapEff:\t${effective}\nCapBnd:\tffff\n`;

function refusal(environment: Record<string, string>): ProxyVpnError {
  try {
    requireNetAdmin(status('0000000000000000'), environment);
  } catch (error) {
    return error as ProxyVpnError;
  }
  throw new Error('permitted');
}

it('tells CAP_NET_ADMIN from its neighbours', () => {
  expect(hasNetAdmin(status('0000000000001000'))).toBe(true);
  expect(hasNetAdmin(status('000001ffffffffff'))).toBe(true);
  expect(hasNetAdmin(status('000001ffffffefff'))).toBe(false);
});

it('says nothing when the capability is there', () => {
  expect(() => requireNetAdmin(status('0000000000001000'), {})).not.toThrow();
});

describe('without it, exit code 3 and how to get it', () => {
  it.each([
    ['no-file-capability', 'sudo setcap cap_net_admin+p /opt/bin/proxyvpn'],
    ['no-new-privs', 'no_new_privs is set'],
    ['nosuid', '/opt/bin/proxyvpn is on a file system mounted nosuid'],
    ['bounding-set', '--cap-add NET_ADMIN'],
    ['unknown', 'run it as root'],
  ])('launcher: %s', (reason, hint) => {
    const error = refusal({ PROXYVPN_LAUNCHER: '/opt/bin/proxyvpn', PROXYVPN_UNPRIVILEGED: reason });
    expect([error.code, error.exitCode]).toEqual(['E_NOT_PERMITTED', 3]);
    expect(error.hint).toContain(hint);
  });

  it('no launcher', () => {
    expect(refusal({}).hint).toContain('sudo ./scripts/install.sh');
  });
});
