/** What the caller of the launcher brings along, environment, directory and descriptors, gives no other code the capability. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  ASKING,
  BUNDLE,
  descriptorsOf,
  environmentOf,
  LauncherLab,
  NET_ADMIN,
  NONE,
  statusOf,
  USER,
  WAITING,
} from './launcher-lab.ts';

let lab: LauncherLab;
beforeAll(async () => {
  lab = await LauncherLab.make();
});
afterAll(() => lab.remove());

describe('evil code that the environment names does not run with the capability', () => {
  /** How to make node, libc, OpenSSL or our own program load a file. */
  const doors: Record<string, () => Promise<readonly string[]>> = {
    NODE_OPTIONS: async () => [`NODE_OPTIONS=--require=${lab.evilScript('evil.cjs')}`],
    LD_PRELOAD: async () => [`LD_PRELOAD=${await lab.evilLibrary('evil.so')}`],
    LD_AUDIT: async () => [`LD_AUDIT=${await lab.evilLibrary('evil.so')}`],
    LD_LIBRARY_PATH: async () => [`LD_LIBRARY_PATH=${path.dirname(await lab.evilLibrary('libdl.so.2'))}`],
    OPENSSL_CONF: async () => [`OPENSSL_CONF=${opensslConfig(await lab.evilLibrary('evil.so'))}`],
    PROXYVPN_ADDON: async () => [`PROXYVPN_ADDON=${await lab.evilLibrary('evil.so')}`, 'PROXYVPN_LAUNCHER=/bin/true'],
  };

  function opensslConfig(library: string): string {
    const file = path.join(lab.home, 'openssl.cnf');
    const sections = {
      nodejs_conf: 'providers = list',
      list: 'evil = evil',
      evil: `module = ${library}\nactivate = 1`,
    };
    const text = Object.entries(sections).map(([name, body]) => `[${name}]\n${body}\n`);
    fs.writeFileSync(file, `nodejs_conf = nodejs_conf\n${text.join('')}`);
    return file;
  }

  it.each(Object.keys(doors))('%s', async (door) => {
    const variables = (await doors[door]?.()) ?? [];
    await lab.run(lab.unguarded([BUNDLE, '--version'], variables));
    expect(lab.takeMark(), 'positive control: without the launcher it runs, with the capability').toBe(NET_ADMIN);
    const ran = await lab.run(lab.asUser([...variables, lab.launcher, '--version']));
    expect(ran.code, ran.stderr).toBe(0);
    expect(lab.takeMark()).toBeUndefined();
  });

  it('NODE_EXTRA_CA_CERTS is not even read', async () => {
    const variables = [`NODE_EXTRA_CA_CERTS=${path.join(lab.home, 'missing.pem')}`];
    const program = ['-e', 'require("tls").createSecureContext()'];
    const warned = await lab.run(lab.unguarded(program, variables));
    expect(warned.stderr, 'positive control').toContain('Ignoring extra certs');
    const ran = await lab.run(lab.asUser([...variables, lab.launcher, '--version']));
    expect([ran.code, ran.stderr]).toEqual([0, '']);
  });

  it('the firewall library is not the one that PROXYVPN_LIBNFTABLES names', async () => {
    const variables = [`PROXYVPN_LIBNFTABLES=${await lab.evilLibrary('evil.so')}`];
    await lab.run(lab.unguarded([BUNDLE, 'down', '--force'], variables));
    expect(lab.takeMark(), 'positive control').toBe(NET_ADMIN);
    await lab.run(lab.asUser([...variables, lab.launcher, 'down', '--force']));
    expect(lab.takeMark()).toBeUndefined();
  });
});

