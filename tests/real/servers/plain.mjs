// A plain HTTP service on Node, no MCP: node plain.mjs PORT KEEP_ALIVE_SECONDS. What it answers: plain.py.
// Node tells its keep-alive time (Keep-Alive: timeout=…); the second of grace it adds to it is taken away here, so the hint is sharp.
import * as http from "node:http";

const lastUsed = new WeakMap(); // by socket
let gone = 0;

async function readBody(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return Buffer.concat(pieces);
}

function stream(response, most) {
  response.writeHead(200, { "content-type": "text/event-stream" });
  let number = 0;
  const timer = setInterval(() => {
    number += 1;
    response.write(`id: ${number}\ndata: event ${number}\n\n`);
    if (number === most) { clearInterval(timer); response.end(); }
  }, 50);
  response.on("close", () => { clearInterval(timer); if (!response.writableFinished) gone += 1; });
}

const server = http.createServer(async (request, response) => {
  const { socket, url } = request;
  const now = performance.now();
  response.on("finish", () => lastUsed.set(socket, performance.now()));
  const body = await readBody(request);
  const json = (value) => { response.setHeader("content-type", "application/json"); response.end(JSON.stringify(value)); };
  if (url === "/events") stream(response, 5);
  else if (url === "/endless") stream(response, undefined);
  else if (url === "/gone") json({ gone });
  else if (url.startsWith("/idle")) json({ idle: lastUsed.has(socket) ? (now - lastUsed.get(socket)) / 1000 : null });
  else response.end(body);
});
server.keepAliveTimeout = Number(process.argv[3]) * 1000;
server.keepAliveTimeoutBuffer = 0;
server.listen(Number(process.argv[2]), "127.0.0.1");
