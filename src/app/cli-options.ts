/** The flags that several commands have, and how a flag is made (pure). */
import { Option } from 'commander';
import { parseTunnelName } from '../state/directory.ts';
import * as values from './option-values.ts';

/** One flag whose text is read by `parser`. */
export function option<T>(flags: string, text: string, parser: values.Parser<T>): Option {
  return new Option(flags, text).argParser(parser);
}

export const nameOption = () =>
  option('--name <name>', 'which tunnel', (text) => parseTunnelName(text)).default('default');
export const configOption = () =>
  option('-c, --config <file>', 'the configuration file (default: by name)', (text) =>
    values.filePath(text, '--config'),
  );
export const jsonOption = () => new Option('--json', 'print one JSON document');
export const verboseOption = () => new Option('-v, --verbose', 'say more');
