/**
 * Settings of a configuration file to values of the flags of `up` (pure).
 *
 * The flags are the only list of keys: each key is read by its flag's own parser, so what a file may say and what the
 * command line may say cannot drift apart.
 */
import type { Option, Command as Program } from 'commander';
import { EXIT, ProxyVpnError } from '../errors.ts';

/** One `key = value` of a file. */
export interface Setting {
  readonly key: string;
  /** As TOML gave it; not yet judged. */
  readonly value: unknown;
  readonly line: number;
}

export interface Settings {
  /** As it is named to the user. */
  readonly file: string;
  readonly settings: readonly Setting[];
}

/** What is wrong with one line. */
export interface Problem {
  readonly line: number;
  readonly key: string;
  /** Without the value where that could be a credential. */
  readonly message: string;
  readonly hint: string | undefined;
}

/** Flags that are no keys, and why. */
export const FLAGS_ONLY: { readonly [key: string]: string } = {
  config: 'it names this file',
  name: 'the file is found by it',
  'dry-run': 'it is of one run, not of the tunnel',
  foreground: 'it is of the one who starts it, not of the tunnel',
  json: 'it is of one run, not of the tunnel',
};

/** `no-routes` is the key `routes`. */
function keyOf(option: Option): string {
  return option.negate ? option.name().slice('no-'.length) : option.name();
}

/** Key to flag, for all flags that may stand in a file. */
export function configKeys(options: readonly Option[]): ReadonlyMap<string, Option> {
  const all = options.map((option) => [keyOf(option), option] as const);
  return new Map(all.filter(([key]) => !Object.hasOwn(FLAGS_ONLY, key)));
}

/** Whether the flag may be given again; its placeholder says so: `<cidr,...>`. */
function isList(option: Option): boolean {
  return option.flags.includes(',...>');
}

function isPath(option: Option): boolean {
  return option.flags.includes('<file>');
}

/**
 * Gives the flags that were not typed the values of a file. A typed flag also stands for those it excludes: a file's
 * `proxy-file` counts for nothing beside `--proxy`.
 * @param suggest the flag, with its dashes, that a word without a flag may mean
 * @param resolve a path in the file, seen from where the file is
 * @returns all that is wrong, in the order of the file
 */
export function applySettings(
  program: Program,
  { settings }: Settings,
  suggest: (flag: string) => string | undefined,
  resolve: (path: string) => string,
): readonly Problem[] {
  const keys = configKeys(program.options);
  const problems: Problem[] = [];
  const isTyped = (attribute: string): boolean => program.getOptionValueSource(attribute) === 'cli';
  const seen = new Map<string, string>();
  for (const { key, value, line } of settings) {
    const option = keys.get(key);
    try {
      if (option === undefined) throw unknownKey(key, suggest);
      const rivals = rivalsOf(option, program.options);
      const rival = rivals.map((attribute) => seen.get(attribute)).find((other) => other !== undefined);
      if (rival !== undefined) throw wrong(`is given beside ${rival}`, `leave one of ${key} and ${rival} out`);
      const read = settingValue(option, value, resolve);
      seen.set(option.attributeName(), key);
      if (![option.attributeName(), ...rivals].some(isTyped))
        program.setOptionValueWithSource(option.attributeName(), read, 'config');
    } catch (error) {
      if (!(error instanceof ProxyVpnError)) throw error;
      // A flag's parser speaks of the flag.
      const message = error.message.replace(new RegExp(`^--(no-)?${option ? key : '-'}:? `), '');
      problems.push({ line, key: shownKey(key), message, hint: error.hint });
    }
  }
  return problems;
}

/** Attributes of the flags that exclude this one, or are excluded by it. */
function rivalsOf(option: Option, options: readonly Option[]): readonly string[] {
  const excludedBy = (one: Option): readonly string[] => (one as unknown as { conflictsWith: string[] }).conflictsWith;
  const excluding = options.filter((other) => excludedBy(other).includes(option.attributeName()));
  return [...excludedBy(option), ...excluding.map((other) => other.attributeName())];
}

function settingValue(option: Option, value: unknown, resolve: (path: string) => string): unknown {
  if (option.isBoolean() || option.negate) {
    if (typeof value === 'boolean') return value;
    throw wrong('is neither true nor false', 'write it without quotation marks');
  }
  const texts = textsOf(option, value);
  let read: unknown = option.defaultValue;
  for (const text of texts) read = option.parseArg ? option.parseArg(text, read) : text;
  return isPath(option) && typeof read === 'string' ? resolve(read) : read;
}

function textsOf(option: Option, value: unknown): readonly string[] {
  if (typeof value === 'string') return [value];
  if (typeof value === 'number' || typeof value === 'bigint') return [String(value)];
  if (typeof value === 'boolean') throw wrong('takes a value', `as in: proxyvpn up ${option.flags}`);
  if (!Array.isArray(value)) throw wrong('is a table or a date', 'keys stand alone: no [table], no dots');
  if (!isList(option)) throw wrong('takes one value', 'leave the brackets out');
  if (value.length === 0)
    throw wrong('is an empty list', 'leave the line out, or write "none" where the flag takes it');
  return value.flatMap((item) => {
    if (Array.isArray(item)) throw wrong('is a list of lists', 'write the values into one list');
    return textsOf(option, item);
  });
}

function unknownKey(key: string, suggest: (flag: string) => string | undefined): ProxyVpnError {
  if (Object.hasOwn(FLAGS_ONLY, key)) return wrong(`cannot stand in a file: ${FLAGS_ONLY[key]}`, `give --${key}`);
  const negated = key.startsWith('no-') ? `${key.slice('no-'.length)} = false` : undefined;
  const similar = isPlain(key) ? suggest(`--${key}`)?.replace(/^--(no-)?/, '') : undefined;
  const meant = negated ?? (similar !== undefined && !Object.hasOwn(FLAGS_ONLY, similar) ? similar : undefined);
  return wrong(
    'there is no such key',
    meant ? `did you mean ${meant}?` : 'the keys are the flags of: proxyvpn up --help',
  );
}

const isPlain = (key: string): boolean => /^[A-Za-z0-9_-]{1,32}$/.test(key);

/** A line turned round, `"http://user:password@host" = proxy`, makes a secret a key. */
function shownKey(key: string): string {
  return isPlain(key) ? key : 'this key';
}

function wrong(message: string, hint: string): ProxyVpnError {
  return new ProxyVpnError('E_CONFIG', message, { hint, exitCode: EXIT.usage });
}

/** `FILE:LINE: key: what is wrong`. */
export function problemText(file: string, { line, key, message }: Problem): string {
  return `${file}:${line}: ${key}: ${message}`;
}

/** The error of `up` for a file with problems: the first, and how many more. @returns E_CONFIG, exit code 2 */
export function configError(file: string, problems: readonly Problem[]): ProxyVpnError {
  const [first] = problems;
  if (first === undefined) throw new Error('no problem');
  const more = problems.length === 1 ? '' : ` (and ${problems.length - 1} more, see: proxyvpn check)`;
  const hint = first.hint === undefined ? {} : { hint: first.hint };
  return new ProxyVpnError('E_CONFIG', `${problemText(file, first)}${more}`, { ...hint, exitCode: EXIT.usage });
}
