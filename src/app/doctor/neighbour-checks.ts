/** Programs of this host that care for routes, names or filters as well, and what that means. */
import fs from 'node:fs';
import type { Link, Route } from '../../netlink/messages.ts';
import type { Config } from '../config.ts';
import { type Finding, note, warning } from './finding.ts';

export interface Neighbourhood {
  readonly links: readonly Link[];
  /** Of all tables, both families. */
  readonly routes: readonly Route[];
  readonly isThere: (file: string) => boolean;
  readonly read: (file: string) => string | undefined;
}

export const hostFiles: Pick<Neighbourhood, 'isThere' | 'read'> = {
  isThere: (file) => fs.existsSync(file),
  read: (file) => {
    try {
      return fs.readFileSync(file, 'utf8');
    } catch {
      return undefined;
    }
  },
};

export function neighbourChecks(config: Config, here: Neighbourhood, tun: string): readonly Finding[] {
  return [...daemons(here), ...firewalls(here), ...containers(config, here), ...vpns(here, tun)];
}

function daemons({ isThere, read }: Neighbourhood): readonly Finding[] {
  const found: Finding[] = [];
  if (isThere('/run/NetworkManager'))
    found.push(note('networkmanager', 'NetworkManager runs', 'up tells it to leave the tunnel device alone (nmcli)'));
  if (isThere('/run/systemd/resolve'))
    found.push(note('resolved', 'systemd-resolved runs', 'its questions are treated as those of any program'));
  const stub = read('/etc/resolv.conf') ?? '';
  const hasDnsmasq = ['/run/dnsmasq/dnsmasq.pid', '/run/dnsmasq.pid', '/var/run/dnsmasq.pid'].some(isThere);
  if (hasDnsmasq && /^nameserver\s+127\./m.test(stub))
    found.push(note('dnsmasq', 'dnsmasq answers this host', 'what it has cached it answers without the tunnel'));
  return found;
}

function firewalls({ isThere, read }: Neighbourhood): readonly Finding[] {
  const found: Finding[] = [];
  const own = 'our rules are a table of their own; a packet leaves only if both agree';
  if (isThere('/run/firewalld') || isThere('/run/firewalld.pid')) found.push(note('firewalld', 'firewalld runs', own));
  if (/^ENABLED=yes$/m.test(read('/etc/ufw/ufw.conf') ?? '')) found.push(note('ufw', 'ufw is enabled', own));
  return found;
}

function containers(config: Config, { links, isThere }: Neighbourhood): readonly Finding[] {
  const bridges = links.filter(
    ({ name, kind }) => kind === 'bridge' && /^(docker|br-|podman|cni|lxcbr|virbr|incusbr)/.test(name),
  );
  const isDocker = isThere('/run/docker.sock') || bridges.some(({ name }) => name.startsWith('docker'));
  if (!isDocker && bridges.length === 0) return [];
  const names = bridges.map(({ name }) => name).join(', ');
  const what = `containers or virtual machines may use this host${names === '' ? '' : ` (${names})`}`;
  const why = 'their TCP goes through the tunnel as well';
  if (!config.killswitch) return [note('containers', what, why)];
  return [note('containers', what, `${why}; ports that they publish need --allow-inbound`)];
}

/** Kinds of devices that other VPNs make. */
const VPN_KINDS: readonly string[] = ['wireguard', 'tun', 'ppp', 'ipip', 'gre', 'vti', 'xfrm'];

function vpns({ links, routes }: Neighbourhood, tun: string): readonly Finding[] {
  const others = links.filter(
    ({ name, kind, isUp }) => isUp && name !== tun && kind !== undefined && VPN_KINDS.includes(kind),
  );
  return others.map(({ name, kind, index }) => {
    const what = `another VPN: ${name} (${kind})`;
    const covering = routes.filter(
      ({ destination, nexthops }) => isHalfTheWorld(destination) && nexthops.some((hop) => hop.index === index),
    );
    if (covering.length === 0) return note('vpn', what, 'it has routes of its own; TCP goes through our tunnel first');
    const why = `it takes everything; our tunnel's connections to the proxy go through it, where its rules let them`;
    return warning('vpn', what, why, 'if the proxy is not reached: take the other down, or give the proxy a route');
  });
}

/** `default`, or one of the halves by which VPNs hide it (0.0.0.0/1, 128.0.0.0/1, ::/1, 8000::/1, 2000::/3). */
function isHalfTheWorld(destination: string): boolean {
  return destination === 'default' || /\/[13]$/.test(destination);
}
