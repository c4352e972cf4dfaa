/**
 * Puts the pinned lwIP sources under .deps/lwip; they are compiled unmodified and never committed.
 *
 * Sources, first one that works:
 *   LWIP_DIR      an unpacked lwIP tree of the pinned version (linked, not copied)
 *   LWIP_TARBALL  the tarball named below, fetched by other means
 *   .deps/        the same tarball, left by an earlier run
 *   apt-get       the distribution's source package, with apt state of our own: no root, the host's lists stay as they are
 *
 * A tarball must match SHA256, so it does not matter who served it. The upstream release archive is another file with
 * another checksum (and other packaging of the same code): unpack it yourself and give LWIP_DIR.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** native/tcp/ uses private fields of this very version: another one may compile and be wrong. */
export const LWIP_VERSION = '2.1.3';
const TARBALL = 'lwip_2.1.3+dfsg1.orig.tar.xz';
const SHA256 = '0a8276d09fc4e97bbba2f953d74af2388fc2195ea156be9d7589e297a68fde24';

const deps = path.join(path.resolve(import.meta.dirname, '..'), '.deps');
const tree = path.join(deps, 'lwip');
const cachedTarball = path.join(deps, TARBALL);
/** Written last into an unpacked tree, so a tree without it is half unpacked. */
const stamp = path.join(tree, '.unpacked-from-sha256');

const fail = (message) => {
  throw new Error(
    `lwip: ${message}\n` +
      `hint: set LWIP_DIR to an unpacked lwIP ${LWIP_VERSION} tree, or LWIP_TARBALL to ${TARBALL} ` +
      "(the 'orig' tarball of Debian's source package lwip)",
  );
};

/** @returns `2.1.3`, or with a suffix when it is not a release; null when `dir` holds no lwIP */
function versionOf(dir) {
  const header = path.join(dir, 'src/include/lwip/init.h');
  if (!fs.existsSync(header)) return null;
  const text = fs.readFileSync(header, 'utf8');
  const part = (name) => text.match(new RegExp(`^#define LWIP_VERSION_${name}\\s+(\\w+)`, 'm'))?.[1];
  const numbers = ['MAJOR', 'MINOR', 'REVISION'].map(part).join('.');
  return part('RC') === 'LWIP_RC_RELEASE' ? numbers : `${numbers} (${part('RC')})`;
}

function assertVersion(dir) {
  const found = versionOf(dir);
  if (found === null) fail(`${dir} is not an lwIP tree: no src/include/lwip/init.h`);
  if (found !== LWIP_VERSION) fail(`${dir} is lwIP ${found}; this build is pinned to ${LWIP_VERSION}`);
}

const sha256Of = (file) => createHash('sha256').update(fs.readFileSync(file)).digest('hex');

function assertChecksum(file) {
  const found = sha256Of(file);
  if (found !== SHA256) fail(`${file} has SHA-256 ${found}, expected ${SHA256}`);
}

const isUnpacked = () => fs.existsSync(stamp) && fs.readFileSync(stamp, 'utf8') === SHA256;
const isLink = () => fs.lstatSync(tree, { throwIfNoEntry: false })?.isSymbolicLink() ?? false;

/** Takes over a tarball only when it is the pinned one. */
function adopt(file) {
  assertChecksum(file);
  const partial = `${cachedTarball}.${process.pid}`;
  fs.copyFileSync(file, partial);
  fs.renameSync(partial, cachedTarball);
}

function unpack() {
  const partial = `${tree}.${process.pid}`;
  fs.mkdirSync(partial);
  try {
    execFileSync('tar', ['-xJf', cachedTarball, '-C', partial, '--strip-components=1'], { stdio: 'inherit' });
    assertVersion(partial);
    fs.writeFileSync(path.join(partial, path.basename(stamp)), SHA256);
    fs.rmSync(tree, { force: true, recursive: true });
    fs.renameSync(partial, tree);
  } finally {
    fs.rmSync(partial, { force: true, recursive: true });
  }
}

