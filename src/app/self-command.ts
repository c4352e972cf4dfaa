/** How this very program is started again (the daemon, the demo's other process). */

/** The node binary, its own flags, this entry file, then `args`. */
export function selfCommand(...args: readonly string[]): readonly [program: string, ...args: string[]] {
  return [process.execPath, ...process.execArgv, process.argv[1] ?? '', ...args];
}
