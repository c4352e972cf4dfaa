/** Unit tests only: a plain `vitest run` must never reach the tests that change a network. */
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: { include: ['test/unit/**/*.test.ts'] },
});
