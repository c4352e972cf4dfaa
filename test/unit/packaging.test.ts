/** What is installed beside the program knows its flags: the man page, the completions. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bashCompletion, fishCompletion, readHelp, zshCompletion } from '../../scripts/completions.mjs';
import { parseArguments } from '../../src/app/cli.ts';

const root = path.resolve(import.meta.dirname, '../..');
const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pvt-packaging-'));
afterAll(() => fs.rmSync(directory, { recursive: true }));

function helpOf(...words: string[]): string {
  const command = parseArguments([...words, '--help']);
  if (command.command !== 'print') throw new Error(command.command);
  return command.text;
}

const help = readHelp(helpOf);
beforeAll(() => {
  fs.writeFileSync(path.join(directory, 'proxyvpn.bash'), bashCompletion(help));
  fs.writeFileSync(path.join(directory, '_proxyvpn'), zshCompletion(help));
  fs.writeFileSync(path.join(directory, 'proxyvpn.fish'), fishCompletion(help));
});

/** Runs a shell's own words. @returns stdout */
function shell(argv: readonly string[]): string {
  const [program = '', ...args] = argv;
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8', cwd: directory });
  if (error) throw error;
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return stdout;
}

const hasProgram = (name: string): boolean => spawnSync(name, ['--version']).status === 0;

it('the help texts are read whole: every flag in them is known', () => {
  const words = help.commands.flatMap(({ name, options }) => options.map(({ long }) => `${name} ${long}`));
  for (const { name } of help.commands.filter((command) => command.name !== 'help')) {
    const flags = helpOf(name).match(/^ {2}(?:-\w, )?(--[\w-]+)/gm) ?? [];
    for (const flag of flags) expect(words).toContain(`${name} ${flag.replace(/^.*--/, '--')}`);
  }
  expect(words).toContain('up --killswitch');
  expect(words).toContain('down --force');
  expect(help.options.map(({ long }) => long)).toEqual(['--version', '--help']);
});

it('the man page names every command and every flag, and no other', () => {
  const page = fs.readFileSync(path.join(root, 'packaging/man/proxyvpn.1'), 'utf8');
  const documented = [...page.matchAll(/^\.It .*?Fl Fl ([\w-]+)/gm)].map(([, flag]) => `--${flag}`);
  const flags = [...help.options, ...help.commands.flatMap(({ options }) => options)].map(({ long }) => long);
  expect([...new Set(documented)].sort()).toEqual([...new Set(flags)].sort());
  const commands = [...page.matchAll(/^\.It Cm (\w+)(?: Op Ar \w+)?$/gm)].map(([, command]) => command);
  expect(commands).toEqual(help.commands.map(({ name }) => name));
});

describe('bash completes', () => {
  const complete = (line: string): string[] => {
    const words = line.split(' ');
    const script = `source ./proxyvpn.bash
      COMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')}) COMP_CWORD=${words.length - 1}
      _proxyvpn; printf '%s\\n' "\${COMPREPLY[@]}"`;
    return shell(['bash', '--norc', '-euc', script]).split('\n').filter(Boolean);
  };
  it.each([
    ['proxyvpn ', ['up', 'down', 'status']],
    ['proxyvpn u', ['up']],
    ['proxyvpn up --kill', ['--killswitch']],
    ['proxyvpn up --bypass', ['--bypass', '--bypass-user']],
    ['proxyvpn up --lan ', ['allow', 'block']],
    ['proxyvpn up --killswitch --ipv6 of', ['off']],
    ['proxyvpn up --proxy-file proxyvpn.b', ['proxyvpn.bash']],
    ['proxyvpn up --bypass-user roo', ['root']],
    ['proxyvpn down --f', ['--force']],
    ['proxyvpn killswitch o', ['on', 'off']],
    ['proxyvpn killswitch on --s', ['--strict']],
  ])('%s', (line, expected) => {
    const found = complete(line);
    for (const word of expected) expect(found).toContain(word);
    if (!line.endsWith(' ')) expect(found).toEqual(expected);
  });
  it('nothing where nothing is known', () => {
    expect(complete('proxyvpn up --proxy ')).toEqual([]);
    expect(complete('proxyvpn nosuch --')).toEqual([]);
  });
});

it.runIf(hasProgram('fish'))('fish completes', () => {
  const complete = (line: string): string[] =>
    shell(['fish', '--no-config', '-c', `source ./proxyvpn.fish; complete -C '${line}'`])
      .split('\n')
      .filter(Boolean)
      .map((candidate) => candidate.split('\t')[0] ?? '');
  expect(complete('proxyvpn u')).toEqual(['up']);
  expect(complete('proxyvpn up --kill')).toEqual(['--killswitch']);
  expect(complete('proxyvpn up --lan ')).toEqual(['allow', 'block']);
  expect(complete('proxyvpn down --kill')).toEqual([]);
});

it.runIf(hasProgram('zsh'))('zsh reads its completion', () => {
  shell(['zsh', '-f', '-n', '_proxyvpn']);
  const defined = shell([
    'zsh',
    '-fc',
    'fpath=($PWD $fpath); autoload -Uz compinit; compinit -D -u; print -r -- $_comps[proxyvpn]',
  ]);
  expect(defined.trim()).toBe('_proxyvpn');
});

describe.runIf(hasProgram('systemd-analyze'))('the systemd units', () => {
  const units = ['proxyvpn@.service', 'proxyvpn-killswitch.service'];

  /** A copy whose program exists here, an instance of the template. */
  function copied(unit: string): string {
    const text = fs.readFileSync(path.join(root, 'packaging/systemd', unit), 'utf8');
    const copy = path.join(directory, unit.replace('@', '@corp'));
    fs.writeFileSync(copy, text.replaceAll('/usr/bin/proxyvpn', '/bin/true'));
    return copy;
  }

  it.each(units)('%s is understood whole', (unit) => {
    expect(shell(['systemd-analyze', 'verify', '--man=no', copied(unit)])).toBe('');
  });

  it.each(units)('%s: exposed no more than what systemd calls OK', (unit) => {
    // Tenths; the words change from OK to MEDIUM at 5.0.
    shell(['systemd-analyze', 'security', '--offline=yes', '--threshold=40', copied(unit)]);
  });
});
