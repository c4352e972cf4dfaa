/** `up` that cannot succeed: the exit code, the words, and a host that was not changed or was restored. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Cli, PROXYVPN } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { startLabProxy } from './lab.ts';
import type { Ran } from './process.ts';
import { originUrl, startNginx, startTinyproxy } from './servers.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

const PROXY = `${ADDRESS.net.v4}:8888`;
const LOCKED_PORT = 8889;
const USER = 'operator';
const PASSWORD = 'Xq7/correct horse';
const ENCODED = encodeURIComponent(PASSWORD);

let topology: Topology;
let cli: Cli;
let before: readonly string[];

beforeAll(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
  await startTinyproxy(topology);
  await startLabProxy(topology.net, LOCKED_PORT, ['-a', `${USER}:${PASSWORD}`]);
  await startNginx(topology);
  before = await dumpHost(topology.app);
});
afterEach(async () => {
  await cli.clear();
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
});
afterAll(() => topology.remove());

/** The error as people see it: code and sentence, then a hint. */
function expectError(ran: Ran, exitCode: number, text: RegExp): void {
  expect({ code: ran.code, stderr: ran.stderr }).toMatchObject({ code: exitCode });
  expect(ran.stderr).toMatch(/^error: E_[A-Z_0-9]+: ./m);
  expect(ran.stderr).toMatch(text);
}

async function expectHostAsBefore(): Promise<void> {
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  expect((await cli.status()).state).toBe('down');
}

describe('usage errors exit 2 and change nothing', () => {
  test.each([
    [['up']],
    [['up', '--proxy', 'no port']],
    [['up', '--proxy', '10.0.0.1:0']],
    [['up', '--proxy', '10.0.0.1:70000']],
    [['up', '--proxy', 'ftp://10.0.0.1:21']],
    [['up', '--proxy', PROXY, '--bypass', '10.0.0.0/33']],
    [['up', '--proxy', PROXY, '--bypass', '10.0.0.1/8']],
    [['up', '--proxy', PROXY, '--lan', 'maybe']],
    [['up', '--proxy', PROXY, '--allow-dns', 'resolver.test']],
    [['up', '--proxy', PROXY, '--bypass-user', 'nobody-of-this-name']],
    [['up', '--proxy', PROXY, '--name', '../evil']],
    [['up', '--proxy', PROXY, '--connect-timeout', '-1']],
    [['up', '--proxy', PROXY, '--no-such-flag']],
    [['up', '--proxy-file', '/nonexistent/file']],
    [['no-such-command']],
    [['down', 'what']],
  ])('%j', async (args) => {
    const ran = await cli.run(args);
    expectError(ran, 2, /hint: ./);
    await expectHostAsBefore();
  });
});

describe('an unprivileged user', () => {
  test('gets exit 3, the capability that is missing, and how to get it', async () => {
    const state = path.join(topology.directory, 'user-state');
    fs.mkdirSync(state);
    fs.chownSync(state, 65534, 65534);
    const drop = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', '--inh-caps=-all'];
    const env = { PROXYVPN_STATE_DIR: state };
    const ran = await topology.app.run([...drop, PROXYVPN, 'up', '--proxy', PROXY], { env });
    expectError(ran, 3, /CAP_NET_ADMIN|\/dev\/net\/tun/);
    expect(ran.stderr).toMatch(/hint: ./);
    await expectHostAsBefore();
  });

  test('may still ask for help, version and a dry run', async () => {
    const drop = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', '--inh-caps=-all'];
    for (const args of [['--help'], ['up', '--help'], ['--version'], ['up', '--proxy', PROXY, '--dry-run']]) {
      const ran = await topology.app.run([...drop, PROXYVPN, ...args], {
        env: { XDG_RUNTIME_DIR: topology.directory },
      });
      expect(ran.code, `${args.join(' ')}: ${ran.stderr}`).toBe(0);
      expect(ran.stdout).not.toBe('');
    }
  });
});

