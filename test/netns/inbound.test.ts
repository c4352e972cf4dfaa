/** Connections from outside into the host: those there before `up`, new ones, and the SSH session that types it. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Cli, PROXYVPN } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { labProgram } from './lab.ts';
import type { Background } from './process.ts';
import { type SecureShell, startSshd, startTinyproxy } from './servers.ts';
import { ADDRESS, makeTopology, type Namespace, type Topology } from './topology.ts';

const UP = ['--proxy', `${ADDRESS.net.v4}:8888`] as const;
/** labproxy -d plays an echo server here. */
const ECHO_PORT = 9003;
/** And here one that sends nothing before a line came. */
const LINE_PORT = 9004;

let topology: Topology;
let cli: Cli;
let before: readonly string[];

beforeAll(async () => {
  topology = await makeTopology({ reversePathFilter: 0 });
  cli = new Cli(topology);
  await startTinyproxy(topology);
  await topology.app.serve([await labProgram('labproxy'), '-d', '::', '8000'], ECHO_PORT);
  before = await dumpHost(topology.app);
});
afterEach(async () => {
  await cli.clear();
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
});
afterAll(() => topology.remove());

/** A connection into app on which lines are echoed. */
class Line {
  readonly #client: Background;
  #sent = 0;

  private constructor(client: Background) {
    this.#client = client;
  }

  static async open(from: Namespace, address: string, port = ECHO_PORT): Promise<Line> {
    const loop = 'while read -r line; do echo "$line" >&3; read -r answer <&3 || exit 1; echo "$answer"; done';
    const script = `exec 3<>/dev/tcp/${address}/${port} && echo open; ${loop}`;
    const client = from.start(['bash', '-c', script]);
    await client.until(`connection to ${address}`, () => client.stdout.startsWith('open\n'), 5000);
    return new Line(client);
  }

  /** One line there and back. Rejects when it does not come back. */
  async echo(timeoutMs = 5000): Promise<void> {
    const text = `line ${++this.#sent}\n`;
    this.#client.write(text);
    await this.#client.until(text.trim(), () => this.#client.stdout.endsWith(text), timeoutMs);
  }

  close(): Promise<void> {
    return this.#client.stop();
  }
}

const canConnect = async (from: Namespace, address: string, port = ECHO_PORT): Promise<boolean> =>
  (await from.run(['timeout', '2', 'bash', '-c', `exec 3<>/dev/tcp/${address}/${port}`])).code === 0;

describe.each(['v4', 'v6'] as const)('%s', (family) => {
  const address = ADDRESS.app[family];

  describe.each(['peer', 'net'] as const)('from %s', (role) => {
    test('killswitch off: a connection from before lives on during and after, new ones come in', async () => {
      const from = topology[role];
      const old = await Line.open(from, address);
      await old.echo();
      await cli.up(UP);
      await old.echo();
      const fresh = await Line.open(from, address);
      await fresh.echo();
      await cli.down();
      await old.echo();
      await fresh.echo();
      await old.close();
      await fresh.close();
    });

    test('killswitch on: nothing comes in', async () => {
      await cli.up([...UP, '--killswitch']);
      expect(await canConnect(topology[role], address)).toBe(false);
    });

    test('--allow-inbound: the port is open, another is not, and the connection outlives a crash', async () => {
      const from = topology[role];
      await cli.up([...UP, '--killswitch', '--allow-inbound', `${ECHO_PORT}`]);
      const line = await Line.open(from, address);
      await line.echo();
      expect(await canConnect(from, address, LINE_PORT)).toBe(false);
      await cli.killDaemon();
      await line.echo();
      await line.close();
    });
  });

  test('--allow-inbound all: every port is open; none: no port is', async () => {
    await cli.up([...UP, '--killswitch', '--allow-inbound', 'all']);
    for (const port of [ECHO_PORT, LINE_PORT]) expect(await canConnect(topology.peer, address, port)).toBe(true);
    await cli.down();
    await cli.up([...UP, '--killswitch', '--allow-inbound', 'none']);
    for (const port of [ECHO_PORT, LINE_PORT]) expect(await canConnect(topology.peer, address, port)).toBe(false);
  });

  describe('killswitch off, into a container', () => {
    let server: Background;
    beforeAll(async () => {
      server = await topology.guest.serve([await labProgram('labproxy'), '-d', '::', '8000'], ECHO_PORT);
    });
    afterAll(() => server.stop());

    test('new connections from outside come in and go out again', async () => {
      await cli.up(UP);
      const fresh = await Line.open(topology.net, ADDRESS.guest[family]);
      await fresh.echo();
      await fresh.close();
    });

    test('one from before lives on where the host tracked it, as every host does that publishes ports', async () => {
      const tracking = ['ip', 'ip6'].map(
        (table) =>
          `add table ${table} containers; ` +
          `add chain ${table} containers forward { type filter hook forward priority 0; }; ` +
          `add rule ${table} containers forward ct state established,related accept`,
      );
      await topology.app.must(['nft', tracking.join('; ')]);
      try {
        const old = await Line.open(topology.net, ADDRESS.guest[family]);
        await old.echo();
        await cli.up(UP);
        await old.echo();
        await cli.down();
        await old.echo();
        await old.close();
      } finally {
        await topology.app.must(['nft', 'delete table ip containers; delete table ip6 containers']);
      }
    });
  });
});

