/** The launcher refuses a node that others than root can change, and files of its own kind that lost the capability say so. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LauncherLab, must, NET_ADMIN, statusOf, USER, WAITING } from './launcher-lab.ts';

let lab: LauncherLab;
beforeAll(async () => {
  lab = await LauncherLab.make();
});
afterAll(() => lab.remove());

/** Where anything that can be had without the capability has been had. */
const UP = ['up', '--proxy', '127.0.0.1:1'];

describe('node', () => {
  let counter = 0;

  /** The outcome of a launcher, capability and all, that was linked for this node. */
  async function launchedWith(node: string): Promise<{ readonly code: number; readonly stderr: string }> {
    const launcher = path.join(lab.directory, `launcher${counter++}`);
    await lab.link(launcher, node);
    await lab.grant(launcher);
    return lab.run(lab.asUser([launcher, '--version']));
  }

  /** A directory of root's with a program that leaves a mark when it runs. */
  function place(): { readonly directory: string; readonly node: string } {
    const directory = path.join(lab.directory, `place${counter++}`);
    fs.mkdirSync(directory);
    const node = path.join(directory, 'node');
    fs.writeFileSync(node, '#!/bin/sh\necho it ran\n', { mode: 0o755 });
    return { directory, node };
  }

  it('of root in a place of root runs (positive control)', async () => {
    expect(await launchedWith(place().node)).toMatchObject({ code: 0, stdout: 'it ran\n' });
  });

  it.each<[string, number, string, (at: { directory: string; node: string }) => void]>([
    ['that the user owns', 3, 'others than root can change node', ({ node }) => fs.chownSync(node, USER, USER)],
    ['that a group can write to', 3, 'others than root can change node', ({ node }) => fs.chmodSync(node, 0o775)],
    ['that all can write to', 3, 'others than root can change node', ({ node }) => fs.chmodSync(node, 0o757)],
    [
      'in a directory of the user',
      3,
      'others than root can change node',
      ({ directory }) => fs.chownSync(directory, USER, USER),
    ],
    [
      'in a directory like /tmp',
      3,
      'others than root can change node',
      ({ directory }) => fs.chmodSync(directory, 0o1777),
    ],
    [
      'behind a symbolic link',
      3,
      'a symbolic link leads to node',
      ({ node }) => {
        fs.renameSync(node, `${node}20`);
        fs.symlinkSync('node20', node);
      },
    ],
    [
      'below a symbolic link',
      3,
      'a symbolic link leads to node',
      ({ directory }) => {
        fs.renameSync(directory, `${directory}.real`);
        fs.symlinkSync(`${directory}.real`, directory);
      },
    ],
    [
      'that is a directory',
      1,
      'not a file',
      ({ node }) => {
        fs.rmSync(node);
        fs.mkdirSync(node);
      },
    ],
    ['that is not there', 1, 'cannot find node', ({ node }) => fs.rmSync(node)],
  ])('%s does not', async (_claim, code, message, change) => {
    const at = place();
    change(at);
    const ran = await launchedWith(at.node);
    expect(ran).toMatchObject({ code, stdout: '' });
    expect(ran.stderr).toContain(`error: E_LAUNCHER_NODE: ${message}`);
    expect(ran.stderr).toContain('hint: install again with node in a place of root');
  });

  it('on a file system mounted nosuid, as users may mount one that lies about owners, does not', async () => {
    const { directory, node } = place();
    const launcher = path.join(lab.directory, `launcher${counter++}`);
    await lab.link(launcher, node);
    await lab.grant(launcher);
    const remount = `mount --bind ${directory} ${directory} && mount -o remount,bind,nosuid ${directory} && exec "$@"`;
    const argv = ['unshare', '--mount', 'sh', '-c', remount, 'sh', ...lab.asUser([launcher, '--version'])];
    const ran = await lab.run(argv);
    expect(ran).toMatchObject({ code: 3, stdout: '' });
    expect(ran.stderr).toContain('node is on a file system mounted nosuid');
  });
});

describe('the installed launcher', () => {
  it.each(['write', 'mapping'])('cannot be changed by the user, by %s', async (how) => {
    expect(await lab.attack('alter', lab.launcher, how)).toEqual({ altered: 'EACCES' });
  });

  it('keeps its program where nobody can change it: all that it carries is sealed', async () => {
    const program = await lab.startWaiting(lab.asUser([lab.launcher, WAITING]));
    const directory = `/proc/${program.pid}/fd`;
    const files = fs.readdirSync(directory).map((fd) => path.join(directory, fd));
    const carried = files.filter((file) => fs.readlinkSync(file).startsWith('/memfd:proxyvpn'));
    expect(carried).toHaveLength(2);
    for (const file of carried)
      expect(() => fs.writeFileSync(file, 'x', { flag: 'r+' }), 'not even by root').toThrow('EPERM');
  });
});

