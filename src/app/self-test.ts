/** Proves that an application's connection goes all the way: rule, table, TUN, engine and back. */
import net from 'node:net';
import { ProxyVpnError } from '../errors.ts';
import { addressBytes, endpointText, familyOf, type Prefix, parsePrefix } from '../ip.ts';
import { HEALTH } from '../tunstack/engine.ts';
import type { Config } from './config.ts';

/** The engine answers within a millisecond; a lost SYN is sent again after 1 s and 3 s. */
const TIMEOUT_MS = 5000;

function covers(prefix: Prefix, address: string): boolean {
  if (prefix.family !== familyOf(address)) return false;
  const [network, bytes] = [
    addressBytes(parsePrefix(`${prefix.address}/${prefix.length}`).address),
    addressBytes(address),
  ];
  for (let bit = 0; bit < prefix.length; bit++) {
    const mask = 0x80 >> (bit & 7);
    if (((network[bit >> 3] ?? 0) ^ (bytes[bit >> 3] ?? 0)) & mask) return false;
  }
  return true;
}

/** The health addresses that this process reaches through the tunnel, were it not for an exception of the user's (pure). */
export function selfTestAddresses(
  config: Pick<Config, 'routes' | 'bypass' | 'bypassUsers'>,
  carriesIpv6: boolean,
  uid: number,
): readonly string[] {
  if (!config.routes || config.bypassUsers.includes(uid)) return [];
  const addresses = carriesIpv6 ? [HEALTH.address4, HEALTH.address6] : [HEALTH.address4];
  return addresses.filter((address) => !config.bypass.some((prefix) => covers(prefix, address)));
}

/**
 * Connects to the engine itself, without a mark, as any program would.
 * @throws ProxyVpnError E_SELF_TEST
 */
export function selfTest(address: string): Promise<void> {
  const endpoint = endpointText(address, HEALTH.port);
  return new Promise((resolve, reject) => {
    let received = '';
    const socket = net.connect({ host: address, port: HEALTH.port });
    const fail = (why: string): void => {
      socket.destroy();
      reject(
        new ProxyVpnError('E_SELF_TEST', `a connection through the tunnel's own device failed (${endpoint}): ${why}`, {
          hint: 'another program may hold rules or filters that come before ours: see ip rule, nft list ruleset',
        }),
      );
    };
    socket.setTimeout(TIMEOUT_MS, () => fail(`no answer within ${TIMEOUT_MS} ms`));
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1');
    });
    socket.on('error', (error: NodeJS.ErrnoException) => fail(error.code ?? error.message));
    socket.on('end', () => {
      if (received !== HEALTH.banner) return fail(`${received.length} unexpected bytes`);
      socket.destroy();
      resolve();
    });
  });
}
