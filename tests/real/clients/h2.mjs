// What a Node client does over HTTP/2: node h2.mjs http2|fetch ORIGIN. It prints one line of JSON.
// http2 is Node's own module; fetch is undici's, which is Node's, with the HTTP/2 that Node's leaves off by default.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import * as http2 from "node:http2";

const [kind, origin] = process.argv.slice(2);
const BIG = Buffer.alloc(3_200_000, "0123456789abcdef");
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function overHttp2() {
  const session = http2.connect(origin);
  const open = (method, path) => session.request({ ":method": method, ":path": path });
  const ended = (stream, body) => new Promise((resolve, reject) => {
    const pieces = [];
    let status;
    stream.on("response", (fields) => { status = fields[":status"]; });
    stream.on("data", (piece) => pieces.push(piece)).on("error", reject);
    stream.on("end", () => resolve({ status, body: Buffer.concat(pieces) }));
    stream.end(body);
  });
  return {
    call: async (method, path, body) => ended(open(method, path), body),
    protocol: async () => { await ended(open("GET", "/echo")); return session.alpnProtocol === "h2c" ? "h2" : session.alpnProtocol; },
    stream: async (path, take) => {
      const stream = open("POST", path);
      stream.end();
      for await (const piece of stream) if (take(piece.toString()) === false) break;  // leaving the loop resets the stream
      stream.close(http2.constants.NGHTTP2_CANCEL);
    },
    close: async () => session.close(),
  };
}

async function overFetch() {
  const require = createRequire(process.cwd() + "/");
  const { Agent, fetch } = await import(pathToFileURL(require.resolve("undici")));
  const protocols = new Set();
  const dispatcher = new Agent({ allowH2: true, connections: 1 });
  dispatcher.on("connect", (_origin, targets) => {
    const socket = targets.at(-1)[Object.getOwnPropertySymbols(targets.at(-1)).find((each) => each.description === "socket")];
    protocols.add(socket?.alpnProtocol);
  });
  const ask = (method, path, more) => fetch(origin + path, { method, dispatcher, ...more });
  return {
    call: async (method, path, body) => {
      const response = await ask(method, path, body && { body });
      return { status: response.status, body: Buffer.from(await response.arrayBuffer()) };
    },
    protocol: async () => { await ask("GET", "/echo").then((response) => response.text()); return [...protocols].join(); },
    stream: async (path, take) => {
      const leave = new AbortController();
      try {
        const response = await ask("POST", path, { signal: leave.signal });
        for await (const piece of response.body) if (take(Buffer.from(piece).toString()) === false) leave.abort();
      } catch (error) {
        if (error.name !== "AbortError") throw error;
      }
    },
    close: async () => dispatcher.destroy(),
  };
}

const client = kind === "http2" ? overHttp2() : await overFetch();
const seen = { protocol: await client.protocol() };
const echoes = await Promise.all(Array.from({ length: 50 }, (_, i) => client.call("POST", "/echo", `echo ${i}`)));
seen.echoes = echoes.filter(({ body }, i) => body.toString() === `echo ${i}`).length;
const big = await client.call("POST", "/echo", BIG);
seen.big = big.body.equals(BIG) ? big.body.length : -1;
let events = "";
await client.stream("/events", (piece) => { events += piece; });
seen.first = events.split("\n")[0].trim();
seen.events = events.split("data: event ").length - 1;
const gone = async () => JSON.parse((await client.call("GET", "/gone")).body).gone;
const before = await gone();
await client.stream("/endless", () => false);
for (let i = 0; i < 100 && (await gone()) === before; i++) await sleep(10);
seen.left = (await gone()) - before;
seen.status = (await client.call("HEAD", "/echo")).status;
console.log(JSON.stringify(seen));
await client.close();
