/**
 * Fuzzes what the kernel answers over netlink, through every reader that the product has.
 *
 * Input: a byte that says who asks, a byte that says whether the answer carries the right sequence numbers, then the
 * answer. A reader may return or refuse with an error of ours; anything else is a defect.
 */
import { ProxyVpnError } from '../../src/errors.ts';
import { connections, listeningPorts } from '../../src/netlink/diag.ts';
import { addressLine, linkLine, routeLine, ruleLine } from '../../src/netlink/ip-line.ts';
import { encodeRoute } from '../../src/netlink/messages.ts';
import { addresses, linkByName, links, routes, rules } from '../../src/netlink/read.ts';
import { decodeRule, encodeRule, isSameRule, isTwinOfAnotherMaker, wouldBeDeleted } from '../../src/netlink/rule.ts';
import type { NetlinkRequest } from '../../src/netlink/socket.ts';
import { insist, main } from './loop/run.ts';

/** Each reads, and shows what it read as a user would see it. */
const READERS: readonly ((request: NetlinkRequest) => readonly string[])[] = [
  (request) => links(request).map((link) => linkLine(link.name, link)),
  (request) => addresses(request).map((address) => addressLine('dev', address)),
  (request) => readRoutes(request, 4),
  (request) => readRoutes(request, 6),
  (request) => readRules(request, 4),
  (request) => readRules(request, 6),
  (request) => connections(request).map((c) => `${c.family} ${c.localAddress} ${c.remoteAddress}`),
  (request) => listeningPorts(request).map(String),
  (request) => [linkByName(request, 'eth0')?.name ?? 'none'],
];

function readRoutes(request: NetlinkRequest, family: 4 | 6): string[] {
  return routes(request, family).map((route) => {
    const line = routeLine(route, 'dev');
    encodeRoute(route);
    return line;
  });
}

function readRules(request: NetlinkRequest, family: 4 | 6): string[] {
  return rules(request, family).map((rule) => {
    insist(isSameRule(rule, rule), 'a rule is the same as itself');
    isTwinOfAnotherMaker(rule, rule);
    wouldBeDeleted(rule, rule);
    const line = ruleLine(rule);
    const again = decodeRule(encodeRule(rule));
    insist(again !== undefined && again.priority === rule.priority, 'a rule is read back as it was written');
    return line;
  });
}

/** The answer with the sequence number of the request in each of its messages, as far as their lengths lead. */
function answering(answer: Uint8Array, message: Uint8Array): Uint8Array {
  const reply = Buffer.from(answer);
  for (let offset = 0; offset + 16 <= reply.length; ) {
    reply.set(message.subarray(8, 12), offset + 8);
    const length = reply.readUInt32LE(offset);
    if (length < 16 || length > reply.length - offset) break;
    offset += (length + 3) & ~3;
  }
  return reply;
}

/** What kind of line it is: its words, without the names and numbers. */
function shapeOf(line: string): string {
  const isWord =
    /^(unicast|local|broadcast|blackhole|unreachable|prohibit|throw|multicast|from|to|via|dev|metric|src|congctl|not)$/;
  const isRuleWord = /^(fwmark|iif|oif|uidrange|ipproto|sport|dport|tos|goto|nop|suppress_\w+|nodad|noprefixroute)$/;
  const words = line.split(' ').filter((word) => isWord.test(word) || isRuleWord.test(word));
  return [...new Set(words)].join(' ');
}

main((input) => {
  const [who = 0, hasSequence = 0] = input;
  const answer = input.subarray(2);
  const index = who % READERS.length;
  const read = READERS[index];
  insist(read !== undefined, 'there is such a reader');
  try {
    const lines = read((_protocol, message) =>
      Buffer.from(hasSequence % 8 === 7 ? answer : answering(answer, message)),
    );
    const shapes = new Set(lines.map(shapeOf));
    return `${index} read ${Math.min(lines.length, 2)} ${[...shapes].sort()[0] ?? ''}`;
  } catch (error) {
    if (!(error instanceof ProxyVpnError)) throw error;
    insist(error.message.length < 20_000, 'a message has a bound');
    // What the kernel says on top of a number may be anything.
    const why = error.code === 'E_NETLINK' ? '' : error.message.replace(/\d+/g, '#');
    return `${index} ${error.code} ${why}`;
  }
});