describe('an outgoing connection from before up', () => {
  test('lives on with the killswitch off', async () => {
    await topology.net.serve([await labProgram('labproxy'), '-d', '::', '8000'], ECHO_PORT);
    const line = await Line.open(topology.app, ADDRESS.net.v4);
    await cli.up(UP);
    await line.echo();
    await line.close();
  });

  test('is cut at once with the killswitch on', async () => {
    const line = await Line.open(topology.app, ADDRESS.net.v4);
    await line.echo();
    await cli.up([...UP, '--killswitch']);
    await expect(line.echo(1500)).rejects.toThrow();
    await line.close();
  });
});

describe('an SSH session into the host in which up is typed', () => {
  let shell: SecureShell;
  beforeAll(async () => {
    shell = await startSshd(topology, topology.app);
    // Its children are the sessions' own; the dump compares the network only.
  });

  const login = (role: 'peer' | 'net', family: 'v4' | 'v6', ...command: readonly string[]): Background =>
    topology[role].start([
      'ssh',
      ...shell.clientOptions,
      '-p',
      `${shell.port}`,
      `root@${ADDRESS.app[family]}`,
      ...command,
    ]);

  test.each([
    ['peer', 'v4', ['--killswitch']],
    ['peer', 'v6', ['--killswitch']],
    ['net', 'v4', ['--killswitch']],
    ['peer', 'v4', []],
    ['net', 'v6', []],
  ] as const)('from %s by %s with %j is not cut, and down is typed in it too', async (role, family, flags) => {
    const session = login(role, family, 'bash');
    const type = async (line: string, answer: string, timeoutMs = 20_000): Promise<void> => {
      session.write(`${line}\n`);
      await session.until(answer, () => session.stdout.includes(answer), timeoutMs);
    };
    session.write(`export PROXYVPN_STATE_DIR=${cli.stateDirectory}\n`);
    await type(`${PROXYVPN} up ${[...UP, ...flags].join(' ')}; echo "up: $?"`, 'up: 0');
    expect((await cli.status()).state).toBe('up');
    await type('echo still $((40 + 2))', 'still 42', 3000);
    const again = login(role, family, 'echo', 'logged in again');
    expect(await again.exitCode(5000), again.stderr).toBe(0);
    expect(again.stdout).toBe('logged in again\n');
    await type(`${PROXYVPN} down; echo "down: $?"`, 'down: 0');
    await type('echo and $((40 + 3))', 'and 43', 3000);
    await session.stop();
  });

  test('with the killswitch on, ssh from the same address to another port, and from elsewhere, stay out', async () => {
    const session = login('peer', 'v4', 'bash');
    session.write(`export PROXYVPN_STATE_DIR=${cli.stateDirectory}\n`);
    session.write(`${PROXYVPN} up ${UP.join(' ')} --killswitch; echo "up: $?"\n`);
    await session.until('up', () => session.stdout.includes('up: 0'), 20_000);
    expect(await canConnect(topology.peer, ADDRESS.app.v4, ECHO_PORT)).toBe(false);
    expect(await canConnect(topology.net, ADDRESS.app.v4, shell.port)).toBe(false);
    await session.stop();
  });
});

describe('strict reverse-path filtering', () => {
  test('inbound connections from before and new ones live with rp_filter=1 everywhere', async () => {
    const strict = ['all', 'default', 'uplink', 'guest0'].map((device) => `net.ipv4.conf.${device}.rp_filter`);
    await topology.app.must(['sysctl', '-qw', ...strict.map((key) => `${key}=1`)]);
    const old = await Line.open(topology.peer, ADDRESS.app.v4);
    await cli.up(UP);
    await old.echo();
    const fresh = await Line.open(topology.peer, ADDRESS.app.v4);
    await fresh.echo();
    await old.close();
    await fresh.close();
    await cli.down();
    await topology.app.must(['sysctl', '-qw', ...strict.map((key) => `${key}=0`)]);
  });
});