describe('a proxy that will not do', () => {
  test('nobody listens there: exit 1, and ECONNREFUSED is said', async () => {
    const ran = await cli.run(['up', '--proxy', `${ADDRESS.net.v4}:8999`, '--killswitch']);
    expectError(ran, 1, /ECONNREFUSED/);
    await expectHostAsBefore();
  });

  test('packets to it vanish: exit 1, long before the kernel would give up', async () => {
    await topology.net.must(['nft', 'insert rule inet lab in ip daddr 203.0.113.99 drop']);
    const ran = await cli.run(['up', '--proxy', '203.0.113.99:8888', '--killswitch']);
    // The kernel's ETIMEDOUT would come after two minutes.
    expectError(ran, 1, /ETIMEDOUT|tim/i);
    await expectHostAsBefore();
  });

  test('its name does not resolve: exit 1 and the name is said', async () => {
    const ran = await cli.run(['up', '--proxy', 'proxy.invalid:8888', '--killswitch']);
    expectError(ran, 1, /proxy\.invalid/);
    await expectHostAsBefore();
  });

  test('it wants credentials and gets none, or wrong ones: exit 1 and a hint that tells how to give them', async () => {
    for (const authority of ['', `${USER}:Ba5ebl0k@`]) {
      const ran = await cli.run(['up', '--proxy', `http://${authority}${ADDRESS.net.v4}:${LOCKED_PORT}`]);
      expectError(ran, 1, /authentication/);
      expect(ran.stderr).toMatch(/hint: .*--proxy-file/);
      expect(ran.stderr).not.toContain('Ba5ebl0k');
      await expectHostAsBefore();
    }
  });

  test('it is a web server, not a proxy: exit 1 or a tunnel whose every flow is refused, never a silent success', async () => {
    const ran = await cli.run(['up', '--proxy', `${ADDRESS.net.v4}:8080`]);
    if (ran.code !== 0) expectError(ran, 1, /proxy/);
    else expect(ran.stderr).toMatch(/warning/i);
    await cli.clear();
  });
});

describe('an operation that fails half-way restores the host and says why', () => {
  const conflicts: readonly { what: string; make: string; undo: string; says: RegExp }[] = [
    {
      what: 'the name of the device is taken',
      make: 'ip link add pvpn0 type veth peer name other',
      undo: 'ip link del pvpn0',
      says: /pvpn0/,
    },
    {
      what: 'the routing table has a default route already',
      make: 'ip route add default dev uplink table 52100',
      undo: 'ip route del default dev uplink table 52100',
      says: /52100/,
    },
  ];

  async function expectFailure(says: RegExp): Promise<void> {
    const during = await dumpHost(topology.app);
    for (const flags of [[], ['--killswitch']]) {
      const ran = await cli.run(['up', '--proxy', PROXY, ...flags]);
      expectError(ran, 1, says);
      expect(dumpDifference(during, await dumpHost(topology.app))).toEqual([]);
    }
  }

  test.each(conflicts)('$what', async ({ make, undo, says }) => {
    await topology.app.must(make.split(' '));
    try {
      await expectFailure(says);
    } finally {
      await topology.app.must(undo.split(' '));
    }
    await expectHostAsBefore();
  });

  test.each(['first', 'last'])('the %s of our rules exists already, made by somebody else', async (which) => {
    const plan = await cli.up(['--proxy', PROXY, '--dry-run']);
    const rules = plan.stdout.split('\n').filter((line) => /^ip (-6 )?rule add /.test(line));
    // The same rule of somebody else: it carries another protocol number.
    const rule = rules.at(which === 'first' ? 0 : -1)?.replace(/protocol \d+/, 'protocol 4') ?? '';
    await topology.app.must(rule.split(' '));
    try {
      await expectFailure(new RegExp(/priority (\d+)/.exec(rule)?.[1] ?? rule));
    } finally {
      await topology.app.must(rule.replace(' add ', ' del ').split(' '));
    }
    await expectHostAsBefore();
  });

  /** `up` where /proc/sys cannot be written, as in a container. */
  function upInContainer(): Promise<Ran> {
    const readOnly = 'mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys';
    const up = `${PROXYVPN} up --proxy ${PROXY} --killswitch`;
    const env = { PROXYVPN_STATE_DIR: cli.stateDirectory };
    return topology.app.run(['unshare', '--mount', 'bash', '-c', `${readOnly}; ${up}`], { env });
  }

  test('/proc/sys is read-only, and the strict reverse-path filter is in the way', async () => {
    await topology.app.must(['sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=1']);
    try {
      expectError(await upInContainer(), 1, /EROFS|read-only/);
    } finally {
      await topology.app.must(['sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=0']);
    }
    await expectHostAsBefore();
  });

  test('/proc/sys is read-only, and nothing need be written: the tunnel comes up', async () => {
    expect((await upInContainer()).code).toBe(0);
    const hello = originUrl('v4', '/hello');
    expect(await topology.app.must(['curl', '-sS', '--max-time', '10', hello])).toBe('hello from the origin\n');
    await cli.down();
    await expectHostAsBefore();
  });
});

