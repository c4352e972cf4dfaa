/**
 * Says which files are compiled into what; binding.gyp and test/native/CMakeLists.txt both ask here.
 * Usage: node scripts/sources.mjs lwip|core|binding   (paths from the project root, sorted, one per line)
 */
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(import.meta.dirname, '..');

const GROUPS = {
  /** Everything of lwIP's core: lwipopts.h compiles the unused files to nothing, so the link can miss none. */
  lwip: { dirs: ['', 'ipv4', 'ipv6'].map((dir) => path.join('.deps/lwip/src/core', dir)), suffix: '.c' },
  /** Knows nothing of Node: also linked into the tests and fuzzers. In the order of who may include whom. */
  core: {
    dirs: ['base', 'wire', 'tun', 'tcp', 'stack', 'relay', 'engine'].map((dir) => path.join('native', dir)),
    suffix: '.cc',
  },
  binding: { dirs: ['native/binding'], suffix: '.cc' },
};

/** @param group a key of GROUPS */
export function sourcesOf(group) {
  const { dirs, suffix } = GROUPS[group];
  return dirs.flatMap((dir) => {
    const absolute = path.join(root, dir);
    if (!fs.existsSync(absolute)) return [];
    const names = fs.readdirSync(absolute).filter((name) => name.endsWith(suffix));
    return names.sort().map((name) => path.join(dir, name));
  });
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const group = process.argv[2] ?? '';
  if (!Object.hasOwn(GROUPS, group)) {
    console.error(`usage: node scripts/sources.mjs ${Object.keys(GROUPS).join('|')}`);
    process.exit(2);
  }
  console.log(sourcesOf(group).join('\n'));
}
