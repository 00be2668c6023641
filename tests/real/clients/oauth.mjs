// A person's login and one call with a TypeScript client: node oauth.mjs sdk1 | sdk2, modules found from the directory it runs in.
// Job: {url}; the person says yes to everything, in a browser that follows the redirect. Answer: what the tool said, and what the client registered as.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import * as readline from "node:readline";

const require = createRequire(process.cwd() + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)));
const kit = process.argv[2] === "sdk1"
  ? { ...(await load("@modelcontextprotocol/sdk/client/index.js")), ...(await load("@modelcontextprotocol/sdk/client/streamableHttp.js")) }
  : await load("@modelcontextprotocol/client");

class Person {
  redirectUrl = "http://localhost:1/callback";
  clientMetadata = { redirect_uris: [this.redirectUrl], client_name: "test", token_endpoint_auth_method: "none", grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"] };
  clientInformation() { return this.client; }
  saveClientInformation(client) { this.client = client; }
  tokens() { return this.held; }
  saveTokens(tokens) { this.held = tokens; }
  saveCodeVerifier(verifier) { this.verifier = verifier; }
  codeVerifier() { return this.verifier; }
  async redirectToAuthorization(url) {
    const answer = await fetch(url, { redirect: "manual" });
    this.came = new URL(answer.headers.get("location")).searchParams;
  }
}

async function visit({ url }) {
  const person = new Person();
  const connect = async () => {
    const client = new kit.Client({ name: "visitor", version: "1" });
    const transport = new kit.StreamableHTTPClientTransport(new URL(url), { authProvider: person });
    try {
      await client.connect(transport);
    } catch (error) {
      if (!person.came) throw error;
      const came = person.came;
      person.came = undefined;
      await transport.finishAuth(process.argv[2] === "sdk1" ? came.get("code") : came);
      return connect();
    }
    return client;
  };
  const client = await connect();
  const echo = await client.callTool({ name: "echo", arguments: { message: "grüße" } });
  await client.close();
  return { echo: echo.content[0].text, scope: person.held.scope ?? null };
}

console.log('{"ready": true}');
for await (const line of readline.createInterface({ input: process.stdin })) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error("the visit took more than 30 s")), 30000).unref());
  const seen = await Promise.race([visit(JSON.parse(line)), late]).catch((error) => ({ error: String(error?.stack ?? error) + String(error?.cause ?? "") }));
  console.log(JSON.stringify(seen));
}
process.exit(0);
