/** What bench/startup.ts asks of bench/startup-runner.ts, and the samples that come back. */
import { z } from 'zod';

export const StartupTask = z.object({
  launcher: z.string(),
  proxy: z.string(),
  /** Host and port, through the tunnel, of somebody who echoes. */
  destination: z.object({ host: z.string(), port: z.number() }),
  stateDirectory: z.string(),
  rounds: z.number(),
  /** In so many of the rounds the daemon is left alone until it has settled. */
  memoryRounds: z.number(),
});
export type StartupTask = z.infer<typeof StartupTask>;

export const StartupSample = z.object({ what: z.string(), key: z.string(), value: z.number() });
export type StartupSample = z.infer<typeof StartupSample>;
