/** The memory of a daemon at rest: what the start needed, and nobody needs any more, goes back to the kernel. */
import v8 from 'node:v8';
import vm from 'node:vm';
import { native } from '../native.ts';

/** By then whoever started the tunnel has had his first answers: a collection stops JavaScript for 20 ms. */
const SETTLED_MS = 1000;

/**
 * The young generation stays as small as it begins, 2 MB: else it grows to 32 MB, which a daemon at rest keeps.
 *
 * To be called before the program's own modules are evaluated, which makes garbage, but after node's are loaded: node
 * carries them compiled, and V8 takes compiled code only from a V8 with the same flags. On the command line the flag
 * would have node compile all of them anew, which doubles its start-up time.
 */
export async function keepYoungGenerationSmall(): Promise<void> {
  await Promise.all([
    import('node:child_process'),
    import('node:crypto'),
    import('node:dgram'),
    import('node:dns/promises'),
    import('node:fs/promises'),
    import('node:net'),
    import('node:os'),
    import('node:readline'),
    import('node:timers/promises'),
  ]);
  v8.setFlagsFromString('--semi-space-growth-factor=1');
}

/** Soon after the tunnel is up. Does not keep the process alive. */
export function settleSoon(): void {
  setTimeout(() => {
    v8.setFlagsFromString('--expose-gc');
    const collect: unknown = vm.runInNewContext('gc');
    v8.setFlagsFromString('--no-expose-gc');
    if (typeof collect === 'function') collect();
    native().trimMemory();
  }, SETTLED_MS).unref();
}
