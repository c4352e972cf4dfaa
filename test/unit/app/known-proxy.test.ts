import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { forgetProxy, rememberedProxy, rememberProxy } from '../../../src/app/known-proxy.ts';
import { knownProxyFile } from '../../../src/app/state-files.ts';
import { createStateDirectory, type StateDirectory, stateDirectory } from '../../../src/state/directory.ts';

let directory: StateDirectory;
beforeEach(() => {
  directory = stateDirectory('default', { path: fs.mkdtempSync(path.join(os.tmpdir(), 'proxy-')), isOurs: false });
  createStateDirectory(directory);
});
afterEach(() => fs.rmSync(directory.root.path, { recursive: true }));

test('a name is remembered with its addresses, and no other name has them', () => {
  rememberProxy(directory, 'proxy.example', ['10.0.0.1', 'fd00::1']);
  expect(rememberedProxy(directory, 'proxy.example')).toEqual(['10.0.0.1', 'fd00::1']);
  expect(rememberedProxy(directory, 'other.example')).toBeUndefined();
  forgetProxy(directory);
  forgetProxy(directory);
  expect(rememberedProxy(directory, 'proxy.example')).toBeUndefined();
});

test.each(['', '{', '{"host":"proxy.example","addresses":["not one"]}', '{"host":"proxy.example","addresses":[]}'])(
  'a damaged file is as good as none: %s',
  (text) => {
    fs.writeFileSync(knownProxyFile(directory), text);
    expect(rememberedProxy(directory, 'proxy.example')).toBeUndefined();
  },
);
