/** The control socket: how `status` and `down` talk to a running daemon (one JSON line each way). */
import fs from 'node:fs';
import net from 'node:net';
import { ProxyVpnError } from '../errors.ts';
import { type ErrorDocument, errorDocument, errorFromDocument } from './error-document.ts';

/** What the daemon can be asked, each with its answer as JSON data. */
export type ControlHandlers = { readonly [command: string]: () => Promise<unknown> };

type Answer = { readonly ok: true; readonly result: unknown } | { readonly ok: false; readonly error: ErrorDocument };

/** sizeof(sockaddr_un.sun_path) less the final NUL, include/uapi/linux/un.h; Node truncates longer ones silently. */
const SOCKET_PATH_BYTES = 107;
/** Longest request line; a command is one word. */
const REQUEST_BYTES = 4096;

export interface ControlServer {
  /** Takes no more questions and removes the socket file. Idempotent. */
  stopListening(): void;
  /** Stops listening and waits until running answers are sent. */
  close(): Promise<void>;
}

function checkPath(socketPath: string): void {
  if (Buffer.byteLength(socketPath) <= SOCKET_PATH_BYTES) return;
  throw new ProxyVpnError(
    'E_CONTROL_PATH',
    `control socket path is longer than ${SOCKET_PATH_BYTES} bytes: ${socketPath}`,
    {
      hint: 'choose a shorter state directory (PROXYVPN_STATE_DIR or XDG_RUNTIME_DIR) or a shorter --name',
    },
  );
}

function commandOf(line: string): unknown {
  try {
    const request: unknown = JSON.parse(line);
    return typeof request === 'object' && request !== null && 'command' in request ? request.command : undefined;
  } catch {
    return undefined;
  }
}

async function answerTo(line: string, handlers: ControlHandlers): Promise<Answer> {
  try {
    const command = commandOf(line);
    const handler = typeof command === 'string' && Object.hasOwn(handlers, command) ? handlers[command] : undefined;
    if (handler === undefined) {
      throw new ProxyVpnError('E_CONTROL_COMMAND', `the daemon does not know the command ${JSON.stringify(command)}`, {
        hint: 'the daemon may be of another version: run proxyvpn down, then up',
      });
    }
    return { ok: true, result: await handler() };
  } catch (error) {
    return { ok: false, error: errorDocument(error) };
  }
}

/**
 * Listens on a unix socket of mode 0600. The caller holds the lock, so a file that is already
 * there belongs to a dead daemon and is removed.
 * @throws ProxyVpnError E_CONTROL_PATH
 */
export async function serveControl(socketPath: string, handlers: ControlHandlers): Promise<ControlServer> {
  checkPath(socketPath);
  fs.rmSync(socketPath, { force: true });
  const running = new Set<Promise<void>>();
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    let received = '';
    let asked = false;
    socket.setEncoding('utf8');
    // A client that goes away early is its own business.
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk: string) => {
      if (asked) return;
      received += chunk;
      const end = received.indexOf('\n');
      if (end < 0 && received.length <= REQUEST_BYTES) return;
      asked = true;
      const job = answerTo(end < 0 ? '' : received.slice(0, end), handlers).then(
        (answer) => new Promise<void>((resolve) => socket.end(`${JSON.stringify(answer)}\n`, () => resolve())),
      );
      socket.once('close', () => running.delete(job));
      running.add(job);
    });
    socket.on('end', () => {
      if (!asked) socket.end();
    });
  });
  // The file must never exist with a wider mode, not even for an instant.
  const umask = process.umask(0o177);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(socketPath, resolve);
    });
  } finally {
    process.umask(umask);
  }
  let isListening = true;
  const stopListening = (): void => {
    if (!isListening) return;
    isListening = false;
    server.close();
    fs.rmSync(socketPath, { force: true });
  };
  return {
    stopListening,
    async close() {
      stopListening();
      await Promise.all(running);
    },
  };
}

/**
 * Asks the daemon one thing.
 * @throws ProxyVpnError E_CONTROL_ABSENT when nobody listens, E_CONTROL_TIMEOUT, E_CONTROL_PROTOCOL,
 *   or the error with which the daemon answered
 */
export async function askDaemon(socketPath: string, command: string, timeoutMs: number): Promise<unknown> {
  checkPath(socketPath);
  const answer = await new Promise<string>((resolve, reject) => {
    const socket = net.connect({ path: socketPath });
    const timer = setTimeout(() => {
      socket.destroy();
      reject(
        new ProxyVpnError(
          'E_CONTROL_TIMEOUT',
          `the daemon did not answer '${command}' within ${timeoutMs} ms (${socketPath})`,
        ),
      );
    }, timeoutMs);
    let received = '';
    socket.setEncoding('utf8');
    let isConnected = false;
    socket.on('error', (cause) => {
      // Once connected, the missing answer tells; 'close' follows.
      if (isConnected) return;
      clearTimeout(timer);
      reject(new ProxyVpnError('E_CONTROL_ABSENT', `no daemon listens on ${socketPath}: ${cause.message}`, { cause }));
    });
    socket.on('connect', () => {
      isConnected = true;
      socket.write(`${JSON.stringify({ command })}\n`);
    });
    socket.on('data', (chunk: string) => {
      received += chunk;
    });
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(received);
    });
  });
  let parsed: Answer;
  try {
    parsed = JSON.parse(answer) as Answer;
  } catch (cause) {
    throw new ProxyVpnError('E_CONTROL_PROTOCOL', `the daemon went away without an answer to '${command}'`, { cause });
  }
  if (parsed.ok) return parsed.result;
  throw errorFromDocument(parsed.error);
}
