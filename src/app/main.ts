/**
 * argv in, exit code out: the only file that exits.
 *
 * Each command is imported when it is asked for: what is imported here is evaluated at every start, and `up` starts two
 * processes one after the other.
 */
import manifest from '../../package.json' with { type: 'json' };
import { EXIT, type ExitCode } from '../errors.ts';
import { native } from '../native.ts';
import type { Command } from './cli.ts';
import { errorDocument } from './error-document.ts';
import { Terminal } from './terminal.ts';

async function runCommand(command: Command, terminal: Terminal): Promise<ExitCode> {
  switch (command.command) {
    case 'up':
      return (await import('./up.ts')).runUp(command.options, terminal);
    case 'down':
      return (await import('./down.ts')).runDown(command.options, terminal);
    case 'status':
      return (await import('./status.ts')).runStatus(command.options, terminal);
    case 'check':
      return (await import('./check.ts')).runCheck(command.options, terminal);
    case 'killswitch':
      return (await import('./killswitch-command.ts')).runKillswitch(command.options, terminal);
    case 'doctor':
      return (await import('./doctor/doctor.ts')).runDoctor(command.options, terminal);
    case 'leaktest':
      return (await import('./leaktest/leaktest.ts')).runLeaktest(command.options, terminal);
    case 'dns':
      return (await import('./dns-command.ts')).runDns(command.options, terminal);
    case 'demo':
      return (await import('./demo.ts')).runDemo();
    case 'print':
      (command.exitCode === EXIT.ok ? process.stdout : process.stderr).write(command.text);
      return command.exitCode;
  }
}

async function runCli(argv: readonly string[]): Promise<ExitCode> {
  let terminal = new Terminal(argv.includes('--json'));
  try {
    const { configReader } = await import('./config-file.ts');
    const { parseArguments } = await import('./cli.ts');
    const readConfig = await configReader(argv, process.env, (text) => terminal.warn(text));
    const command = parseArguments(argv, readConfig);
    terminal = new Terminal('options' in command && command.options.json);
    return await runCommand(command, terminal);
  } catch (error) {
    terminal.fail(error);
    return errorDocument(error).exitCode;
  }
}

/** The words behind which the program finds itself again; not for people. */
async function run(argv: readonly string[]): Promise<ExitCode> {
  // Before any child is started: the addon takes from them what the launcher's capability would give.
  if (process.env['PROXYVPN_LAUNCHER'] !== undefined) native();
  switch (argv[0]) {
    case '--version':
      // As commander would say it, which would first load the grammar of all commands.
      if (argv.length > 1) return runCli(argv);
      process.stdout.write(`${manifest.version}\n`);
      return EXIT.ok;
    case '__daemon':
      await (await import('./idle-memory.ts')).keepYoungGenerationSmall();
      return (await import('./daemon-process.ts')).runDaemon();
    case '__demo':
      return (await import('./demo.ts')).runDemoInside();
    case '__demo-net':
      await (await import('./demo-net.ts')).runDemoNet();
      return EXIT.ok;
    default:
      return runCli(argv);
  }
}

/** Answers may still be in a pipe when the work is done. */
function exitWhenWritten(code: number): void {
  // The reader may be gone; the exit code still counts.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => process.exit(code));
  process.stdout.write('', () => process.stderr.write('', () => process.exit(code)));
}

run(process.argv.slice(2)).then(exitWhenWritten, (error: unknown) => {
  new Terminal(false).fail(error);
  exitWhenWritten(EXIT.failed);
});
