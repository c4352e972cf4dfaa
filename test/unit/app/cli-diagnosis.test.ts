import { describe, expect, it } from 'vitest';
import { type Command, parseArguments } from '../../../src/app/cli.ts';
import type { DoctorOptions } from '../../../src/app/cli-diagnosis.ts';
import type { Settings } from '../../../src/app/config-keys.ts';
import { ProxyVpnError } from '../../../src/errors.ts';

const parse = (line: string, config?: Settings): Command =>
  parseArguments(
    line.split(' ').filter((word) => word !== ''),
    () => config,
  );

function doctor(line: string, config?: Settings): DoctorOptions {
  const command = parse(`doctor ${line}`, config);
  if (command.command !== 'doctor') throw new Error(command.command);
  return command.options;
}

function failure(line: string): ProxyVpnError {
  try {
    parse(line);
  } catch (error) {
    if (error instanceof ProxyVpnError) return error;
    throw error;
  }
  throw new Error(`accepted: ${line}`);
}

describe('doctor', () => {
  it('has the options of an up with the same flags', () => {
    const up = parse('up --proxy h:1 --name corp');
    if (up.command !== 'up') throw new Error(up.command);
    expect(doctor('--proxy h:1 --name corp')).toEqual({
      name: 'corp',
      json: false,
      target: 'example.com',
      up: up.options,
    });
  });

  it('reads the configuration file as up does, and what is typed counts more', () => {
    const config: Settings = {
      file: '/etc/proxyvpn/corp.conf',
      settings: [
        { key: 'proxy', value: 'file:1', line: 1 },
        { key: 'killswitch', value: true, line: 2 },
      ],
    };
    expect(doctor('--name corp', config).up).toMatchObject({ killswitch: true, proxy: { host: 'file' } });
    expect(doctor('--proxy typed:1', config).up).toMatchObject({ killswitch: true, proxy: { host: 'typed' } });
  });

  it.each(['a/b', 'user:pass@host', '-x', 'a b', 'x\r\nHost:y'])(
    'no target that could change the request: %j',
    (target) => {
      try {
        parseArguments(['doctor', '--target', target]);
      } catch (error) {
        expect(error).toMatchObject({ code: 'E_USAGE' });
        expect((error as Error).message).not.toContain('pass');
        return;
      }
      throw new Error('accepted');
    },
  );
});

describe('leaktest', () => {
  it('without flags has the documented defaults', () => {
    expect(parse('leaktest')).toEqual({
      command: 'leaktest',
      options: { name: 'default', server: undefined, control: false, json: false },
    });
    expect(parse('leaktest --server 2001:DB8::1 --control --json')).toMatchObject({
      options: { server: '2001:db8::1', control: true, json: true },
    });
  });

  it('takes addresses only', () => {
    expect(failure('leaktest --server example.com')).toMatchObject({ code: 'E_USAGE', exitCode: 2 });
  });
});
