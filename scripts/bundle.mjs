/** Makes one CommonJS file of src/ and what it uses of node_modules: dist/proxyvpn.cjs. */
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const MAIN = 'src/app/main.ts';

/** zod carries its error texts in every language, a quarter of the bundle; ours are English. */
const withoutLocales = {
  name: 'without-locales',
  setup(build) {
    build.onLoad({ filter: /\/zod\/v4\/locales\/index\.js$/ }, (file) => ({
      contents: "export { default as en } from './en.js';",
      resolveDir: path.dirname(file.path),
    }));
  },
};

/** esbuild escapes strings, but neither comments, which mean nothing, nor regular expressions, which must not occur. */
function asciiOf(script) {
  return script.replace(/^.*[^\0-\x7f].*$/gm, (line) => {
    if (!/^\s*(\*|\/\/|\/\*)/.test(line)) throw new Error(`bundle: not ASCII, use an escape: ${line.trim()}`);
    return line.replace(/[^\0-\x7f]+/g, '?');
  });
}

/**
 * import.meta, which CommonJS lacks, becomes what it stands for. What is imported on demand is evaluated on demand.
 * @returns the text and the paths, from the project root, of all that is in it
 * @throws Error `bundle: ...`
 */
export async function bundleProgram() {
  if (!fs.existsSync(path.join(root, MAIN))) throw new Error(`bundle: ${MAIN} is missing`);
  let esbuild;
  try {
    esbuild = createRequire(import.meta.url)('esbuild');
  } catch (error) {
    throw new Error(`bundle: esbuild does not load: run npm ci (${error.message.split('\n')[0]})`);
  }
  try {
    const { outputFiles, metafile } = await esbuild.build({
      entryPoints: [MAIN],
      absWorkingDir: root,
      outdir: 'dist',
      write: false,
      metafile: true,
      bundle: true,
      platform: 'node',
      format: 'cjs',
      target: 'node20.12',
      external: ['*.node'],
      define: {
        'import.meta.dirname': '__dirname',
        'import.meta.filename': '__filename',
        'import.meta.url': 'bundleUrl',
      },
      banner: { js: "'use strict';\nconst bundleUrl = require('node:url').pathToFileURL(__filename).href;" },
      plugins: [withoutLocales],
      // What is imported on demand shall be found by `require`: a vm.Script has no other loader.
      supported: { 'dynamic-import': false },
      // V8 takes a byte for each character then, not two; native/launcher/boot.cjs reads it so.
      charset: 'ascii',
      logLevel: 'warning',
    });
    return { text: asciiOf(outputFiles[0].text), inputs: Object.keys(metafile.inputs) };
  } catch (error) {
    if (!error.errors) throw error;
    throw new Error(`bundle: ${error.errors.length} error(s) in ${MAIN} or what it imports`);
  }
}
