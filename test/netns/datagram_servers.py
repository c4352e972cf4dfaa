"""UDP echo on ports 443 and 7777 and a DNS server (udp and tcp 53) on each address given. Prints "ready"."""
import select
import socket
import struct
import sys

ANSWERS = {1: socket.inet_pton(socket.AF_INET, "192.0.2.1"), 28: socket.inet_pton(socket.AF_INET6, "2001:db8::1")}


def dns_answer(query):
    """One record for A and AAAA, none for anything else (RFC 1035 section 4)."""
    end = 12
    while query[end] != 0:
        end += query[end] + 1
    question = query[12 : end + 5]
    (kind,) = struct.unpack("!H", question[-4:-2])
    data = ANSWERS.get(kind)
    head = query[:2] + struct.pack("!HHHHH", 0x8580, 1, 1 if data else 0, 0, 0)
    if not data:
        return head + question
    return head + question + struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(data)) + data


def listen(address, port, kind):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, port))
    if kind == socket.SOCK_STREAM:
        s.listen(16)
    return s


def serve_tcp_dns(listener):
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(2)
        head = connection.recv(2, socket.MSG_WAITALL)
        if len(head) == 2:
            query = connection.recv(struct.unpack("!H", head)[0], socket.MSG_WAITALL)
            answer = dns_answer(query)
            connection.sendall(struct.pack("!H", len(answer)) + answer)


def main():
    datagrams, streams = {}, []
    for address in sys.argv[1:]:
        for port in (53, 443, 7777):
            s = listen(address, port, socket.SOCK_DGRAM)
            datagrams[s] = port
        streams.append(listen(address, 53, socket.SOCK_STREAM))
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([*datagrams, *streams], [], [])
        for s in ready:
            try:
                if s in streams:
                    serve_tcp_dns(s)
                else:
                    data, sender = s.recvfrom(65535)
                    s.sendto(dns_answer(data) if datagrams[s] == 53 else data, sender)
            except (OSError, IndexError, struct.error) as e:
                print("ignored: %s" % e, file=sys.stderr)


main()
