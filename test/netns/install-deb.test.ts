/** The Debian package: made without privilege, installed, removed and purged by the real dpkg; lintian finds no error. */
import { beforeAll, describe, expect, it } from 'vitest';
import { onMachine } from './install-lab.ts';
import type { Ran } from './process.ts';

const OWNER = 64_000;

/** Everything in one machine: making the package is the long part. Lines that begin with `= ` are marks for the tests. */
const STORY = `
  as_owner() { setpriv --reuid ${OWNER} --regid ${OWNER} --clear-groups "$@"; }
  as_member() {
    setpriv --reuid 64123 --regid 64123 --groups "$(getent group proxyvpn | cut -d: -f3)" env -i "$@"
  }
  as_owner env DPKG_DEB_COMPRESSOR_LEVEL=0 scripts/package-deb.sh >/tmp/made 2>&1 || { cat /tmp/made; exit 1; }
  package=$(echo dist/*.deb)
  echo "= package $package"
  as_owner lintian --allow-root --tag-display-limit 0 "$package" 2>/tmp/lintian-errors || true
  cat /tmp/lintian-errors
  echo "= contents"; dpkg-deb --contents "$package"
  files >/tmp/before; getcap -r /usr /opt 2>/dev/null | sort >/tmp/capabilities
  dpkg --force-unsafe-io -i "$package" >/tmp/log
  echo "= installed"; getcap /usr/bin/proxyvpn; stat -c '%U:%G %a %n' /usr/bin/proxyvpn /etc/proxyvpn
  as_user /usr/bin/proxyvpn --version || echo "others: $?"
  as_member /usr/bin/proxyvpn --version && echo "members: $?"
  echo "= again"; dpkg --force-unsafe-io -i "$package" >/tmp/log; getcap /usr/bin/proxyvpn
  echo "= up"; mkdir -p /run/user/64123/proxyvpn/default; touch /run/user/64123/proxyvpn/default/journal
  dpkg -r proxyvpn 2>&1 || echo "removal: $?"
  rm /run/user/64123/proxyvpn/default/journal
  echo "= override"
  dpkg-statoverride --update --add root root 0755 /usr/bin/proxyvpn
  dpkg-reconfigure -fnoninteractive proxyvpn
  as_user /usr/bin/proxyvpn --version && echo "others now: $?"
  echo "= removed"; dpkg -r proxyvpn; [ ! -e /usr/bin/proxyvpn ] && echo "removal: $?"
  dpkg -P proxyvpn; dpkg -s proxyvpn 2>/dev/null | grep ^Status || echo "purged"
  dpkg-statoverride --list /usr/bin/proxyvpn || echo "no override"
  files | diff /tmp/before - && getcap -r /usr /opt 2>/dev/null | sort | diff /tmp/capabilities - && echo RESTORED
`;

let ran: Ran;
/** What was printed between a mark and the next. */
const printedBehind = (mark: string): string => `${ran.stdout.split(`= ${mark}`)[1]?.split('\n= ')[0]}\n`;

beforeAll(async () => {
  ran = await onMachine(STORY, OWNER);
}, 300_000);

describe('the package', () => {
  it('is made by a user without rights, and its life ends without a trace', () => {
    expect(ran.code, ran.stdout + ran.stderr).toBe(0);
    expect(printedBehind('package')).toMatch(/dist\/proxyvpn_\S+_\w+\.deb/);
    expect(ran.stdout).toMatch(/RESTORED\n$/);
  });

  it('has no error by lintian', () => {
    expect(printedBehind('package')).not.toMatch(/^E: /m);
    expect(printedBehind('package'), 'it did look').toMatch(/^W: proxyvpn: /m);
  });

  it('has everything in the places of Debian, as root', () => {
    const contents = printedBehind('contents');
    for (const file of [
      './usr/bin/proxyvpn',
      './usr/lib/proxyvpn/node',
      './usr/lib/systemd/system/proxyvpn@.service',
      './usr/lib/systemd/system/proxyvpn-killswitch.service',
      './usr/share/man/man1/proxyvpn.1.gz',
      './usr/share/bash-completion/completions/proxyvpn',
      './usr/share/zsh/vendor-completions/_proxyvpn',
      './usr/share/fish/vendor_completions.d/proxyvpn.fish',
      './usr/share/doc/proxyvpn/copyright',
    ])
      expect(contents).toContain(` ${file}\n`);
    for (const line of contents.trim().split('\n')) expect(line).toContain(' root/root ');
  });

  it('gives the capability at installation, to the members of its group', () => {
    const installed = printedBehind('installed');
    expect(installed).toContain('/usr/bin/proxyvpn cap_net_admin=p');
    expect(installed).toContain('root:proxyvpn 750 /usr/bin/proxyvpn');
    expect(installed).toContain('root:proxyvpn 750 /etc/proxyvpn');
    expect(installed).toContain('others: 126\n');
    expect(installed).toContain('members: 0\n');
    expect(printedBehind('again'), 'an upgrade, too').toContain('/usr/bin/proxyvpn cap_net_admin=p');
  });

  it("obeys the administrator's dpkg-statoverride", () => {
    expect(printedBehind('override')).toContain('others now: 0\n');
  });

  it('is not removed while a tunnel is up: nothing would be left to take that down', () => {
    expect(printedBehind('up')).toContain('/run/user/64123/proxyvpn/default/journal');
    expect(printedBehind('up')).toContain('removal: 1\n');
  });

  it('is removed and purged', () => {
    expect(printedBehind('removed')).toContain('removal: 0\n');
    expect(printedBehind('removed')).toContain('purged\n');
    expect(printedBehind('removed')).toContain('no override\n');
  });
});
