// A client made with the ws library: connects, sends what it reads from its
// standard input line by line, and prints what it gets.
//
//   node chat.mjs URL
import readline from 'node:readline';
import WebSocket from 'ws';

const ws = new WebSocket(process.argv[2]);
ws.on('open', () => console.log('open ' + ws.extensions));
ws.on('message', (data) => console.log(data.toString()));
ws.on('error', (err) => console.log('error ' + err.message));
ws.on('close', (code) => {
  console.log('close ' + code);
  process.exit();
});
const lines = readline.createInterface({ input: process.stdin });
lines.on('line', (line) => (line === 'close' ? ws.close(1000) : ws.send(line)));
