"""Sends one UDP datagram by a connected socket: datagram.py ADDRESS PORT SECONDS. Prints the outcome.

answered; silence, when nothing came for so long; or an errno name.
"""
import errno
import socket
import sys

address, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[3]))
try:
    s.connect((address, port))
    s.send(b"ping")
    outcome = "answered" if s.recv(100) == b"ping" else "garbled"
except socket.timeout:
    outcome = "silence"
except OSError as e:
    outcome = errno.errorcode.get(e.errno, str(e.errno))
print(outcome)
