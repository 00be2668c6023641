"""docs/config.md, written from the model: `python -m mcpproxy.config.reference docs/config.md` (without a file name: to stdout).

Prose about a key lives beside the key (config/model); here is only what concerns the file as a whole, and an example that uses every key once.
A test loads the example and compares the file in docs/ with what this writes. It is one file because the example is most of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from mcpproxy.config.gateway import PARTS, own_keys
from mcpproxy.config.kinds import Key
from mcpproxy.config.load import keys_of
from mcpproxy.config.model import LATER, TABLES, Config, Upstream

INTRODUCTION = """\
# Configuration

<!-- Written by `python -m mcpproxy.config.reference docs/config.md` from mcpproxy/config/model.py, policies.py and serving.py. Change it there. -->

One TOML file says everything. `mcpproxy run -c FILE` serves it, `mcpproxy check -c FILE` reads it with the same code and names every mistake at once, with
its path, its line and the valid choices. A key that is not known is a mistake, never ignored. `mcpproxy serve URL` needs no file.

- **Durations** are texts with a unit: `"500ms"`, `"1.5s"`, `"90s"`, `"1m30s"`, `"24h"`, `"7d"`.
- **Sizes** are texts with a unit: `"512B"`, `"32KiB"`, `"10MiB"`, `"1GiB"` (1 KiB = 1024 B).
- **Rates** are texts: `"30/m"`, `"5/s burst 20"` (s, m, h, d).
- **Files** with a relative name are looked for beside the configuration file. Unix sockets and key sets (`jwks`) are given by absolute paths.
- **Secrets** never stand in the file, only where they are found: `"env:NAME"` (a variable of the environment) or `"file:path"` (one line; readable by
  the daemon only). They are read at the start, files also when they change (within some
  seconds; one that cannot be used any more changes nothing). A variable is what it was when the daemon started. Nothing prints them.

The smallest file that serves:

```toml
{smallest}```
"""

SMALLEST = """\
[[listen]]
address = "127.0.0.1:8443"
tls = "dev"

[upstream.search]
urls = ["http://127.0.0.1:8000"]

[[route]]
upstream = "search"
"""

EXAMPLE = """\
# Every key once; those that only repeat their default are marked so.
health = "/healthz"
workers = "auto"                        # default
watchdog = "15s"                        # default
user = "mcpproxy"                       # when it is started as root
group = "mcpproxy"
drain = "1h"
state_dir = "/var/lib/mcpproxy"

[[listen]]                              # HTTPS for the world, one certificate; programs may come with certificates of their own
address = "0.0.0.0:443"
[listen.tls]
cert = "/etc/mcpproxy/example.pem"
key = "/etc/mcpproxy/example.key"
min_version = "1.3"
client_ca = "/etc/mcpproxy/clients-ca.pem"
client_cert = "optional"                # default

[[listen]]                              # the same on IPv6, several certificates, chosen by the name the client asks for
address = "[::]:443"
[listen.tls]
certificates = [
    { cert = "/etc/mcpproxy/example.pem", key = "/etc/mcpproxy/example.key" },
    { cert = "/etc/mcpproxy/other.pem", key = "/etc/mcpproxy/other.key" },
]

[[listen]]                              # plain HTTP only sends clients to HTTPS
address = "0.0.0.0:80"
redirect = "https"

[[listen]]                              # for trying things out on this machine, beside localhost as mcp.test
address = "127.0.0.1:8443"
tls = { hosts = ["mcp.test"] }

[[listen]]                              # certificates that come by themselves: one for two names, one for a third
address = "10.0.0.5:8443"               # port 443 of the public address leads here
[listen.tls]
hosts = ["mcp.example.org", "www.example.org"]
acme = "ops@example.org"
certificates = [
    { hosts = ["tools.example.org"] },
]

[[listen]]                              # for a neighbour that has done TLS already
address = "unix:/run/mcpproxy/plain.sock"
trusted_proxies = "unix"
h2 = true                               # default
h2_lane = true                          # default

[[listen]]                              # for load balancers that say in a PROXY header who the client is
address = "10.0.0.5:8080"
proxy_protocol = true
trusted_proxies = ["10.0.0.0/24"]

[auth.keys]                             # API keys: mcpproxy key add agent-alpha
type = "api-key"
file = "/etc/mcpproxy/keys.jsonl"
headers = ["Authorization", "X-API-Key"]  # default
roles = ["agents"]

[auth.corp]                             # OAuth access tokens that are signed
type = "jwt"
issuer = "https://login.example.com"
audience = ["https://mcp.example.com/mcp"]
jwks = "https://login.example.com/keys"
refresh = "5m"                          # default
algorithms = ["RS256", "ES256"]
skew = "30s"                            # default
ca = "/etc/mcpproxy/internal-ca.pem"
private = true                          # its address is one of our network
name_claim = "sub"                      # default
roles_claim = "realm_access.roles"

[auth.opaque]                           # OAuth access tokens that the issuer is asked about
type = "introspection"
issuer = "https://tokens.example.com"
introspection = "https://tokens.example.com/introspect"
client_id = "mcpproxy"
client_secret = "env:TOKENS_SECRET"
cache = "60s"                           # default

