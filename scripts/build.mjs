/**
 * `npm run build`: lwIP sources, native addon (build/Release/proxyvpn.node), CLI bundle (dist/proxyvpn.cjs), and the
 * launcher that carries both (build/launcher/proxyvpn).
 * Each step does nothing when its result is up to date. Usage: node scripts/build.mjs [addon|bundle|launcher]
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { bundleProgram } from './bundle.mjs';
import { LAUNCHER, linkLauncher } from './launcher.mjs';
import { ensureLwip, LWIP_VERSION } from './lwip.mjs';
import { sourcesOf } from './sources.mjs';

const root = path.resolve(import.meta.dirname, '..');
process.chdir(root);

const ADDON = 'build/Release/proxyvpn.node';
const BUNDLE = 'dist/proxyvpn.cjs';

class BuildError extends Error {}

/** First existing file of the candidates, or undefined. */
const firstFile = (candidates) => candidates.find((file) => file && fs.existsSync(file));

function onPath(name) {
  return firstFile((process.env['PATH'] ?? '').split(':').map((dir) => dir && path.join(dir, name)));
}

/** npm carries node-gyp: told by npm itself, beside npm on PATH, beside node, or the distribution's own. */
function findNodeGyp() {
  const npm = onPath('npm');
  const inNpm = 'node_modules/node-gyp/bin/node-gyp.js';
  const found = firstFile([
    process.env['npm_config_node_gyp'],
    npm && path.resolve(path.dirname(fs.realpathSync(npm)), '..', inNpm),
    path.resolve(path.dirname(process.execPath), '../lib/node_modules/npm', inNpm),
    '/usr/share/nodejs/node-gyp/bin/node-gyp.js',
  ]);
  if (!found) throw new BuildError('node-gyp not found: it comes with npm; is npm on PATH?');
  return found;
}

/** Where node's own headers are, so that node-gyp downloads none. */
function headerArguments() {
  const prefix = path.resolve(path.dirname(fs.realpathSync(process.execPath)), '..');
  return fs.existsSync(path.join(prefix, 'include/node/node_api.h')) ? [`--nodedir=${prefix}`] : [];
}

function nodeGyp(...args) {
  const argv = [findNodeGyp(), ...args, ...headerArguments(), '--loglevel=warn'];
  const { status, error } = spawnSync(process.execPath, argv, { stdio: 'inherit' });
  if (error) throw error;
  if (status !== 0) throw new BuildError(`node-gyp ${args[0]} failed (see above)`);
}

const hashOf = (parts) => createHash('sha256').update(parts.join('\0')).digest('hex');
const textOf = (file) => (fs.existsSync(file) ? fs.readFileSync(file, 'utf8') : '');

const isStale = (stamp, value) => textOf(stamp) !== value;

function buildAddon() {
  if (!fs.existsSync('native/binding/addon.cc')) throw new BuildError('native/binding/addon.cc is missing');
  if (!fs.existsSync('node_modules/node-addon-api')) throw new BuildError('node_modules is missing: run npm ci');
  const lwip = fs.realpathSync(ensureLwip());

  // What make cannot see: lwipopts.h reaches our files through system headers, which -MMD leaves out.
  const compileStamp = 'build/.compiled-with';
  const compiledWith = hashOf([
    process.version,
    process.arch,
    LWIP_VERSION,
    lwip,
    textOf('node_modules/node-addon-api/package.json'),
    textOf('native/tcp/lwipopts.h'),
    textOf('native/tcp/arch/cc.h'),
  ]);
  if (isStale(compileStamp, compiledWith)) {
    fs.rmSync('build/Release', { recursive: true, force: true });
    fs.mkdirSync('build', { recursive: true });
    fs.writeFileSync(compileStamp, compiledWith);
  }

  const listStamp = 'build/.configured-with';
  const sources = ['lwip', 'core', 'binding'].flatMap(sourcesOf);
  const configuredWith = hashOf([compiledWith, textOf('binding.gyp'), ...sources]);
  if (isStale(listStamp, configuredWith) || !fs.existsSync('build/Makefile')) {
    nodeGyp('configure');
    fs.writeFileSync(listStamp, configuredWith);
  }

  const before = fs.statSync(ADDON, { throwIfNoEntry: false })?.mtimeMs;
  nodeGyp('build', '--jobs', String(os.availableParallelism()));
  if (fs.statSync(ADDON).mtimeMs !== before) assertLoads();
}

/** A shared object links with symbols missing; binding them all at once finds that now, not at three in the morning. */
function assertLoads() {
  const script = `require(${JSON.stringify(path.resolve(ADDON))})`;
  try {
    execFileSync(process.execPath, ['-e', script], { env: { ...process.env, LD_BIND_NOW: '1' }, stdio: 'pipe' });
  } catch (error) {
    fs.rmSync(ADDON);
    const why = /^Error: (.*)$/m.exec(`${error.stderr}`)?.[1] ?? `${error.stderr}`;
    throw new BuildError(`the addon does not load: ${why}`);
  }
}

async function bundle() {
  const { text } = await bundleProgram();
  fs.mkdirSync(path.dirname(BUNDLE), { recursive: true });
  fs.writeFileSync(BUNDLE, text);
}

const STEPS = { addon: buildAddon, bundle, launcher: () => linkLauncher() };
const RESULTS = { addon: ADDON, bundle: BUNDLE, launcher: path.relative(root, LAUNCHER) };
const wanted = process.argv[2] === undefined ? Object.keys(STEPS) : [process.argv[2]];
for (const name of wanted) {
  const step = STEPS[name];
  if (!step) {
    console.error(`usage: node scripts/build.mjs [${Object.keys(STEPS).join('|')}]`);
    process.exit(2);
  }
  try {
    await step();
  } catch (error) {
    const isPlain = error instanceof BuildError || /^(bundle|lwip|launcher): /.test(error.message);
    console.error(`build: ${isPlain ? error.message : error.stack}`);
    process.exit(1);
  }
}
console.log(`build: ${wanted.map((name) => RESULTS[name]).join(', ')}`);
