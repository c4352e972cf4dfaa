import fs from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { removeFileDurably, writeFileAtomic } from '../../../src/state/atomic-file.ts';
import { temporaryDirectory } from './temporary-directory.ts';

const modeOf = (file: string) => (fs.statSync(file).mode & 0o7777).toString(8);

it('writes a new file that only the owner can read', () => {
  const directory = temporaryDirectory();
  const file = path.join(directory, 'a');
  writeFileAtomic(file, 'one');
  expect([fs.readFileSync(file, 'utf8'), modeOf(file)]).toEqual(['one', '600']);
  expect(fs.readdirSync(directory)).toEqual(['a']);
});

it('replaces a file in one step: who has it open keeps the whole old one', () => {
  const file = path.join(temporaryDirectory(), 'a');
  writeFileAtomic(file, 'old content');
  const fd = fs.openSync(file, 'r');
  writeFileAtomic(file, Buffer.from('new'), 0o644);
  expect(fs.readFileSync(fd, 'utf8')).toBe('old content');
  fs.closeSync(fd);
  expect([fs.readFileSync(file, 'utf8'), modeOf(file)]).toEqual(['new', '644']);
});

it('the mode does not depend on the umask', () => {
  const file = path.join(temporaryDirectory(), 'a');
  const umask = process.umask(0o777);
  try {
    writeFileAtomic(file, 'x', 0o644);
  } finally {
    process.umask(umask);
  }
  expect(modeOf(file)).toBe('644');
});

it('replaces a symbolic link and leaves its target alone', () => {
  const directory = temporaryDirectory();
  const target = path.join(directory, 'target');
  const link = path.join(directory, 'link');
  fs.writeFileSync(target, 'precious');
  fs.symlinkSync(target, link);
  writeFileAtomic(link, 'ours');
  expect([fs.readFileSync(target, 'utf8'), fs.lstatSync(link).isFile()]).toEqual(['precious', true]);
});

it('a failure names the file and the reason, and leaves no temporary file', () => {
  const directory = temporaryDirectory();
  const absent = path.join(directory, 'absent', 'a');
  expect(() => writeFileAtomic(absent, 'x')).toThrow(
    expect.objectContaining({ code: 'E_STATE_WRITE', message: `cannot write ${absent}: ENOENT` }),
  );
  const occupied = path.join(directory, 'occupied');
  fs.mkdirSync(path.join(occupied, 'inside'), { recursive: true });
  expect(() => writeFileAtomic(occupied, 'x')).toThrow(expect.objectContaining({ code: 'E_STATE_WRITE' }));
  expect(fs.readdirSync(directory)).toEqual(['occupied']);
});

it('removing is idempotent', () => {
  const file = path.join(temporaryDirectory(), 'a');
  writeFileAtomic(file, 'x');
  removeFileDurably(file);
  removeFileDurably(file);
  removeFileDurably(path.join(file, 'in', 'nowhere'));
  expect(fs.existsSync(file)).toBe(false);
});
