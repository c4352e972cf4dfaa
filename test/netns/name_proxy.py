"""An HTTP proxy that goes nowhere: name_proxy.py PORT [ADDRESS...]. It answers CONNECT with 200 and then sends the
authority it was asked for, as a line. Each authority is printed. Connections stay open until the client ends them."""
import asyncio
import sys


async def serve(reader, writer):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        method, authority, _ = head.split(b"\r\n", 1)[0].split(b" ")
        if method != b"CONNECT":
            writer.write(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
        else:
            sys.stdout.write(authority.decode("latin1") + "\n")
            sys.stdout.flush()
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + authority + b"\n")
            await reader.read()
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, sys.argv[2:] or None, int(sys.argv[1]), backlog=4096)
    async with server:
        await server.serve_forever()


asyncio.run(main())
