"""Asks resolvers in every way that a program may choose, again and again: dns_leaks.py DEVICE RESOLVER... Each round
that is through prints "round N". Whether an answer comes is not its business."""
import socket
import struct
import sys
import time

device, resolvers = sys.argv[1], sys.argv[2:]
QUERY = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\4leak\4test\0\0\1\0\1"
IP_UNICAST_IF, IPV6_UNICAST_IF = 50, 76


def options(kind, s, family):
    if kind == "bound":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
    if kind == "unicast-if":  # systemd-resolved
        index = socket.htonl(socket.if_nametoindex(device))
        if family == socket.AF_INET:
            s.setsockopt(socket.IPPROTO_IP, IP_UNICAST_IF, struct.pack("I", index))
        else:
            s.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_IF, struct.pack("I", index))
    if kind == "port-53":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("", 53))
    if kind == "marked":
        s.setsockopt(socket.SOL_SOCKET, 36, 0x50560200)  # SO_MARK, as of what is routed again


n = 0
while True:
    n += 1
    for resolver in resolvers:
        family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
        for kind in ("plain", "bound", "unicast-if", "port-53", "marked"):
            for protocol in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                s = socket.socket(family, protocol)
                try:
                    options(kind, s, family)
                    s.setblocking(False)
                    if protocol == socket.SOCK_DGRAM:
                        s.sendto(QUERY, (resolver, 53))
                    else:
                        s.connect_ex((resolver, 53))
                        time.sleep(0.01)
                        s.send(struct.pack("!H", len(QUERY)) + QUERY)
                except OSError:
                    pass
                time.sleep(0.005)
                s.close()
    print(f"round {n}", flush=True)
