import fs from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '../../../..');

it('docs/errors.md lists every finding of the doctor, and no other', () => {
  const directory = path.join(root, 'src/app/doctor');
  const sources = fs.readdirSync(directory).map((file) => fs.readFileSync(path.join(directory, file), 'utf8'));
  const made =
    /\b(?:ok|note|warning|error|errorFrom)\(\s*'([a-z0-9-]+)'|attempt\(findings, '([a-z-]+)'|'(proxy-auth)' : '(proxy)'/g;
  const found = sources.flatMap((text) => [...text.matchAll(made)].flatMap((match) => match.slice(1).filter(Boolean)));
  const section = fs.readFileSync(path.join(root, 'docs/errors.md'), 'utf8').split('## What `doctor` finds')[1] ?? '';
  const rows = section.match(/^\| `.*? \|/gm) ?? [];
  const listed = rows.flatMap((row) => [...row.matchAll(/`([a-z0-9-]+)`/g)].map((match) => match[1]));
  expect(listed.sort()).toEqual([...new Set(found)].sort());
});
