/** What the bundle holds and what a start of it evaluates: the reasons why the program starts fast (docs/performance.md). */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import Module from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bundleProgram } from '../../scripts/bundle.mjs';

const ROOT = path.join(import.meta.dirname, '..', '..');
/** Building it here and running it takes longer than a unit test usually may. */
const BUILD_MS = 60_000;

let directory: string;
let bundle: string;
let built: Awaited<ReturnType<typeof bundleProgram>>;

beforeAll(async () => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pvt-bundle-'));
  built = await bundleProgram();
  bundle = path.join(directory, 'proxyvpn.cjs');
  fs.writeFileSync(bundle, built.text);
}, BUILD_MS);
afterAll(() => fs.rmSync(directory, { recursive: true }));

function node(...args: readonly string[]): string {
  const env = { PATH: process.env['PATH'] ?? '', HOME: directory };
  const ran = spawnSync(process.execPath, args, { env, encoding: 'utf8', input: '' });
  if (ran.error) throw ran.error;
  return ran.stdout;
}

describe('the bundle', () => {
  it('has no language of zod but English', () => {
    const locales = built.inputs.filter((file) => /zod\/v4\/locales\/(?!index)/.test(file));
    expect(locales).toEqual(['node_modules/zod/v4/locales/en.js']);
  });

  it('is ASCII, which V8 keeps at a byte for each character', () => {
    expect(built.text).not.toMatch(/[^\0-\x7f]/);
  });

  it('imports nothing that its loader in the launcher could not find', () => {
    expect(built.text).not.toMatch(/\bimport\(/);
  });
});

describe('a start', () => {
  /** Modules of node's that were loaded at the end, beside those of a start that does nothing. */
  function loadedBy(...args: readonly string[]): readonly string[] {
    const spy = path.join(directory, 'spy.cjs');
    const report = path.join(directory, 'report.json');
    fs.writeFileSync(
      spy,
      `const before = new Set(process.moduleLoadList);
      process.on('exit', () => {
        const loaded = process.moduleLoadList.filter((name) => !before.has(name));
        require('node:fs').writeFileSync(${JSON.stringify(report)}, JSON.stringify(loaded));
      });`,
    );
    node('--require', spy, bundle, ...args);
    const names = JSON.parse(fs.readFileSync(report, 'utf8')) as readonly string[];
    return names.map((name) => name.replace('NativeModule ', '')).filter((name) => !name.includes('internal'));
  }

  // `net` it does load: its output goes into a pipe.
  it('for --version loads no processes, no cryptography, no resolver', () => {
    const loaded = loadedBy('--version');
    for (const name of ['child_process', 'crypto', 'dgram', 'dns', 'dns/promises', 'tls', 'http', 'http2'])
      expect(loaded).not.toContain(name);
  });

  it('for a usage error loads no TLS, no HTTP and no resolver', () => {
    const loaded = loadedBy('up', '--no-such-flag');
    expect(loaded, 'positive control: commander wants it').toContain('child_process');
    for (const name of ['crypto', 'dns/promises', 'tls', 'http', 'http2']) expect(loaded).not.toContain(name);
  });

  it('of the daemon loads no TLS and no HTTP before its launch is read', () => {
    const loaded = loadedBy('__daemon');
    expect(loaded, 'positive control').toContain('net');
    for (const name of ['tls', 'http', 'http2']) expect(loaded).not.toContain(name);
  });
});

describe("V8's code for the bundle", () => {
  it('is taken by the node that made it, and a bundle without any still runs', { timeout: BUILD_MS }, () => {
    const wrapped = path.join(directory, 'wrapped.cjs');
    const code = path.join(directory, 'code');
    fs.writeFileSync(wrapped, Module.wrap(built.text));
    node(path.join(ROOT, 'scripts', 'code-cache.mjs'), wrapped, path.join(ROOT, 'build/Release/proxyvpn.node'), code);
    const ask = `const [fs, vm] = [require('node:fs'), require('node:vm')];
      const [source, cachedData] = [fs.readFileSync(process.argv[1], 'latin1'), fs.readFileSync(process.argv[2])];
      console.log(new vm.Script(source, { filename: 'proxyvpn.cjs', cachedData }).cachedDataRejected);`;
    expect(node('-e', ask, wrapped, code).trim()).toBe('false');
    fs.writeFileSync(code, 'of another V8');
    expect(node('-e', ask, wrapped, code).trim()).toBe('true');
  });
});
