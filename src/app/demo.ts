/** `proxyvpn demo`: the whole life of a tunnel in throw-away network namespaces, seen by real programs. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import dgram from 'node:dgram';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';
import { promisify } from 'node:util';
import { EXIT, type ExitCode, ProxyVpnError } from '../errors.ts';
import { DEMO, type DemoEvent } from './demo-net.ts';
import { selfCommand } from './self-command.ts';

const run = promisify(execFile);

/** Far above what any step takes, so that a hang becomes a failed step. */
const STEP_MS = 30_000;
const UDP_ANSWER_MS = 500;

const INTRO = `proxyvpn demo: two throw-away network namespaces; this host's own network is not touched.

    app ${DEMO.appAddress}  <---- veth0 ---->  ${DEMO.netAddress} net
    curl, proxyvpn               CONNECT proxy :${DEMO.proxyPort}, origin ${DEMO.originAddress}:${DEMO.originPort}
`;

interface Ran {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function command(program: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<Ran> {
  try {
    const { stdout, stderr } = await run(program, args, { env, timeout: STEP_MS });
    return { exitCode: 0, stdout, stderr };
  } catch (error) {
    const failed = error as { code?: number | string; stdout?: string; stderr?: string };
    if (failed.code === 'ENOENT') {
      throw new ProxyVpnError('E_DEMO_TOOL', `the demo needs the program ${program}`, {
        hint: `install it: apt-get install ${program === 'ip' ? 'iproute2' : program === 'unshare' ? 'util-linux' : program}`,
      });
    }
    return {
      exitCode: typeof failed.code === 'number' ? failed.code : 1,
      stdout: failed.stdout ?? '',
      stderr: failed.stderr ?? String(error),
    };
  }
}

/** What a UDP datagram to the far side meets: `answered`, `no answer`, or the errno of send(2). */
function probeUdp(): Promise<string> {
  return new Promise((resolve) => {
    const socket = dgram.createSocket('udp4');
    const finish = (result: string): void => {
      clearTimeout(timer);
      socket.removeAllListeners('error').on('error', () => {});
      socket.close();
      resolve(result);
    };
    const timer = setTimeout(() => finish('no answer'), UDP_ANSWER_MS);
    socket.once('message', () => finish('answered'));
    socket.once('error', (error: NodeJS.ErrnoException) => finish(error.code ?? error.message));
    socket.send('demo', DEMO.udpPort, DEMO.netAddress, (error: NodeJS.ErrnoException | null) => {
      if (error) finish(error.code ?? error.message);
    });
  });
}

/** The far side's process and what it has reported so far. */
class FarSide {
  readonly #child: ChildProcess;
  readonly #events: DemoEvent[] = [];
  #wake: () => void = () => {};
  #ended = false;

  constructor(env: NodeJS.ProcessEnv) {
    const [program, ...args] = selfCommand('__demo-net');
    this.#child = spawn('unshare', ['-n', program, ...args], { env, stdio: ['pipe', 'pipe', 'inherit'] });
    if (this.#child.stdout) {
      readline.createInterface({ input: this.#child.stdout }).on('line', (line) => {
        this.#events.push(JSON.parse(line) as DemoEvent);
        this.#wake();
      });
    }
    this.#child.once('exit', () => {
      this.#ended = true;
      this.#wake();
    });
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** Takes the oldest event that fits, waiting for it when it has not come yet. */
  async event(fits: (event: DemoEvent) => boolean): Promise<DemoEvent> {
    for (;;) {
      const index = this.#events.findIndex(fits);
      const [found] = index < 0 ? [] : this.#events.splice(index, 1);
      if (found !== undefined) return found;
      if (this.#ended) throw new ProxyVpnError('E_DEMO_NET', 'the far side of the demo ended early');
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  linksReady(): void {
    this.#child.stdin?.write('\n');
  }

  async end(): Promise<void> {
    if (this.#ended) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.stdin?.end();
    await ended;
  }
}

/** Everything `down` must restore, as one text. A missing tool leaves its part out of both dumps. */
async function dumpHost(env: NodeJS.ProcessEnv): Promise<string> {
  const parts: string[] = [];
  for (const line of [
    'ip -j -d link show',
    'ip -j addr show',
    'ip -j route show table all',
    'ip -j -6 route show table all',
    'ip -j rule show',
    'ip -j -6 rule show',
    'nft -j list ruleset',
    'cat /proc/sys/net/ipv4/conf/all/src_valid_mark /proc/sys/net/ipv4/conf/all/rp_filter',
  ]) {
    const [program = '', ...args] = line.split(' ');
    const { stdout } = await command(program, args, env).catch(() => ({ stdout: 'not available' }));
    parts.push(`# ${line}\n${stdout}`);
  }
  return parts.join('\n');
}

class Demo {
  readonly #env: NodeJS.ProcessEnv;
  readonly #far: FarSide;
  #failures = 0;

  constructor(env: NodeJS.ProcessEnv, far: FarSide) {
    this.#env = env;
    this.#far = far;
  }

  say(text: string): void {
    process.stdout.write(`${text}\n`);
  }

  indented(text: string): void {
    for (const line of text.trimEnd().split('\n')) this.say(`      ${line}`);
  }

  /** One thing that must have been seen. */
  seen(claim: string, isTrue: boolean, detail = ''): void {
    if (!isTrue) this.#failures++;
    this.say(`  ${isTrue ? 'ok    ' : 'FAILED'} ${claim}${detail === '' ? '' : ` (${detail})`}`);
  }

  async curl(...args: readonly string[]): Promise<Ran> {
    this.say(`  $ curl ${args.join(' ')}`);
    return command('curl', ['-sS', '--max-time', '10', ...args], this.#env);
  }

  async cli(...args: readonly string[]): Promise<Ran> {
    this.say(`  $ proxyvpn ${args.join(' ')}`);
    const [program, ...self] = selfCommand(...args);
    const ran = await command(program, self, this.#env);
    this.indented(ran.stdout + ran.stderr);
    return ran;
  }

  async directIs(isOpen: boolean): Promise<void> {
    const direct = await this.curl('--interface', 'veth0', `http://${DEMO.netAddress}/`);
    const why = direct.stderr.trim();
    if (isOpen) this.seen('TCP straight out of veth0 is answered', direct.stdout === DEMO.page, why);
    else this.seen('TCP straight out of veth0 is refused', direct.exitCode !== 0 && direct.stdout === '', why);
    const udp = await probeUdp();
    if (isOpen) this.seen(`UDP to ${DEMO.netAddress} is answered`, udp === 'answered', udp);
    else this.seen(`UDP to ${DEMO.netAddress} is blocked`, udp !== 'answered', udp);
  }

  async throughTheTunnel(): Promise<void> {
    const origin = `http://${DEMO.originAddress}/`;
    const page = await this.curl(origin);
    this.indented(page.stdout + page.stderr);
    this.seen('the page came through the tunnel', page.stdout === DEMO.page);
    if (page.exitCode === 0) {
      const target = `${DEMO.originAddress}:${DEMO.originPort}`;
      const logged = await this.#far.event((event) => event.event === 'connect' && event.target === target);
      if (logged.event === 'connect') {
        this.say(`      proxy log: ${logged.client} CONNECT ${logged.target} -> ${logged.status}`);
        this.seen('the proxy saw the CONNECT', logged.status === 200);
      }
    }
    const closed = await this.curl(`http://${DEMO.originAddress}:${DEMO.closedPort}/`);
    this.seen('a closed port is refused, as without a tunnel', closed.exitCode === 7, closed.stderr.trim());
  }

  async perform(): Promise<boolean> {
    this.say('1. Before: the app may talk to its neighbour directly; the origin is out of reach');
    await this.directIs(true);
    const unreachable = await this.curl(`http://${DEMO.originAddress}/`);
    this.seen('the origin cannot be reached', unreachable.exitCode !== 0, unreachable.stderr.trim());
    const before = await dumpHost(this.#env);

    this.say('\n2. The tunnel comes up');
    const up = await this.cli('up', '--proxy', `${DEMO.netAddress}:${DEMO.proxyPort}`, '--killswitch');
    this.seen('up returned 0', up.exitCode === EXIT.ok);
    if (up.exitCode === EXIT.ok) {
      this.say('\n3. Any program goes through the proxy');
      await this.throughTheTunnel();
      this.say('\n4. Nothing goes any other way');
      await this.directIs(false);
      this.say('\n5. Status');
      const status = await this.cli('status');
      this.seen('status says up', status.exitCode === EXIT.ok);
      this.say('\n6. The tunnel goes down');
      const down = await this.cli('down');
      this.seen('down returned 0', down.exitCode === EXIT.ok);
    }

    this.say('\n7. The host is as it was');
    const after = await dumpHost(this.#env);
    this.seen('links, addresses, routes, rules, nftables and sysctls equal the dump from before', before === after);
    if (before !== after) this.indented(differences(before, after));
    await this.directIs(true);
    return this.#failures === 0;
  }
}

function differences(before: string, after: string): string {
  const [was, is] = [before.split('\n'), after.split('\n')];
  return [
    ...was.filter((line) => !is.includes(line)).map((line) => `- ${line}`),
    ...is.filter((line) => !was.includes(line)).map((line) => `+ ${line}`),
  ].join('\n');
}

function checkTunDevice(): void {
  try {
    fs.accessSync('/dev/net/tun', fs.constants.R_OK | fs.constants.W_OK);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? 'unknown';
    throw new ProxyVpnError('E_TUN_OPEN', `cannot open /dev/net/tun: ${code}`, {
      hint:
        code === 'ENOENT'
          ? 'load the tun module (modprobe tun), or pass the device into the container (--device /dev/net/tun)'
          : 'run the demo as root, or give the device its usual mode: chmod 0666 /dev/net/tun',
      exitCode: code === 'ENOENT' ? EXIT.failed : EXIT.notPermitted,
      cause,
    });
  }
}

/**
 * Starts the demo again inside fresh namespaces and hands its exit code on.
 * @throws ProxyVpnError E_TUN_OPEN, E_DEMO_NAMESPACE, E_DEMO_TOOL
 */
export async function runDemo(): Promise<ExitCode> {
  checkTunDevice();
  const namespaces = process.getuid?.() === 0 ? ['-n'] : ['-r', '-n'];
  const probe = await command('unshare', [...namespaces, 'true'], process.env);
  if (probe.exitCode !== 0) {
    throw new ProxyVpnError('E_DEMO_NAMESPACE', `cannot create a network namespace: ${probe.stderr.trim()}`, {
      hint: 'run the demo as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)',
      exitCode: EXIT.notPermitted,
    });
  }
  const child = spawn('unshare', [...namespaces, ...selfCommand('__demo')], { stdio: 'inherit' });
  // Ctrl-C reaches the inner process as well; it takes the tunnel down and then ends.
  const ignore = (): void => {};
  process.on('SIGINT', ignore).on('SIGTERM', ignore);
  const code = await new Promise<number | null>((resolve) => child.once('exit', resolve));
  process.off('SIGINT', ignore).off('SIGTERM', ignore);
  return code === 0 ? EXIT.ok : EXIT.failed;
}

/** The demo proper, inside the app's namespace. Refuses to run where there is any network. */
export async function runDemoInside(): Promise<ExitCode> {
  const stateDir = fs.mkdtempSync(path.join(os.tmpdir(), 'proxyvpn-demo-'));
  const env: NodeJS.ProcessEnv = { ...process.env, PROXYVPN_STATE_DIR: stateDir };
  for (const name of Object.keys(env)) if (/^(\w+_proxy|PROXYVPN_PROXY|SSH_CONNECTION)$/i.test(name)) delete env[name];
  const ip = async (line: string): Promise<string> => {
    const ran = await command('ip', line.split(' '), env);
    if (ran.exitCode !== 0) throw new ProxyVpnError('E_DEMO_NET', `ip ${line}: ${ran.stderr.trim()}`);
    return ran.stdout;
  };
  const links = JSON.parse(await ip('-j link show')) as readonly { readonly ifname: string }[];
  if (links.some(({ ifname }) => ifname !== 'lo')) {
    throw new ProxyVpnError('E_DEMO_NAMESPACE', 'this is not a fresh network namespace: run proxyvpn demo');
  }
  const far = new FarSide(env);
  let interrupted = false;
  const interrupt = (): void => {
    interrupted = true;
  };
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt);
  try {
    await far.event(({ event }) => event === 'namespace');
    await ip(`link add veth0 type veth peer name veth0 netns ${far.pid}`);
    await ip('link set dev lo up');
    await ip(`addr add ${DEMO.appAddress}/${DEMO.prefixLength} dev veth0`);
    // No link-local address: its duplicate address detection would change the dumps by itself.
    await ip('link set dev veth0 addrgenmode none');
    await ip('link set dev veth0 up');
    far.linksReady();
    await far.event(({ event }) => event === 'listening');
    const demo = new Demo(env, far);
    demo.say(INTRO);
    const isGood = await demo.perform();
    demo.say(isGood ? '\ndemo: all of it was seen' : '\ndemo: FAILED');
    return isGood && !interrupted ? EXIT.ok : EXIT.failed;
  } finally {
    const [program, ...args] = selfCommand('down');
    await command(program, args, env).catch(() => undefined);
    await far.end();
    fs.rmSync(stateDir, { recursive: true, force: true });
  }
}
