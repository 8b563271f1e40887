// A client made with sockjs-client: connects by one transport, sends what it
// reads from its standard input line by line, and prints what it gets.
//
//   node sockjs.mjs URL TRANSPORT
import readline from 'node:readline';
import SockJS from 'sockjs-client';

const sock = new SockJS(process.argv[2], null, { transports: [process.argv[3]] });
sock.onopen = () => console.log('open ' + sock.transport);
sock.onmessage = (e) => console.log(e.data);
sock.onclose = (e) => {
  console.log(`close ${e.code} ${e.reason}`);
  process.exit();
};
const lines = readline.createInterface({ input: process.stdin });
lines.on('line', (line) => sock.send(line));
