import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readSysctl, type SysctlBefore, type SysctlSetOp, sysctlAppliers, sysctlKey } from '../../../src/app/sysctl.ts';
import type { Applier } from '../../../src/op.ts';

let root: string;
let applier: Applier<SysctlSetOp, SysctlBefore>;

const op: SysctlSetOp = { kind: 'sysctl.set', key: 'net.ipv4.conf.pvpn0.rp_filter', value: '2' };
const file = (key: string): string => path.join(root, ...key.split('/'));
const put = async (key: string, value: string): Promise<void> => {
  await mkdir(path.dirname(file(key)), { recursive: true });
  await writeFile(file(key), value);
};
const get = async (key: string): Promise<string> => (await readFile(file(key), 'utf8')).trim();

beforeEach(async () => {
  root = await mkdtemp(path.join(os.tmpdir(), 'sysctl-'));
  applier = sysctlAppliers(root)['sysctl.set'] as Applier<SysctlSetOp, SysctlBefore>;
  await put('net/ipv4/conf/pvpn0/rp_filter', '0\n');
});
afterEach(() => rm(root, { recursive: true }));

describe('a kernel parameter', () => {
  it('is set and put back', async () => {
    const before = await applier.observe(op);
    await applier.apply(op, before);
    expect(await get('net/ipv4/conf/pvpn0/rp_filter')).toBe('2');
    expect(await applier.undo(op, before)).toEqual({ outcome: 'undone' });
    expect(await get('net/ipv4/conf/pvpn0/rp_filter')).toBe('0');
    expect(await applier.undo(op, before)).toEqual({ outcome: 'absent' });
  });

  it('that somebody else set since is left alone', async () => {
    const before = await applier.observe(op);
    await applier.apply(op, before);
    await put('net/ipv4/conf/pvpn0/rp_filter', '1\n');
    const found = 'net.ipv4.conf.pvpn0.rp_filter = 1';
    expect(await applier.undo(op, before)).toEqual({ outcome: 'foreign', found });
    expect(await get('net/ipv4/conf/pvpn0/rp_filter')).toBe('1');
  });

  it('that had our value before keeps it', async () => {
    await put('net/ipv4/conf/pvpn0/rp_filter', '2\n');
    const before = await applier.observe(op);
    await applier.apply(op, before);
    expect(await applier.undo(op, before)).toEqual({ outcome: 'absent' });
    expect(await get('net/ipv4/conf/pvpn0/rp_filter')).toBe('2');
  });

  it('whose device is gone is absent', async () => {
    const before = await applier.observe(op);
    await applier.apply(op, before);
    await rm(path.join(root, 'net/ipv4/conf/pvpn0'), { recursive: true });
    expect(await applier.undo(op, before)).toEqual({ outcome: 'absent' });
  });

  it('that does not exist is an error, unless it is optional; no file is made', async () => {
    const missing: SysctlSetOp = { ...op, key: 'net.ipv4.no_such' };
    expect(await applier.observe(missing)).toBeNull();
    await expect(applier.apply(missing, null)).rejects.toMatchObject({
      code: 'E_SYSCTL',
      message: 'cannot set net.ipv4.no_such to 2: ENOENT',
    });
    await applier.apply({ ...missing, optional: true }, null);
    expect(await applier.undo({ ...missing, optional: true }, null)).toEqual({ outcome: 'absent' });
    expect(await readSysctl('net.ipv4.no_such', root)).toBeUndefined();
  });

  it('of several numbers is compared without regard to white space', async () => {
    const range: SysctlSetOp = { kind: 'sysctl.set', key: 'net.ipv4.ip_local_port_range', value: '1024 2048' };
    await put('net/ipv4/ip_local_port_range', '32768\t60999\n');
    const before = await applier.observe(range);
    await applier.apply(range, before);
    await put('net/ipv4/ip_local_port_range', '1024\t2048\n');
    expect(await applier.undo(range, before)).toEqual({ outcome: 'undone' });
    expect(await get('net/ipv4/ip_local_port_range')).toBe('32768 60999');
  });
});

describe('the name of a parameter', () => {
  it('takes dots of a device name as slashes, as sysctl(8) does', async () => {
    const key = sysctlKey('net', 'ipv4', 'conf', 'eth0.100', 'rp_filter');
    expect(key).toBe('net.ipv4.conf.eth0/100.rp_filter');
    await put('net/ipv4/conf/eth0.100/rp_filter', '1\n');
    expect(await readSysctl(key, root)).toBe('1');
    expect(await readSysctl('net/ipv4/conf/eth0.100/rp_filter', root)).toBe('1');
  });

  it.each(['', 'net..ipv4', 'net.ipv4.conf.//.rp_filter', '../etc/passwd', '/etc/passwd', 'net/../../x', 'a\0b'])(
    '%j is refused',
    async (key) => {
      await expect(readSysctl(key, root)).rejects.toMatchObject({ code: 'E_SYSCTL' });
    },
  );
});

describe('the line for an operator', () => {
  it.each([
    [op, 'sysctl -w net.ipv4.conf.pvpn0.rp_filter=2'],
    [{ ...op, key: 'net.ipv4.conf.eth0/1.rp_filter' }, 'sysctl -w net.ipv4.conf.eth0/1.rp_filter=2'],
    [{ ...op, key: 'net.ipv4.tcp_rmem', value: '1\t2 3' }, "sysctl -w 'net.ipv4.tcp_rmem=1 2 3'"],
  ])('of %j', (what, line) => {
    expect(applier.describe(what)).toBe(line);
  });
});
