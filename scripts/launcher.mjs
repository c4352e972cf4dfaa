/**
 * Links the launcher: one file that carries dist/proxyvpn.cjs, V8's code for it and the addon, and runs one fixed node.
 * Usage: node scripts/launcher.mjs [--node FILE] [--out FILE]
 *
 * --node  the node that the launcher runs, used as it is written; default: the one that runs this script
 * --out   default: build/launcher/proxyvpn
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import Module from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = path.resolve(import.meta.dirname, '..');
const SOURCE = path.join(root, 'native/launcher/launcher.cc');
const BOOT = path.join(root, 'native/launcher/boot.cjs');
const CODE_CACHE = path.join(root, 'scripts/code-cache.mjs');
const BUNDLE = path.join(root, 'dist/proxyvpn.cjs');
const ADDON = path.join(root, 'build/Release/proxyvpn.node');
export const LAUNCHER = path.join(root, 'build/launcher/proxyvpn');
/** Which node built this, for scripts/install.sh --bundle-node: sudo's PATH may lack it. */
const NODE_NOTE = path.join(root, 'build/launcher/node-path');

const FLAGS = [
  ...['-std=c++20', '-O2', '-Wall', '-Wextra', '-Werror', '-fno-exceptions', '-fno-rtti'],
  ...['-fPIE', '-pie', '-fstack-protector-strong', '-D_FORTIFY_SOURCE=2'],
  ...['-Wl,-z,relro,-z,now', '-Wl,--as-needed', '-s'],
];

/**
 * Does nothing when the result is up to date.
 * @param node absolute path; the launcher itself checks at run time that only root can change it
 */
export function linkLauncher({ node = fs.realpathSync(process.execPath), out = LAUNCHER } = {}) {
  for (const file of [BUNDLE, ADDON]) {
    if (!fs.existsSync(file)) throw new Error(`launcher: ${path.relative(root, file)} is missing: run npm run build`);
  }
  if (!path.isAbsolute(node)) throw new Error(`launcher: --node ${node} is not an absolute path`);
  const compiler = process.env['CXX'] || 'g++';
  const command = [...FLAGS, `-DPROXYVPN_NODE=${JSON.stringify(node)}`];
  const hash = createHash('sha256').update([compiler, process.version, ...command].join('\0'));
  for (const file of [SOURCE, BOOT, CODE_CACHE, BUNDLE, ADDON]) hash.update(fs.readFileSync(file));
  const builtFrom = hash.digest('hex');
  const stamp = path.join(path.dirname(out), `.${path.basename(out)}.built-from`);
  if (fs.existsSync(out) && fs.existsSync(stamp) && fs.readFileSync(stamp, 'utf8') === builtFrom) return;
  fs.mkdirSync(path.dirname(out), { recursive: true });
  // The assembler knows them by these names, whatever characters our own path has.
  const stage = fs.mkdtempSync(path.join(path.dirname(out), 'stage-'));
  try {
    fs.copyFileSync(BOOT, path.join(stage, 'boot'));
    fs.writeFileSync(path.join(stage, 'bundle'), Module.wrap(fs.readFileSync(BUNDLE, 'latin1')), 'latin1');
    fs.copyFileSync(ADDON, path.join(stage, 'addon'));
    makeCodeCache(stage);
    const made = spawnSync(compiler, [...command, '-o', 'launcher', SOURCE], { cwd: stage, stdio: 'inherit' });
    if (made.error) throw new Error(`launcher: ${compiler}: ${made.error.code}`);
    if (made.status !== 0) throw new Error(`launcher: ${compiler} failed (see above)`);
    fs.renameSync(path.join(stage, 'launcher'), out);
  } finally {
    fs.rmSync(stage, { recursive: true, force: true });
  }
  fs.writeFileSync(stamp, builtFrom);
  if (out === LAUNCHER) fs.writeFileSync(NODE_NOTE, `${fs.realpathSync(process.execPath)}\n`);
}

/** By the node that runs this script; the launcher's own, where that is another, takes no notice of it. */
function makeCodeCache(stage) {
  const files = ['bundle', 'addon', 'code'].map((name) => path.join(stage, name));
  const options = { stdio: ['ignore', 'ignore', 'pipe'], timeout: 60_000 };
  const made = spawnSync(process.execPath, [CODE_CACHE, ...files], options);
  if (made.status !== 0) throw new Error(`launcher: no code cache: ${made.error?.message ?? made.stderr}`);
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { node: { type: 'string' }, out: { type: 'string' } } });
  try {
    linkLauncher({ ...values, ...(values.out && { out: path.resolve(values.out) }) });
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
