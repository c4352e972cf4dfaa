/** Real servers for the tests, each with a configuration of its own in the test's directory: proxies and origins. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { type Background, run } from './process.ts';
import { ADDRESS, bracketed, type Namespace, type Topology } from './topology.ts';

function writeConfig(directory: string, name: string, lines: readonly string[]): string {
  const file = path.join(directory, name);
  fs.writeFileSync(file, `${lines.join('\n')}\n`);
  return file;
}

/** A directory that servers which gave root away can write to. */
function openDirectory(topology: Topology, name: string): string {
  const directory = path.join(topology.directory, name);
  fs.mkdirSync(directory, { recursive: true });
  fs.chmodSync(directory, 0o777);
  return directory;
}

/** The command with another file in place of one of the host's, in a mount namespace of its own. */
export function withFile(place: string, file: string, command: readonly string[]): readonly string[] {
  const script = 'mount --bind "$1" "$0" && shift && exec "$@"';
  return ['unshare', '--mount', 'sh', '-c', script, place, file, ...command];
}

export interface Credentials {
  readonly user: string;
  readonly password: string;
}

export interface ProxyServer {
  readonly server: Background;
  readonly port: number;
  /** The proxy's own log, so far. */
  log(): string;
}

const readOr = (file: string): string => (fs.existsSync(file) ? fs.readFileSync(file, 'utf8') : '');

/** tinyproxy on every address of net. @param connectPorts ports it may CONNECT to; default all */
export async function startTinyproxy(
  topology: Topology,
  port = 8888,
  options: {
    readonly credentials?: Credentials;
    readonly connectPorts?: readonly number[];
    /** Names that it resolves, as in hosts(5); and it connects to nothing else. */
    readonly names?: Readonly<Record<string, string>>;
  } = {},
): Promise<ProxyServer> {
  const directory = openDirectory(topology, `tinyproxy${port}`);
  const log = path.join(directory, 'log');
  const { credentials } = options;
  const config = writeConfig(directory, 'conf', [
    `Port ${port}`,
    `LogFile "${log}"`,
    'LogLevel Info',
    'Timeout 60',
    'MaxClients 1000',
    ...(credentials ? [`BasicAuth ${credentials.user} ${credentials.password}`] : []),
    ...(options.connectPorts ?? []).map((allowed) => `ConnectPort ${allowed}`),
    ...(options.names ? [`Filter "${path.join(directory, 'filter')}"`, 'FilterDefaultDeny Yes'] : []),
  ]);
  const names = Object.entries(options.names ?? {});
  writeConfig(
    directory,
    'filter',
    names.map(([name]) => `^${name.replaceAll('.', '\\.')}$`),
  );
  const hosts = writeConfig(
    directory,
    'hosts',
    names.map(([name, address]) => `${address} ${name}`),
  );
  const command = ['tinyproxy', '-d', '-c', config];
  const server = await topology.net.serve(withFile('/etc/hosts', hosts, command), port);
  return { server, port, log: () => readOr(log) };
}

/** squid on every address of net, with Basic authentication by its NCSA helper where credentials are given. */
export async function startSquid(
  topology: Topology,
  port = 3128,
  options: { readonly credentials?: Credentials; readonly names?: Readonly<Record<string, string>> } = {},
): Promise<ProxyServer> {
  const directory = openDirectory(topology, `squid${port}`);
  const names = Object.entries(options.names ?? {});
  const hosts = writeConfig(
    directory,
    'hosts',
    names.map(([name, address]) => `${address} ${name}`),
  );
  const log = path.join(directory, 'access.log');
  const { credentials } = options;
  const authentication: string[] = [];
  if (credentials) {
    const users = path.join(directory, 'users');
    const { stdout } = await run(['openssl', 'passwd', '-apr1', credentials.password]);
    fs.writeFileSync(users, `${credentials.user}:${stdout.trim()}\n`);
    authentication.push(
      `auth_param basic program /usr/lib/squid/basic_ncsa_auth ${users}`,
      'auth_param basic realm test',
      'acl known proxy_auth REQUIRED',
    );
  }
  const config = writeConfig(directory, 'conf', [
    `http_port ${port}`,
    ...authentication,
    'acl safe port 80 443 2222 8080 8443',
    'http_access deny !safe',
    // -n: a number is not looked up for its name.
    ...(options.names
      ? [`hosts_file ${hosts}`, `acl known dstdomain -n ${names.map(([name]) => name).join(' ')}`]
      : []),
    `http_access allow ${credentials || options.names ? 'known' : 'all'}`,
    'cache deny all',
    'cache_mem 8 MB',
    'pinger_enable off',
    'shutdown_lifetime 0 seconds',
    'visible_hostname squid.test',
    'dns_nameservers 127.0.0.1',
    `access_log stdio:${log}`,
    `cache_log ${path.join(directory, 'cache.log')}`,
    `coredump_dir ${directory}`,
    `pid_filename ${path.join(directory, 'pid')}`,
  ]);
  const server = await topology.net.serve(['squid', '-N', '-f', config], port);
  return { server, port, log: () => readOr(log) };
}

