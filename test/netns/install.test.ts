/** scripts/install.sh and uninstall.sh: one setcap, then no sudo; and afterwards nothing is left. */
import { describe, expect, it } from 'vitest';
import { onMachine } from './install-lab.ts';

/** The checkout's owner where that is not root; the user in whose hands nothing of the installation may be. */
const OWNER = 64_000;

/** Runs the script, which must succeed. @returns what it printed */
async function done(script: string, owner = 0): Promise<string> {
  const ran = await onMachine(script, owner);
  expect(ran.code, ran.stdout + ran.stderr).toBe(0);
  return ran.stdout;
}

/** Runs the script, which must not. @returns what it printed, errors last */
async function failed(script: string, owner = 0): Promise<string> {
  const ran = await onMachine(script, owner);
  expect(ran.code, ran.stdout + ran.stderr).not.toBe(0);
  return ran.stdout + ran.stderr;
}

describe.each([
  ['root', 0],
  ['a user', OWNER],
])('from a checkout of %s', (_who, owner) => {
  it('puts everything in its place, for every user, and removes it again', async () => {
    const printed = await done(
      `files >/tmp/before; getent passwd >/tmp/passwd
       ./scripts/install.sh --bundle-node
       getcap /usr/local/bin/proxyvpn
       stat -c '%U:%G %a %n' /usr/local/bin/proxyvpn /usr/local/lib/proxyvpn/node /etc/proxyvpn
       as_user /usr/local/bin/proxyvpn --version
       files | diff /tmp/before - || true
       ./scripts/uninstall.sh
       echo AFTER
       files | diff /tmp/before - && getent passwd | diff /tmp/passwd - && echo RESTORED`,
      owner,
    );
    expect(printed).toContain('/usr/local/bin/proxyvpn cap_net_admin=p');
    expect(printed).toContain('root:root 755 /usr/local/bin/proxyvpn');
    expect(printed).toContain('root:root 755 /usr/local/lib/proxyvpn/node');
    expect(printed).toContain('root:proxyvpn 750 /etc/proxyvpn');
    expect(printed).toMatch(/^\d+\.\d+\.\d+$/m);
    for (const file of [
      'share/man/man1/proxyvpn.1',
      'share/bash-completion/completions/proxyvpn',
      'share/zsh/site-functions/_proxyvpn',
      'share/fish/vendor_completions.d/proxyvpn.fish',
      'lib/systemd/system/proxyvpn@.service',
      'lib/systemd/system/proxyvpn-killswitch.service',
    ])
      expect(printed).toContain(`> /usr/local/${file}\n`);
    expect(printed).toMatch(/AFTER\n(.*\n)*RESTORED\n$/);
  });
});

it('installing twice, with other options, leaves one installation', async () => {
  const printed = await done(
    `files >/tmp/before
     ./scripts/install.sh --bundle-node --group proxyvpn
     ./scripts/install.sh --node /usr/local/lib/proxyvpn/node --bundle-node
     getcap /usr/local/bin/proxyvpn
     as_user /usr/local/bin/proxyvpn --version
     ./scripts/uninstall.sh
     files | diff /tmp/before - && echo RESTORED`,
  );
  expect(printed).toMatch(/^\d+\.\d+\.\d+$/m);
  expect(printed).toMatch(/RESTORED\n$/);
});

it('--group: its members may run it, others may not, and the services may', async () => {
  const printed = await done(
    `./scripts/install.sh --bundle-node --group tunnellers --prefix /opt/proxyvpn
     stat -c '%U:%G %a' /opt/proxyvpn/bin/proxyvpn
     as_user /opt/proxyvpn/bin/proxyvpn --version 2>&1 || echo "others: $?"
     member=$(getent group tunnellers | cut -d: -f3)
     setpriv --reuid 64123 --regid 64123 --groups "$member" env -i /opt/proxyvpn/bin/proxyvpn --version && echo members
     grep -E '^(ExecStart|Group|SupplementaryGroups)=' /etc/systemd/system/proxyvpn@.service
     ./scripts/uninstall.sh --prefix /opt/proxyvpn
     ! getent group tunnellers && ! getent passwd proxyvpn && [ ! -e /opt/proxyvpn ] && echo GONE`,
  );
  expect(printed).toContain('root:tunnellers 750\n');
  expect(printed).toContain('others: 126\n');
  expect(printed).toContain('members\n');
  expect(printed).toContain('ExecStart=/opt/proxyvpn/bin/proxyvpn up');
  expect(printed).toContain('Group=proxyvpn\nSupplementaryGroups=tunnellers\n');
  expect(printed).toContain('GONE\n');
});

