import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  createStateDirectory,
  parseTunnelName,
  removeStateDirectory,
  stateDirectory,
  stateRoot,
  tunnelNames,
} from '../../../src/state/directory.ts';
import { temporaryDirectory } from './temporary-directory.ts';

const exists = () => true;

describe('stateRoot', () => {
  it.each([
    [{}, 0, '/run/proxyvpn', true],
    [{ XDG_RUNTIME_DIR: '/run/user/0' }, 0, '/run/proxyvpn', true],
    [{ XDG_RUNTIME_DIR: '/xdg' }, 1000, '/xdg/proxyvpn', true],
    [{ XDG_RUNTIME_DIR: 'relative' }, 1000, '/run/user/1000/proxyvpn', true],
    [{}, 1000, '/run/user/1000/proxyvpn', true],
    [{ PROXYVPN_STATE_DIR: '/x//y/' }, 1000, '/x/y/', false],
    [{ PROXYVPN_STATE_DIR: '/x' }, 0, '/x', false],
    [{ PROXYVPN_STATE_DIR: '' }, 0, '/run/proxyvpn', true],
  ])('%j as uid %i', (environment, uid, expected, isOurs) => {
    expect(stateRoot(environment, uid, exists)).toEqual({ path: expected, isOurs });
  });

  it('refuses a relative override and a missing runtime directory', () => {
    const code = expect.objectContaining({ code: 'E_STATE_DIR' });
    expect(() => stateRoot({ PROXYVPN_STATE_DIR: 'x' }, 0, exists)).toThrow(code);
    expect(() => stateRoot({ XDG_RUNTIME_DIR: '/xdg' }, 1000, () => false)).toThrow(code);
  });
});

describe('a tunnel name', () => {
  it.each(['a', 'default', 'Work_2-x', 'x'.repeat(32)])('may be %j', (name) => {
    expect(parseTunnelName(name)).toBe(name);
  });
  it.each(['', 'x'.repeat(33), '.', '..', 'a/b', 'a b', 'a\n', 'ä', 'a\0', '../etc'])('may not be %j', (name) => {
    expect(() => parseTunnelName(name)).toThrow(expect.objectContaining({ code: 'E_NAME', exitCode: 2 }));
  });
});

function makeOpenToGroup(at: string): void {
  fs.mkdirSync(at);
  fs.chmodSync(at, 0o770);
}

describe('the directory of a tunnel', () => {
  const uid = process.geteuid?.() ?? 0;

  it('is made for the owner alone, listed, and removed with its root when that is ours', () => {
    const root = { path: path.join(temporaryDirectory(), 'proxyvpn'), isOurs: true };
    expect(tunnelNames(root)).toEqual([]);
    const [b, a] = [stateDirectory('b', root), stateDirectory('a', root)];
    for (const directory of [b, a, a]) createStateDirectory(directory);
    expect(fs.statSync(a.path).mode & 0o777).toBe(0o700);
    fs.writeFileSync(path.join(root.path, 'file'), '');
    fs.mkdirSync(path.join(root.path, 'not a name'));
    expect(tunnelNames(root)).toEqual(['a', 'b']);
    removeStateDirectory(a);
    removeStateDirectory(a);
    expect(tunnelNames(root)).toEqual(['b']);
    fs.rmSync(path.join(root.path, 'file'));
    fs.rmdirSync(path.join(root.path, 'not a name'));
    removeStateDirectory(b);
    expect(fs.existsSync(root.path)).toBe(false);
  });

  it('stays while something is in it, and a given root stays always', () => {
    const root = { path: temporaryDirectory(), isOurs: false };
    const directory = stateDirectory('a', root);
    createStateDirectory(directory);
    fs.writeFileSync(directory.journalFile, '');
    removeStateDirectory(directory);
    expect(fs.existsSync(directory.journalFile)).toBe(true);
    fs.rmSync(directory.journalFile);
    removeStateDirectory(directory);
    expect([fs.existsSync(directory.path), fs.existsSync(root.path)]).toEqual([false, true]);
  });

  it.each([
    ['is writable by others', makeOpenToGroup],
    ['is not a directory', (at: string) => fs.symlinkSync('/', at)],
    ['cannot be made: EEXIST', (at: string) => fs.writeFileSync(at, '')],
  ])('is refused when it %s', (why, prepare) => {
    const directory = stateDirectory('a', { path: temporaryDirectory(), isOurs: false });
    prepare(directory.path);
    expect(() => createStateDirectory(directory)).toThrow(
      expect.objectContaining({ code: 'E_STATE_DIR', message: expect.stringContaining(why) }),
    );
  });

  it('is refused when it belongs to another user', () => {
    const directory = stateDirectory('a', { path: temporaryDirectory(), isOurs: false });
    expect(() => createStateDirectory(directory, uid + 1)).toThrow(/belongs to uid/);
  });
});
