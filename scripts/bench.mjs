/**
 * `npm run bench`, `npm run bench:startup` and scripts/soak.sh: bundles bench/ and runs it as root in namespaces of its own.
 *
 *   host ── unshare ── mount and pid namespace: own /run, own /proc; sh is process 1 and stays in the host's network
 *                        └─ unshare ── network namespace, empty ── node ── ip netns add ... (the bench's own)
 *
 * Leaving the pid namespace ends every process that was started in it, and the last process takes the networks along.
 * Usage: node scripts/bench.mjs [soak|startup] ARGUMENTS
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const OUTPUT = path.join(root, 'build', 'bench');
const NEEDED = ['build/Release/proxyvpn.node', 'dist/proxyvpn.cjs'];

function die(message, hint) {
  console.error(`error: ${message}`);
  if (hint) console.error(`hint: ${hint}`);
  process.exit(1);
}

/** Sources find their neighbours through import.meta.dirname; in the bundle it still names their own folder. */
const ownFolder = {
  name: 'own-folder',
  setup(build) {
    build.onLoad({ filter: /\.ts$/ }, (file) => ({
      contents: fs
        .readFileSync(file.path, 'utf8')
        .replaceAll('import.meta.dirname', JSON.stringify(path.dirname(file.path))),
      loader: 'ts',
    }));
  },
};

async function bundle() {
  const esbuild = createRequire(import.meta.url)('esbuild');
  await esbuild.build({
    entryPoints: ['main', 'soak', 'startup', 'engine-runner', 'startup-runner'].map((name) =>
      path.join(root, 'bench', `${name}.ts`),
    ),
    outdir: OUTPUT,
    outExtension: { '.js': '.cjs' },
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node20.12',
    plugins: [ownFolder],
    define: { 'import.meta.url': 'bundleUrl' },
    banner: { js: "'use strict';\nconst bundleUrl = require('node:url').pathToFileURL(__filename).href;" },
    logLevel: 'warning',
  });
}

const ISOLATED = `
set -eu
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns /run/bench-state
ulimit -n "$(ulimit -Hn)"
unshare --net -- "$@"
`;

function runIsolated(command) {
  if (process.getuid() !== 0) die('this makes network namespaces and needs root');
  if (!fs.existsSync('/dev/net/tun'))
    die('/dev/net/tun is missing', 'modprobe tun, or pass the device into the container');
  const missing = NEEDED.filter((file) => !fs.existsSync(path.join(root, file)));
  if (missing.length > 0) die(`${missing.join(', ')}: not built`, 'npm run build');
  const namespaces = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc'];
  return spawnSync('unshare', [...namespaces, '--', 'sh', '-c', ISOLATED, 'sh', ...command], { stdio: 'inherit' });
}

const args = process.argv.slice(2);
const program = args[0] === 'soak' || args[0] === 'startup' ? args.shift() : 'main';
await bundle();
const command = [process.execPath, path.join(OUTPUT, `${program}.cjs`), ...args];
const isHarmless = args.some((arg) => /^(--help|-h|--report(=.*)?)$/.test(arg));
const [node, ...rest] = command;
const ran = isHarmless ? spawnSync(node, rest, { stdio: 'inherit' }) : runIsolated(command);
if (ran.error) die(ran.error.message);
process.exit(ran.status ?? 1);
