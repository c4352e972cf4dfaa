import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parse } from 'smol-toml';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkDocument, checkText } from '../../../src/app/check.ts';
import { parseArguments, type UpOptions } from '../../../src/app/cli.ts';
import { configCandidates, configReader, readConfigFile, settingsOf } from '../../../src/app/config-file.ts';
import { FLAGS_ONLY } from '../../../src/app/config-keys.ts';
import { ProxyVpnError } from '../../../src/errors.ts';

const SECRET = 'MARKERs3cret';
let directory = '';
beforeEach(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pvt-config-'));
});
afterEach(() => fs.rmSync(directory, { recursive: true }));

function write(text: string, name = 'default.conf', mode = 0o640): string {
  const file = path.join(directory, name);
  fs.writeFileSync(file, text);
  fs.chmodSync(file, mode);
  return file;
}

/** `up` with this file and these flags. */
async function up(text: string, argv: readonly string[] = [], environment = {}): Promise<UpOptions> {
  const words = ['up', '--config', write(text), ...argv];
  const command = parseArguments(words, await configReader(words, environment, () => {}));
  if (command.command !== 'up') throw new Error(command.command);
  return command.options;
}

async function failure(work: () => Promise<unknown>): Promise<ProxyVpnError> {
  try {
    await work();
  } catch (error) {
    if (error instanceof ProxyVpnError) return error;
    throw error;
  }
  throw new Error('accepted');
}

const typed = (...argv: readonly string[]): UpOptions => {
  const command = parseArguments(['up', ...argv]);
  if (command.command !== 'up') throw new Error(command.command);
  return command.options;
};

/** A text that each flag of `up` takes, as TOML and as it is typed. */
const SAMPLES: { readonly [placeholder: string]: readonly [toml: string, word: string] } = {
  '<url>': ['"h:1"', 'h:1'],
  '<file>': ['"/f"', '/f'],
  '<seconds>': ['7.5', '7.5'],
  '<ip,...>': ['["10.0.0.1", "::1"]', '10.0.0.1,::1'],
  '<cidr,...>': ['["198.51.100.0/24"]', '198.51.100.0/24'],
  '<user,...>': ['["backup", 1001]', 'backup,1001'],
  '<port,...>': ['[22, 8080]', '22,8080'],
  '<MiB>': ['64', '64'],
  '<n>': ['0x3', '3'],
  '<bytes>': ['1400', '1400'],
};
/** Flags whose placeholder does not tell what they take. */
const WORDS: { readonly [flag: string]: string } = {
  lan: 'allow',
  ipv6: 'off',
  tun: 'tun7',
  dns: 'doh',
  'dns-server': 'https://192.0.2.1/dns-query',
  'dns-bypass': 'corp.example',
  'dns-other': 'relay',
};
/** As `up --help` has them: `[key, placeholder]`. */
function flagsOfUp(): readonly (readonly [flag: string, value: string | undefined])[] {
  const help = parseArguments(['up', '--help']);
  if (help.command !== 'print') throw new Error(help.command);
  const found = [...help.text.matchAll(/^ {2}(?:-\w, )?--([\w-]+)(?: (<[^>]+>))?/gm)];
  return found.map(([, flag = '', value]) => [flag, value] as const).filter(([flag]) => flag !== 'help');
}

describe('every long flag of up', () => {
  it.each(flagsOfUp())('--%s is a key with the same meaning, or deliberately none', async (flag, placeholder) => {
    const isNegated = flag.startsWith('no-');
    const key = isNegated ? flag.slice(3) : flag;
    const word = WORDS[flag];
    const [toml, text] = word ? [`"${word}"`, word] : (SAMPLES[placeholder ?? ''] ?? [String(!isNegated), undefined]);
    if (flag in FLAGS_ONLY) {
      const error = await failure(() => up(`${key} = ${toml}\n`));
      expect(error).toMatchObject({ code: 'E_CONFIG', exitCode: 2, hint: `give --${flag}` });
      return;
    }
    // Flags that say something only beside others.
    const beside = flag === 'allow-inbound' ? ['--killswitch'] : [];
    const flags = [`--${flag}`, ...(text === undefined ? [] : [text])];
    const wanted = await failureOrOptions(() => typed(...beside, ...flags));
    expect(await failureOrOptions(() => up(`${key} = ${toml}\n`, beside))).toEqual(wanted);
    expect(wanted).not.toEqual(typed(...beside));
  });
});

