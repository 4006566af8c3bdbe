// What a user would write with Node, ws and node:http: one process, no journal.
// With the argument `batched` it does what few think of: all blocks of one turn of the event loop leave in one write.
'use strict';
const http = require('node:http');
const WebSocket = require('ws');

const batched = process.argv.includes('batched');
const connections = new Map();
let number = 0;

function read(request) {
  return new Promise((resolve) => {
    const parts = [];
    request.on('data', (part) => parts.push(part));
    request.on('end', () => resolve(Buffer.concat(parts).toString()));
  });
}

function json(response, status, value) {
  const body = JSON.stringify(value);
  response.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) });
  response.end(body);
}

async function create(request, response) {
  const { url } = JSON.parse(await read(request));
  const socket = new WebSocket(url, { perMessageDeflate: false });
  const connection = { id: ++number, socket, seq: 0, subscribers: new Set() };
  socket.on('open', () => {
    connections.set(connection.id, connection);
    json(response, 201, { id: connection.id });
  });
  socket.on('message', (data) => {
    const seq = ++connection.seq;
    const event = JSON.stringify({ connection: connection.id, seq, event: { type: 'message', data: data.toString() } });
    const block = `id: ${seq}\nevent: onMessage\ndata: ${event}\n\n`;
    for (const subscriber of connection.subscribers) subscriber.push(block);
  });
}

function subscribe(request, response, sources) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream' });
  response.flushHeaders();
  let pending = '';
  const subscriber = {
    push(block) {
      if (!batched) return response.write(block);
      if (!pending) setImmediate(flush);
      pending += block;
    },
  };
  function flush() {
    response.write(pending);
    pending = '';
  }
  for (const source of sources) source.subscribers.add(subscriber);
  request.on('close', () => sources.forEach((source) => source.subscribers.delete(subscriber)));
}

const server = http.createServer(async (request, response) => {
  const path = request.url.split('/');
  if (request.method === 'POST' && request.url === '/v1/connections') return create(request, response);
  if (request.url === '/v1/events') return subscribe(request, response, [...connections.values()]);
  const connection = connections.get(Number(path[3]));
  if (!connection) return json(response, 404, {});
  if (path[4] === 'events') return subscribe(request, response, [connection]);
  const data = await read(request);
  connection.socket.send(data);
  return json(response, 200, { sent: 1, bytes: data.length });
});
server.keepAliveTimeout = 60000;
server.listen(Number(process.argv[2]), '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
