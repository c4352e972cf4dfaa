/** Tests on the real kernel; only for scripts/test-privileged.sh, which makes the namespaces. */
import { readlinkSync } from 'node:fs';
import { defineConfig } from 'vitest/config';

/** Process 1 is in the host's network namespace; when it cannot be asked, we were not started by the script. */
function isIsolated(): boolean {
  try {
    return readlinkSync('/proc/self/ns/net') !== readlinkSync('/proc/1/ns/net');
  } catch {
    return false;
  }
}

if (process.env['PROXYVPN_PRIVILEGED_TESTS'] !== '1' || !isIsolated()) {
  throw new Error('these tests must not run in the network namespace of the host: use scripts/test-privileged.sh');
}

export default defineConfig({
  test: {
    include: ['test/netns/**/*.test.ts'],
    // The tests share a kernel, two cores and the clock: side by side they would measure each other.
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    teardownTimeout: 30_000,
  },
});
