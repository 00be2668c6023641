// The tour with a TypeScript client: node tour.mjs sdk1 | sdk2, modules found from the directory it runs in.
// With a `command` that program is the server, on its stdin and stdout. Transport "http2" is Streamable HTTP by undici's fetch, which is Node's with HTTP/2 allowed.
// sdk1 is @modelcontextprotocol/sdk 1.x, sdk2 is @modelcontextprotocol/client 2.x (era "auto" or "legacy").
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import * as readline from "node:readline";

const require = createRequire(process.cwd() + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)));

async function sdk1() {
  const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = await load("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const { SSEClientTransport } = await load("@modelcontextprotocol/sdk/client/sse.js");
  const types = await load("@modelcontextprotocol/sdk/types.js");
  return { Client, StreamableHTTPClientTransport, SSEClientTransport, elicit: types.ElicitRequestSchema, changed: types.ToolListChangedNotificationSchema };
}

async function sdk2() {
  const { Client, StreamableHTTPClientTransport, SSEClientTransport } = await load("@modelcontextprotocol/client");
  return { Client, StreamableHTTPClientTransport, SSEClientTransport, elicit: "elicitation/create", changed: "notifications/tools/list_changed" };
}

async function overHttp2() {
  const { Agent, fetch } = await load("undici");
  const agent = new Agent({ allowH2: true });
  return { agent, more: { fetch: (where, options) => fetch(where, { ...options, dispatcher: agent }) } };
}

const kit = process.argv[2] === "sdk1" ? await sdk1() : await sdk2();

const { StdioClientTransport } = await load(process.argv[2] === "sdk1" ? "@modelcontextprotocol/sdk/client/stdio.js" : "@modelcontextprotocol/client/stdio");

async function tour({ url, era, transport, big, key, command }) {
  const options = { capabilities: { elicitation: {} } };
  if (era === "auto") options.versionNegotiation = { mode: "auto" };
  const client = new kit.Client({ name: "tour", version: "1" }, options);
  client.setRequestHandler(kit.elicit, async () => ({ action: "accept", content: { name: "Ada" } }));
  let notice;
  client.setNotificationHandler(kit.changed, async () => notice?.(true));
  const Transport = transport === "sse" ? kit.SSEClientTransport : kit.StreamableHTTPClientTransport;
  const { agent, more } = transport === "http2" ? await overHttp2() : {};
  const shown = key ? { requestInit: { headers: { Authorization: `Bearer ${key}` } } } : {};
  await client.connect(command ? new StdioClientTransport({ command: command[0], args: command.slice(1), env: process.env })
    : new Transport(new URL(url), { ...shown, ...more }));
  const call = (name, args, more) => (process.argv[2] === "sdk1"
    ? client.callTool({ name, arguments: args }, undefined, more) : client.callTool({ name, arguments: args }, more));
  const progress = [];
  const tools = (await client.listTools()).tools.map((tool) => tool.name);
  const echo = await call("echo", { message: "grüße, 世界" });
  const large = await call("echo", { message: "x".repeat(big) });
  const slow = await call("trigger-long-running-operation", { duration: 0.15, steps: 3 }, { onprogress: (p) => progress.push(p.progress) });
  const seen = { protocol: client.getNegotiatedProtocolVersion?.() ?? null, tools: tools.sort(), echo: echo.content[0].text, large: large.content[0].text.length,
    slow: slow.content[0].text, progress };
  if (tools.includes("ask")) seen.ask = (await call("ask", {})).content[0].text;
  if (tools.includes("change") && era !== "auto") {
    seen.noticed = false;
    for (let i = 0; i < 20 && !seen.noticed; i++) {  // what is sent before the GET stream is open is lost by design
      const wait = new Promise((resolve) => { notice = resolve; setTimeout(() => resolve(false), 250); });
      await call("change", {});
      seen.noticed = await wait;
    }
  }
  await client.close();
  await agent?.destroy();
  return seen;
}

console.log('{"ready": true}');
for await (const line of readline.createInterface({ input: process.stdin })) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error("the tour took more than 30 s")), 30000).unref());
  const seen = await Promise.race([tour(JSON.parse(line)), late]).catch((error) => ({ error: String(error?.stack ?? error) + String(error?.cause ?? "") }));
  console.log(JSON.stringify(seen));
}
process.exit(0);
