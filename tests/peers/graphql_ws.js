// A counting subscription on graphql-ws: `node graphql_ws.js PORT`. A connection without the right token is refused (4403).
const { WebSocketServer } = require('ws');
const { useServer } = require('graphql-ws/lib/use/ws');
const { buildSchema } = require('graphql');

const port = Number(process.argv[2]);
const server = new WebSocketServer({ host: '127.0.0.1', port });
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const roots = {
  query: { hello: () => 'world' },
  subscription: {
    count: async function* () {
      for (let number = 1; ; number += 1) {
        yield { count: number };
        await pause(20);
      }
    },
  },
};
useServer(
  {
    schema: buildSchema('type Query { hello: String } type Subscription { count: Int }'),
    roots,
    onConnect: ({ connectionParams }) => (connectionParams || {}).token === 'right',
  },
  server,
);
process.on('SIGTERM', () => process.exit(0));
console.log('listening');
