/** Configuration files with the real program: which one counts, as root and as another user, and what a service sees. */
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Cli } from './cli.ts';
import { expectEcho, startLabProxy } from './lab.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

const PROXY_PORT = 8888;
const PROXY = `${ADDRESS.net.v4}:${PROXY_PORT}`;
const SECRET = 'MARKERs3cret';
let topology: Topology;
let cli: Cli;
let home = '';

beforeEach(async () => {
  topology = await makeTopology();
  home = path.join(topology.directory, 'home');
  fs.mkdirSync(path.join(home, 'proxyvpn'), { recursive: true });
  cli = new Cli(topology, { environment: { XDG_CONFIG_HOME: home } });
  await startLabProxy(topology.net, PROXY_PORT);
});
afterEach(async () => {
  await cli.clear();
  await topology.remove();
});

function write(text: string, name = 'default.conf', mode = 0o640): string {
  const file = path.join(home, 'proxyvpn', name);
  fs.writeFileSync(file, text, { mode });
  fs.chmodSync(file, mode);
  return file;
}

test('up takes the file of its name, and a flag counts more', async () => {
  write(`proxy = "${PROXY}"\nmtu = 1400\nkillswitch = true\n`);
  await cli.up([]);
  expect(await cli.status()).toMatchObject({ state: 'up', killswitch: true, proxy: `http://${PROXY}` });
  expect(await topology.app.must(['ip', 'link', 'show', 'pvpn0'])).toContain('mtu 1400');
  await expectEcho(topology.app, ADDRESS.origin.v4);
  await cli.down();
  await cli.up(['--mtu', '1300']);
  expect(await topology.app.must(['ip', 'link', 'show', 'pvpn0'])).toContain('mtu 1300');
  await cli.down();
});

test('the environment counts more than the file, the file of another name not at all', async () => {
  write('proxy = "192.0.2.1:1"\n');
  write(`proxy = "${PROXY}"\n`, 'corp.conf');
  await cli.up([], { env: { PROXYVPN_PROXY: PROXY } });
  await cli.down();
  await cli.up(['--name', 'corp']);
  await cli.down(['--name', 'corp']);
});

test('a password in it stands nowhere else', async () => {
  write(`proxy = "http://u:${SECRET}@${PROXY}"\nverbose = true\n`, 'default.conf', 0o644);
  const up = await cli.up([]);
  expect(up.stderr).toContain('every user can read it');
  const { stdout } = await topology.app.run(['ps', '-eo', 'args']);
  const state = fs.readdirSync(cli.stateDirectory, { recursive: true, encoding: 'utf8' });
  const files = state.map((name) => path.join(cli.stateDirectory, name)).filter((file) => fs.statSync(file).isFile());
  const all = [up.stdout, up.stderr, stdout, (await cli.run(['status', '--json'])).stdout];
  for (const file of files) all.push(fs.readFileSync(file, 'latin1'));
  expect(all.join('\n')).not.toContain(SECRET);
  await cli.down();
});

test('a mistake changes nothing and is told with its line', async () => {
  const file = write(`proxy = "${PROXY}"\nkillswich = true\n`);
  for (const words of [['up'], ['up', '--dry-run'], ['killswitch', 'on']]) {
    const ran = await cli.run(words);
    expect([ran.code, ran.stderr]).toEqual([2, expect.stringContaining(`${file}:2: killswich: there is no such key`)]);
  }
  const check = await cli.run(['check', '--json']);
  expect(check.code).toBe(2);
  expect(JSON.parse(check.stdout)).toMatchObject({ ok: false, problems: [{ line: 2, key: 'killswich' }] });
  expect(await topology.app.must(['nft', 'list', 'ruleset'])).toBe('');
});

test('another user reads with his own rights, and gets nothing by naming a file', async () => {
  const file = write(`proxy = "http://u:${SECRET}@${PROXY}"\n`, 'root.conf', 0o600);
  fs.chmodSync(topology.directory, 0o755);
  const asNobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--', process.execPath];
  const program = path.join(import.meta.dirname, '..', '..', 'dist', 'proxyvpn.cjs');
  const ran = await topology.app.run([...asNobody, program, 'check', '--config', file]);
  expect([ran.code, ran.stderr]).toEqual([2, expect.stringContaining('E_CONFIG_READ')]);
  expect(ran.stdout + ran.stderr).not.toContain(SECRET);
});
