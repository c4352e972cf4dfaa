/** Proves that an application's connection goes all the way: rule, table, TUN, engine and back. */
import net from 'node:net';
import { ProxyVpnError } from '../errors.ts';
import { covers, endpointText } from '../ip.ts';
import { HEALTH } from '../tunstack/engine.ts';
import type { Config } from './config.ts';

/** The engine answers within a millisecond; a lost SYN is sent again after 1 s and 3 s. */
const TIMEOUT_MS = 5000;

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
