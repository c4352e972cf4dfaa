/** What the host's network looks like: links, addresses, routes and rules as typed values. */
import type { Family } from '../ip.ts';
import {
  type Address,
  decodeAddress,
  decodeLink,
  decodeRoute,
  encodeAddressQuery,
  encodeLinkQuery,
  encodeRouteQuery,
  type Link,
  type Route,
  RTM,
} from './messages.ts';
import { decodeRule, encodeRuleQuery, type Rule } from './rule.ts';
import { ask, dump, isNetlinkError, type NetlinkRequest } from './socket.ts';

/**
 * Every link of this network namespace.
 * @throws NetlinkError, ProxyVpnError E_NETLINK_ANSWER; so do all readers here
 */
export function links(request: NetlinkRequest): Link[] {
  const question = { request: 'ip link show', type: RTM.GETLINK, payload: encodeLinkQuery() };
  return dump(request, question)
    .filter((message) => message.type === RTM.NEWLINK)
    .map((message) => decodeLink(message.payload));
}

/** undefined when there is no link of that name. */
export function linkByName(request: NetlinkRequest, name: string): Link | undefined {
  const question = { request: `ip link show dev ${name}`, type: RTM.GETLINK, payload: encodeLinkQuery(name) };
  try {
    const answer = ask(request, question).find((message) => message.type === RTM.NEWLINK);
    return answer && decodeLink(answer.payload);
  } catch (error) {
    if (isNetlinkError(error, 'ENODEV')) return undefined;
    throw error;
  }
}

/** IPv4 and IPv6 addresses of all links. */
export function addresses(request: NetlinkRequest): Address[] {
  const question = { request: 'ip address show', type: RTM.GETADDR, payload: encodeAddressQuery() };
  return dump(request, question)
    .filter((message) => message.type === RTM.NEWADDR)
    .map((message) => decodeAddress(message.payload))
    .filter((address) => address !== undefined);
}

/** Routes of one table, or of all (`local` included). Empty when the kernel has no such table or family. */
export function routes(request: NetlinkRequest, family: Family, table?: number): Route[] {
  const question = {
    request: `ip -${family} route show table ${table ?? 'all'}`,
    type: RTM.GETROUTE,
    payload: encodeRouteQuery(family, table),
  };
  return (
    emptyWhen(['ENOENT', 'EAFNOSUPPORT'], () => dump(request, question))
      .filter((message) => message.type === RTM.NEWROUTE)
      .map((message) => decodeRoute(message.payload))
      .filter((route) => route !== undefined)
      // A kernel without that family, or older than 4.20, answers with more than was asked for.
      .filter((route) => route.family === family && (table === undefined || route.table === table))
  );
}

/** Rules in the order in which the kernel tries them. Empty when the kernel lacks the family. */
export function rules(request: NetlinkRequest, family: Family): Rule[] {
  const question = { request: `ip -${family} rule show`, type: RTM.GETRULE, payload: encodeRuleQuery(family) };
  return emptyWhen(['EAFNOSUPPORT', 'EOPNOTSUPP'], () => dump(request, question))
    .filter((message) => message.type === RTM.NEWRULE)
    .map((message) => decodeRule(message.payload))
    .filter((rule) => rule !== undefined)
    .filter((rule) => rule.family === family);
}

function emptyWhen<T>(symbols: readonly string[], read: () => readonly T[]): readonly T[] {
  try {
    return read();
  } catch (error) {
    if (isNetlinkError(error, ...symbols)) return [];
    throw error;
  }
}
