import { describe, expect, it } from 'vitest';
import { EXIT, ProxyVpnError } from '../../../src/errors.ts';
import { encodeAttributes, encodeMessage, StructWriter } from '../../../src/netlink/codec.ts';
import { links } from '../../../src/netlink/read.ts';
import { ask, dump, NetlinkError, type NetlinkRequest } from '../../../src/netlink/socket.ts';
import { answer, answering, kernelThatSays } from './captured.ts';

const question = { request: 'ip link show', type: 18, payload: new Uint8Array(16) };
const ACK_TLVS = 0x200;
const CAPPED = 0x100;
const DUMP_INTERRUPTED = 0x10;

const i32 = (value: number): Uint8Array => new StructWriter().u32(value).bytes();
const done = (flags = 2): Uint8Array => encodeMessage(3, flags, 1, i32(0));
const object = (flags = 2): Uint8Array => encodeMessage(16, flags, 1, Uint8Array.of(1, 2, 3, 4));
const join = (...parts: readonly Uint8Array[]): Uint8Array => Uint8Array.from(Buffer.concat(parts));

function thrown(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  return undefined;
}

/** struct nlmsgerr, with the request of `repeated` bytes behind its header. */
function refused(errno: number, text: string, flags: number, repeated: number): Uint8Array {
  const header = new StructWriter()
    .u32(16 + repeated)
    .zeros(12)
    .bytes();
  const body = (flags & CAPPED) !== 0 ? new Uint8Array() : new Uint8Array(repeated + (-repeated & 3));
  return encodeMessage(
    2,
    flags,
    1,
    join(i32(-errno), header, body, encodeAttributes([{ type: 1, value: `${text}\0` }])),
  );
}

describe('a refusal by the kernel', () => {
  it('tells what was asked, errno, its name and the extended acknowledgement', () => {
    const error = thrown(() => ask(kernelThatSays(answer('refused route 3')), question));
    expect(error).toBeInstanceOf(NetlinkError);
    expect(error).toMatchObject({
      code: 'E_NETLINK',
      errno: 100,
      symbol: 'ENETDOWN',
      kernelMessage: 'Device for nexthop is not up',
      message: 'ip link show: ENETDOWN: Device for nexthop is not up',
      exitCode: EXIT.failed,
    });
  });

  it.each([
    ['repeats the request', ACK_TLVS, 28],
    ['repeats a request of odd length', ACK_TLVS, 29],
    ['is capped', ACK_TLVS | CAPPED, 28],
  ])('is understood when it %s', (_how, flags, repeated) => {
    const error = thrown(() => ask(kernelThatSays(refused(17, 'File exists already', flags, repeated)), question));
    expect(error).toMatchObject({ symbol: 'EEXIST', kernelMessage: 'File exists already' });
  });

  it('without text has none', () => {
    const error = thrown(() => ask(kernelThatSays(refused(17, 'not an attribute', 0, 28)), question));
    expect(error).toMatchObject({ symbol: 'EEXIST', kernelMessage: '', message: 'ip link show: EEXIST' });
  });

  it('for want of permission names the capability and has its exit code', () => {
    const error = thrown(() => ask(kernelThatSays(refused(1, '', 0, 0)), question));
    expect(error).toMatchObject({ symbol: 'EPERM', exitCode: EXIT.notPermitted });
    expect((error as ProxyVpnError).hint).toContain('CAP_NET_ADMIN');
  });

  it('is named as the kernel names it where libc knows two names', () => {
    expect(thrown(() => ask(kernelThatSays(refused(95, '', 0, 0)), question))).toMatchObject({ symbol: 'EOPNOTSUPP' });
    expect(thrown(() => ask(kernelThatSays(refused(524, '', 0, 0)), question))).toMatchObject({ symbol: 'errno 524' });
  });

  it('of a dump may come at its end', () => {
    const end = encodeMessage(3, 2 | ACK_TLVS, 1, join(i32(-95), encodeAttributes([{ type: 1, value: 'no\0' }])));
    const error = thrown(() => dump(kernelThatSays(join(object(), end)), question));
    expect(error).toMatchObject({ symbol: 'EOPNOTSUPP', kernelMessage: 'no' });
  });
});

describe('an answer', () => {
  it('to another sequence number is ignored', () => {
    const kernel: NetlinkRequest = (_protocol, message) =>
      Buffer.from(join(object(), refused(1, '', 0, 0), answering(join(object(), done()), message)));
    // The first two keep sequence number 1; the request is given a later one.
    dump(kernelThatSays(done()), question);
    expect(dump(kernel, question)).toHaveLength(1);
  });

  it('without an end is refused', () => {
    const error = thrown(() => dump(kernelThatSays(object()), question));
    expect(error).toMatchObject({ code: 'E_NETLINK_ANSWER' });
  });

  it('may end with nothing but DONE', () => {
    expect(dump(kernelThatSays(encodeMessage(3, 2, 1, new Uint8Array())), question)).toEqual([]);
  });
});

describe('a request', () => {
  it('carries a sequence number that is never 0 and never the one before', () => {
    const seen: number[] = [];
    const kernel: NetlinkRequest = (_protocol, message) => {
      seen.push(Buffer.from(message).readUInt32LE(8));
      return Buffer.from(answering(done(), message));
    };
    for (let i = 0; i < 3; i++) dump(kernel, question);
    expect(new Set(seen).size).toBe(3);
    expect(seen).not.toContain(0);
  });

  it('that the addon could not send is a NetlinkError with the failed system call as its cause', () => {
    const failure = Object.assign(new Error('recvfrom: ETIMEDOUT'), {
      code: 'ETIMEDOUT',
      syscall: 'recvfrom',
      errno: 110,
    });
    const error = thrown(() =>
      links(() => {
        throw failure;
      }),
    );
    expect(error).toMatchObject({ code: 'E_NETLINK', symbol: 'ETIMEDOUT', cause: failure });
    expect((error as Error).message).toBe('ip link show: ETIMEDOUT: recvfrom');
  });

  it('that fails by a bug is not dressed up', () => {
    const bug = new TypeError('netlinkRequest: no netlink header');
    const error = thrown(() =>
      links(() => {
        throw bug;
      }),
    );
    expect(error).toBe(bug);
  });
});

describe('a dump that the host interrupts by changing', () => {
  const torn = join(object(2 | DUMP_INTERRUPTED), done());

  it('is asked for again', () => {
    expect(dump(kernelThatSays(torn, torn, join(object(), object(), done())), question)).toHaveLength(2);
  });

  it('is noticed also when only its end says so', () => {
    const late = join(object(), done(2 | DUMP_INTERRUPTED));
    expect(dump(kernelThatSays(late, join(object(), object(), done())), question)).toHaveLength(2);
  });

  it('is given up when it never ends', () => {
    let asked = 0;
    const error = thrown(() =>
      dump((_protocol, message) => {
        asked++;
        return Buffer.from(answering(torn, message));
      }, question),
    );
    expect(error).toBeInstanceOf(ProxyVpnError);
    expect(error).toMatchObject({ symbol: 'EINTR' });
    expect(asked).toBe(8);
  });
});
