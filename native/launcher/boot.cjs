/**
 * What the launcher's node runs first: the bundle, with the code that V8 made of it when the launcher was linked
 * (scripts/code-cache.mjs). V8 takes that only from its own version, else it compiles the bundle anew.
 *
 * Both come in sealed memfds, as this file does, and are closed when they are read: they are not kept in memory twice.
 */
'use strict';
const fs = require('node:fs');
const vm = require('node:vm');

const read = (variable, encoding) => {
  const file = process.env[variable];
  delete process.env[variable];
  const content = fs.readFileSync(file, encoding);
  fs.closeSync(Number(file.slice(file.lastIndexOf('/') + 1)));
  return content;
};

// The function of a CommonJS module; scripts/build.mjs sees to it that it is ASCII.
const source = read('PROXYVPN_BUNDLE', 'latin1');
const program = new vm.Script(source, { filename: 'proxyvpn.cjs', cachedData: read('PROXYVPN_CODE') });
program.runInThisContext()(exports, require, module, __filename, __dirname);
