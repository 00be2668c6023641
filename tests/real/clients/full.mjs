// The matrix with a TypeScript client: full.py tells what.  node full.mjs sdk1 | sdk2, modules found from the directory it runs in.
// sdk1 is @modelcontextprotocol/sdk 1.x, sdk2 is @modelcontextprotocol/client 2.x (era "auto" or "legacy").
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import * as readline from "node:readline";

const require = createRequire(process.cwd() + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)));
const ENOUGH_MS = 4000;  // for what comes by itself; only a check that fails waits so long
const ROOT = "file:///srv/root";
const MODERN = "2026";

async function sdk1() {
  const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = await load("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const { SSEClientTransport } = await load("@modelcontextprotocol/sdk/client/sse.js");
  const { StdioClientTransport } = await load("@modelcontextprotocol/sdk/client/stdio.js");
  const types = await load("@modelcontextprotocol/sdk/types.js");
  const words = { elicitation: types.ElicitRequestSchema, sampling: types.CreateMessageRequestSchema, roots: types.ListRootsRequestSchema,
    message: types.LoggingMessageNotificationSchema, changed: types.ToolListChangedNotificationSchema, updated: types.ResourceUpdatedNotificationSchema };
  const call = (client, params, options) => client.callTool(params, undefined, options);
  return { Client, StreamableHTTPClientTransport, SSEClientTransport, StdioClientTransport, words, call };
}

async function sdk2() {
  const { Client, StreamableHTTPClientTransport, SSEClientTransport } = await load("@modelcontextprotocol/client");
  const { StdioClientTransport } = await load("@modelcontextprotocol/client/stdio");
  const words = { elicitation: "elicitation/create", sampling: "sampling/createMessage", roots: "roots/list", message: "notifications/message",
    changed: "notifications/tools/list_changed", updated: "notifications/resources/updated" };
  const call = (client, params, options) => client.callTool(params, options);
  return { Client, StreamableHTTPClientTransport, SSEClientTransport, StdioClientTransport, words, call };
}

const sdk = process.argv[2] === "sdk1" ? await sdk1() : await sdk2();

// Breaks the event stream of a call after its first progress, as a network would.
const cut = { armed: new Set(), cuts: {} };
async function breakingFetch(where, options) {
  const response = await fetch(where, options);
  const what = options?.method === "POST" && [...cut.armed].find((each) => each.startsWith(`${where} `) && String(options.body).includes(`"${each.split(" ")[1]}"`));
  if (!what) return response;
  cut.armed.delete(what);
  async function* pieces() {
    for await (const piece of response.body) {
      yield piece;
      if (Buffer.from(piece).includes("notifications/progress")) { cut.cuts[what] = (cut.cuts[what] ?? 0) + 1; return; }
    }
  }
  return new Response(ReadableStream.from(pieces()), { status: response.status, headers: response.headers });
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Kit {
  logged = [];
  heard = [];
  turn = null;
  async until(found, deadline = ENOUGH_MS) {
    for (const end = Date.now() + deadline; Date.now() < end && !found(); ) await sleep(5);
    return found();
  }
  call(name, args, options = {}, level) {
    const meta = level && this.isModern ? { _meta: { "io.modelcontextprotocol/logLevel": level } } : {};
    return sdk.call(this.client, { name, arguments: args, ...meta }, options);
  }
  async listening(uri, inside) {
    if (this.isModern) {
      const subscription = await this.client.listen(uri ? { resourceSubscriptions: [uri] } : { toolsListChanged: true });
      try { return await inside(); } finally { await subscription.close(); }
    }
    if (uri) await this.client.subscribeResource({ uri });
    try { return await inside(); } finally { if (uri) await this.client.unsubscribeResource({ uri }); }
  }
}

function shown(result) {
  const content = result.content ?? [];
  const seen = { texts: content.filter((piece) => piece.type === "text").map((piece) => piece.text) };
  if (content.length !== seen.texts.length) {
    seen.kinds = content.map((piece) => piece.type);
    seen.uris = content.filter((piece) => piece.type.includes("resource")).map((piece) => piece.uri ?? piece.resource.uri);
  }
  if (result.structuredContent != null) seen.structured = result.structuredContent;
  if (result.isError) seen.failed = true;
  return seen;
}

async function told(kit, what, name, args, again = true) {
  const past = kit.heard.length;
  const found = () => kit.heard.slice(past).includes(what);
  for (let i = 0; i < (again ? 20 : 1); i++) {  // what is sent before the GET stream is open is lost by design
    await kit.call(name, args);
    if (await kit.until(found, again ? 250 : ENOUGH_MS)) return true;
  }
  return false;
}

const LISTS = { tools: "listTools", prompts: "listPrompts", resources: "listResources", resourceTemplates: "listResourceTemplates" };
const OPERATIONS = {
  async names(kit, what) {
    const found = [];
    let cursor;
    for (let i = 0; i < 50; i++) {
      const page = await kit.client[LISTS[what]](cursor === undefined ? undefined : { cursor });
      found.push(...page[what].map((each) => each.uriTemplate ?? each.uri ?? each.name));
      if ((cursor = page.nextCursor) === undefined) break;
    }
    return found.sort();
  },
  call: async (kit, name, args) => shown(await kit.call(name, args)),
  size: async (kit, name, argument, count) => shown(await kit.call(name, { [argument]: "x".repeat(count) })).texts[0].length,
  async progress(kit, name, args, how = "call") {
    const steps = [];
    const what = `${kit.url} ${name}`;
    const cuts = cut.cuts[what] ?? 0;
    if (how === "resume") cut.armed.add(what);
    const result = await kit.call(name, args, { onprogress: (p) => steps.push([p.progress, p.total ?? null, p.message ?? null]) });
    return { texts: shown(result).texts, steps, ...(how === "resume" ? { cuts: (cut.cuts[what] ?? 0) - cuts } : {}) };
  },
  async logged(kit, name, args, level, words, count) {
    const turn = kit.turn;  // the level is the whole session's: one after the other
    let over;
    kit.turn = new Promise((resolve) => { over = resolve; });
    await turn;
    try {
      if (!kit.isModern) await kit.client.setLoggingLevel(level);
      const past = kit.logged.length;
      await kit.call(name, args, {}, level);
      const found = () => kit.logged.slice(past).filter(([, said]) => said.includes(words));
      await kit.until(() => found().length >= count);
      return found();
    } finally {
      over();
    }
  },
  async cancelled(kit, name, args, asked) {
    const abort = new AbortController();
    await kit.call(name, args, { signal: abort.signal, onprogress: () => abort.abort("tried") }).catch(() => null);
    for (let i = 0; i < 60; i++) {
      if (shown(await kit.call(asked, args)).texts[0] === "yes") return "yes";
      await sleep(50);
    }
    return "no";
  },
  prompt: async (kit, name, args) => (await kit.client.getPrompt({ name, arguments: args })).messages.map((message) => message.content.text),
  async read(kit, uri) {
    const content = (await kit.client.readResource({ uri })).contents[0];
    return [content.uri, content.text ?? "blob " + content.blob];
  },
  async complete(kit, ref, name, value, context) {
    return (await kit.client.complete({ ref, argument: { name, value }, ...(context ? { context: { arguments: context } } : {}) })).completion.values;
  },
  ping: async (kit) => { await kit.client.ping(); return "pong"; },
  updates: (kit, uri, name, args, again) => kit.listening(uri, () => told(kit, "notifications/resources/updated " + uri, name, args, again)),
  changes: (kit, name, args) => kit.listening(null, () => told(kit, "notifications/tools/list_changed", name, args)),
};

async function connect(url, era, transport) {
  const kit = Object.assign(new Kit(), { url });
  const options = { capabilities: { elicitation: {}, sampling: {}, roots: { listChanged: true } } };
  if (era === "auto") options.versionNegotiation = { mode: "auto" };
  const client = (kit.client = new sdk.Client({ name: "full", version: "1" }, options));
  client.setRequestHandler(sdk.words.elicitation, async ({ params }) => ({ action: "accept", content: { answer: "A " + params.message, name: "Ada" } }));
  client.setRequestHandler(sdk.words.sampling, async ({ params }) => {
    const asked = [params.messages[0].content].flat()[0].text;
    return { role: "assistant", model: "full", content: { type: "text", text: asked + "!" } };
  });
  client.setRequestHandler(sdk.words.roots, async () => ({ roots: [{ uri: ROOT, name: "root" }] }));
  client.setNotificationHandler(sdk.words.message, async ({ params }) => { kit.logged.push([params.level, params.data?.msg ?? String(params.data)]); });
  client.setNotificationHandler(sdk.words.changed, async () => { kit.heard.push("notifications/tools/list_changed"); });
  client.setNotificationHandler(sdk.words.updated, async ({ params }) => { kit.heard.push("notifications/resources/updated " + params.uri); });
  if (transport === "stdio") {
    const [command, ...args] = JSON.parse(url);
    await client.connect(new sdk.StdioClientTransport({ command, args, env: process.env }));
  } else if (transport === "sse") await client.connect(new sdk.SSEClientTransport(new URL(url)));
  else await client.connect(new sdk.StreamableHTTPClientTransport(new URL(url), { fetch: breakingFetch }));
  kit.protocol = client.getNegotiatedProtocolVersion?.() ?? "2025-11-25";  // sdk1 does not tell, and knows no newer one
  kit.isModern = kit.protocol >= MODERN;
  return kit;
}

async function part(kit, checks, seen) {
  for (const [check, operation, args] of checks) {
    const late = new Promise((_, reject) => setTimeout(() => reject(new Error("more than 10 s")), 10000).unref());
    seen[check] = await Promise.race([OPERATIONS[operation](kit, ...args), late]).catch((error) => ({ wrong: String(error).slice(0, 300) }));
  }
}

async function visit({ url, era, transport, parts }) {
  const seen = Object.fromEntries(Object.keys(parts).map((name) => [name, {}]));
  try {
    const kit = await connect(url, era, transport);
    await Promise.all(Object.entries(parts).map(([name, checks]) => part(kit, checks, seen[name])));
    if (!kit.isModern) await kit.client.transport.terminateSession?.();
    await kit.client.close();
    return { protocol: kit.protocol, seen };
  } catch (error) {
    return { wrong: String(error?.stack ?? error).slice(0, 300) + String(error?.cause ?? ""), seen };
  }
}

process.on("unhandledRejection", () => {});  // of what was given up
console.log('{"ready": true}');
for await (const line of readline.createInterface({ input: process.stdin })) {
  const asked = Object.entries(JSON.parse(line));
  console.log(JSON.stringify(Object.fromEntries(await Promise.all(asked.map(async ([name, each]) => [name, await visit(each)])))));
}
process.exit(0);
