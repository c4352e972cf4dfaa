/** How this very program is started again (the daemon, the demo's other process). */

/**
 * The launcher, if that started us: only through it a process of ours gets the capability, and the bundle, which has
 * no other file. Otherwise the node binary, its own flags and this entry file. Then `args`.
 */
export function selfCommand(...args: readonly string[]): readonly [program: string, ...args: string[]] {
  const launcher = process.env['PROXYVPN_LAUNCHER'];
  if (launcher !== undefined) return [launcher, ...args];
  return [process.execPath, ...process.execArgv, process.argv[1] ?? '', ...args];
}
