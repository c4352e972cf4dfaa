/** argv in, exit code out: the only file that exits. */
import fs from 'node:fs';
import { EXIT, type ExitCode, ProxyVpnError } from '../errors.ts';
import { native } from '../native.ts';
import { stateDirectory, stateRoot } from '../state/directory.ts';
import { type Command, parseArguments } from './cli.ts';
import { runTunnel, stackOf } from './daemon.ts';
import { runDemo, runDemoInside } from './demo.ts';
import { runDemoNet } from './demo-net.ts';
import { runDown } from './down.ts';
import { errorDocument } from './error-document.ts';
import { decodeLaunch, type LaunchReport } from './launch.ts';
import { runStatus } from './status.ts';
import { Terminal } from './terminal.ts';
import { runUp } from './up.ts';

async function runCommand(command: Command, terminal: Terminal): Promise<ExitCode> {
  switch (command.command) {
    case 'up':
      return runUp(command.options, terminal);
    case 'down':
      return runDown(command.options, terminal);
    case 'status':
      return runStatus(command.options, terminal);
    case 'demo':
      return runDemo();
    case 'print':
      (command.exitCode === EXIT.ok ? process.stdout : process.stderr).write(command.text);
      return command.exitCode;
  }
}

async function runCli(argv: readonly string[]): Promise<ExitCode> {
  let terminal = new Terminal(argv.includes('--json'));
  try {
    const command = parseArguments(argv);
    terminal = new Terminal('options' in command && command.options.json);
    return await runCommand(command, terminal);
  } catch (error) {
    terminal.fail(error);
    return errorDocument(error).exitCode;
  }
}

/** The other end of `startDaemon`: the launch on stdin, reports on stdout, the log on stderr. */
async function runDaemon(): Promise<ExitCode> {
  let isHeard = true;
  const tell = (report: LaunchReport): void => {
    if (!isHeard) return;
    if (report.is !== 'warning') isHeard = false;
    try {
      fs.writeSync(1, `${JSON.stringify(report)}\n`);
    } catch {
      // `up` was killed: nobody listens, the tunnel lives on.
      isHeard = false;
    }
  };
  try {
    const launch = decodeLaunch(fs.readFileSync(0, 'utf8'));
    return await runTunnel(launch, stateDirectory(launch.config.name, stateRoot()), {
      warn: (text) => tell({ is: 'warning', text }),
      ready: (status) => tell({ is: 'ready', status }),
    });
  } catch (error) {
    if (!(error instanceof ProxyVpnError)) process.stderr.write(`${stackOf(error)}\n`);
    tell({ is: 'error', error: errorDocument(error) });
    return errorDocument(error).exitCode;
  }
}

/** The words behind which the program finds itself again; not for people. */
async function run(argv: readonly string[]): Promise<ExitCode> {
  // Before any child is started: the addon takes from them what the launcher's capability would give.
  if (process.env['PROXYVPN_LAUNCHER'] !== undefined) native();
  switch (argv[0]) {
    case '__daemon':
      return runDaemon();
    case '__demo':
      return runDemoInside();
    case '__demo-net':
      await runDemoNet();
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
