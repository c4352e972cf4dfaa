/**
 * Fuzzes messages of the DNS from both sides: queries of any program on the host, and replies of any server.
 *
 * Input: a byte that says which, two bytes of length, a query of that length, then a reply to it. Nothing may throw.
 */
import {
  answersQuestion,
  decodeQuery,
  encodeReply,
  isTruncated,
  MOST_UDP_BYTES,
  type Query,
  rcodeOf,
  relayResponse,
  udpLimit,
  withoutAdditional,
} from '../../src/dns/codec.ts';
import { insist, main } from './loop/run.ts';

/** A query that asks what `response` claims to answer, if it can be read at all. */
function questionOf(response: Buffer): Query | undefined {
  const asked = Buffer.from(response);
  asked[2] = (asked[2] ?? 0) & 0x01;
  asked[3] = 0;
  asked.fill(0, 6, 12);
  const decoded = decodeQuery(asked.subarray(0, 12 + endOfName(asked)));
  return decoded.kind === 'query' ? decoded.query : undefined;
}

/** Bytes of the first question, as far as labels lead. */
function endOfName(message: Buffer): number {
  let at = 12;
  while (at < message.length && message[at] !== 0) at += (message[at] ?? 0) + 1;
  return at + 5 - 12;
}

function relay(query: Query, response: Buffer): string {
  if (!answersQuestion(response, query.question)) return 'another answer';
  const limit = udpLimit(query);
  const reply = relayResponse(query, response, limit);
  insist(reply.length <= Math.max(limit, MOST_UDP_BYTES), 'a reply fits');
  insist(reply.readUInt16BE(0) === query.id, 'a reply has the id of its query');
  const bare = withoutAdditional(response);
  insist(bare === undefined || bare.length <= response.length, 'less is not more');
  return `${rcodeOf(response)} ${isTruncated(reply)} ${bare === undefined}`;
}

main((input) => {
  const [which = 0, high = 0, low = 0] = input;
  const cut = 3 + ((high << 8) | low);
  const message = Buffer.from(input.subarray(3, cut));
  const response = Buffer.from(input.subarray(cut));
  const decoded = decodeQuery(message);
  if (decoded.kind === 'reply') {
    insist(decoded.reply.length >= 12 && decoded.reply.length <= MOST_UDP_BYTES, 'a refusal is short');
    return `refused ${decoded.rcode}`;
  }
  const query = decoded.kind === 'query' ? decoded.query : undefined;
  const asked = which % 2 === 1 && response.length >= 12 ? questionOf(response) : query;
  if (asked === undefined) return decoded.kind;
  const reply = encodeReply(asked, { rcode: which % 16, answers: [] }, udpLimit(asked));
  insist(reply.length <= MOST_UDP_BYTES && reply.readUInt16BE(0) === asked.id, 'an answer of ours fits');
  const edns = asked.edns === undefined ? 'plain' : `edns ${asked.edns.dnssecOk}`;
  return `${edns} ${Math.min(asked.question.name.key.length, 20)} ${relay(asked, response)}`;
});