describe('a file of the user himself', () => {
  const own = async (name: string): Promise<string> => {
    const copy = path.join(lab.home, name);
    fs.copyFileSync(lab.launcher, copy);
    fs.chownSync(copy, USER, USER);
    fs.chmodSync(copy, 0o755);
    return copy;
  };

  it('that is a copy has no capability, and says how to get one', async () => {
    const copy = await own('copy');
    const ran = await lab.run(lab.asUser([copy, ...UP]));
    expect(ran.code).toBe(3);
    expect(ran.stderr).toContain('error: E_NOT_PERMITTED: changing the network needs the capability CAP_NET_ADMIN');
    expect(ran.stderr).toContain(`sudo setcap cap_net_admin+p ${copy}`);
    expect(await lab.run(lab.asUser([copy, '--version']))).toMatchObject({ code: 0 });
  });

  it('loses the capability when it is written to', async () => {
    const changed = await own('written');
    await lab.grant(changed);
    expect(await must(['getcap', changed]), 'positive control').toContain('cap_net_admin');
    expect(await lab.attack('alter', changed, 'write')).toEqual({ altered: 'done' });
    expect(await must(['getcap', changed])).toBe('');
    expect(await lab.run(lab.asUser([changed, ...UP]))).toMatchObject({ code: 3 });
  });

  it('refuses to work with it: a change through a mapping, unlike a write, would not take it away', async () => {
    const intact = await own('intact');
    await lab.grant(intact);
    const ran = await lab.run(lab.asUser([intact, '--version']));
    expect(ran).toMatchObject({ code: 3, stdout: '' });
    expect(ran.stderr).toContain('error: E_LAUNCHER_FILE: this file has a capability');
  });

  it('is refused as set-user-ID or set-group-ID as well', async () => {
    const copy = await own('setuid');
    fs.chownSync(copy, 0, 0);
    for (const mode of [0o4755, 0o2755]) {
      fs.chmodSync(copy, mode);
      const ran = await lab.run(lab.asUser([copy, '--version']));
      expect(ran).toMatchObject({ code: 3, stdout: '' });
      expect(ran.stderr).toContain('E_LAUNCHER_SETID');
    }
  });
});

describe('where a file capability counts for nothing, the exit code is 3 and the hint says why', () => {
  it.each<[string, readonly string[], string]>([
    ['no_new_privs', ['setpriv', '--no-new-privs', 'env'], 'no_new_privs is set'],
    ['a bounding set without it', ['env'], 'the bounding set is without it'],
  ])('%s', async (name, prefix, hint) => {
    const flags = name === 'no_new_privs' ? [] : ['--bounding-set', '-net_admin'];
    const ran = await lab.run(lab.asUser([...prefix, lab.launcher, ...UP], ...flags));
    expect(ran.code).toBe(3);
    expect(ran.stderr).toContain(hint);
  });

  it('a file system mounted nosuid', async () => {
    const directory = path.join(lab.directory, 'nosuid');
    fs.mkdirSync(directory);
    const launcher = path.join(directory, 'proxyvpn');
    await must(['cp', '--preserve=all', lab.launcher, launcher]);
    const remount = `mount --bind ${directory} ${directory} && mount -o remount,bind,nosuid ${directory} && exec "$@"`;
    const ran = await lab.run(['unshare', '--mount', 'sh', '-c', remount, 'sh', ...lab.asUser([launcher, ...UP])]);
    expect(ran.code).toBe(3);
    expect(ran.stderr).toContain(`${launcher} is on a file system mounted nosuid`);
  });
});

describe('a user namespace that the user makes', () => {
  /** Rules of the namespace in which this test runs, which is not the user's. */
  const rules = (): Promise<string> => must(['ip', '-j', 'rule']);

  it('gives him nothing outside of it: as its root, `up` changes nothing here', async () => {
    const before = await rules();
    const ran = await lab.run(lab.asUser(['unshare', '--map-root-user', lab.launcher, ...UP]));
    expect(ran.code).not.toBe(0);
    expect(await rules()).toBe(before);
    expect((await lab.run(lab.asUser(['unshare', '--map-root-user', 'ip', 'rule', 'add', 'pref', '7']))).code).not.toBe(
      0,
    );
  });

  it('without root in it is refused: who owns node cannot be told', async () => {
    const ran = await lab.run(lab.asUser(['unshare', '--user', lab.launcher, '--version']));
    expect(ran).toMatchObject({ code: 3, stdout: '' });
    expect(ran.stderr).toContain('E_LAUNCHER_NODE');
  });

  it('with a node of his own in place of node: that gets the capability over his namespace alone', async () => {
    const evil = path.join(lab.home, 'evil-node');
    fs.writeFileSync(evil, '#!/bin/sh\nip rule add pref 7 fwmark 7 lookup main; echo $?\n', { mode: 0o755 });
    fs.chownSync(evil, USER, USER);
    const before = await rules();
    const replace = `mount --bind ${evil} ${lab.node} && exec ${lab.launcher}`;
    const inside = ['unshare', '--map-root-user', '--mount', 'sh', '-c', replace];
    const ran = await lab.run(lab.asUser(inside));
    expect(ran.stdout.trim(), `it ran, in vain: ${ran.stderr}`).toMatch(/^[1-9]/);
    expect(await rules()).toBe(before);
  });
});

it('root keeps what it has, and gets the same environment', async () => {
  const program = await lab.startWaiting(['env', 'NODE_OPTIONS=--title=evil', lab.launcher, WAITING]);
  expect(statusOf(program.pid, 'CapEff')).toBe(statusOf(process.pid, 'CapEff'));
  expect(statusOf(program.pid, 'CapEff')).not.toBe(NET_ADMIN);
  expect(fs.readFileSync(`/proc/${program.pid}/environ`, 'utf8')).not.toContain('NODE_OPTIONS');
});
