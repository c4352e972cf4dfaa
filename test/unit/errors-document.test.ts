import fs from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');

it('docs/errors.md lists every error code of the sources, and no other', () => {
  const sources = fs.readdirSync(path.join(root, 'src'), { recursive: true, encoding: 'utf8' });
  const used = sources
    .filter((file) => file.endsWith('.ts'))
    .flatMap(
      (file) => fs.readFileSync(path.join(root, 'src', file), 'utf8').match(/(?<=')E_[A-Z0-9_]*[A-Z0-9](?=')/g) ?? [],
    );
  // It has its own, in C++.
  const launcher = fs.readFileSync(path.join(root, 'native/launcher/launcher.cc'), 'utf8');
  used.push(...(launcher.match(/E_LAUNCHER_[A-Z]+/g) ?? []));
  const listed = fs.readFileSync(path.join(root, 'docs/errors.md'), 'utf8').match(/(?<=^\| `)E_[A-Z0-9_]+/gm) ?? [];
  expect([...listed].sort()).toEqual([...new Set(used)].sort());
});