it('no variable reaches node but those that proxyvpn reads as text, and its own', async () => {
  const passed = [
    ...['HOME', 'LOGNAME', 'USER', 'TERM', 'NO_COLOR', 'XDG_CONFIG_HOME', 'XDG_RUNTIME_DIR', 'NOTIFY_SOCKET'],
    ...['SSH_CONNECTION', 'http_proxy', 'https_proxy', 'HTTPS_PROXY', 'PROXYVPN_PROXY', 'PROXYVPN_STATE_DIR'],
    'PROXYVPN_FIREWALL',
  ];
  const refused = [
    ...['NODE_OPTIONS', 'NODE_PATH', 'NODE_EXTRA_CA_CERTS', 'NODE_COMPILE_CACHE', 'NODE_V8_COVERAGE', 'NODE_DEBUG'],
    ...['LD_BIND_NOW', 'GCONV_PATH', 'LOCPATH', 'GLIBC_TUNABLES', 'MALLOC_TRACE', 'TMPDIR', 'TZ', 'LANG', 'LC_ALL'],
    ...['OPENSSL_MODULES', 'OPENSSL_ENGINES', 'SSL_CERT_FILE', 'SSLKEYLOGFILE', 'UV_THREADPOOL_SIZE', 'HOSTALIASES'],
    ...['PROXYVPN_LIBNFTABLES', 'PROXYVPN_UNPRIVILEGED', 'PROXYVPN_PRIVILEGED_TESTS', 'PROXYVPN_PROXYX', 'HOMEX'],
    ...['XTABLES_LIBDIR', 'BASH_ENV', 'http_proxyx', 'npm_config_prefix', 'PWD', 'SHELL'],
  ];
  const set = ['PATH', 'OPENSSL_CONF', 'PROXYVPN_ADDON', 'PROXYVPN_BUNDLE', 'PROXYVPN_CODE', 'PROXYVPN_LAUNCHER'];
  const given = [...set, ...refused, ...passed];
  const values = Object.fromEntries(given.map((name) => [name, `/nonexistent/${name}`]));
  const assignments = Object.entries({ ...values, NODE_OPTIONS: '--no-warnings' }).map(([k, v]) => `${k}=${v}`);
  const guarded = await lab.startWaiting(lab.asUser(['-i', ...assignments, lab.launcher, WAITING]));
  const environment = environmentOf(guarded.pid);
  expect(environment).toEqual({
    ...Object.fromEntries(passed.map((name) => [name, `/nonexistent/${name}`])),
    PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
    OPENSSL_CONF: '/dev/null',
    PROXYVPN_ADDON: expect.stringMatching(/^\/proc\/self\/fd\/\d+$/),
    PROXYVPN_BUNDLE: expect.stringMatching(/^\/proc\/self\/fd\/\d+$/),
    PROXYVPN_CODE: expect.stringMatching(/^\/proc\/self\/fd\/\d+$/),
    PROXYVPN_LAUNCHER: lab.launcher,
  });
});

it('no argument at all, not even a name, and an odd environment are survived', async () => {
  const ran = await lab.run(lab.asUser(lab.attackArgv('bare', lab.launcher)));
  expect(ran.stdout + ran.stderr).toContain('Usage: proxyvpn');
});

it('modules in the working directory and the home directory are not found', async () => {
  const names = ['net', 'fs', 'commander', 'zod', 'proxyvpn.node', 'evil'];
  for (const name of names) {
    lab.evilScript(`node_modules/${name}/index.js`);
    lab.evilScript(`.node_modules/${name}.js`);
    lab.evilScript(`.node_libraries/${name}.js`);
  }
  fs.writeFileSync(path.join(lab.home, '.npmrc'), `node-options=--require=${lab.evilScript('evil.cjs')}\n`);
  fs.writeFileSync(path.join(lab.home, 'package.json'), '{"type":"module","imports":{"#x":"./evil.cjs"}}');
  await lab.run(lab.unguarded(['-e', 'require("evil")']));
  expect(lab.takeMark(), 'positive control: by the working directory').toBe(NET_ADMIN);
  await lab.run(lab.unguarded(['-e', 'require("evil")']), { cwd: '/' });
  expect(lab.takeMark(), 'positive control: by the home directory').toBe(NET_ADMIN);
  const ran = await lab.run(lab.asUser([lab.launcher, '--version']));
  expect(ran.code, ran.stderr).toBe(0);
  expect(lab.takeMark()).toBeUndefined();
});

it("arguments are the program's, never node's", async () => {
  const evil = lab.evilScript('evil.cjs');
  for (const argv of [
    ['--require', evil],
    ['-r', evil],
    [`--import=${evil}`],
    ['-e', `require('${evil}')`],
    [evil],
    ['--inspect'],
  ]) {
    const ran = await lab.run(lab.asUser([lab.launcher, ...argv]));
    expect(ran.code, argv.join(' ')).toBe(2);
    expect(lab.takeMark()).toBeUndefined();
  }
  await lab.run(lab.unguarded(['--require', evil, BUNDLE]));
  expect(lab.takeMark(), 'positive control').toBe(NET_ADMIN);
});

