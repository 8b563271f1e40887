// A receiver of webhooks: it subscribes itself, verifies what comes, and prints
// it once, however often it is delivered.
import http from "node:http";
import { parseArgs } from "node:util";
import { Webhook } from "standardwebhooks";

const { values: options } = parseArgs({
  options: {
    listen: { type: "string", default: "3000" },
    control: { type: "string", default: "http://localhost:5561" },
    channel: { type: "string", default: "orders-*" },
  },
});

const secret = `whsec_${Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64")}`;
const webhook = new Webhook(secret);
const seen = new Set(); // a real receiver keeps the ids in its database

const server = http.createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts).toString();
  let event;
  try {
    event = webhook.verify(body, request.headers); // the body as it came, not parsed and written again
  } catch (error) {
    response.writeHead(401).end(`${error.message}\n`);
    return;
  }
  if (event.type === "endpoint.verification") {
    // Proves that we want what somebody subscribed us to.
    response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify({ challenge: event.data.challenge }));
    return;
  }
  const id = request.headers["webhook-id"];
  if (!seen.has(id)) {
    seen.add(id);
    console.log(`${event.type} ${event.data.channel ?? ""} ${JSON.stringify(event.data.formats ?? event.data)}`);
  }
  response.writeHead(204).end(); // after the work is done: anything else is delivered again
});

server.listen(Number(options.listen), "127.0.0.1", async () => {
  const { port } = server.address();
  const endpoint = { id: "example", url: `http://127.0.0.1:${port}/`, channels: [options.channel], order: "in-order", secret };
  // Whoever it was that subscribed before has gone with the secret.
  await fetch(`${options.control}/webhooks/example`, { method: "DELETE" });
  const answer = await fetch(`${options.control}/webhooks/`, { method: "POST", body: JSON.stringify(endpoint) });
  if (!answer.ok) {
    console.error(await answer.text());
    process.exit(1);
  }
  for (;;) {
    const { status } = await (await fetch(`${options.control}/webhooks/example`)).json();
    if (status === "active") break;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  console.log("subscribed");
});
