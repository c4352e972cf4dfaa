import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { askDaemon, type ControlServer, serveControl } from '../../../src/app/control.ts';
import { EXIT, ProxyVpnError } from '../../../src/errors.ts';

let directory = '';
let socketPath = '';
let server: ControlServer | undefined;

beforeEach(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'control-'));
  socketPath = path.join(directory, 'control');
});
afterEach(async () => {
  await server?.close();
  server = undefined;
  fs.rmSync(directory, { recursive: true });
});

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'no error',
    (error: unknown) => (error instanceof ProxyVpnError ? error.code : String(error)),
  );
}

test('a command is answered with its result', async () => {
  server = await serveControl(socketPath, { status: async () => ({ state: 'up' }) });
  expect(await askDaemon(socketPath, 'status', 1000)).toEqual({ state: 'up' });
});

test('the socket is for its owner only', async () => {
  server = await serveControl(socketPath, {});
  expect(fs.statSync(socketPath).mode & 0o777).toBe(0o600);
});

test('an error crosses with code, hint and exit code', async () => {
  server = await serveControl(socketPath, {
    down: async () => {
      throw new ProxyVpnError('E_SAMPLE', 'no', { hint: 'try later', exitCode: EXIT.notPermitted });
    },
  });
  const error = await askDaemon(socketPath, 'down', 1000).catch((caught: unknown) => caught);
  expect(error).toMatchObject({ code: 'E_SAMPLE', message: 'no', hint: 'try later', exitCode: EXIT.notPermitted });
});

test('an unknown command, also one that every object has, is refused', async () => {
  server = await serveControl(socketPath, {});
  expect(await codeOf(askDaemon(socketPath, 'dance', 1000))).toBe('E_CONTROL_COMMAND');
  expect(await codeOf(askDaemon(socketPath, 'constructor', 1000))).toBe('E_CONTROL_COMMAND');
});

test('what is not a request is refused, and the daemon lives on', async () => {
  server = await serveControl(socketPath, { status: async () => 'fine' });
  for (const bytes of ['\n', 'hello\n', '[]\n', 'x'.repeat(5000)]) {
    const answer = await new Promise<string>((resolve) => {
      let text = '';
      const socket = net.connect(socketPath, () => socket.write(bytes));
      socket.on('data', (chunk) => {
        text += String(chunk);
      });
      socket.on('close', () => resolve(text));
    });
    expect(JSON.parse(answer)).toMatchObject({ ok: false, error: { code: 'E_CONTROL_COMMAND' } });
  }
  expect(await askDaemon(socketPath, 'status', 1000)).toBe('fine');
});

test('nobody listening, a dead socket file and silence are three different errors', async () => {
  expect(await codeOf(askDaemon(socketPath, 'status', 1000))).toBe('E_CONTROL_ABSENT');
  fs.writeFileSync(socketPath, '');
  expect(await codeOf(askDaemon(socketPath, 'status', 1000))).toBe('E_CONTROL_ABSENT');
  server = await serveControl(socketPath, { status: () => new Promise(() => {}) });
  expect(await codeOf(askDaemon(socketPath, 'status', 30))).toBe('E_CONTROL_TIMEOUT');
  server = undefined;
});

test('a daemon that dies while answering is told apart from one that answers', async () => {
  const dying = net.createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => dying.listen(socketPath, resolve));
  expect(await codeOf(askDaemon(socketPath, 'status', 1000))).toBe('E_CONTROL_PROTOCOL');
  dying.close();
});

test('a path that the kernel would cut is refused', async () => {
  const long = path.join(directory, 'x'.repeat(120));
  expect(await codeOf(serveControl(long, {}))).toBe('E_CONTROL_PATH');
  expect(await codeOf(askDaemon(long, 'status', 10))).toBe('E_CONTROL_PATH');
});

test('close lets a running answer end and removes the file', async () => {
  let finish = (): void => {};
  const begun = new Promise<void>((isBegun) => {
    serveControl(socketPath, {
      down: () =>
        new Promise((resolve) => {
          finish = () => resolve('undone');
          isBegun();
        }),
    }).then((started) => {
      server = started;
    });
  });
  while (!fs.existsSync(socketPath)) await new Promise((resolve) => setImmediate(resolve));
  const answer = askDaemon(socketPath, 'down', 1000);
  await begun;
  const closed = server?.close();
  finish();
  expect(await answer).toBe('undone');
  await closed;
  expect(fs.existsSync(socketPath)).toBe(false);
});