export interface WebServer {
  readonly server: Background;
  readonly httpPort: 8080;
  readonly httpsPort: 8443;
  /** Files in here are served under `/`; PUT stores under `/upload/`. */
  readonly root: string;
  /** The certificate of the throw-away authority. */
  readonly authority: string;
}

/** A throw-away authority and a certificate of it for the origin's addresses. */
async function makeCertificate(directory: string): Promise<{ authority: string; certificate: string; key: string }> {
  const names = `IP:${ADDRESS.origin.v4},IP:${ADDRESS.origin.v6},DNS:origin.test,DNS:www.origin.test`;
  fs.writeFileSync(path.join(directory, 'extensions'), `subjectAltName=${names}\n`);
  const newKey = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes';
  for (const line of [
    `req -x509 ${newKey} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem`,
    `req ${newKey} -subj /CN=origin -keyout key.pem -out request`,
    'x509 -req -days 2 -in request -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions -out cert.pem',
  ]) {
    const ran = await run(['openssl', ...line.split(' ')], { cwd: directory });
    if (ran.code !== 0) throw new Error(`openssl: ${ran.stderr}`);
  }
  const file = (name: string): string => path.join(directory, name);
  return { authority: file('ca.pem'), certificate: file('cert.pem'), key: file('key.pem') };
}