describe('descriptors', () => {
  it('0, 1 and 2 that are closed lead nowhere, before anything opens a file', async () => {
    const closed = ['sh', '-c', 'exec "$@" <&- >&- 2>&-', 'sh', lab.launcher, ...ASKING];
    const seen = await lab.whileChildRuns(lab.asUser(closed), (_child, parent) => descriptorsOf(parent));
    // libc, which knows that the program is privileged, comes first; its /dev/full is open for writing only.
    for (const fd of ['0', '1', '2']) expect(seen[fd]).toMatch(/^\/dev\/(null|full)$/);
  });

  it('others do not come in, and those with the program do not go on to children', async () => {
    const secret = path.join(lab.home, 'secret');
    fs.writeFileSync(secret, '', { mode: 0o666 });
    const opened = (program: string): readonly string[] => [
      'sh',
      '-c',
      `exec 3<${secret} 9<${secret} && exec "$@"`,
      'sh',
      program,
    ];
    const plain = await lab.startWaiting(lab.asUser([...opened(lab.node), BUNDLE, WAITING]));
    expect(Object.values(descriptorsOf(plain.pid)), 'positive control').toContain(secret);
    const { own, ofChild } = await lab.whileChildRuns(
      lab.asUser([...opened(lab.launcher), ...ASKING]),
      (child, parent) => ({ own: Object.values(descriptorsOf(parent)), ofChild: Object.values(descriptorsOf(child)) }),
    );
    expect(own).not.toContain(secret);
    expect(own.filter((name) => name.startsWith('/memfd:')).sort()).toEqual([
      // The bundle and its code are closed when they are read.
      '/memfd:proxyvpn-boot.cjs (deleted)',
      '/memfd:proxyvpn.node (deleted)',
    ]);
    expect(ofChild.filter((name) => name.includes('memfd') || name === secret)).toEqual([]);
  });
});

it('signals, their mask and the core limit are as after a fresh start, whatever the caller set', async () => {
  const evil = ['--ignore-signal=TERM,INT,CHLD', '--block-signal', lab.launcher, WAITING];
  const program = await lab.startWaiting(lab.asUser(evil));
  const bits = (key: string): bigint => BigInt(`0x${statusOf(program.pid, key)}`);
  const bit = (signal: number): bigint => 1n << BigInt(signal - 1);
  expect(bits('SigBlk')).toBe(0n);
  const [USR1, TERM, CHLD] = [10, 15, 17];
  expect(bits('SigIgn') & (bit(TERM) | bit(CHLD))).toBe(0n);
  expect(bits('SigIgn') & bit(USR1)).toBe(bit(USR1));
  const limits = fs.readFileSync(`/proc/${program.pid}/limits`, 'latin1');
  expect(limits).toMatch(/^Max core file size\s+0\s+0\s/m);
  expect(statusOf(program.pid, 'NoNewPrivs')).toBe('1');
  expect(statusOf(program.pid, 'Seccomp')).toBe('2');
});

describe('children', () => {
  const sets = ['CapInh', 'CapPrm', 'CapEff', 'CapAmb'];

  it('hold no capability', async () => {
    const seen = await lab.whileChildRuns(lab.asUser([lab.launcher, ...ASKING]), (child, parent) => ({
      child: sets.map((set) => statusOf(child, set)),
      parent: sets.map((set) => statusOf(parent, set)),
    }));
    expect(seen).toEqual({ child: [NONE, NONE, NONE, NONE], parent: [NONE, NET_ADMIN, NET_ADMIN, NONE] });
  });

  it('would hold it if the program did not see to it (positive control)', async () => {
    const program = ['-e', 'require("child_process").execFileSync("/usr/bin/getent")'];
    const seen = await lab.whileChildRuns(lab.unguarded(program), (child) => statusOf(child, 'CapEff'));
    expect(seen).toBe(NET_ADMIN);
  });
});

it('a launch that the command line would refuse is refused by the daemon as well', async () => {
  const input = JSON.stringify({ config: { name: 'default', mtu: 9, library: '/tmp/evil.so' } });
  const ran = await lab.run(lab.asUser([lab.launcher, '__daemon']), { input });
  expect(ran.code).toBe(1);
  expect(ran.stdout).toContain('not a launch');
});

it('the user is who he was: no uid or gid changes hands', async () => {
  const program = await lab.startWaiting(lab.asUser([lab.launcher, WAITING]));
  expect(statusOf(program.pid, 'Uid').split(/\s+/)).toEqual(Array(4).fill(`${USER}`));
  expect(statusOf(program.pid, 'Gid').split(/\s+/)).toEqual(Array(4).fill(`${USER}`));
});
