import fs from 'node:fs';
import path from 'node:path';
import { test } from 'vitest';
import { Cli } from './cli.ts';
import { upWith } from './dns-client-lab.ts';
import { startLabProxy } from './lab.ts';
import { ADDRESS, makeTopology } from './topology.ts';
test('rate', { timeout: 120_000 }, async () => {
  const topology = await makeTopology();
  const cli = new Cli(topology);
  await startLabProxy(topology.net, 8888);
  await upWith(topology, cli, 'nameserver 203.0.113.99\n', ['--proxy', `${ADDRESS.net.v4}:8888`, '--dns', 'virtual']);
  const py = path.join(topology.directory, 'rate.py');
  fs.writeFileSync(py, `
import socket, struct, time, sys, select
rate = 5000
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("203.0.113.99", 53)); s.setblocking(False)
sent = got = 0; start = time.monotonic()
print("go", flush=True)
while time.monotonic() - start < 60:
    now = time.monotonic()
    while sent < (now - start) * rate:
        name = b"host-%d" % (sent % 2000)
        try: s.send(struct.pack("!HHHHHH", sent & 0xffff, 0x100, 1, 0, 0, 0) + bytes([len(name)]) + name + b"\\7example\\0\\0\\1\\0\\1")
        except BlockingIOError: break
        sent += 1
    try:
        while True: s.recv(600); got += 1
    except BlockingIOError: pass
    time.sleep(0.001)
`);
  const down = path.join(topology.directory, 'down.py');
  fs.writeFileSync(down, `
import socket, time
s = socket.create_connection(("203.0.113.10", 9002)); b = bytearray(1<<20); n = 0; t = time.monotonic()
while time.monotonic() - t < 3: n += s.recv_into(b)
print(round(n * 8 / 3e9, 2))
`);
  const rtt = path.join(topology.directory, 'rtt.py');
  fs.writeFileSync(rtt, `
import socket, time
s = socket.create_connection(("203.0.113.10", 9003)); s.setsockopt(6, 1, 1); l = []; t0 = time.monotonic()
while time.monotonic() - t0 < 2:
    t = time.monotonic(); s.send(b"x\\n"); s.recv(10); l.append(time.monotonic() - t)
l.sort(); print("rtt p50us", int(l[len(l)//2]*1e6), "p99us", int(l[int(len(l)*.99)]*1e6))
`);
  const go = async () => {
    const a = (await topology.app.run(['/usr/bin/python3', down])).stdout.trim();
    const b = (await topology.app.run(['/usr/bin/python3', rtt])).stdout.trim();
    return `Gbit/s ${a} ${b}`;
  };
  for (let i = 0; i < 3; i++) {
    console.log('alone', await go());
    const q = topology.app.start(['/usr/bin/python3', py]);
    await q.until('go', () => q.stdout.includes('go'));
    console.log('5000 q/s', await go());
    await q.stop('SIGKILL');
  }
  console.log((await cli.run(['status'])).stdout);
  await topology.remove();
});
