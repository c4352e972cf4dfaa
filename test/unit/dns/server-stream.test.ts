import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { Duplex, PassThrough } from 'node:stream';
import { describe, expect, it, onTestFinished } from 'vitest';
import { serveStream } from '../../../src/dns/server-stream.ts';
import { FrameReader, frame } from '../../../src/dns/stream.ts';
import { listenForStreams, type StreamListener } from '../../../src/dns/stream-listener.ts';
import { temporaryDirectory } from '../state/temporary-directory.ts';

type Server = Parameters<typeof serveStream>[0];

/** Answers each message with itself, `#` with nothing. */
const echo: Server = {
  answerStream: async (message) => (message[0] === 0x23 ? undefined : Buffer.concat([Buffer.from('re:'), message])),
};

async function listen(server: Server = echo, expectHeader = false): Promise<StreamListener> {
  const listener = await listenForStreams(server, { host: '127.0.0.1', port: 0 }, expectHeader);
  onTestFinished(() => listener.close());
  return listener;
}

class Client {
  readonly socket: net.Socket;
  readonly replies: string[] = [];
  readonly closed: Promise<void>;
  #waiting: (() => void)[] = [];

  constructor(where: net.NetConnectOpts) {
    this.socket = net.connect(where);
    onTestFinished(() => void this.socket.destroy());
    const reader = new FrameReader();
    this.socket.on('error', () => {});
    this.socket.on('data', (chunk: Buffer) => {
      for (const message of reader.push(chunk)) this.replies.push(message.toString());
      for (const wake of this.#waiting.splice(0)) wake();
    });
    this.closed = new Promise((resolve) => this.socket.once('close', () => resolve()));
  }

  send(...messages: readonly string[]): this {
    this.socket.write(Buffer.concat(messages.map((message) => frame(Buffer.from(message)))));
    return this;
  }

  async repliesOf(count: number): Promise<readonly string[]> {
    while (this.replies.length < count) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    return this.replies;
  }
}

const to = ({ port }: StreamListener): Client => new Client({ host: '127.0.0.1', port });

describe('a stream', () => {
  it('carries many queries, each answered as it comes ready', async () => {
    const late: (() => void)[] = [];
    const listener = await listen({
      answerStream: (message) =>
        new Promise((resolve) => {
          const answer = (): void => resolve(Buffer.from(`re:${message}`));
          if (`${message}` === 'slow') late.push(answer);
          else answer();
        }),
    });
    const client = to(listener).send('slow', 'a', 'b');
    expect(await client.repliesOf(2)).toEqual(['re:a', 're:b']);
    late[0]?.();
    expect(await client.repliesOf(3)).toEqual(['re:a', 're:b', 're:slow']);
  });

  it('is answered to the last query when the client has ended its side', async () => {
    const client = to(await listen()).send('a', 'b');
    client.socket.end();
    await client.closed;
    expect(client.replies).toEqual(['re:a', 're:b']);
  });

  it('may be cut at every byte', async () => {
    const client = to(await listen());
    client.socket.setNoDelay(true);
    const bytes = Buffer.concat(['one', 'two'].map((text) => frame(Buffer.from(text))));
    for (const byte of bytes) {
      client.socket.write(Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await client.repliesOf(2)).toEqual(['re:one', 're:two']);
  });

  it('on which comes what is no query is closed', async () => {
    const client = to(await listen()).send('#');
    await client.closed;
    expect(client.replies).toEqual([]);
  });

  it('without a query is closed, also when one was begun', async () => {
    const stream = new PassThrough();
    serveStream(echo, stream, { expectHeader: false, idleMs: 30 });
    stream.write(Buffer.from([0, 9, 1]));
    await new Promise((resolve) => stream.once('close', resolve));
    expect(stream.destroyed).toBe(true);
  });

  it('with more queries than are worked on at a time waits, and loses none', async () => {
    let running = 0;
    let most = 0;
    const listener = await listen({
      answerStream: async (message) => {
        most = Math.max(most, ++running);
        await new Promise((resolve) => setImmediate(resolve));
        running--;
        return Buffer.from(message);
      },
    });
    const names = Array.from({ length: 1000 }, (_, i) => `${i}`);
    const client = to(listener).send(...names);
    expect([...(await client.repliesOf(1000))].sort()).toEqual([...names].sort());
    expect(most).toBeLessThanOrEqual(64);
  });

  it('whose client does not read is not read either', async () => {
    let answered = 0;
    const server: Server = {
      answerStream: async () => {
        answered++;
        return Buffer.alloc(60_000);
      },
    };
    // Writes that are never taken.
    const stream = new Duplex({ read: () => {}, write: () => {} });
    onTestFinished(() => void stream.destroy());
    serveStream(server, stream, { expectHeader: false });
    stream.push(Buffer.concat(Array.from({ length: 5000 }, () => frame(Buffer.from('x')))));
    while (!stream.isPaused() || stream.writableLength < 256 * 1024)
      await new Promise((resolve) => setImmediate(resolve));
    // What was under way when the bound was reached, and no more.
    expect(answered).toBeLessThanOrEqual(64 + 5);
  });
});

describe('behind the PROXY line', () => {
  const line = Buffer.from('PROXY TCP4 10.0.0.1 192.0.2.53 40000 53\r\n');

  it('queries are answered, also when they come with it', async () => {
    const client = to(await listen(echo, true));
    client.socket.write(Buffer.concat([line, frame(Buffer.from('a'))]));
    client.send('b');
    expect(await client.repliesOf(2)).toEqual(['re:a', 're:b']);
  });

  it('anything else is closed', async () => {
    const client = to(await listen(echo, true));
    client.socket.write(Buffer.from('GET / HTTP/1.1\r\n\r\n'));
    await client.closed;
    expect(client.replies).toEqual([]);
  });
});

describe('a listener on a path', () => {
  it('is for its user alone, replaces a stale socket, and is gone when closed', async () => {
    const file = path.join(temporaryDirectory(), 'dns');
    fs.writeFileSync(file, 'stale');
    const listener = await listenForStreams(echo, { path: file }, false);
    expect(fs.statSync(file).mode & 0o777).toBe(0o600);
    const client = new Client({ path: file }).send('a');
    expect(await client.repliesOf(1)).toEqual(['re:a']);
    await listener.close();
    await client.closed;
    expect(fs.existsSync(file)).toBe(false);
  });

  it('that cannot be made is E_DNS_LISTEN', async () => {
    const file = path.join(temporaryDirectory(), 'missing', 'dns');
    await expect(listenForStreams(echo, { path: file }, false)).rejects.toMatchObject({ code: 'E_DNS_LISTEN' });
  });
});