/** Some flags are refused alone, whichever way they come. */
async function failureOrOptions(make: () => UpOptions | Promise<UpOptions>): Promise<unknown> {
  try {
    return await make();
  } catch (error) {
    if (error instanceof ProxyVpnError) return error.message;
    throw error;
  }
}

describe('a flag counts more than the environment, and that more than the file', () => {
  const file = 'proxy = "file:1"\nmtu = 1400\nkillswitch = true\nbypass = ["198.51.100.0/24"]\n';
  it('value by value', async () => {
    const options = await up(file, ['--mtu', '1300', '--bypass', '203.0.113.0/24']);
    expect([options.mtu, options.killswitch, options.proxy?.host]).toEqual([1300, true, 'file']);
    expect(options.bypass.map(({ address }) => address)).toEqual(['203.0.113.0']);
  });

  it('for the proxy, however it is given', async () => {
    expect((await up(file, ['--proxy', 'flag:1'])).proxy?.host).toBe('flag');
    expect(await up(file, ['--proxy-file', '/f'])).toMatchObject({ proxy: undefined, proxyFile: '/f' });
    expect(await up(file, [], { PROXYVPN_PROXY: 'env:1' })).toMatchObject({ proxy: undefined, mtu: 1400 });
    expect(await up('proxy-file = "x"', [], { PROXYVPN_PROXY: 'env:1' })).toMatchObject({ proxyFile: undefined });
    expect(await up('proxy-file = "x"', ['--proxy', 'flag:1'])).toMatchObject({ proxyFile: undefined });
  });
});

describe('what is wrong is told with its line', () => {
  it.each([
    ['\n# text\nmtu = 9\n', ":3: mtu: '9' is out of range", 'give a whole number'],
    ['killswich = true', ':1: killswich: there is no such key', 'did you mean killswitch?'],
    ['nothing-alike-at-all = 1', ':1: nothing-alike-at-all: there is no such key', 'proxyvpn up --help'],
    ['no-routes = true', ':1: no-routes: there is no such key', 'did you mean routes = false?'],
    ['killswitch = "yes"', ':1: killswitch: is neither true nor false', 'without quotation marks'],
    ['lan = true', ':1: lan: takes a value', '--lan'],
    ['lan = ["allow"]', ':1: lan: takes one value', 'brackets'],
    ['bypass = []', ':1: bypass: is an empty list', 'leave the line out'],
    ['bypass = [["10.0.0.0/8"]]', ':1: bypass: is a list of lists', 'one list'],
    ['mtu = 1979-05-27', ':1: mtu: is a table or a date', 'no [table]'],
    ['mtu = 1300\n[mtu2]\na = 1', ':2: mtu2: there is no such key', ''],
    ['a.b = 1', ':1: a: there is no such key', ''],
    ['bypass = [\n"10.0.0.0/8",\n"mtu = 5"\n]\nmtu = 5', ':1: bypass: not a network', ''],
    ['tun = """\nmtu = 1\n"""\nmtu = 1', ':1: tun: not an interface name', ''],
    ['proxy = "h:1"\nproxy-file = "x"', ':2: proxy-file: is given beside proxy', 'leave one'],
    ['mtu = ', ':1: ', 'write TOML'],
    ['mtu = 1300\nmtu = 1300', ':2: trying to redefine', ''],
  ])('%j', async (text, message, hint) => {
    const error = await failure(() => up(text));
    expect(error).toMatchObject({ code: 'E_CONFIG', exitCode: 2 });
    expect(error.message).toContain(`default.conf${message}`);
    expect(error.hint).toContain(hint);
  });

  it('only the first by up, all of them by check', async () => {
    const text = 'mtu = 9\nlan = "x"\nqueues = 99\n';
    expect((await failure(() => up(text))).message).toContain('(and 2 more, see: proxyvpn check)');
    const document = await check(text);
    expect(document.problems.map(({ line, key }) => [line, key])).toEqual([
      [1, 'mtu'],
      [2, 'lan'],
      [3, 'queues'],
    ]);
    expect(checkText(document)).toContain('default.conf:2: lan: ');
  });

  it('a password is never told, wherever it stands', async () => {
    for (const text of [
      `proxy = "http://u:${SECRET}@h:99999"`,
      `proxy = "ftp://u:${SECRET}@h:1"`,
      `mtu = "http://u:${SECRET}@h:1"`,
      `"http://u:${SECRET}@h:1" = "proxy"`,
      `proxy = "http://u:${SECRET}@h:1\\q"`,
      `proxy = http://u:${SECRET}@h:1`,
      `tun = "http://u:${SECRET}@h:1"`,
    ]) {
      const error = await failure(() => up(text));
      expect(`${error.message} ${error.hint}`).not.toContain(SECRET);
    }
  });
});