/** nginx as the origin: HTTP/1.1 and, over TLS, HTTP/2; serves and takes (PUT) files. */
export async function startNginx(topology: Topology): Promise<WebServer> {
  const directory = openDirectory(topology, 'nginx');
  const root = path.join(directory, 'root');
  fs.mkdirSync(path.join(root, 'upload'), { recursive: true });
  fs.writeFileSync(path.join(root, 'hello'), 'hello from the origin\n');
  const { authority, certificate, key } = await makeCertificate(directory);
  const config = writeConfig(directory, 'conf', [
    'user root; daemon off; worker_processes 1;',
    `pid ${directory}/pid; error_log ${directory}/error.log;`,
    'events { worker_connections 1024; }',
    'http {',
    `  access_log ${directory}/access.log; client_max_body_size 0; sendfile on; tcp_nopush on;`,
    ...['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `  ${kind}_temp_path ${directory}/${kind};`),
    '  server {',
    '    listen 8080; listen [::]:8080;',
    '    listen 8443 ssl http2; listen [::]:8443 ssl http2;',
    `    ssl_certificate ${certificate}; ssl_certificate_key ${key};`,
    `    root ${root};`,
    '    location /upload/ { dav_methods PUT; }',
    '    location = /whoami { return 200 "$remote_addr\\n"; }',
    '  }',
    '}',
  ]);
  const server = await topology.net.serve(['nginx', '-c', config], 8443);
  return { server, httpPort: 8080, httpsPort: 8443, root, authority };
}

export interface SecureShell {
  readonly server: Background;
  readonly port: number;
  /** Options that make ssh and scp use the throw-away keys and nothing of the user's own. */
  readonly clientOptions: readonly string[];
}

/** A private sshd with throw-away keys; root logs in by key. */
export async function startSshd(topology: Topology, where: Namespace, port = 2222): Promise<SecureShell> {
  const directory = path.join(topology.directory, `sshd${port}`);
  fs.mkdirSync(directory, { mode: 0o700 });
  // Debian's sshd insists on its directory for privilege separation; /run is the tests' own.
  fs.mkdirSync('/run/sshd', { recursive: true, mode: 0o755 });
  const file = (name: string): string => path.join(directory, name);
  for (const name of ['host', 'client']) await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', file(name)]);
  const config = writeConfig(directory, 'conf', [
    `Port ${port}`,
    `HostKey ${file('host')}`,
    `AuthorizedKeysFile ${file('client.pub')}`,
    `PidFile ${file('pid')}`,
    'PermitRootLogin prohibit-password',
    'StrictModes no',
    'UsePAM no',
    'UseDNS no',
    'Subsystem sftp internal-sftp',
  ]);
  const server = await where.serve(['/usr/sbin/sshd', '-D', '-e', '-f', config], port);
  return {
    server,
    port,
    clientOptions: [
      ...['-F', 'none', '-i', file('client')],
      ...['StrictHostKeyChecking=no', `UserKnownHostsFile=${file('known')}`, 'BatchMode=yes', 'LogLevel=ERROR'].flatMap(
        (option) => ['-o', option],
      ),
    ],
  };
}

/** A bare repository with some commits, ready for git's dumb HTTP protocol. @returns the commit a clone must have */
export async function makeRepository(root: string): Promise<string> {
  const work = path.join(root, '..', 'work');
  const git = async (...args: readonly string[]): Promise<string> => {
    const identity = ['-c', 'user.name=Test', '-c', 'user.email=test@invalid', '-c', 'init.defaultBranch=main'];
    const ran = await run(['git', ...identity, ...args]);
    if (ran.code !== 0) throw new Error(`git ${args.join(' ')}: ${ran.stderr}`);
    return ran.stdout.trim();
  };
  await git('init', '-q', work);
  for (let i = 0; i < 20; i++) {
    fs.writeFileSync(path.join(work, `file${i}`), createHash('sha256').update(`${i}`).digest('hex').repeat(500));
    await git('-C', work, 'add', '.');
    await git('-C', work, 'commit', '-q', '-m', `commit ${i}`);
  }
  await git('clone', '-q', '--bare', work, path.join(root, 'repository.git'));
  await git('-C', path.join(root, 'repository.git'), 'update-server-info');
  return git('-C', work, 'rev-parse', 'HEAD');
}

/** Resolvers and echo servers in net that answer by UDP (and DNS by TCP), on addresses of the "internet". */
export const DATAGRAM_ADDRESS = { v4: '203.0.113.53', v6: '2001:db8:113::53' } as const;
export const OTHER_RESOLVER = { v4: '203.0.113.54', v6: '2001:db8:113::54' } as const;

/** UDP echo on 443 and 7777, and DNS (udp and tcp 53: every name is 192.0.2.1 or 2001:db8::1) on those addresses. */
export async function startDatagramServers(topology: Topology): Promise<Background> {
  // The addresses are local by a route only; IPv6 sockets bind to such only where this is allowed.
  await topology.net.must(['sysctl', '-qw', 'net.ipv6.ip_nonlocal_bind=1']);
  const program = path.join(import.meta.dirname, 'datagram_servers.py');
  const addresses = [...Object.values(DATAGRAM_ADDRESS), ...Object.values(OTHER_RESOLVER), ADDRESS.net.v4];
  const server = topology.net.start(['/usr/bin/python3', program, ...addresses]);
  await server.until('sockets', () => server.stdout.includes('ready'));
  return server;
}

/** `http://203.0.113.10:8080/hello` and the like. */
export function originUrl(family: 'v4' | 'v6', filePath: string, scheme: 'http' | 'https' = 'http'): string {
  return `${scheme}://${bracketed(ADDRESS.origin[family])}:${scheme === 'http' ? 8080 : 8443}${filePath}`;
}
