// A Socket.IO server that greets, echoes `say`, and beats fast: `node socket_io.js PORT`.
const { Server } = require('socket.io');

const port = Number(process.argv[2]);
const io = new Server(port, { pingInterval: 300, pingTimeout: 2000 });
io.use((socket, next) => (socket.handshake.auth.token === 'right' ? next() : next(new Error('not you'))));
io.on('connection', (socket) => {
  socket.emit('greeting', { recovered: false });
  socket.on('say', (text) => socket.emit('said', text));
});
process.on('SIGTERM', () => process.exit(0));
console.log('listening');
