/** Who may know whom in src/ and native/, each arrow with its reason (STYLE: two one-way roads). */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '../..');
const SRC = path.join(ROOT, 'src');

/** What everybody may import, and what each of them may import of ours. */
const LEAVES: { readonly [file: string]: readonly string[] } = {
  'errors.ts': [],
  'log.ts': [],
  'op.ts': [],
  'mark/scheme.ts': [],
  'datagram.ts': ['ip.ts'],
  'ip.ts': ['errors.ts'], // an address that is none is a usage error
  'native.ts': ['errors.ts'], // an addon that does not load is an error for users
};

/** Arrows between modules beside module -> leaf and app -> all. */
const ARROWS: { readonly [arrow: string]: string } = {
  'netlink/diag.ts -> firewall/policy.ts':
    'one type for a TCP connection: what sock_diag reads is what the filter exempts',
  'dns/name-log-format.ts -> state/crc32.ts': 'a line of the name log is checked as one of the journal is',
  'dns/name-log.ts -> state/atomic-file.ts':
    'the name log is replaced and its failures are worded as those of the journal',
};

/** Who starts other programs, and which; each is an attack surface of a privileged process. */
const SPAWNERS: { readonly [file: string]: string } = {
  'app/config-sources.ts': 'getent: users of directory services',
  'app/demo.ts': 'unshare, ip, curl, nft: inside throw-away namespaces',
  'app/demo-net.ts': 'ip: inside a throw-away namespace',
  'app/elsewhere.ts': 'setpriv and this very program: as the user who owns the tunnel, never on his files as root',
  'app/idle-memory.ts': 'nothing: it loads what node has compiled, before it changes a flag of V8',
  'app/launch.ts': 'this very program, as the daemon',
  'app/network-manager.ts': 'nmcli: NetworkManager has no other face without a D-Bus client',
  'app/service-manager.ts': 'systemd-notify: Node cannot send unix datagrams',
  'firewall/tool.ts': 'nft, iptables: where libnftables is missing, and only as root',
};

const IO = /^node:(fs|net|tls|http|https|dgram|dns|child_process|worker_threads)(\/|$)/;

interface Source {
  /** Relative to src/. */
  readonly file: string;
  readonly text: string;
  /** Ours: relative to src/. Others: as written. */
  readonly imports: readonly string[];
}

function sources(): readonly Source[] {
  const files = fs.readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'));
  return files.map((file) => {
    const text = fs.readFileSync(path.join(SRC, file), 'utf8');
    const imports = [...text.matchAll(/^(?:import|export)\b[^;]*?from '([^']+)'|\bimport\('([^']+)'\)/gm)]
      .map((match) => match[1] ?? match[2] ?? '')
      .map((name) => (name.startsWith('.') ? path.relative(SRC, path.resolve(SRC, path.dirname(file), name)) : name));
    return { file, text, imports };
  });
}

const ALL = sources();
const isOurs = (name: string): boolean => name.endsWith('.ts');
const moduleOf = (file: string): string => file.split('/')[0] ?? '';

test('the sources are found', () => {
  expect(ALL.length).toBeGreaterThan(20);
  expect(ALL.find(({ file }) => file === 'app/main.ts')?.imports).toContain('errors.ts');
});

test('leaves import nothing of ours but what is said here', () => {
  for (const [leaf, allowed] of Object.entries(LEAVES)) {
    const source = ALL.find(({ file }) => file === leaf);
    expect(source?.imports.filter(isOurs), leaf).toEqual(allowed);
  }
});

test('a module imports leaves and itself; only app imports all', () => {
  const strangers = ALL.filter(({ file }) => moduleOf(file) !== 'app' && !(file in LEAVES)).flatMap(
    ({ file, imports }) =>
      imports
        .filter(isOurs)
        .filter((target) => !(target in LEAVES) && moduleOf(target) !== moduleOf(file))
        .map((target) => `${file} -> ${target}`),
  );
  expect(strangers.filter((arrow) => !(arrow in ARROWS))).toEqual([]);
});

test('every exception is still needed', () => {
  const arrows = ALL.flatMap(({ file, imports }) => imports.map((target) => `${file} -> ${target}`));
  expect(Object.keys(ARROWS).filter((arrow) => !arrows.includes(arrow))).toEqual([]);
  const spawners = ALL.filter(({ imports }) => imports.includes('node:child_process')).map(({ file }) => file);
  expect(Object.keys(SPAWNERS).filter((file) => !spawners.includes(file))).toEqual([]);
});

