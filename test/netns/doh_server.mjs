// A DoH server (RFC 8484) that has its answers from a resolver: doh_server.mjs KEY CERTIFICATE ADDRESS RESOLVER.
// Each query is printed.
import fs from 'node:fs';
import http2 from 'node:http2';
import net from 'node:net';

const [key, cert, address, resolver] = process.argv.slice(2);
const server = http2.createSecureServer({ key: fs.readFileSync(key), cert: fs.readFileSync(cert) });

function ask(query) {
  return new Promise((resolve, reject) => {
    // By TCP: no answer is too long.
    const socket = net.connect(53, resolver);
    let received = Buffer.alloc(0);
    socket.once('error', reject);
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      if (received.length < 2 || received.length < 2 + received.readUInt16BE(0)) return;
      socket.destroy();
      resolve(received.subarray(2, 2 + received.readUInt16BE(0)));
    });
    const length = Buffer.alloc(2);
    length.writeUInt16BE(query.length);
    socket.write(Buffer.concat([length, query]));
  });
}

server.on('stream', (stream, headers) => {
  const chunks = [];
  stream.on('error', () => {});
  stream.on('data', (chunk) => chunks.push(chunk));
  stream.on('end', async () => {
    console.log(`${headers[':method']} ${headers[':authority']}${headers[':path']}`);
    const answer = await ask(Buffer.concat(chunks));
    stream.respond({ ':status': 200, 'content-type': 'application/dns-message' });
    stream.end(answer);
  });
});
server.listen(443, address, () => console.log('ready'));
