"""Greets every TCP connection with argv[1] on the ports argv[2:], answers each "?" with ".", tells "END name bytes"."""
import selectors
import socket
import sys
import threading
import time

name, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
printing = threading.Lock()


def serve(connection):
    connection.sendall(name.encode())
    # So that a client which sends and closes still has something to send.
    time.sleep(0.1)
    total = 0
    try:
        while chunk := connection.recv(1 << 16):
            total += len(chunk)
            connection.sendall(b'.' if chunk == b'?' else b'')
    except OSError as error:
        with printing:
            print('ERROR', name, error, flush=True)
    with printing:
        print('END', name, total, flush=True)


listeners = selectors.DefaultSelector()
for port in ports:
    listener = socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
    listeners.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in listeners.select():
        threading.Thread(target=serve, args=(key.fileobj.accept()[0],), daemon=True).start()
