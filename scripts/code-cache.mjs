/**
 * Makes the code cache that the launcher carries: the bundle as V8 has compiled it. Parsing a megabyte and compiling
 * what `up` runs takes longer than all else that node does at its start.
 *
 * Only functions that have run are in it. So the bundle is run here, in a process of its own, with command lines that
 * read and change nothing. What is not in it is compiled when it is called; a cache of another V8 is not used at all.
 * Usage: node scripts/code-cache.mjs WRAPPED-BUNDLE ADDON OUT
 */
import fs from 'node:fs';
import { createRequire } from 'node:module';
import v8 from 'node:v8';
import vm from 'node:vm';

/** Nobody listens at this address, RFC 5737; `--dry-run` does not even try. */
const PROXY = '192.0.2.1:3128';
const COMMAND_LINES = [
  ['--version'],
  ['up', '--dry-run', '--proxy', PROXY],
  ['up', '--dry-run', '--proxy', PROXY, '--killswitch'],
  // Its launch comes by stdin, which is empty: it loads everything and says no.
  ['__daemon'],
];

const [bundle, addon, out] = process.argv.slice(2);
const environment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/nonexistent', PROXYVPN_ADDON: addon };
for (const name of Object.keys(process.env)) delete process.env[name];
Object.assign(process.env, environment);

const script = new vm.Script(fs.readFileSync(bundle, 'latin1'), { filename: 'proxyvpn.cjs' });
const require = createRequire(bundle);
const silent = (_text, ...rest) => {
  const done = rest.at(-1);
  if (typeof done === 'function') queueMicrotask(done);
  return true;
};
// The cache is for a V8 with the flags that this one has now.
v8.setFlagsFromString = () => {};
process.stdout.write = silent;
process.stderr.write = silent;
for (const commandLine of COMMAND_LINES) {
  process.argv = [process.execPath, bundle, ...commandLine];
  await new Promise((resolve) => {
    process.exit = resolve;
    script.runInThisContext()({}, require, { exports: {} }, bundle, '/');
  });
}
fs.writeFileSync(out, script.createCachedData());
process.reallyExit(0);
