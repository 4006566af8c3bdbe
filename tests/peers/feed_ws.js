// A numbered feed on Node's ws: `node feed_ws.js PORT RATE`. Says how many sockets it has at each change.
const { WebSocketServer } = require('ws');

const [port, rate] = process.argv.slice(2).map(Number);
const server = new WebSocketServer({ host: '127.0.0.1', port });
let sockets = 0;
const told = (change) => console.log('sockets', (sockets += change));

server.on('connection', (socket) => {
  told(1);
  const began = performance.now();
  let number = 0;
  const timer = setInterval(() => {
    while (number < ((performance.now() - began) / 1000) * rate) socket.send(String((number += 1)));
  }, 5);
  socket.on('error', () => {});
  socket.on('close', () => { clearInterval(timer); told(-1); });
});
process.on('SIGTERM', () => {
  for (const socket of server.clients) socket.close(1001, 'deploying');
  server.close(() => process.exit(0));
  setTimeout(() => process.exit(0), 1000).unref();
});