test('a file that calls itself pure does no I/O and reads no environment', () => {
  const pure = ALL.filter(({ text }) => /\(pure/.test(text.slice(0, text.indexOf('*/'))));
  expect(pure.map(({ file }) => file)).toContain('app/plan.ts');
  for (const { file, imports, text } of pure) {
    expect(
      imports.filter((name) => IO.test(name)),
      file,
    ).toEqual([]);
    expect(/process\.(env|pid|cwd)|Date\.now/.test(text), file).toBe(false);
  }
});

describe('one owner each', () => {
  test('only main.ts exits', () => {
    const exiting = ALL.filter(({ text }) => /process\.(exit|abort|exitCode)\b/.test(text)).map(({ file }) => file);
    expect(exiting).toEqual(['app/main.ts']);
  });

  test('only native.ts loads the addon', () => {
    const loading = ALL.filter(({ text }) => /createRequire|process\.dlopen/.test(text)).map(({ file }) => file);
    expect(loading).toEqual(['native.ts']);
  });

  test('other programs are started here only', () => {
    const spawning = ALL.filter(({ imports }) => imports.includes('node:child_process')).map(({ file }) => file);
    expect(spawning.filter((file) => !(file in SPAWNERS))).toEqual([]);
  });

  test('the credentials are taken out of their hiding place here only', () => {
    const reading = ALL.filter(({ text }) => /credentials\??\.(password|user)\b/.test(text)).map(({ file }) => file);
    expect(reading).toEqual(['app/launch.ts']);
  });
});

test('every file opens with what it owns', () => {
  expect(ALL.filter(({ text }) => !text.startsWith('/**')).map(({ file }) => file)).toEqual([]);
});

test('no file has outgrown its reader', () => {
  const long = ALL.map(({ file, text }) => [file, text.split('\n').length] as const).filter(([, lines]) => lines > 500);
  expect(long).toEqual([]);
});

describe('native/', () => {
  const NATIVE = path.join(ROOT, 'native');

  /** Who knows what of lwIP outside tcp/. */
  const LWIP: { readonly [arrow: string]: string } = {
    'binding/engine_binding.cc -> lwip/init.h': 'its version, for people',
    'relay/naming.cc -> lwip/pbuf.h': 'received data is a list of pbufs: its first bytes tell a name',
    'relay/pump.cc -> lwip/pbuf.h': 'received data is a list of pbufs: sent from where it lies, without a copy',
  };

  const files = fs
    .readdirSync(NATIVE, { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.(cc|h)$/.test(file))
    .map((file) => {
      const text = fs.readFileSync(path.join(NATIVE, file), 'utf8');
      const includes = [...text.matchAll(/^#include ["<]([^">]+)[">]/gm)]
        .map((match) => match[1] ?? '')
        .map((name) => {
          const beside = path.relative(NATIVE, path.resolve(NATIVE, path.dirname(file), name));
          return fs.existsSync(path.join(NATIVE, beside)) ? beside : name;
        });
      return { file, includes };
    });
  const arrows = files.flatMap(({ file, includes }) => includes.map((target) => [file, target] as const));
  const written = (some: typeof arrows): readonly string[] => some.map((arrow) => arrow.join(' -> '));

  /** The folders as the code map of ARCHITECTURE.md lists them. */
  function folders(): readonly string[] {
    const text = fs.readFileSync(path.join(ROOT, 'ARCHITECTURE.md'), 'utf8');
    const table = text.slice(text.indexOf('`native/`:'), text.indexOf('`src/`:'));
    return [...table.matchAll(/^\| `(\w+)\/` \|/gm)].map((match) => match[1] ?? '');
  }

  test('the includes are found', () => {
    expect(written(arrows)).toContain('tcp/lwip_driver.cc -> lwip/priv/tcp_priv.h');
    expect(written(arrows)).toContain('binding/nftables_binding.cc -> base/unique_fd.h');
  });

  test('a folder includes itself and folders above it in the code map', () => {
    const order = folders();
    expect([...order].sort()).toEqual(
      fs
        .readdirSync(NATIVE, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map(({ name }) => name)
        .sort(),
    );
    const ours = arrows.filter(([, target]) => order.includes(moduleOf(target)));
    expect(ours.length).toBeGreaterThan(100);
    const upwards = ours.filter(([file, target]) => order.indexOf(moduleOf(target)) > order.indexOf(moduleOf(file)));
    expect(written(upwards)).toEqual([]);
  });

  test('only tcp/ knows lwIP, but for what is said here', () => {
    const strangers = arrows.filter(([file, target]) => /^(lwip|netif)\//.test(target) && moduleOf(file) !== 'tcp');
    expect([...written(strangers)].sort()).toEqual(Object.keys(LWIP));
  });

  test('only binding/ knows Node', () => {
    const knowing = arrows.filter(([, target]) => /^(napi|node_api|js_native_api|node|uv|v8)\b.*\.h$/.test(target));
    expect([...new Set(knowing.map(([file]) => moduleOf(file)))]).toEqual(['binding']);
  });
});
