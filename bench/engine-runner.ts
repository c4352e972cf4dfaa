/** A bare tunnel for measurements: the native engine on a TUN device of its own, in the namespace it is started in. */
import { execFileSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { familyOf } from '../src/ip.ts';
import { native } from '../src/native.ts';
import { connectTemplate } from '../src/proxy/connect.ts';
import { startEngine } from '../src/tunstack/engine.ts';

const MTU = 1500;
const DEVICE = 'bench0';

function ip(...args: readonly string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'inherit'] });
}

function main(): void {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      queues: { type: 'string', default: '1' },
      predial: { type: 'string', default: '0' },
      'drop-one-in': { type: 'string', default: '0' },
      'duplicate-one-in': { type: 'string', default: '0' },
      'delay-one-in': { type: 'string', default: '0' },
      cuts: { type: 'boolean', default: false },
    },
  });
  const [upstream, routes] = positionals;
  const [, address, port] = /^(.*):(\d+)$/.exec(upstream ?? '') ?? [];
  if (address === undefined || routes === undefined) throw new Error('usage: engine-runner ADDRESS:PORT PREFIX,...');
  const tun = native().openTun(DEVICE, Number(values.queues));
  ip('link', 'set', 'dev', DEVICE, 'mtu', `${MTU}`, 'txqueuelen', '5000', 'up');
  ip('addr', 'add', '198.18.0.1/32', 'dev', DEVICE);
  ip('addr', 'add', 'fd70:7670:6e00::1/128', 'dev', DEVICE, 'nodad');
  const engine = startEngine(
    {
      tunFds: tun.fds,
      tunWriterFds: tun.writerFds,
      mtu: MTU,
      upstreams: [{ address, port: Number(port) }],
      request: connectTemplate({ credentials: undefined }),
      fwmark: 0,
      earlyAccept: false,
      connectTimeoutMs: 30_000,
      idleTimeoutMs: 7_200_000,
      keepaliveMs: 60_000,
      memoryBytes: 256 * 1024 * 1024,
      maxFlows: 65_536,
      maxPendingFlows: 4096,
      predial: Number(values.predial),
      flowEvents: false,
      faults: {
        dropOneIn: Number(values['drop-one-in']),
        duplicateOneIn: Number(values['duplicate-one-in']),
        delayOneIn: Number(values['delay-one-in']),
        cuts: values.cuts,
      },
    },
    () => {},
  );
  // The loop of Node must stay, and the engine's thread does not hold it.
  const stay = setInterval(() => {}, 60_000);
  process.once('SIGTERM', () => {
    clearInterval(stay);
    void engine.stop();
  });
  for (const prefix of routes.split(',')) {
    const family = familyOf(prefix.split('/')[0] ?? '') === 6 ? '-6' : '-4';
    ip(family, 'route', 'add', prefix, 'dev', DEVICE, 'congctl', 'reno');
  }
  process.stdout.write('ready\n');
}

main();
