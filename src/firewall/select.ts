/** Which backend of the packet filter is used on this host. */
import { readFileSync } from 'node:fs';
import { EXIT, isSystemCallFailure, ProxyVpnError } from '../errors.ts';
import { BACKENDS, type Backend, type BackendName, type Opened, type Purpose, permissionError } from './backend.ts';
import { openIptables } from './iptables.ts';
import { type NftBackend, openLibnftables, openNft } from './nft.ts';

const OPENERS: { readonly [name in BackendName]: (purpose: Purpose) => Promise<Opened> } = {
  libnftables: openLibnftables,
  nft: openNft,
  iptables: openIptables,
};

/**
 * The first backend that this host has and this user may use, or the one that PROXYVPN_FIREWALL names.
 * @throws ProxyVpnError E_FIREWALL_UNAVAILABLE, E_FIREWALL_PERMISSION, E_FIREWALL_BACKEND for an unknown name
 */
export async function selectBackend(): Promise<Backend> {
  requireNetAdmin();
  const forced = process.env['PROXYVPN_FIREWALL'];
  const reasons: string[] = [];
  for (const name of forced ? [backendName(forced)] : BACKENDS) {
    const opened = await OPENERS[name]('load');
    if (!('unavailable' in opened)) return opened;
    reasons.push(`${name}: ${opened.unavailable}`);
  }
  throw new ProxyVpnError('E_FIREWALL_UNAVAILABLE', `no packet filter can be used (${reasons.join('; ')})`, {
    hint: 'install the package libnftables1 or nftables',
  });
}

/**
 * What can see and remove rules in either place where they may be: nftables, by the better of its two backends, and
 * iptables. Empty when there is nothing or nothing is permitted. PROXYVPN_FIREWALL does not narrow it.
 */
export async function availableBackends(): Promise<readonly Backend[]> {
  const tables = await openNftables();
  if (!('unavailable' in tables) && (await isIptablesEmpty(tables))) return [tables];
  const chains = await OPENERS.iptables('look');
  return [tables, chains].filter((opened): opened is Backend => !('unavailable' in opened));
}

async function openNftables(): ReturnType<typeof openNft> {
  const opened = await openLibnftables('look');
  return 'unavailable' in opened ? openNft('look') : opened;
}

/** Its programs, six starts of one, would take 25 ms to say so. Over nf_tables or legacy: its rules are in its tables. */
async function isIptablesEmpty(nft: NftBackend): Promise<boolean> {
  if ((await nft.tables()).some((table) => /^ip6? /.test(table))) return false;
  // Of this namespace. Only root may read them; nobody else may use iptables either.
  return ['ip', 'ip6'].every((family) => isEmptyOrMissing(`/proc/self/net/${family}_tables_names`));
}

function isEmptyOrMissing(file: string): boolean {
  try {
    return readFileSync(file, 'latin1') === '';
  } catch (error) {
    return isSystemCallFailure(error) && error.code === 'ENOENT';
  }
}

function backendName(text: string): BackendName {
  const name = BACKENDS.find((known) => known === text);
  if (name) return name;
  throw new ProxyVpnError('E_FIREWALL_BACKEND', `PROXYVPN_FIREWALL=${text} is no packet filter`, {
    hint: `use one of: ${BACKENDS.join(', ')}`,
    exitCode: EXIT.usage,
  });
}

/** include/uapi/linux/capability.h */
const CAP_NET_ADMIN = 12n;

function requireNetAdmin(): void {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  if (effective !== undefined && (BigInt(`0x${effective}`) >> CAP_NET_ADMIN) & 1n) return;
  throw permissionError('this process does not have it');
}
