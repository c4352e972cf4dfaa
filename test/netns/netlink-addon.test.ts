/** The native half of netlink on a real kernel: one request, its whole answer, and nothing else. */
import { spawn } from 'node:child_process';
import { readdirSync, readlinkSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { native } from '../../src/native.ts';
import { encodeMessage } from '../../src/netlink/codec.ts';
import { linkByName, links } from '../../src/netlink/read.ts';
import type { NetlinkRequest } from '../../src/netlink/socket.ts';

// Before anything else: these tests belong into a namespace of their own.
if (process.env['PROXYVPN_PRIVILEGED_TESTS'] !== '1') throw new Error('PROXYVPN_PRIVILEGED_TESTS is not 1');
if (readlinkSync('/proc/self/ns/net') === readlinkSync('/proc/1/ns/net'))
  throw new Error('still in the initial network namespace: run scripts/test-privileged.sh');

const request: NetlinkRequest = (protocol, message) => native().netlinkRequest(protocol, message);

describe('the addon', () => {
  const NLMSG_NOOP = 1;
  const NLMSG_DONE = 3;
  const thrownBy = (message: Uint8Array): unknown => {
    try {
      return native().netlinkRequest(0, message);
    } catch (error) {
      return error;
    }
  };

  it('opens no descriptor that it does not close', () => {
    const open = () => readdirSync('/proc/self/fd').length;
    links(request);
    const start = open();
    for (let i = 0; i < 300; i++) linkByName(request, i % 2 ? 'lo' : 'nosuch0');
    expect(open()).toBe(start);
  });

  it.each([
    ['no header', new Uint8Array(15)],
    ['a length that is not its own', Buffer.concat([encodeMessage(18, 5, 1, new Uint8Array(16)), Buffer.alloc(4)])],
    ['sequence number 0', encodeMessage(18, 5, 0, new Uint8Array(16))],
  ])('refuses a message with %s', (_why, message) => {
    expect(thrownBy(message)).toBeInstanceOf(TypeError);
  });

  it('throws what a failed system call is made of', () => {
    let error: unknown;
    try {
      native().netlinkRequest(99, encodeMessage(18, 5, 1, new Uint8Array(16)));
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ code: 'EPROTONOSUPPORT', syscall: 'socket', errno: 93 });
  });

  it('gives up a request that the kernel does not answer', () => {
    expect(thrownBy(encodeMessage(NLMSG_NOOP, 1, 7, new Uint8Array()))).toMatchObject({ code: 'ETIMEDOUT' });
  });

  it('does not listen to answers of anybody but the kernel', async () => {
    // The port of a process's first netlink socket is its pid; send to it until it is open.
    const spoofer = `
import socket, sys, time
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
print("ready", flush=True)
for _ in range(3000):
    try:
        s.sendto(bytes.fromhex(sys.argv[2]), (int(sys.argv[1]), 0))
        print("sent")
        break
    except ConnectionRefusedError:
        time.sleep(0.001)
`;
    const forged = Buffer.from(encodeMessage(NLMSG_DONE, 2, 4711, new Uint8Array(4))).toString('hex');
    const child = spawn('python3', ['-c', spoofer, String(process.pid), forged], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const closed = new Promise((resolve) => child.once('close', resolve));
    let output = '';
    const ready = new Promise<void>((resolve) =>
      child.stdout.on('data', (data: Buffer) => {
        output += data.toString();
        resolve();
      }),
    );
    await ready;
    // Waits for an answer that the kernel never gives, which leaves the forger time.
    expect(thrownBy(encodeMessage(NLMSG_NOOP, 1, 4711, new Uint8Array()))).toMatchObject({ code: 'ETIMEDOUT' });
    await closed;
    expect(output).toContain('sent');
  });
});
