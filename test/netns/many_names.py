"""Resolves many names and connects to each: many_names.py COUNT RESOLVER PARALLEL. name_proxy.py answers with the name
it was asked for; one that is not the name meant is a mix-up. Prints counts and the rates as JSON."""
import asyncio
import json
import struct
import sys
import time

count, resolver, parallel = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
results = {"resolved": 0, "connected": 0, "mixups": 0, "failed": 0, "addresses": 0, "first": ""}
addresses = set()


class Resolver(asyncio.DatagramProtocol):
    def __init__(self):
        self.waiting = {}
        self.next = 0

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, _):
        waiter = self.waiting.pop(struct.unpack("!H", data[:2])[0], None)
        if waiter and not waiter.done():
            waiter.set_result(data)

    async def address(self, name):
        for _ in range(5):
            self.next = (self.next + 1) & 0xFFFF
            waiter = asyncio.get_running_loop().create_future()
            self.waiting[self.next] = waiter
            labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
            self.transport.sendto(struct.pack("!HHHHHH", self.next, 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1")
            try:
                data = await asyncio.wait_for(waiter, 2)
            except asyncio.TimeoutError:
                continue
            if data[3] & 15 or struct.unpack("!H", data[6:8])[0] != 1:
                raise OSError(f"rcode {data[3] & 15}")
            return ".".join(map(str, data[-4:]))
        raise OSError("no answer")


async def one(dns, name, seconds):
    try:
        start = time.monotonic()
        address = await dns.address(name)
        seconds.append(time.monotonic() - start)
        results["resolved"] += 1
        addresses.add(address)
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, 443), 20)
        line = (await asyncio.wait_for(reader.readline(), 20)).decode().strip()
        writer.close()
        results["connected"] += 1
        if line != f"{name}:443":
            results["mixups"] += 1
            results["first"] = results["first"] or f"{name} got {line}"
    except (OSError, asyncio.TimeoutError) as error:
        results["failed"] += 1
        results["first"] = results["first"] or f"{name}: {error!r}"


async def main():
    loop = asyncio.get_running_loop()
    _, dns = await loop.create_datagram_endpoint(Resolver, remote_addr=(resolver, 53))
    names = iter([f"host-{i}.shop-{i % 977}.example" for i in range(count)])
    seconds = []

    async def work():
        for name in names:
            await one(dns, name, seconds)

    start = time.monotonic()
    await asyncio.gather(*[work() for _ in range(parallel)])
    results["addresses"] = len(addresses)
    results["seconds"] = round(time.monotonic() - start, 2)
    print(json.dumps(results))


asyncio.run(main())
