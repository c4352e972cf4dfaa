/** Both units under a systemd that boots: blocked from the start, up, killed, restarted, stopped; then a wrong configuration. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { run } from './process.ts';
import { refuseOnHost } from './topology.ts';

const ROOT = path.join(import.meta.dirname, '..', '..');
const canBoot =
  fs.existsSync('/lib/systemd/systemd') &&
  / - cgroup2 /.test(fs.readFileSync('/proc/self/mountinfo', 'utf8')) &&
  spawnSync('unshare', ['--cgroup', 'true']).status === 0;

const TRIAL = `
umount -l /old
PATH=/usr/local/bin:$PATH
rc() { "$@" && echo "rc 0" || echo "rc $?"; }
filter() { nft list table inet proxyvpn 2>/dev/null | grep -c 'policy drop' || true; }
echo "== boot"
systemctl is-active proxyvpn-killswitch
filter
stat -c '%U %a' /run/proxyvpn-service
rc proxyvpn killswitch status
timeout 5 bash -c 'exec 3<>/dev/tcp/10.9.0.3/80' 2>&1 | grep -o refused | head -n 1

echo "== start"
cat >/etc/proxyvpn/default.conf <<'END'
proxy-file = "default.proxy"
bypass-user = "nobody"
END
echo 'http://u:MARKERs3cret@10.9.0.2:3128' >/etc/proxyvpn/default.proxy
chown root:proxyvpn /etc/proxyvpn/default.*
chmod 640 /etc/proxyvpn/default.*
printf 'Port 3128\\nListen 10.9.0.2\\nAllow 10.9.0.0/24\\nConnectPort 443\\n' >/etc/trial-proxy.conf
systemd-run --quiet --unit=proxy --uid=nobody /usr/bin/tinyproxy -d -c /etc/trial-proxy.conf
until ss -Hltn 'sport = :3128' | grep -q .; do sleep 0.05; done
rc systemctl start proxyvpn@default
systemctl is-active proxyvpn@default
proxyvpn status --json

echo "== killed"
first=$(systemctl show -P MainPID proxyvpn@default)
systemctl kill --signal=KILL proxyvpn@default
missing=0
until [ "$(systemctl show -P NRestarts proxyvpn@default)" = 1 ] && systemctl is-active --quiet proxyvpn@default; do
  [ "$(filter)" = 3 ] || missing=$((missing + 1))
done
echo "missing $missing"
[ "$(systemctl show -P MainPID proxyvpn@default)" != "$first" ] && echo another process

echo "== stop"
rc systemctl stop proxyvpn@default
systemctl show -P Result proxyvpn@default
rc proxyvpn killswitch status

echo "== wrong"
echo 'lan = "perhaps"' >>/etc/proxyvpn/default.conf
systemctl restart proxyvpn-killswitch 2>/dev/null || systemctl is-failed proxyvpn-killswitch
filter
systemctl start proxyvpn@default 2>/dev/null || systemctl show -P ExecMainStatus proxyvpn@default
systemctl show -P NRestarts proxyvpn@default
journalctl --no-pager -o cat -u proxyvpn@default | grep -c 'default.conf:3: lan' || true

echo "== off"
rc proxyvpn killswitch off
filter
journalctl --no-pager -o cat | grep -c MARKERs3cret || true

echo "== end"
`;

describe.runIf(canBoot)('a host that boots', () => {
  const sections = new Map<string, string>();
  beforeAll(async () => {
    refuseOnHost();
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pvt-boot-'));
    try {
      const ran = await run(['bash', path.join(import.meta.dirname, 'boot.sh'), directory, TRIAL, ROOT], {
        timeoutMs: 150_000,
      });
      for (const section of ran.stdout.split('== ').slice(1)) {
        const end = section.indexOf('\n');
        sections.set(section.slice(0, end), section.slice(end + 1).trim());
      }
      if (!sections.has('end')) throw new Error(`it did not come to its end:\n${ran.stdout}${ran.stderr}`);
    } finally {
      fs.rmSync(directory, { recursive: true });
    }
  }, 160_000);
  const lines = (name: string): readonly string[] => (sections.get(name) ?? '').split('\n');

  test('is blocked before the network is configured, and root sees it', () => {
    expect(lines('boot')).toEqual([
      'active',
      '3',
      'proxyvpn 700',
      expect.stringContaining('the killswitch is on'),
      'rc 0',
      'refused',
    ]);
  });

  test('starts the tunnel from its configuration, ready when systemctl returns', () => {
    const [code, state, status = ''] = lines('start');
    expect([code, state]).toEqual(['rc 0', 'active']);
    // The killswitch stands, so the tunnel has one.
    expect(JSON.parse(status)).toMatchObject({ state: 'up', killswitch: true });
  });

  test('restarts a tunnel that was killed, and the filter is there at every look in between', () => {
    expect(lines('killed')).toEqual(['missing 0', 'another process']);
  });

  test('stops it, and the killswitch stands', () => {
    expect(lines('stop')).toEqual(['rc 0', 'success', expect.stringContaining('is on'), 'rc 0']);
  });

  test('with a wrong configuration all is blocked, the units have failed and do not try again', () => {
    expect(lines('wrong')).toEqual(['failed', '3', '2', '0', '1']);
  });

  test('opens when it is switched off; the password is in no log', () => {
    expect(lines('off')).toEqual([expect.stringContaining('is off'), 'rc 0', '0', '0']);
  });
});
