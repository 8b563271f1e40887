// A backend made with the @fanoutio/grip library and Node's own HTTP server.
//
//   node origin.mjs CONTROL_URI
//
// It prints the port it listens on. Requests must come through a GRIP proxy
// that signs them with the key "changeme".
import http from 'node:http';
import {
  GripInstruct, Publisher, WebSocketMessageFormat,
  encodeWebSocketEvents, getWebSocketContextFromNodeReq, isNodeReqWsOverHttp,
} from '@fanoutio/grip';

const publisher = new Publisher({
  control_uri: process.argv[2],
  control_iss: 'tests',
  key: 'changeme',
  verify_iss: 'pushpin',
});

async function answer(req, res) {
  const url = new URL(req.url, 'http://origin');
  const channel = url.searchParams.get('channel');
  const { isProxied, isSigned } = await publisher.validateGripSig(req.headers['grip-sig']);
  if (!isProxied || !isSigned) {
    res.writeHead(403).end('not from the proxy\n');
    return;
  }
  switch (url.pathname) {
    case '/poll': {
      const instruct = new GripInstruct(channel);
      instruct.setHoldLongPoll(20);
      instruct.meta = { user: 'alice' };
      res.writeHead(200, { ...instruct.toHeaders(), 'Content-Type': 'text/plain' }).end('nothing yet\n');
      return;
    }
    case '/stream': {
      const instruct = new GripInstruct([channel]);
      instruct.setHoldStream();
      instruct.setKeepAlive(Buffer.from('ping\n'), 1);
      res.writeHead(200, { ...instruct.toHeaders(), 'Content-Type': 'text/plain' }).end('hello\n');
      return;
    }
    case '/chain': {
      const instruct = new GripInstruct();
      instruct.setNextLink(`/stream?channel=${channel}`);
      res.writeHead(200, { ...instruct.toHeaders(), 'Content-Type': 'text/plain' }).end('first\n');
      return;
    }
    case '/publish-response':
      await publisher.publishHttpResponse(channel, url.searchParams.get('text'));
      break;
    case '/publish-stream':
      await publisher.publishHttpStream(channel, url.searchParams.get('text'));
      break;
    case '/publish-binary':
      await publisher.publishHttpStream(channel, Buffer.from([0, 1, 255, 10]));
      break;
    case '/publish-ws':
      await publisher.publishFormats(channel, new WebSocketMessageFormat(url.searchParams.get('text')));
      break;
    case '/ws': {
      if (!isNodeReqWsOverHttp(req)) {
        res.writeHead(400).end('not WebSocket-over-HTTP\n');
        return;
      }
      const ws = await getWebSocketContextFromNodeReq(req);
      if (ws.isOpening()) {
        ws.accept();
        ws.subscribe(channel);
      }
      while (ws.canRecv()) {
        const message = ws.recv();
        if (message === null) {
          ws.close();
          break;
        }
        ws.send(`echo: ${message}`);
      }
      res.writeHead(200, ws.toHeaders()).end(encodeWebSocketEvents(ws.getOutgoingEvents()));
      return;
    }
    default:
      res.writeHead(404).end();
      return;
  }
  res.writeHead(200).end('published\n');
}

const server = http.createServer((req, res) => {
  answer(req, res).catch((error) => {
    console.error(error);
    res.writeHead(500).end(`${error}\n`);
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
