import { expect, test } from 'vitest';
import { TunDevice, type TunOpener } from '../../../src/tunstack/device.ts';

const op = { kind: 'tun.create', name: 'pvpn0', queues: 2 } as const;

function fakeOpener(): TunOpener & { readonly open: Set<number> } {
  const open = new Set<number>();
  return {
    open,
    openTun(name, queues) {
      const fds = Array.from({ length: queues }, (_, index) => 30 + index);
      const writerFds = fds.map((fd) => fd + 10);
      for (const fd of [...fds, ...writerFds]) open.add(fd);
      return { name, fds, writerFds };
    },
    closeFd: (fd) => void open.delete(fd),
  };
}

test('a device lives from apply to undo', async () => {
  const opener = fakeOpener();
  const device = new TunDevice(
    async () => opener.open.size > 0,
    () => opener,
  );
  await device.observe(op);
  await device.apply(op);
  expect(device.fds).toEqual([30, 31]);
  expect(device.writerFds).toEqual([40, 41]);
  expect(await device.undo(op)).toEqual({ outcome: 'undone' });
  expect([...opener.open]).toEqual([]);
  expect(await device.undo(op)).toEqual({ outcome: 'absent' });
});

test('a device of that name that is there already is not taken over', async () => {
  const device = new TunDevice(async () => true, fakeOpener);
  await expect(device.observe(op)).rejects.toMatchObject({ code: 'E_TUN_EXISTS' });
});

test('in another process, undo waits until the dead daemon has lost its device', async () => {
  let looks = 0;
  const device = new TunDevice(async () => ++looks < 4, fakeOpener);
  expect(await device.undo(op)).toEqual({ outcome: 'absent' });
  expect(looks).toBe(4);
});

test('a refused open tells the errno and what to do', async () => {
  const refuse = (): TunOpener => ({
    openTun() {
      throw Object.assign(new Error('no'), { code: 'ENOENT', syscall: 'open', errno: 2 });
    },
    closeFd: () => {},
  });
  const device = new TunDevice(async () => false, refuse);
  await expect(device.apply(op)).rejects.toMatchObject({
    code: 'E_TUN_OPEN',
    message: 'cannot create the TUN device pvpn0: open: ENOENT',
    hint: expect.stringContaining('modprobe tun'),
  });
});

test('describe is the ip line', () => {
  const device = new TunDevice(async () => false, fakeOpener);
  expect(device.describe({ ...op, queues: 1 })).toBe('ip tuntap add dev pvpn0 mode tun vnet_hdr');
  expect(device.describe(op)).toBe('ip tuntap add dev pvpn0 mode tun vnet_hdr multi_queue  # 2 queues');
});
