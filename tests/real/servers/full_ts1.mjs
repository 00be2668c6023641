// A server that offers everything of the older era, built with the TypeScript SDK 1.x: full_mcp2.py tells what.  full_ts1.mjs NAME stdio | PORT
// Streamable HTTP on /mcp, HTTP+SSE on /sse and /messages. Modules are found from the directory it runs in, or from $MODULES.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { randomUUID } from "node:crypto";
import * as http from "node:http";

const require = createRequire((process.env.MODULES ?? process.cwd()) + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { McpServer, ResourceTemplate } = await load("@modelcontextprotocol/sdk/server/mcp.js");
const { StdioServerTransport } = await load("@modelcontextprotocol/sdk/server/stdio.js");
const { StreamableHTTPServerTransport } = await load("@modelcontextprotocol/sdk/server/streamableHttp.js");
const { SSEServerTransport } = await load("@modelcontextprotocol/sdk/server/sse.js");
const { completable } = await load("@modelcontextprotocol/sdk/server/completable.js");
const types = await load("@modelcontextprotocol/sdk/types.js");
const { z } = await load("zod");

const [NAME, MODE] = process.argv.slice(2);
const DATA = Buffer.from("\0full\xff", "latin1").toString("base64");
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const says = (text) => ({ content: [{ type: "text", text }] });
const cancelledKeys = new Set();

function build() {
  const capabilities = { logging: {}, resources: { subscribe: true, listChanged: true }, tools: { listChanged: true } };
  const server = new McpServer({ name: NAME, version: "1" }, { capabilities, instructions: `This is ${NAME}.` });
  const subscribed = new Set();
  const tool = (name, inputSchema, handler, more = {}) => server.registerTool(name, { inputSchema, ...more }, handler);

  // tools that only answer
  tool("echo", { message: z.string() }, async ({ message }) => says(`Echo: ${message}`));
  const sum = { outputSchema: { result: z.number() } };
  tool("add", { a: z.number(), b: z.number() }, async ({ a, b }) => ({ ...says(`${a + b}`), structuredContent: { result: a + b } }), sum);
  tool("pieces", {}, async () => ({ content: [
    { type: "text", text: "words" }, { type: "image", data: DATA, mimeType: "image/png" }, { type: "audio", data: DATA, mimeType: "audio/wav" },
    { type: "resource", resource: { uri: `full://${NAME}/embedded`, text: "inside" } },
    { type: "resource_link", uri: `full://${NAME}/text`, name: "text" }] }));
  tool("fail", {}, async () => { throw new Error("meant to fail"); });

  // tools that talk while they work
  async function progress(extra, step, total, message) {
    const progressToken = extra._meta?.progressToken;
    if (progressToken !== undefined) await extra.sendNotification({ method: "notifications/progress", params: { progressToken, progress: step, total, message } });
  }
  tool("steps", { count: z.number(), pause: z.number() }, async ({ count, pause }, extra) => {
    for (let step = 1; step <= count; step++) {
      await progress(extra, step, count, `step ${step}`);
      await sleep(pause);
    }
    return says(`${count} steps`);
  });
  let lowest = "debug";
  const severity = (level) => types.LoggingLevelSchema.options.indexOf(level);
  server.server.setRequestHandler(types.SetLevelRequestSchema, async ({ params }) => { lowest = params.level; return {}; });
  tool("talk", { words: z.string() }, async ({ words }, extra) => {
    for (const level of ["info", "error"]) {
      if (severity(level) < severity(lowest)) continue;
      await extra.sendNotification({ method: "notifications/message", params: { level, data: `${level} ${words}`, logger: "full" } });
    }
    return says("talked");
  });
  tool("hang", { key: z.string() }, async ({ key }, extra) => {
    await progress(extra, 1, 2, "begun");
    await new Promise((resolve) => { extra.signal.addEventListener("abort", resolve); setTimeout(resolve, 20000).unref(); });
    if (extra.signal.aborted) cancelledKeys.add(key);
    return says("over");
  });
  tool("cancelled", { key: z.string() }, async ({ key }) => says(cancelledKeys.has(key) ? "yes" : "no"));
  tool("drop", {}, async (_, extra) => { extra.closeSSEStream?.(); await sleep(0.1); return says("back"); });

  // tools that ask in the midst of the call
  async function elicited(extra, message) {
    const requestedSchema = { type: "object", properties: { answer: { type: "string" } }, required: ["answer"] };
    const answer = await extra.sendRequest({ method: "elicitation/create", params: { mode: "form", message, requestedSchema } }, types.ElicitResultSchema);
    return answer.content?.answer ?? answer.action;
  }
  tool("sample", { prompt: z.string() }, async ({ prompt }, extra) => {
    const params = { messages: [{ role: "user", content: { type: "text", text: prompt } }], maxTokens: 10 };
    const answer = await extra.sendRequest({ method: "sampling/createMessage", params }, types.CreateMessageResultSchema);
    return says(`Sampled: ${answer.content.text}`);
  });
  tool("ask", { key: z.string() }, async ({ key }, extra) => says("Hello " + await elicited(extra, `Name of ${key}?`)));
  tool("interview", { key: z.string() }, async ({ key }, extra) => says(`${await elicited(extra, `Name of ${key}?`)} ${await elicited(extra, `Color of ${key}?`)}`));
  tool("roots", {}, async (_, extra) => {
    const { roots } = await extra.sendRequest({ method: "roots/list" }, types.ListRootsResultSchema);
    return says(roots.map((root) => root.uri).join(" "));
  });

  // changes told outside of the call
  server.server.setRequestHandler(types.SubscribeRequestSchema, async ({ params }) => { subscribed.add(params.uri); return {}; });
  server.server.setRequestHandler(types.UnsubscribeRequestSchema, async ({ params }) => { subscribed.delete(params.uri); return {}; });
  tool("touch", { uri: z.string() }, async ({ uri }) => {
    if (subscribed.has(uri)) await server.server.sendResourceUpdated({ uri });
    return says("touched");
  });
  tool("change", {}, async () => { server.sendToolListChanged(); return says("changed"); });

  // prompts, resources, completion
  const starting = (words) => (value) => words.filter((word) => word.startsWith(value));
  server.registerPrompt("greet", { argsSchema: { name: completable(z.string(), starting(["Ada", "Alan", "Bob"])) } },
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

const sessions = new Map();  // by session id, for both transports
async function answer(request, response) {
  const url = new URL(request.url, "http://localhost");
  if (url.pathname === "/sse") {
    const transport = new SSEServerTransport("/messages", response);
    sessions.set(transport.sessionId, transport);
    response.on("close", () => sessions.delete(transport.sessionId));
    return await build().connect(transport);
  }
  if (url.pathname === "/messages") return await sessions.get(url.searchParams.get("sessionId")).handlePostMessage(request, response);
  const id = request.headers["mcp-session-id"];
  let transport = sessions.get(id);
  if (id && !transport) return response.writeHead(404).end();
  if (!transport) {
    transport = new StreamableHTTPServerTransport({ sessionIdGenerator: randomUUID, eventStore: new Events(), retryInterval: 100,
      onsessioninitialized: (made) => sessions.set(made, transport) });
    transport.onclose = () => sessions.delete(transport.sessionId);
    await build().connect(transport);
  }
  await transport.handleRequest(request, response);
}

if (MODE === "stdio") await build().connect(new StdioServerTransport());
else http.createServer((request, response) => answer(request, response).catch((error) => { console.error(error); response.destroy(); })).listen(Number(MODE), "127.0.0.1");