describe('the password', () => {
  /** Every place on the host where a secret could stand. */
  async function traces(pid: number, source = 'file'): Promise<readonly string[]> {
    const needles = [PASSWORD, ENCODED, Buffer.from(`${USER}:${PASSWORD}`).toString('base64')];
    const files: string[] = [];
    for (const id of await topology.app.pids()) files.push(`/proc/${id}/cmdline`);
    // What the caller put into the environment itself, the daemon may keep there.
    if (source !== 'environment') files.push(`/proc/${pid}/environ`);
    for (const entry of fs.readdirSync(topology.directory, { recursive: true, withFileTypes: true }))
      if (entry.isFile() && entry.name !== 'secret.url') files.push(path.join(entry.parentPath, entry.name));
    const found = files.filter((file) => {
      const text = fs.readFileSync(file, 'latin1');
      return needles.some((needle) => text.includes(needle));
    });
    return found;
  }

  const url = `http://${USER}:${ENCODED}@${ADDRESS.net.v4}:${LOCKED_PORT}`;

  test('of a file is used, and stands in no process list, log, journal, status or output', async () => {
    const file = path.join(topology.directory, 'secret.url');
    fs.writeFileSync(file, `${url}\n`, { mode: 0o600 });
    const up = await cli.up(['--proxy-file', file, '--killswitch', '-v']);
    const curl = ['curl', '-sS', '--max-time', '5', `http://${ADDRESS.origin.v4}:9004/`];
    await topology.app.must([...curl, '--http0.9']);
    const refused = await topology.app.run(['curl', '-sS', `http://${ADDRESS.origin.v4}:9017/`]);
    expect(refused.code).toBe(7);
    const texts = [up, await cli.run(['status']), await cli.run(['status', '--json']), await cli.run(['down', '-v'])];
    for (const { stdout, stderr } of texts)
      for (const needle of [PASSWORD, ENCODED]) expect(stdout + stderr).not.toContain(needle);
    await cli.up(['--proxy-file', file, '--killswitch', '-v']);
    expect(await traces(await cli.daemonPid())).toEqual([]);
    await cli.killDaemon();
    expect(await traces(1)).toEqual([]);
  });

  test.each(['environment', 'argument'])('of the %s is in no log, journal or status', async (source) => {
    if (source === 'environment') await cli.up(['-v'], { env: { PROXYVPN_PROXY: url } });
    else await cli.up(['-v', '--proxy', url]);
    const pid = await cli.daemonPid();
    expect(await traces(pid, source)).toEqual([]);
    const { stdout, stderr } = await cli.run(['status', '--json']);
    expect(stdout + stderr).not.toContain(PASSWORD);
    expect(stdout + stderr).not.toContain(ENCODED);
  });

  test('is not in the words of a dry run or of a failure', async () => {
    for (const extra of [['--dry-run'], ['--dry-run', '--json'], ['--bypass', 'nonsense'], ['--tun', 'a/b']]) {
      const ran = await cli.run(['up', '--proxy', url, ...extra]);
      expect(ran.stdout + ran.stderr).not.toContain(PASSWORD);
      expect(ran.stdout + ran.stderr).not.toContain(ENCODED);
    }
    const unreadable = await cli.run(['up', '--proxy', `${url}99999`]);
    expect(unreadable.code).toBe(2);
    expect(unreadable.stderr).not.toContain(ENCODED);
  });
});
