/** A configuration as the command line gives it, and a plain host, for tests of the plan. */
import { parseArguments } from '../../../src/app/cli.ts';
import { type Config, configOf } from '../../../src/app/config.ts';
import type { Snapshot } from '../../../src/app/snapshot.ts';

/** @param argv what follows `up --proxy 10.0.0.1:3128` */
export function configFor(...argv: readonly string[]): Config {
  const command = parseArguments(['up', '--proxy', '10.0.0.1:3128', ...argv]);
  if (command.command !== 'up') throw new Error(command.command);
  return configOf(command.options, {
    environment: {},
    readTextFile: () => '',
    uidOf: (user) => ({ backup: 34 })[user],
    processors: 1,
  });
}

export const PLAIN_HOST: Snapshot = {
  uid: 0,
  slot: 0,
  proxies: [{ address: '10.0.0.1', port: 3128 }],
  ipv6: 'on',
  isPathFilterStrict: false,
  isSysctlReadOnly: false,
  nameServers: ['10.0.0.53', 'fd00::53'],
  resolvConf: 'nameserver 10.0.0.53\nnameserver fd00::53\n',
  isStubListening: false,
  connections: [],
  otherTables: [],
  sshSession: undefined,
};
