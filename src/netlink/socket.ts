/** Conversations with the kernel over netlink: a request acknowledged, a dump, and refusals as errors. */
import os from 'node:os';
import { EXIT, isSystemCallFailure, ProxyVpnError } from '../errors.ts';
import type { NativeAddon } from '../native.ts';
import { Attributes, decodeMessages, encodeMessage, type Message, malformed, StructReader } from './codec.ts';

/** Sends one message and returns the kernel's whole answer. `native().netlinkRequest` in the product. */
export type NetlinkRequest = NativeAddon['netlinkRequest'];

/** Netlink protocols, include/uapi/linux/netlink.h */
export const NETLINK_ROUTE = 0;
export const NETLINK_SOCK_DIAG = 4;

/** nlmsg_flags, include/uapi/linux/netlink.h */
export const NLM_F = {
  REQUEST: 0x001,
  ACK: 0x004,
  DUMP_INTR: 0x010,
  DUMP: 0x300,
  EXCL: 0x200,
  CREATE: 0x400,
  /** On an error: it does not repeat the request. */
  CAPPED: 0x100,
  /** On an error: attributes follow. */
  ACK_TLVS: 0x200,
} as const;

const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
/** Types below are control messages. */
const NLMSG_MIN_TYPE = 16;
const NLMSGERR_ATTR_MSG = 1;

/** A dump that the host's own changes keep interrupting is given up after so many tries. */
const DUMP_TRIES = 8;

/** Names of errno as the kernel spells them; of two for one number, the one that netlink means. */
const ERRNO_NAMES = new Map<number, string>([
  ...Object.entries(os.constants.errno).map(([name, number]): [number, string] => [number, name]),
  [os.constants.errno.EOPNOTSUPP, 'EOPNOTSUPP'],
  [os.constants.errno.EAGAIN, 'EAGAIN'],
]);

/** The kernel refused. Match on `symbol`. */
export class NetlinkError extends ProxyVpnError {
  /** Symbolic errno: `EEXIST`. */
  readonly symbol: string;

  constructor(
    /** What was asked, as an operator would type it. */
    readonly request: string,
    /** Positive. */
    readonly errno: number,
    /** The extended acknowledgement's text, '' when there is none. */
    readonly kernelMessage: string,
    cause?: unknown,
  ) {
    const symbol = ERRNO_NAMES.get(errno) ?? `errno ${errno}`;
    const isPermission = symbol === 'EPERM';
    super('E_NETLINK', `${request}: ${symbol}${kernelMessage === '' ? '' : `: ${kernelMessage}`}`, {
      ...(isPermission && { hint: 'changing the network needs the capability CAP_NET_ADMIN' }),
      exitCode: isPermission ? EXIT.notPermitted : EXIT.failed,
      cause,
    });
    this.name = 'NetlinkError';
    this.symbol = symbol;
  }
}

export function isNetlinkError(error: unknown, ...symbols: readonly string[]): error is NetlinkError {
  return error instanceof NetlinkError && symbols.includes(error.symbol);
}

/** What a dump or a request was answered with, up to its end. */
interface Answer {
  readonly messages: readonly Message[];
  /** The dump is no consistent picture: the host changed meanwhile. */
  readonly isInterrupted: boolean;
  /** 0: done. */
  readonly errno: number;
  readonly kernelMessage: string;
}

/** @throws ProxyVpnError E_NETLINK_ANSWER when the bytes are no whole answer to `sequence` */
function readAnswer(data: Uint8Array, sequence: number): Answer {
  const messages: Message[] = [];
  let isInterrupted = false;
  for (const message of decodeMessages(data)) {
    if (message.sequence !== sequence) continue;
    isInterrupted ||= (message.flags & NLM_F.DUMP_INTR) !== 0;
    if (message.type === NLMSG_ERROR || message.type === NLMSG_DONE)
      return { messages, isInterrupted, ...readEnd(message) };
    if (message.type >= NLMSG_MIN_TYPE) messages.push(message);
  }
  throw malformed('it has no end');
}

/** struct nlmsgerr, or the i32 of a DONE; then the extended acknowledgement. */
function readEnd(message: Message): Pick<Answer, 'errno' | 'kernelMessage'> {
  if (message.type === NLMSG_DONE && message.payload.length === 0) return { errno: 0, kernelMessage: '' };
  const reader = new StructReader(message.payload, 'an acknowledgement');
  const errno = -reader.i32();
  if ((message.flags & NLM_F.ACK_TLVS) === 0) return { errno, kernelMessage: '' };
  if (message.type === NLMSG_ERROR) {
    const requestLength = reader.u32();
    const repeated = (message.flags & NLM_F.CAPPED) !== 0 ? 16 : Math.max(16, (requestLength + 3) & ~3);
    reader.skip(repeated - 4);
  }
  return { errno, kernelMessage: new Attributes(reader.rest()).text(NLMSGERR_ATTR_MSG) ?? '' };
}

/** 0 is the sequence number of notifications, so it is passed over. */
let lastSequence = 0;
function nextSequence(): number {
  lastSequence = (lastSequence % 0xffffffff) + 1;
  return lastSequence;
}

interface Question {
  /** What is asked, as an operator would type it; goes into errors. */
  readonly request: string;
  /** NETLINK_ROUTE unless said otherwise. */
  readonly protocol?: number;
  readonly type: number;
  /** NLM_F_* besides REQUEST and ACK or DUMP. */
  readonly flags?: number;
  readonly payload: Uint8Array;
}

function exchange(request: NetlinkRequest, question: Question, flags: number): Answer {
  const sequence = nextSequence();
  const message = encodeMessage(question.type, flags | (question.flags ?? 0), sequence, question.payload);
  let data: Uint8Array;
  try {
    data = request(question.protocol ?? NETLINK_ROUTE, message);
  } catch (cause) {
    if (!isSystemCallFailure(cause)) throw cause;
    throw new NetlinkError(question.request, cause.errno, cause.syscall, cause);
  }
  return readAnswer(data, sequence);
}

function refuse(question: Question, answer: Answer): void {
  if (answer.errno !== 0) throw new NetlinkError(question.request, answer.errno, answer.kernelMessage);
}

/**
 * Sends a request and waits for its acknowledgement.
 * @returns what came before the acknowledgement: the object that a GET asked for
 * @throws NetlinkError when the kernel refuses; ProxyVpnError E_NETLINK_ANSWER
 */
export function ask(request: NetlinkRequest, question: Question): readonly Message[] {
  const answer = exchange(request, question, NLM_F.REQUEST | NLM_F.ACK);
  refuse(question, answer);
  return answer.messages;
}

/**
 * Reads all objects of a kind. A dump that a change interrupted is asked for again.
 * @throws NetlinkError when the kernel refuses, EINTR when the host never holds still; ProxyVpnError E_NETLINK_ANSWER
 */
export function dump(request: NetlinkRequest, question: Question): readonly Message[] {
  for (let tries = 0; tries < DUMP_TRIES; tries++) {
    const answer = exchange(request, question, NLM_F.REQUEST | NLM_F.DUMP);
    if (answer.isInterrupted) continue;
    refuse(question, answer);
    return answer.messages;
  }
  const why = `changed by others during each of ${DUMP_TRIES} readings`;
  throw new NetlinkError(question.request, os.constants.errno.EINTR, why);
}
