"""Tries, over and over, every way in which a program's packet may leave past the tunnel.

Usage: leak_probes.py local DEVICE MARK   a program of the host; DEVICE is for SO_BINDTODEVICE, MARK for SO_MARK
       leak_probes.py guest               a container behind it
       leak_probes.py inbound ADDRESS...  somebody outside who provokes answers
       leak_probes.py chatter ADDRESS:PORT...  connections (TCP and UDP) opened once, on which bytes go out for ever
Prints the catalogue as one JSON line (name of the probe -> destination), then a line "round N" for each
round, until it is killed. Each probe has a destination of its own, so that a capture tells which one leaked.
"""
import json
import os
import socket
import struct
import sys
import time

SO_BINDTODEVICE = 25
SO_MARK = 36
PAUSE = 0.002


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def echo_request(family):
    if family == socket.AF_INET6:  # the kernel fills the checksum in
        return struct.pack("!BBHHH", 128, 0, 0, os.getpid() & 0xFFFF, 1)
    head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1)
    return struct.pack("!BBHHH", 8, 0, checksum(head), os.getpid() & 0xFFFF, 1)


DNS_QUERY = bytes.fromhex("123401000001000000000000") + b"\x04leak\x04test\x00\x00\x01\x00\x01"


class Probe:
    def __init__(self, name, family, kind, port, options=(), payload=b"leak", address=None):
        self.name, self.family, self.kind, self.port = name, family, kind, port
        self.options, self.payload, self.address = options, payload, address
        self.open_sockets = []

    def send(self):
        protocol = 0
        if self.kind == socket.SOCK_RAW:
            protocol = socket.IPPROTO_ICMP if self.family == socket.AF_INET else socket.IPPROTO_ICMPV6
        s = socket.socket(self.family, self.kind, protocol)
        try:
            s.setblocking(False)
            for level, option, value in self.options:
                s.setsockopt(level, option, value)
            if self.kind == socket.SOCK_STREAM:
                s.connect((self.address, self.port))
            else:
                s.sendto(self.payload, (self.address, self.port))
        except BlockingIOError:
            # Keep the attempt alive for a while: the SYN and its retransmissions.
            self.open_sockets.append(s)
            s = None
            if len(self.open_sockets) > 20:
                self.open_sockets.pop(0).close()
        except OSError:
            pass  # refused: just what is wanted
        finally:
            if s is not None:
                s.close()


def plain_probes(family):
    v = "4" if family == socket.AF_INET else "6"
    return [
        Probe("udp" + v, family, socket.SOCK_DGRAM, 7777),
        Probe("quic" + v, family, socket.SOCK_DGRAM, 443, payload=b"\xc0" + bytes(1199)),
        Probe("dns-udp" + v, family, socket.SOCK_DGRAM, 53, payload=DNS_QUERY),
        Probe("dns-tcp" + v, family, socket.SOCK_STREAM, 53),
        Probe("tcp" + v, family, socket.SOCK_STREAM, 80),
        Probe("icmp" + v, family, socket.SOCK_RAW, 0, payload=echo_request(family)),
    ]


def privileged_probes(family, device, mark):
    v = "4" if family == socket.AF_INET else "6"
    bound = ((socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode() + b"\0"),)
    marked = ((socket.SOL_SOCKET, SO_MARK, mark),)
    probes = []
    for name, options in (("bound", bound), ("marked", marked), ("bound-marked", bound + marked)):
        probes += [
            Probe("%s-tcp%s" % (name, v), family, socket.SOCK_STREAM, 80, options),
            Probe("%s-udp%s" % (name, v), family, socket.SOCK_DGRAM, 7777, options),
            Probe("%s-dns%s" % (name, v), family, socket.SOCK_DGRAM, 53, options, DNS_QUERY),
            Probe("%s-icmp%s" % (name, v), family, socket.SOCK_RAW, 0, options, echo_request(family)),
        ]
    return probes


def multicast_probes(device):
    index = struct.pack("@I", socket.if_nametoindex(device))
    request = struct.pack("@4s4si", bytes(4), bytes(4), socket.if_nametoindex(device))
    on4 = ((socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request),)
    on6 = ((socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index),)
    broadcast = ((socket.SOL_SOCKET, socket.SO_BROADCAST, 1),)
    return [
        Probe("mdns4", socket.AF_INET, socket.SOCK_DGRAM, 5353, on4, address="224.0.0.251"),
        Probe("mdns6", socket.AF_INET6, socket.SOCK_DGRAM, 5353, on6, address="ff02::fb"),
        Probe("broadcast4", socket.AF_INET, socket.SOCK_DGRAM, 137, broadcast, address="10.77.0.255"),
    ]


def lan_probes():
    """The proxy's own machine, but not its port or not its protocol."""
    return [
        Probe("lan-udp4", socket.AF_INET, socket.SOCK_DGRAM, 8888, address="10.77.0.2"),
        Probe("lan-dns4", socket.AF_INET, socket.SOCK_DGRAM, 53, payload=DNS_QUERY, address="10.77.0.2"),
        Probe("lan-udp6", socket.AF_INET6, socket.SOCK_DGRAM, 8888, address="fd77::2"),
        Probe("lan-icmp4", socket.AF_INET, socket.SOCK_RAW, 0, payload=echo_request(socket.AF_INET), address="10.77.0.2"),
    ]


def inbound_probes(addresses):
    """What a host answers by itself: an echo reply, a reset, a port unreachable."""
    probes = []
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        probes += [
            Probe("ping " + address, family, socket.SOCK_RAW, 0, payload=echo_request(family), address=address),
            Probe("syn " + address, family, socket.SOCK_STREAM, 9, address=address),
            Probe("udp " + address, family, socket.SOCK_DGRAM, 9, address=address),
        ]
    return probes


class Chatter:
    """A connected socket that goes on sending, whatever errors it gets."""

    def __init__(self, kind, address, port):
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        self.socket.settimeout(5)
        self.socket.connect((address, port))
        self.socket.setblocking(False)

    def send(self):
        try:
            self.socket.send(b"still here\n")
        except OSError:
            pass
        try:
            self.socket.recv(65536)
        except OSError:
            pass


def chatter(endpoints):
    sockets = []
    for endpoint in endpoints:
        address, port = endpoint.rsplit(":", 1)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            sockets.append(Chatter(kind, address, int(port)))
    run({}, sockets)


def run(catalogue, senders):
    print(json.dumps(catalogue), flush=True)
    rounds = 0
    while True:
        for sender in senders:
            sender.send()
            time.sleep(PAUSE)
        rounds += 1
        print("round %d" % rounds, flush=True)


def main():
    kinds = sys.argv[1]
    if kinds == "chatter":
        chatter(sys.argv[2:])
    if kinds == "inbound":
        probes = inbound_probes(sys.argv[2:])
    else:
        probes = plain_probes(socket.AF_INET) + plain_probes(socket.AF_INET6)
    if kinds == "local":
        device, mark = sys.argv[2], int(sys.argv[3], 0)
        for family in (socket.AF_INET, socket.AF_INET6):
            probes += privileged_probes(family, device, mark)
        probes += multicast_probes(device) + lan_probes()
    first = 100 if kinds == "local" else 180
    for number, probe in enumerate(probes):
        if probe.address is None:
            base = "203.0.113.%d" if probe.family == socket.AF_INET else "2001:db8:113::%d"
            probe.address = base % (first + number)
    run({p.name: {"address": p.address, "port": p.port} for p in probes}, probes)


main()