/** The host's apt sources, each turned into a source of source packages. */
function writeSourceLists(into) {
  fs.mkdirSync(into, { recursive: true });
  const parts = '/etc/apt/sources.list.d';
  const files = fs.existsSync(parts) ? fs.readdirSync(parts).map((name) => path.join(parts, name)) : [];
  files.push('/etc/apt/sources.list');
  for (const file of files.filter((name) => /\.(list|sources)$/.test(name) && fs.existsSync(name))) {
    const text = fs.readFileSync(file, 'utf8');
    const changed = file.endsWith('.sources')
      ? text.replace(/^Types:.*$/gm, 'Types: deb-src')
      : text.replace(/^deb-src\s.*$/gm, '').replace(/^deb\s/gm, 'deb-src ');
    fs.writeFileSync(path.join(into, path.basename(file)), changed);
  }
}

/** Runs apt-get quietly; its words are kept for the error. */
function aptGet(args, cwd) {
  try {
    execFileSync('apt-get', args, { cwd, stdio: 'pipe', timeout: 180_000 });
    return null;
  } catch (error) {
    if (error.code === 'ENOENT') return 'apt-get is not on this machine';
    const words = `${error.stderr ?? ''}`.trim().split('\n').slice(-4).join('; ');
    return words || error.message;
  }
}

function fetchWithApt() {
  const home = path.join(deps, `apt.${process.pid}`);
  const out = path.join(home, 'out');
  const options = [
    'Dir::Etc::sourcelist=/dev/null',
    `Dir::Etc::sourceparts=${home}/sources`,
    `Dir::State=${home}/state`,
    'Dir::State::status=/var/lib/dpkg/status',
    `Dir::Cache=${home}/cache`,
    'Debug::NoLocking=1',
    'Acquire::Retries=2',
    'Acquire::http::Timeout=20',
    // As root apt would otherwise download as _apt, who cannot enter a private checkout.
    ...(process.getuid() === 0 ? ['APT::Sandbox::User=root'] : []),
  ].flatMap((option) => ['-o', option]);
  try {
    for (const dir of ['state/lists/partial', 'cache/archives/partial', 'out']) {
      fs.mkdirSync(path.join(home, dir), { recursive: true });
    }
    writeSourceLists(path.join(home, 'sources'));
    // Third-party repositories often have no source index: only the download's result counts.
    const updateError = aptGet([...options, '-qq', 'update'], out);
    const sourceError = aptGet([...options, '-qq', 'source', '--download-only', 'lwip'], out);
    const tarball = path.join(out, TARBALL);
    if (fs.existsSync(tarball)) return adopt(tarball);
    const offered = fs.readdirSync(out).filter((name) => name.includes('.orig.tar'));
    if (offered.length > 0) fail(`apt-get source offers ${offered.join(', ')}, not ${TARBALL}`);
    fail(`apt-get source lwip: ${[...new Set([updateError, sourceError])].filter(Boolean).join('; ')}`);
  } finally {
    fs.rmSync(home, { force: true, recursive: true });
  }
}

/**
 * Makes `.deps/lwip` a tree of the pinned version.
 * @returns its path
 * @throws Error that says what was tried and what to set
 */
export function ensureLwip() {
  const given = process.env['LWIP_DIR'];
  fs.mkdirSync(deps, { recursive: true });
  if (given) {
    const target = path.resolve(given);
    assertVersion(target);
    if (isLink() && fs.readlinkSync(tree) === target) return tree;
    fs.rmSync(tree, { force: true, recursive: true });
    fs.symlinkSync(target, tree);
    return tree;
  }
  if (isUnpacked() || (isLink() && versionOf(tree) === LWIP_VERSION)) {
    assertVersion(tree);
    return tree;
  }
  const tarball = process.env['LWIP_TARBALL'];
  if (tarball && !fs.existsSync(tarball)) fail(`LWIP_TARBALL=${tarball} does not exist`);
  if (tarball) adopt(tarball);
  else if (!fs.existsSync(cachedTarball) || sha256Of(cachedTarball) !== SHA256) {
    console.log('lwip: fetching the source package with apt-get');
    fetchWithApt();
  }
  unpack();
  console.log(`lwip: ${LWIP_VERSION} unpacked into .deps/lwip`);
  return tree;
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    ensureLwip();
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
