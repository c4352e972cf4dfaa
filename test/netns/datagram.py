"""Sends one UDP datagram by a connected socket: datagram.py ADDRESS PORT. Prints "answered" or an errno name, and ms."""
import errno
import socket
import sys
import time

address, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1.5)
start = time.monotonic()
try:
    s.connect((address, port))
    s.send(b"ping")
    outcome = "answered" if s.recv(100) == b"ping" else "garbled"
except socket.timeout:
    outcome = "silence"
except OSError as e:
    outcome = errno.errorcode.get(e.errno, str(e.errno))
print(outcome, round((time.monotonic() - start) * 1000))