describe('is refused, and leaves nothing, where', () => {
  const restored = `|| { files | diff /tmp/before - && ! getent passwd proxyvpn && echo RESTORED; exit 1; }`;

  it("the node is a user's and is not copied", async () => {
    const errors = await failed(
      `cp "$(realpath "$(command -v node)")" /home/node && chown ${OWNER} /home/node
       files >/tmp/before
       ./scripts/install.sh --node /home/node ${restored}`,
      OWNER,
    );
    expect(errors).toContain('E_LAUNCHER_NODE: others than root can change node: see /home/node');
    expect(errors).toContain('--bundle-node');
    expect(errors).toContain('RESTORED\n');
  });

  it('a user can write to the prefix', async () => {
    const script = `mkdir -p /home/prefix && chown ${OWNER} /home/prefix
      files >/tmp/before
      ./scripts/install.sh --bundle-node --prefix /home/prefix/below ${restored}`;
    const errors = await failed(script);
    expect(errors).toContain('others than root can write to /home/prefix');
    expect(errors).toContain('RESTORED\n');
  });

  it('a file of the checkout leads to one that its owner may not read', async () => {
    const errors = await failed(
      `ln -sf /etc/shadow packaging/man/proxyvpn.1 && chown -h ${OWNER} packaging/man/proxyvpn.1
       files >/tmp/before
       ./scripts/install.sh --bundle-node ${restored}`,
      OWNER,
    );
    expect(errors).toContain('Permission denied');
    expect(errors).toContain('RESTORED\n');
  });

  it('the file system holds no capabilities', async () => {
    const errors = await failed(
      `mkdir /opt/proc && mount -t ramfs ramfs /opt/proc
       files >/tmp/before
       ./scripts/install.sh --bundle-node --prefix /opt/proc ${restored}`,
    );
    expect(errors).toContain('the file system of /opt/proc holds no file capabilities');
    expect(errors).toContain('RESTORED\n');
  });

  it('the user is not root', async () => {
    const script = 'exec setpriv --reuid 64123 --regid 64123 --clear-groups ./scripts/install.sh';
    expect(await failed(script)).toContain('installing needs root');
  });

  it.each(['--prefix relative', '--prefix /a/../b', '--group Bad:name', '--nosuch', '--prefix'])(
    '%s',
    async (option) => {
      expect(await failed(`./scripts/install.sh ${option}`)).toContain('usage: ');
    },
  );
});

it('what the owner builds, he builds with his own rights, never with those of root', async () => {
  const printed = await done(
    `rm -r build/Release dist
     cat >scripts/build.mjs <<'JS'
       import fs from 'node:fs';
       fs.writeFileSync('/tmp/built-by', fs.readFileSync('/proc/self/status'));
       process.exit(1);
JS
     mkdir -p node_modules
     ./scripts/install.sh --bundle-node || true
     grep -E '^(Uid|CapEff|NoNewPrivs)' /tmp/built-by`,
    OWNER,
  );
  expect(printed).toMatch(new RegExp(`^Uid:\\s+${OWNER}\\s+${OWNER}\\s+${OWNER}\\s+${OWNER}$`, 'm'));
  expect(printed).toMatch(/^CapEff:\s+0{16}$/m);
  expect(printed).toMatch(/^NoNewPrivs:\s+1$/m);
});

it('uninstalling waits for tunnels that are up, unless it is forced to', async () => {
  const printed = await done(
    `./scripts/install.sh --bundle-node >/dev/null
     mkdir -p /run/user/64123/proxyvpn/default && touch /run/user/64123/proxyvpn/default/journal
     ./scripts/uninstall.sh 2>&1 || echo "refused: $?"
     as_user /usr/local/bin/proxyvpn --version
     ./scripts/uninstall.sh --force >/dev/null
     [ ! -e /usr/local/bin/proxyvpn ] && echo GONE`,
  );
  expect(printed).toContain('/run/user/64123/proxyvpn/default/journal');
  expect(printed).toContain('refused: 1\n');
  expect(printed).toContain('GONE\n');
});
