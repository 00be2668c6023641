// A server that offers everything, built with the TypeScript SDK 2.x, both eras: full_mcp2.py tells what.  full_ts2.mjs NAME stdio | PORT
// Streamable HTTP on /mcp: newer requests by createMcpHandler, sessions of the older era beside it, as the SDK's manual says. It has no HTTP+SSE.
// A tool that asks is written once: towards an older client the SDK makes requests of what `inputRequired` returns.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { randomUUID } from "node:crypto";
import * as http from "node:http";

const require = createRequire((process.env.MODULES ?? process.cwd()) + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { McpServer, ResourceTemplate, completable, createMcpHandler, inputRequired, isLegacyRequest } = await load("@modelcontextprotocol/server");
const { serveStdio } = await load("@modelcontextprotocol/server/stdio");
const { NodeStreamableHTTPServerTransport, toNodeHandler, toWebRequest } = await load("@modelcontextprotocol/node");
const { z } = await load("zod");

const [NAME, MODE] = process.argv.slice(2);
const DATA = Buffer.from("\0full\xff", "latin1").toString("base64");
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const says = (text) => ({ content: [{ type: "text", text }] });
const cancelledKeys = new Set();
let modern;  // the handler of the newer era: it tells listeners of changes

function build() {
  const capabilities = { logging: {}, resources: { subscribe: true, listChanged: true }, tools: { listChanged: true } };
  const server = new McpServer({ name: NAME, version: "1" }, { capabilities, instructions: `This is ${NAME}.` });
  const subscribed = new Set();
  const tool = (name, shape, handler, more = {}) => server.registerTool(name, { inputSchema: z.object(shape), ...more }, handler);

  // tools that only answer
  tool("echo", { message: z.string() }, async ({ message }) => says(`Echo: ${message}`));
  const sum = { outputSchema: z.object({ result: z.number() }) };
  tool("add", { a: z.number(), b: z.number() }, async ({ a, b }) => ({ ...says(`${a + b}`), structuredContent: { result: a + b } }), sum);
  tool("pieces", {}, async () => ({ content: [
    { type: "text", text: "words" }, { type: "image", data: DATA, mimeType: "image/png" }, { type: "audio", data: DATA, mimeType: "audio/wav" },
    { type: "resource", resource: { uri: `full://${NAME}/embedded`, text: "inside" } },
    { type: "resource_link", uri: `full://${NAME}/text`, name: "text" }] }));
  tool("fail", {}, async () => { throw new Error("meant to fail"); });

  // tools that talk while they work
  async function progress(context, step, total, message) {
    const progressToken = context.mcpReq._meta?.progressToken;
    if (progressToken !== undefined) await context.mcpReq.notify({ method: "notifications/progress", params: { progressToken, progress: step, total, message } });
  }
  tool("steps", { count: z.number(), pause: z.number() }, async ({ count, pause }, context) => {
    for (let step = 1; step <= count; step++) {
      await progress(context, step, count, `step ${step}`);
      await sleep(pause);
    }
    return says(`${count} steps`);
  });
  tool("talk", { words: z.string() }, async ({ words }, context) => {
    for (const level of ["info", "error"]) await context.mcpReq.log(level, `${level} ${words}`, "full");
    return says("talked");
  });
  tool("hang", { key: z.string() }, async ({ key }, context) => {
    const signal = context.mcpReq.signal;
    await progress(context, 1, 2, "begun");
    await new Promise((resolve) => { signal.addEventListener("abort", resolve); setTimeout(resolve, 20000).unref(); });
    if (signal.aborted) cancelledKeys.add(key);
    return says("over");
  });
  tool("cancelled", { key: z.string() }, async ({ key }) => says(cancelledKeys.has(key) ? "yes" : "no"));
  tool("drop", {}, async (_, context) => { context.http?.closeSSE?.(); await sleep(0.1); return says("back"); });

  // tools that ask
  const question = (message) => inputRequired.elicit({ message, requestedSchema: { type: "object", properties: { answer: { type: "string" } }, required: ["answer"] } });
  tool("sample", { prompt: z.string() }, async ({ prompt }, context) => {
    const answer = context.mcpReq.inputResponses?.it;
    if (answer) return says(`Sampled: ${answer.content.text}`);
    const messages = [{ role: "user", content: { type: "text", text: prompt } }];
    return inputRequired({ inputRequests: { it: inputRequired.createMessage({ messages, maxTokens: 10 }) }, requestState: "asked" });
  });
  tool("ask", { key: z.string() }, async ({ key }, context) => {
    const answer = context.mcpReq.inputResponses?.it;
    return answer ? says(`Hello ${answer.content.answer}`) : inputRequired({ inputRequests: { it: question(`Name of ${key}?`) }, requestState: "asked" });
  });
  tool("interview", { key: z.string() }, async ({ key }, context) => {
    const { name, color } = context.mcpReq.inputResponses ?? {};
    if (color) return says(`${context.mcpReq.requestState()} ${color.content.answer}`);
    if (name) return inputRequired({ inputRequests: { color: question(`Color of ${key}?`) }, requestState: name.content.answer });
    return inputRequired({ inputRequests: { name: question(`Name of ${key}?`) }, requestState: "one" });
  });
  tool("roots", {}, async (_, context) => {
    const answer = context.mcpReq.inputResponses?.it;
    return answer ? says(answer.roots.map((root) => root.uri).join(" ")) : inputRequired({ inputRequests: { it: inputRequired.listRoots() }, requestState: "asked" });
  });

  // changes told outside of the call
  server.server.setRequestHandler("resources/subscribe", async ({ params }) => { subscribed.add(params.uri); return {}; });
  server.server.setRequestHandler("resources/unsubscribe", async ({ params }) => { subscribed.delete(params.uri); return {}; });
  const tell = async (newer, older) => { if (modern) newer(modern.notify); await older(); };
  tool("touch", { uri: z.string() }, async ({ uri }, context) => {
    const listened = MODE === "stdio" && context.mcpReq.envelope;  // there the SDK knows who listens to what
    await tell((notify) => notify.resourceUpdated(uri), async () => (listened || subscribed.has(uri)) && server.server.sendResourceUpdated({ uri }));
    return says("touched");
  });
  tool("change", {}, async () => { await tell((notify) => notify.toolsChanged(), async () => server.sendToolListChanged()); return says("changed"); });

  // prompts, resources, completion
  const starting = (words) => (value) => words.filter((word) => word.startsWith(value));
  server.registerPrompt("greet", { argsSchema: z.object({ name: completable(z.string(), starting(["Ada", "Alan", "Bob"])) }) },
    ({ name }) => ({ messages: [{ role: "user", content: { type: "text", text: `Greet ${name}` } }] }));
  const plain = { mimeType: "text/plain" };
  server.registerResource("text", `full://${NAME}/text`, plain, async (uri) => ({ contents: [{ uri: uri.href, text: `text of ${NAME}` }] }));
  server.registerResource("blob", `full://${NAME}/blob`, {}, async (uri) => ({ contents: [{ uri: uri.href, blob: DATA }] }));
  const template = new ResourceTemplate(`full://${NAME}/item/{id}`, { list: undefined, complete: { id: starting(["one", "two"]) } });
  server.registerResource("item", template, plain, async (uri, { id }) => ({ contents: [{ uri: uri.href, text: `item ${id}` }] }));
  return server;
}

class Events {  // enough of an event store: streams can be resumed
  stored = [];
  async storeEvent(stream, message) { this.stored.push([stream, message]); return String(this.stored.length); }
  async getStreamIdForEventId(id) { return this.stored[Number(id) - 1]?.[0]; }
  async replayEventsAfter(last, { send }) {
    const stream = this.stored[Number(last) - 1][0];
    for (let number = Number(last); number < this.stored.length; number++) {
      const [where, message] = this.stored[number];
      if (where === stream && message.jsonrpc) await send(String(number + 1), message);
    }
    return stream;
  }
}

const sessions = new Map();
async function older(request, response, body) {
  const id = request.headers["mcp-session-id"];
  let transport = sessions.get(id);
  if (id && !transport) return response.writeHead(404).end();
  if (!transport) {
    transport = new NodeStreamableHTTPServerTransport({ sessionIdGenerator: randomUUID, eventStore: new Events(), retryInterval: 100,
      onsessioninitialized: (made) => sessions.set(made, transport) });
    transport.onclose = () => sessions.delete(transport.sessionId);
    await build().connect(transport);
  }
  await transport.handleRequest(request, response, body);
}

async function answer(request, response) {
  let body;
  if (request.method === "POST") {
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    body = JSON.parse(Buffer.concat(pieces));
  }
  if (await isLegacyRequest(await toWebRequest(request, body), body)) await older(request, response, body);
  else await newer(request, response, body);
}

let newer;
if (MODE === "stdio") serveStdio(build);
else {
  modern = createMcpHandler(build, { legacy: "reject" });
  newer = toNodeHandler(modern);
  http.createServer((request, response) => answer(request, response).catch((error) => { console.error(error); response.destroy(); })).listen(Number(MODE), "127.0.0.1");
}
