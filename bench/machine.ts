/** On what a run was made: processor, kernel, versions, commit. */
import os from 'node:os';
import path from 'node:path';
import { native } from '../src/native.ts';
import { run } from '../test/netns/process.ts';
import type { RunInfo } from './sample.ts';

const ROOT = path.join(import.meta.dirname, '..');

export type Machine = Omit<RunInfo, 'kind' | 'rounds' | 'isQuick' | 'proxyDelayMs' | 'contenders'>;

export async function describeMachine(): Promise<Machine> {
  return {
    startedAt: new Date().toISOString(),
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown processor',
    cores: os.availableParallelism(),
    memoryGiB: os.totalmem() / 2 ** 30,
    kernel: os.release(),
    node: process.version,
    lwip: native().versions.lwip,
    redsocks: await firstLine(['dpkg-query', '-W', 'redsocks'], 'redsocks'),
    commit: await commit(),
  };
}

async function firstLine(command: readonly string[], otherwise: string): Promise<string> {
  try {
    const { code, stdout } = await run(command);
    return (code === 0 && stdout.split('\n')[0]?.trim().replaceAll(/\s+/g, ' ')) || otherwise;
  } catch {
    return otherwise; // The program is not there.
  }
}

async function commit(): Promise<string> {
  const git = (...args: readonly string[]): Promise<string> => firstLine(['git', '-C', ROOT, ...args], '');
  const hash = await git('rev-parse', '--short', 'HEAD');
  if (hash === '') return 'unknown';
  return (await git('status', '--porcelain')) === '' ? hash : `${hash}+ (with changes not committed)`;
}
