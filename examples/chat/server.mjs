// A chat room over WebSockets, made by a backend that keeps no connections and
// no state: the proxy turns each client's messages into HTTP requests.
//
//   node server.mjs [--listen 8000] [--control http://localhost:5561]
//
// If the proxy signs its requests, GRIP_KEY must be its key.
import { parseArgs } from 'node:util';
import { fileURLToPath } from 'node:url';
import express from 'express';
import { ServeGrip } from '@fanoutio/serve-grip';
import { WebSocketMessageFormat } from '@fanoutio/grip';

const { values } = parseArgs({
  options: {
    listen: { type: 'string', default: '8000' },
    control: { type: 'string', default: 'http://localhost:5561' },
  },
});

const serveGrip = new ServeGrip({
  grip: { control_uri: values.control, key: process.env.GRIP_KEY },
});
const say = (message) =>
  serveGrip.getPublisher().publishFormats('room', new WebSocketMessageFormat(JSON.stringify(message)));

const app = express();
const page = fileURLToPath(new URL('index.html', import.meta.url));
app.get('/', (req, res) => res.sendFile(page));

app.post('/ws', serveGrip, async (req, res) => {
  const ws = req.grip.wsContext;
  if (!ws) {
    res.status(400).end('This needs a WebSocket, and a GRIP proxy in front with over_http in its route.\n');
    return;
  }
  if (ws.isOpening()) {
    ws.accept();
    ws.subscribe('room');
  }
  // A request may bring several messages, and none if it is a keep-alive.
  while (ws.canRecv()) {
    let text;
    try {
      text = ws.recv();
    } catch { // the client has gone without a close
      break;
    }
    if (text === null) { // the client has closed
      ws.close();
      break;
    }
    if (!ws.meta.name) { // the first message is the name, which the proxy keeps for us
      ws.meta.name = encodeURIComponent(text.slice(0, 40)) || 'somebody';
      ws.send(JSON.stringify({ welcome: text.slice(0, 40) }));
      continue;
    }
    await say({ from: decodeURIComponent(ws.meta.name), text });
  }
  res.end();
});

const server = app.listen(Number(values.listen), '127.0.0.1', () => console.log(server.address().port));