[auth.machines]                         # client certificates
type = "mtls"
name_from = "dns"                       # default

[limit.searches]
per = ["principal", "tool"]
rate = "60/m burst 20"
daily = 5000

[limit.sessions]
per = "principal"
concurrent = 16

[upstream.search]                       # two copies of one server
urls = ["http://127.0.0.1:8000", "http://127.0.0.1:8001"]
keepalive = 64
keepalive_idle = "4s"                   # default
connect_timeout = "2s"
response_timeout = "24h"                # default
max_connections = 1000
queue = 100
queue_timeout = "5s"                    # default
host = "upstream"                       # default
balance = "least-busy"
retry_after = "10s"
slow_start = "30s"
affinity = "auto"                       # default
principal_header = "X-MCP-User"
cookies = true

[upstream.search.endpoints."http://127.0.0.1:8001"]  # the larger machine
weight = 3
state = "enabled"                       # default
max_connections = 800

[upstream.search.breaker]
failures = 5                            # default
window = "10s"                          # default
share = 50                              # default
statuses = [500, 502, 503, 504]         # default
probes = 1                              # default
max_ejected = 50                        # default

[upstream.search.health]
check = "http"                          # default
path = "/healthz"
every = "5s"                            # default
timeout = "2s"
rise = 2
fall = 3
expect = [200, 204]

[upstream.search.identity]              # who calls, signed
header = "X-MCP-Identity"               # default
audience = "search"
issuer = "https://mcp.example.com"
lifetime = "60s"                        # default

[upstream.remote]                       # a server elsewhere, with a private authority
urls = ["https://tools.internal.example.com"]
ca = "/etc/mcpproxy/internal-ca.pem"
verify = true                           # default
cert = "/etc/mcpproxy/client.pem"
key = "/etc/mcpproxy/client.key"
server_name = "tools.example.com"
min_version = "1.3"

[upstream.remote.credential]            # a token for each caller, in exchange for the caller's own
type = "token-exchange"
token_url = "https://login.example.com/token"
client_id = "mcpproxy"
client_secret = "file:/etc/mcpproxy/remote.secret"
scope = "tools:call"
resource = "https://tools.internal.example.com/mcp"
audience = "tools"
private = true
ca = "/etc/mcpproxy/internal-ca.pem"

[upstream.files]
urls = ["unix:/run/files-server.sock"]

[upstream.files.credential]             # a fixed key
type = "header"
header = "X-API-Key"
value = "file:/etc/mcpproxy/files.key"

[upstream.workspace]                    # a server that is started as a child process
command = ["npx", "-y", "@modelcontextprotocol/server-filesystem", "/srv/data"]
env = { MODE = "x", API_KEY = "env:WORKSPACE_KEY" }
inherit = ["SSL_CERT_FILE"]
cwd = "/srv/data"
mode = "per-principal"
start = "on-demand"                     # default
idle_stop = "30m"
max_children = 64
sandbox = "bwrap"
start_timeout = "60s"
stop_grace = "2s"                       # default
memory = "1GiB"
files = 256
processes = 64
era = "auto"                            # default
call_timeout = "10m"                    # default
call_ceiling = "1h"                     # default
max_message = "16MiB"                   # default
lock = "mcp.lock"                       # what `mcpproxy lock` wrote
drift = "block"
suspicious = "log"                      # default
max_result = "1MiB"
session_ttl = "24h"                     # default
max_sessions = 1000

[upstream.old]                          # HTTP+SSE, for clients of every kind
urls = ["http://127.0.0.1:8007"]
bridge = true
mcp_path = "/sse"
transport = "sse"

[upstream.jobs]                         # the same for everybody, as `mode` says
command = ["/usr/local/bin/jobs-mcp"]
user = "mcpproxy"                       # another one only where the daemon stays root

[upstream.all]                          # several servers as one
members = ["workspace", "search", "old", "jobs"]
expose = "all"                          # default
prefix = "member"                       # default
name_length = 64                        # default
deadline = "5s"                         # default
cache = "1m"

[upstream.all.member.workspace]
prefix = "ws"
tools = ["read_*", "list_*"]
prompts = []
resources = "file:///srv/data/*"
rename = { read_file = "read" }
hide = "read_secret*"
describe = { read_file = "Reads a file of the workspace" }

[upstream.cloud]
urls = ["https://bedrock-agentcore.eu-central-1.amazonaws.com"]

[upstream.cloud.credential]             # AWS signatures
type = "sigv4"
region = "eu-central-1"
service = "bedrock-agentcore"
access_key = "env:AWS_ACCESS_KEY_ID"
secret_key = "env:AWS_SECRET_ACCESS_KEY"
session_token = "env:AWS_SESSION_TOKEN"

