// A development chain of Ethereum that mines a block ten times a second: `node ganache.js PORT`.
const ganache = require('ganache');

const server = ganache.server({ logging: { quiet: true }, miner: { blockTime: 1 } });
server.listen(Number(process.argv[2]), '127.0.0.1', (error) => {
  if (error) throw error;
  console.log('listening');
  const mine = () => server.provider.request({ method: 'evm_mine', params: [] }).catch(() => {});
  setInterval(mine, 100);
});
process.on('SIGTERM', () => process.exit(0));