async function check(text: string) {
  const words = ['check', '--config', write(text)];
  const command = parseArguments(words, await configReader(words, { PROXYVPN_PROXY: 'env:1' }, () => {}));
  if (command.command !== 'check' || command.options.config === undefined) throw new Error('no check');
  const sources = { environment: {}, readTextFile: () => '', uidOf: () => undefined, processors: 1 };
  return checkDocument('default', command.options.config, sources);
}

describe('check', () => {
  it('takes a good file', async () => {
    const document = await check('proxy = "h:1"\nkillswitch = true\n');
    expect(document).toMatchObject({ ok: true, problems: [], notes: [] });
    expect(checkText(document)).toMatch(/default\.conf: good$/);
  });
  it('finds what only shows in the whole', async () => {
    expect((await check('allow-inbound = [22]')).problems).toMatchObject([{ line: null, key: null }]);
    expect((await check('bypass-user = "nobody-of-that-name"')).problems).toMatchObject([{ line: null }]);
  });
  it('a file without a proxy is a note, not a mistake', async () => {
    expect(await check('mtu = 1300')).toMatchObject({ ok: true, notes: [expect.stringContaining('no proxy')] });
  });
});

describe('which file', () => {
  it('that of the administrator, then that of the user', () => {
    expect(configCandidates('corp', { HOME: '/home/a' })).toEqual([
      '/etc/proxyvpn/corp.conf',
      '/home/a/.config/proxyvpn/corp.conf',
    ]);
    expect(configCandidates('corp', { HOME: '/home/a', XDG_CONFIG_HOME: '/x' })[1]).toBe('/x/proxyvpn/corp.conf');
    expect(configCandidates('corp', { HOME: 'relative', XDG_CONFIG_HOME: 'relative' })).toHaveLength(1);
  });

  const read = (name: string, file: string | undefined, warnings: string[] = []) =>
    readConfigFile({ name, file }, { XDG_CONFIG_HOME: directory }, parse, (text) => warnings.push(text), directory);

  it('none is fine unless it was named', () => {
    expect(read('nothing', undefined)).toBeUndefined();
    expect(() => read('nothing', path.join(directory, 'nothing'))).toThrow(/cannot be read: ENOENT/);
  });

  it('paths in it are seen from where it is', async () => {
    expect((await up('proxy-file = "corp.proxy"')).proxyFile).toBe(path.join(directory, 'corp.proxy'));
    expect((await up('proxy-file = "/abs"')).proxyFile).toBe('/abs');
  });

  it('one that everybody may write is refused, found by name', () => {
    write('mtu = 1300', 'corp.conf', 0o666);
    expect(() => read('corp', undefined)).toThrow(/writable by everybody/);
  });

  it.runIf(process.getuid?.() === 0)('one of another user is refused, found by name', () => {
    fs.chownSync(write('mtu = 1300', 'corp.conf'), 4242, 4242);
    expect(() => read('corp', undefined)).toThrow(/belongs to uid 4242/);
  });

  it('a password that everybody may read is warned of, and not shown', () => {
    const warnings: string[] = [];
    read('x', write(`proxy = "http://u:${SECRET}@h:1"`, 'x.conf', 0o644), warnings);
    read('x', write(`proxy = "http://u:${SECRET}@h:1"`, 'y.conf', 0o640), warnings);
    read('x', write('proxy = "h:1"', 'z.conf', 0o644), warnings);
    expect(warnings).toEqual([expect.stringContaining('x.conf holds the proxy')]);
    expect(warnings.join()).not.toContain(SECRET);
  });

  it('what is no configuration at all is refused', () => {
    expect(() => read('x', directory)).toThrow(/is a directory/);
    expect(() => read('x', write(`# ${'x'.repeat(70_000)}`))).toThrow(/longer than 64 KiB/);
  });
});

it('keys like those of Object are keys like others', () => {
  expect(settingsOf('f', '__proto__ = 1\nconstructor = 2', parse).map(({ key }) => key)).toEqual([
    '__proto__',
    'constructor',
  ]);
});

it('commands without a configuration load no parser', async () => {
  const reader = await configReader(['--version'], {}, () => {});
  expect(reader({ name: 'default', file: '/nonexistent' })).toBeUndefined();
});