[[route]]
name = "search"                         # in metrics
host = "mcp.example.com"
path = "/mcp"
upstream = "search"
idle_timeout = "24h"                    # default
max_body = "20MiB"
sse_keepalive = "15s"
mcp = true                              # default
auth = ["keys", "corp", "opaque", "machines"]
scopes = "mcp:call"
public_url = "https://mcp.example.com/mcp"
rate = "300/m burst 100"
limits = ["searches", "sessions"]
audit = true                            # default
allow_origins = ["https://app.example.com", "http://localhost:*"]
cors = true
security_headers = true
hide_headers = ["Server", "X-Powered-By"]

[route.tools]
read_only = false                       # default
shadow = false                          # default
trust_headers = false                   # default
peek = "1MiB"                           # default

[[route.tools.allow]]
who = ["role:agents", "scope:search"]
methods = ["tools/call", "prompts/get"]
tools = "search_*"
[route.tools.allow.args]
language = { one_of = ["de", "en"], optional = true }
query = { matches = "[^*]*", max_length = 200 }
limit = { min = 1, max = 100, optional = true }
folder = { inside = "/srv/data" }

[[route.tools.deny]]
tools = "search_everything"
args = { deep = { equals = true } }

[[route]]                               # /files/mcp arrives at the server as /mcp
host = ["mcp.example.com", "*.files.example.com"]
path = "/files"
strip_prefix = true
upgrade = false
upstream = "files"
allow_from = ["10.0.0.0/8", "2001:db8::/32", "unix"]
deny_from = "10.9.0.0/16"
allow_hosts = ["mcp.example.com", "team.files.example.com"]

[[route]]
path = "/cloud"
upstream = "cloud"
auth = "keys"

[[route]]
path = "/all"
upstream = "all"
auth = "keys"

[[route]]
path = "/old"
upstream = "old"
auth = "keys"

[[route]]                               # any other host and path
upstream = "remote"
auth = "corp"

[audit]
file = "/var/log/mcpproxy/audit.log"
fsync = "second"                        # default
when_full = "count"                     # default
checkpoint = "5m"                       # default
reveal = ["path", "search_*.query"]
redact = ["[0-9]{2}-[A-Z]{4}"]
anomalies = true

[log]
access = "/var/log/mcpproxy/access.log"
level = "info"                          # default

[acme]
directory = "https://acme.example.com/directory"
staging = false                         # default
ca = "/etc/mcpproxy/internal-ca.pem"
eab_key_id = "kid-1"
eab_hmac = "env:ACME_EAB_HMAC"
challenge = "auto"                      # default
retry = "60s"                           # default

[admin]
address = "127.0.0.1:9090"
token = "file:/etc/mcpproxy/admin.token"

[otel]                                  # traces by OpenTelemetry
endpoint = "http://127.0.0.1:4318/v1/traces"
sample = 0.1
service_name = "mcpproxy"               # default
authorization = "env:OTEL_AUTHORIZATION"

[affinity]
key_file = "/etc/mcpproxy/session.keys"
ttl = "30d"                             # default

[limits]
head = "32KiB"                          # default
target = "8KiB"                         # default
fields = 100                            # default
head_timeout = "10s"                    # default
body_stall = "60s"                      # default
handshake_timeout = "10s"               # default
keepalive = "75s"                       # default
streams = 128                           # default
connections = 0                         # default: what the limit on open files allows
failed_credentials = "5/s burst 100"    # default
plans = 4096                            # default
plan_bytes = "16MiB"                    # default
"""


def reference() -> str:
    """The whole page."""
    tables = [each for table in TABLES for each in (table, *(PARTS if table is Upstream else ()))]
    parts = [INTRODUCTION.format(smallest=SMALLEST), *map(_section, tables), _later(), f"## A complete example\n\n```toml\n{EXAMPLE}```\n"]
    return "\n".join(part for part in parts if part)


def _section(table: type) -> str:
    title = "The top of the file" if table is Config else f"`[upstream.NAME]`: {PARTS[table]}" if table in PARTS else f"`{TABLES[table]}`"
    about = "\n".join(line.strip() for line in (table.__doc__ or "").splitlines()).strip()
    own = own_keys(table)
    rows = "\n".join(_row(field, keys_of(table)[field.name]) for field in msgspec.structs.fields(table) if field.name in own)
    return f"## {title}\n\n{about}\n\n| key | value | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _row(field: msgspec.structs.FieldInfo, key: Key) -> str:
    if field.required or key.default.startswith("needed"):
        default = f"*{key.default or 'needed'}*"
    elif key.default:
        default = key.default
    else:
        shown = key.kind.show(field.default)
        default = shown if shown == "not set" else f"`{shown}`"
    return f"| `{field.name}` | {key.kind.label} | {default} | {key.about} |"


def _later() -> str:
    if not any(LATER.values()):
        return ""
    rows = "\n".join(f"| `{name}` in {TABLES[table]} | {about} |" for table, keys in LATER.items() for name, about in keys.items())
    return f"## Not in this version\n\nThese keys are refused with a message of their own.\n\n| key | what it will be for |\n|---|---|\n{rows}\n"


def main() -> None:
    """Write the page."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
    else:
        sys.stdout.write(reference())


if __name__ == "__main__":
    main()
