/** The DNS of a tunnel without a tunnel: datagrams go in, datagrams come out, the engine's table is a Map. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DnsService } from '../../../src/app/dns-service.ts';
import { dnsSocket, namesFile } from '../../../src/app/state-files.ts';
import type { Datagram } from '../../../src/datagram.ts';
import { encodeQuery } from '../../../src/dns/codec.ts';
import { nameFromText } from '../../../src/dns/name.ts';
import { TYPE } from '../../../src/dns/numbers.ts';
import { presentResponse } from '../../../src/dns/present.ts';
import { createStateDirectory, type StateDirectory, stateDirectory } from '../../../src/state/directory.ts';
import { configFor } from './sample.ts';

let directory: StateDirectory;
let service: DnsService | undefined;
beforeEach(() => {
  directory = stateDirectory('default', { path: fs.mkdtempSync(path.join(os.tmpdir(), 'dns-')), isOurs: false });
  createStateDirectory(directory);
});
afterEach(async () => {
  await service?.close();
  fs.rmSync(directory.root.path, { recursive: true });
});

/** As the engine has it: what slots stand for. */
class FakeEngine {
  readonly table = new Map<number, string>();
  readonly sent: Datagram[] = [];
  /** Whether every reply went out after its name was in the table. */
  isOrdered = true;
  setNames(changes: readonly { readonly slot: number; readonly hostname: string | undefined }[]): void {
    for (const { slot, hostname } of changes)
      if (hostname === undefined) this.table.delete(slot);
      else this.table.set(slot, hostname);
  }
  sendDatagrams(datagrams: readonly Datagram[]): void {
    if (this.table.size === 0) this.isOrdered = false;
    this.sent.push(...datagrams);
  }
}

async function start(...argv: readonly string[]): Promise<{ service: DnsService; engine: FakeEngine }> {
  service = await DnsService.start({
    dns: configFor(...argv).dns,
    directory,
    carriesIpv6: true,
    resolvConf: 'search corp.example\n',
    localResolvers: [],
    fwmark: 1,
    proxyHost: 'proxy.example',
    proxyAddresses: ['10.0.0.1'],
    onProblem: () => {},
  });
  const engine = new FakeEngine();
  service.attach(engine);
  return { service, engine };
}

function query(text: string, type: number = TYPE.A): Datagram {
  const name = nameFromText(text);
  if (name === undefined) throw new Error(text);
  const ends = {
    family: 4,
    clientAddress: '198.18.0.1',
    clientPort: 40000,
    serverAddress: '9.9.9.9',
    serverPort: 53,
  } as const;
  return { ...ends, payload: encodeQuery(7, name, type) };
}

function answerIn(engine: FakeEngine): string | undefined {
  const reply = engine.sent.at(-1);
  const shown = reply && presentResponse(Buffer.from(reply.payload));
  return shown?.answers[0]?.data ?? shown?.rcode;
}

test('the engine knows a name before its address is told; a second life starts with the same table', async () => {
  const first = await start();
  first.service.receive([query('www.example.com')]);
  expect(answerIn(first.engine)).toMatch(/^198\.1[89]\./);
  expect(first.engine.isOrdered).toBe(true);
  expect([...first.engine.table.values()]).toEqual(['www.example.com']);
  await first.service.close();
  const second = await start();
  expect([...second.engine.table]).toEqual([...first.engine.table]);
});

test('the proxy is where it is, names of the LAN are nowhere when nobody may be asked', async () => {
  const { service: dns, engine } = await start();
  dns.receive([query('proxy.example')]);
  expect(answerIn(engine)).toBe('10.0.0.1');
  dns.setProxyAddresses(['10.0.0.2']);
  dns.receive([query('proxy.example')]);
  expect(answerIn(engine)).toBe('10.0.0.2');
  dns.receive([query('git.corp.example')]);
  expect(answerIn(engine)).toBe('NXDOMAIN');
  expect(await dns.resolveLocally('proxy.example')).toEqual([]);
  expect(dns.figures).toMatchObject({ queries: 3, virtual: 0, local: 0, failed: 0 });
});

test('servers of ours have addresses that stand for them, in brackets where the proxy needs them', async () => {
  const { service: dns, engine } = await start('--dns', 'over-tcp', '--dns-server', '9.9.9.9,[2620:fe::fe]:5353');
  expect([...engine.table.values()]).toEqual(['9.9.9.9', '[2620:fe::fe]']);
  expect(dns.engineNames.flowWords.length).toBeGreaterThan(Math.max(...engine.table.keys()));
  await dns.close();
  const second = await start('--dns', 'doh', '--dns-server', 'https://dns.example/dns-query');
  expect([...second.engine.table.values()]).toEqual(['dns.example']);
});

describe('files', () => {
  test('the map is private and stays, the socket is private and goes', async () => {
    const { service: dns } = await start();
    dns.receive([query('www.example.com')]);
    expect(fs.statSync(dnsSocket(directory)).mode & 0o777).toBe(0o600);
    expect(fs.statSync(namesFile(directory)).mode & 0o777).toBe(0o600);
    await dns.close();
    expect(fs.readdirSync(directory.path)).toEqual([]);
    expect(fs.existsSync(namesFile(directory))).toBe(true);
  });

  test('only virtual mode keeps a map', async () => {
    await start('--dns', 'over-tcp', '--dns-server', '9.9.9.9');
    expect(fs.existsSync(namesFile(directory))).toBe(false);
  });
});
