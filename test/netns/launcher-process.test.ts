/** Somebody of the same uid cannot get into the process that holds the capability, at no moment of its life. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { BUNDLE, inspectorAnswers, LauncherLab, NET_ADMIN, NONE, statusOf, WAITING } from './launcher-lab.ts';
import { until } from './process.ts';

let lab: LauncherLab;
beforeAll(async () => {
  lab = await LauncherLab.make();
});
afterAll(() => lab.remove());

describe('SIGUSR1, which starts the inspector of node', () => {
  beforeEach(async () => {
    await until('free inspector port', async () => !(await inspectorAnswers()));
  });

  it('opens it in a node with the capability but without the launcher (positive control)', async () => {
    const program = await lab.startWaiting(lab.unguarded([BUNDLE, WAITING]));
    process.kill(program.pid, 'SIGUSR1');
    await until('the inspector', inspectorAnswers);
    await program.stop('SIGKILL');
  });

  it('does nothing, whenever it comes', async () => {
    let survivors = 0;
    for (let delayMs = 0; delayMs <= 100; delayMs += 100 / 49) {
      const program = lab.start(lab.asUser([lab.launcher, WAITING]));
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      process.kill(program.pid, 'SIGUSR1');
      const isAliveOrDead = () => program.stdout.includes('"namespace"') || !program.isRunning;
      await until('its first line or its end', isAliveOrDead);
      // Early in its life the signal may have ended it, which is no harm; once it runs, nothing happens.
      if (program.isRunning) {
        process.kill(program.pid, 'SIGUSR1');
        survivors++;
      }
      expect(await inspectorAnswers(), `after ${delayMs} ms`).toBe(false);
      await program.stop('SIGKILL');
    }
    expect(survivors).toBeGreaterThan(10);
  }, 180_000);

  it('stays ignored in a program of the same filter that asks for it, by every ABI', async () => {
    const argv = lab.attackArgv('signal');
    const free = await lab.run(lab.asUser(argv));
    expect(JSON.parse(free.stdout), 'positive control').toMatchObject({ before: 'not ignored', after: 'not ignored' });
    const pinned = JSON.parse(await lab.childOutput(argv)) as Record<string, string>;
    expect(pinned).toMatchObject({ before: 'ignored', sigaction: 'done', after: 'ignored' });
    if (process.arch === 'x64') expect(pinned).toMatchObject({ x32: 'ENOSYS', i386: 'ENOSYS' });
  });
});

describe('ptrace and all that is guarded like it', () => {
  const attempts = [
    'ptrace',
    'pidfd_getfd',
    'process_vm_readv',
    'mem',
    'environ',
    'maps',
    'fd',
    'list of fd',
    'cwd',
    'exe',
  ];

  it('are open to a process of the same user (positive control)', async () => {
    const program = await lab.startWaiting(lab.asUser([lab.node, BUNDLE, WAITING]));
    const outcomes = await lab.attack('attach', `${program.pid}`);
    // EFAULT: it may read, but there is nothing at that address.
    const open = Object.fromEntries(attempts.map((name) => [name, name === 'process_vm_readv' ? 'EFAULT' : 'done']));
    expect(outcomes).toEqual(open);
  });

  it('are refused while it holds the capability', async () => {
    const program = await lab.startWaiting(lab.asUser([lab.launcher, WAITING]));
    expect(statusOf(program.pid, 'CapPrm')).toBe(NET_ADMIN);
    const outcomes = await lab.attack('attach', `${program.pid}`);
    expect(Object.keys(outcomes)).toEqual(attempts);
    for (const name of attempts) expect(outcomes[name], name).toMatch(/^(EPERM|EACCES)$/);
  });

  it('are refused from the first instant on', async () => {
    const { tries, held, taken } = await lab.attack('race', '300', lab.launcher, WAITING);
    expect(Number(tries)).toBeGreaterThan(100);
    expect(Number(held), 'it was seen with the capability').toBeGreaterThan(50);
    expect(Number(taken)).toBe(0);
  });

  it('by one who was there before exec cost it the capability', async () => {
    const started = await lab.attack('traced', lab.launcher, WAITING);
    expect(started).toEqual({ program: 'proxyvpn', CapPrm: NONE });
  });

  it('leave no core file: the process is not dumpable, and could not raise its limit', async () => {
    const program = await lab.startWaiting(lab.asUser([lab.launcher, WAITING]));
    // The owner of the files in /proc/PID tells, proc(5).
    const { stdout } = await lab.run(['stat', '-c', '%u', `/proc/${program.pid}/environ`]);
    expect(stdout.trim()).toBe('0');
  });
});
