/**
 * Makes the completions of bash, zsh and fish from the help texts, so that they never know other flags than the program.
 * Usage: node scripts/completions.mjs DIRECTORY   (writes proxyvpn.bash, _proxyvpn and proxyvpn.fish; needs the bundle)
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** Values that the help describes in words. */
const CHOICES = {
  '--lan': ['allow', 'block'],
  '--ipv6': ['on', 'off'],
  '--dns': ['virtual', 'over-tcp', 'doh', 'direct'],
  '--dns-other': ['relay', 'no-data'],
};

/** What a shell can offer for the value of a flag: a kind for each placeholder of the help; others get nothing. */
const KINDS = { '--name': 'tunnel', '<file>': 'file', '<user,...>': 'user' };

/** `  -p, --proxy <url>   text`, where the text may go on in lines that are indented further. */
const OPTION = /^ {2}(?:(-\w), )?(--[\w-]+)(?: (<[^>]+>))?(?: {2,}(\S.*))?$/;
/** `  dns [options] <query|map> [host]   text`: the words that may follow stand in the usage. */
const COMMAND = /^ {2}(\w[\w-]*)(?: \[\w+\])*(?: <([\w|]+)>)?(?: \[\w+\])* {2,}(\S.*)$/;
const CONTINUATION = /^ {10,}(\S.*)$/;

function linesOf(help, pattern) {
  const found = [];
  for (const line of help.split('\n')) {
    const match = pattern.exec(line);
    const more = CONTINUATION.exec(line);
    if (match) found.push(match.slice(1));
    else if (more && found.length > 0) found.at(-1).push(`${found.at(-1).pop() ?? ''} ${more[1]}`.trim());
  }
  return found;
}

function optionsOf(help) {
  return linesOf(help, OPTION).map(([short, long, value, text = '']) => ({
    short,
    long,
    value: value && { name: value.slice(1, -1), kind: KINDS[long] ?? KINDS[value], choices: CHOICES[long] },
    text: text.replace(/ \(default: .*\)$/, ''),
  }));
}

/**
 * @param helpOf gives the text of `proxyvpn ARGUMENT... --help`
 * @returns the program's own options, and its commands with theirs
 */
export function readHelp(helpOf) {
  const help = helpOf();
  const section = /^Commands:\n((?: .*\n)*)/m.exec(help)?.[1] ?? '';
  const commands = linesOf(section, COMMAND).map(([name, choices, text]) => {
    const options = name === 'help' ? [] : optionsOf(helpOf(name));
    return { name, text, words: choices?.split('|') ?? [], options };
  });
  return { options: optionsOf(help.slice(0, help.indexOf('\nCommands:'))), commands };
}

const HEADER = 'made by scripts/completions.mjs; do not edit';
const wordsOf = (options) => options.flatMap(({ short, long }) => (short ? [short, long] : [long])).join(' ');

export function bashCompletion({ options, commands }) {
  const valued = new Map(
    commands
      .flatMap((command) => command.options)
      .filter(({ value }) => value)
      .map((option) => [option.long, option]),
  );
  const offers = { tunnel: '-W "$(_proxyvpn_tunnels)"', file: '-f', user: '-u' };
  const cases = [...valued.values()].map(({ short, long, value }) => {
    const offer = value.choices ? `-W '${value.choices.join(' ')}'` : offers[value.kind];
    return `    ${short ? `${short} | ` : ''}${long}) ${offer ? `_proxyvpn_offer ${offer} && ` : ''}return ;;`;
  });
  const perCommand = commands.map((command) => {
    const words =
      command.name === 'help'
        ? commands.map(({ name }) => name).join(' ')
        : [...command.words, wordsOf(command.options)].join(' ');
    return `    ${command.name}) words='${words}' ;;`;
  });
  const first = [...commands.map(({ name }) => name), wordsOf(options)].join(' ');
  return `# bash completion for proxyvpn; ${HEADER}
_proxyvpn_tunnels() {
  local directory
  for directory in /run/proxyvpn/*/ "$\{XDG_RUNTIME_DIR:-/nonexistent}"/proxyvpn/*/; do
    [ ! -d "$directory" ] || basename "$directory"
  done
}

_proxyvpn_offer() { mapfile -t COMPREPLY < <(compgen "$@" -- "$\{COMP_WORDS[COMP_CWORD]}"); }

_proxyvpn() {
  local words=''
  COMPREPLY=()
  case $\{COMP_WORDS[COMP_CWORD - 1]} in
${cases.join('\n')}
  esac
  case $\{COMP_WORDS[1]} in
    "$\{COMP_WORDS[COMP_CWORD]}") words='${first}' ;;
${perCommand.join('\n')}
  esac
  _proxyvpn_offer -W "$words"
}
complete -F _proxyvpn proxyvpn
`;
}

const zshQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const zshText = (text) => text.replace(/[[\]:\\]/g, '\\$&');

function zshArgument({ short, long, value, text }) {
  const actions = { tunnel: '_proxyvpn_tunnels', file: '_files', user: '_users' };
  const action = value?.choices ? `(${value.choices.join(' ')})` : (actions[value?.kind] ?? ' ');
  const suffix = `[${zshText(text)}]${value ? `:${zshText(value.name)}:${action}` : ''}`;
  if (!short) return zshQuoted(`${long}${suffix}`);
  return `${zshQuoted(`(${short} ${long})`)}{${short},${long}}${zshQuoted(suffix)}`;
}

export function zshCompletion({ options, commands }) {
  const list = commands.map(({ name, text }) => `        ${zshQuoted(`${name}:${text}`)}`);
  const zshWords = (words) => (words.length > 0 ? [`          '1:word:(${words.join(' ')})'`] : []);
  const cases = commands.map(({ name, words, options: own }) => {
    const body =
      name === 'help'
        ? `_values command ${commands.map((command) => command.name).join(' ')}`
        : ['_arguments -s', ...own.map((option) => `          ${zshArgument(option)}`), ...zshWords(words)].join(
            ' \\\n',
          );
    return `        ${name})\n          ${body}\n          ;;`;
  });
  const own = options.map((option) => `    ${zshArgument(option)}`);
  return `#compdef proxyvpn
# ${HEADER}
_proxyvpn_tunnels() {
  local -a names
  names=(/run/proxyvpn/*(N/:t) $\{XDG_RUNTIME_DIR:-/nonexistent}/proxyvpn/*(N/:t))
  compadd -a names
}

_proxyvpn() {
  local line state
  _arguments -C \\
${own.join(' \\\n')} \\
    '1:command:->command' \\
    '*::argument:->argument'
  case $state in
    command)
      local -a commands=(
${list.join('\n')}
      )
      _describe command commands
      ;;
    argument)
      case $line[1] in
${cases.join('\n')}
      esac
      ;;
  esac
}

_proxyvpn "$@"
`;
}

const fishQuoted = (text) => `'${text.replace(/['\\]/g, '\\$&')}'`;

function fishOption(condition, { short, long, value, text }) {
  const actions = { tunnel: `-xa '(__proxyvpn_tunnels)'`, file: '-rF', user: `-xa '(__fish_complete_users)'` };
  const action = value?.choices ? `-xa ${fishQuoted(value.choices.join(' '))}` : (actions[value?.kind] ?? '-x');
  const names = `${short ? `-s ${short.slice(1)} ` : ''}-l ${long.slice(2)}`;
  return `complete -c proxyvpn -n ${fishQuoted(condition)} ${names}${value ? ` ${action}` : ''} -d ${fishQuoted(text)}`;
}

export function fishCompletion({ options, commands }) {
  const lines = commands.flatMap(({ name, text, words, options: own }) => [
    `complete -c proxyvpn -n __fish_use_subcommand -a ${name} -d ${fishQuoted(text)}`,
    ...words.map((word) => `complete -c proxyvpn -n '__fish_seen_subcommand_from ${name}' -a ${word}`),
    ...own.map((option) => fishOption(`__fish_seen_subcommand_from ${name}`, option)),
  ]);
  const names = commands.map(({ name }) => name).join(' ');
  return `# fish completion for proxyvpn; ${HEADER}
function __proxyvpn_tunnels
    for root in /run/proxyvpn $XDG_RUNTIME_DIR/proxyvpn
        test -d $root; and path basename $root/*/
    end
end
complete -c proxyvpn -f
${options.map((option) => fishOption('__fish_use_subcommand', option)).join('\n')}
${lines.join('\n')}
complete -c proxyvpn -n '__fish_seen_subcommand_from help' -a '${names}'
`;
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [, , directory] = process.argv;
  if (directory === undefined) {
    console.error('usage: node scripts/completions.mjs DIRECTORY');
    process.exit(2);
  }
  const bundle = path.join(import.meta.dirname, '..', 'dist', 'proxyvpn.cjs');
  const help = readHelp((...words) =>
    execFileSync(process.execPath, [bundle, ...words, '--help'], { encoding: 'utf8' }),
  );
  fs.mkdirSync(directory, { recursive: true });
  const results = { 'proxyvpn.bash': bashCompletion, _proxyvpn: zshCompletion, 'proxyvpn.fish': fishCompletion };
  for (const [name, make] of Object.entries(results)) fs.writeFileSync(path.join(directory, name), make(help));
}
