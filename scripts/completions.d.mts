/** Types of scripts/completions.mjs, for its tests. */
export interface HelpOption {
  readonly short: string | undefined;
  readonly long: string;
  readonly text: string;
}
export interface Help {
  readonly options: readonly HelpOption[];
  readonly commands: readonly {
    readonly name: string;
    readonly text: string;
    readonly options: readonly HelpOption[];
  }[];
}
export function readHelp(helpOf: (...words: string[]) => string): Help;
export function bashCompletion(help: Help): string;
export function zshCompletion(help: Help): string;
export function fishCompletion(help: Help): string;
