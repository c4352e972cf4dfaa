"""A TCP connection held open: connects to argv[1] port argv[2] (SO_MARK argv[3]), asks "?" for each line of input.

Prints "FROM port" once connected, then "." for each answer, or the error.
"""
import socket
import sys

SO_MARK = 36
address, port, mark = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
if mark:
    connection.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
connection.connect((address, port))
connection.recv(100)
print('FROM', connection.getsockname()[1], flush=True)
for _ in sys.stdin:
    try:
        connection.sendall(b'?')
        print(connection.recv(1).decode() or 'EOF', flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
