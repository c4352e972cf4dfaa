/** Unit tests only: a plain `vitest run` must never reach the tests that change a network. */
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    testTimeout: 120_000, // A guard against hanging; nothing is asserted about time.
    hookTimeout: 120_000,
    include: ['test/unit/**/*.test.ts'],
  },
});
