"""Who may come in, what they may call, how often, and what is written down about it: the tables of the configuration that say so.

Everything here is off until it is configured, and denies by default once it is. `model` hangs these tables into the whole; how a table is
written, read and documented is told there. Secrets are references (`env:`, `file:`), never values. It is one file because these tables name each
other, and an operator reads them together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct, field

from mcpproxy.config import names
from mcpproxy.config.kinds import (
    Choice,
    Count,
    Duration,
    File,
    Flag,
    Frequency,
    Key,
    Named,
    Number,
    Scalar,
    Secret,
    Size,
    Tables,
    Text,
    Words,
)
from mcpproxy.units import Rate

MINUTE, HOUR = 60.0, 3600.0
KIB, MIB = 1 << 10, 1 << 20

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
WORD = Text("text", names.words)


class Auth(Struct, frozen=True, kw_only=True):
    """A way to know who is calling. A route names the ones it accepts in `auth`; a caller that none of them knows is answered 401."""

    type: Annotated[
        Literal["api-key", "jwt", "introspection", "mtls"],
        Key(
            Choice('"api-key", "jwt", "introspection" or "mtls"', ("api-key", "jwt", "introspection", "mtls")),
            '`"api-key"`: keys made by `mcpproxy key add`. `"jwt"`: OAuth access tokens that are signed (JWKS). `"introspection"`: OAuth access '
            'tokens that the issuer is asked about (RFC 7662). `"mtls"`: client certificates (the listener needs `client_ca`).',
        ),
    ]
    file: Annotated[
        str | None,
        Key(File(), "`api-key`: the file `mcpproxy key` writes. It holds hashes only. Changes are picked up within two seconds."),
    ] = None
    headers: Annotated[
        tuple[str, ...],
        Key(
            Words("list of field names", Text("field name", names.header), bare=True, least=1),
            "`api-key`: where a key may stand; in `Authorization` behind `Bearer`, in others alone.",
        ),
    ] = ("Authorization", "X-API-Key")
    issuer: Annotated[
        str | None,
        Key(
            Text("URL", names.https_url),
            "`jwt`, `introspection`: who issues the tokens; must equal their `iss`. The key set and the introspection endpoint are found through "
            "its metadata (RFC 8414, OpenID Connect Discovery), unless given here.",
        ),
    ] = None
    audience: Annotated[
        tuple[str, ...],
        Key(
            Words("text or list", WORD, bare=True),
            "`jwt`, `introspection`: one of these must be in the token's `aud`: the public URL of the MCP endpoint (RFC 8707). A token for "
            "somebody else is refused.",
            "the route's `public_url`",
        ),
    ] = ()
    jwks: Annotated[
        str | None,
        Key(
            Text('URL or "file:/path"', names.key_set),
            "`jwt`: the key set, where the issuer's metadata do not say it or shall not be asked.",
            "from the issuer's metadata",
        ),
    ] = None
    refresh: Annotated[
        float,
        Key(
            Duration(),
            "`jwt`: how often the key set is asked for again, 10 seconds to a day. A key that was withdrawn works so long, and half a minute more; longer "
            "only while the key set cannot be had, for a day at most. A file is looked at every 10 seconds.",
        ),
    ] = 5 * MINUTE
    algorithms: Annotated[
        tuple[str, ...],
        Key(Words("list of words", Choice("word", ALGORITHMS), bare=True, least=1), "`jwt`: the signature algorithms accepted."),
    ] = ("RS256", "PS256", "ES256", "EdDSA")
    introspection: Annotated[
        str | None,
        Key(Text("URL", names.https_url), "`introspection`: the endpoint (RFC 7662).", "from the issuer's metadata"),
    ] = None
    client_id: Annotated[str | None, Key(WORD, "`introspection`: our own client id at the issuer.")] = None
    client_secret: Annotated[str | None, Key(Secret(), "`introspection`: our own client secret at the issuer.")] = None
    cache: Annotated[
        float,
        Key(
            Duration(),
            "`introspection`: how long an answer is believed (never past the token's own end). A token revoked meanwhile works so long.",
        ),
    ] = MINUTE
    skew: Annotated[float, Key(Duration(zero=True), "`jwt`, `introspection`: how far the issuer's clock and ours may differ.")] = 30.0
    private: Annotated[
        bool,
        Key(
            Flag(),
            "`jwt`, `introspection`: the issuer may have a private address (10.0.0.0/8, 192.168.0.0/16, loopback, …). Otherwise such an address "
            "is refused, so that nobody who can change a name makes us ask inside this network.",
        ),
    ] = False
    ca: Annotated[
        str | None,
        Key(
            File(),
            "`jwt`, `introspection`: authorities (PEM) that sign the issuer's certificate, instead of those of the system.",
            "the system's",
        ),
    ] = None
    name_claim: Annotated[str, Key(WORD, "`jwt`, `introspection`: the claim that names the caller.")] = "sub"
    roles_claim: Annotated[
        str | None,
        Key(
            WORD,
            "`jwt`, `introspection`: the claim with the caller's roles (a list or a text of words); dots lead into it: `realm_access.roles`.",
        ),
    ] = None
    name_from: Annotated[
        Literal["dns", "uri", "email", "cn"],
        Key(
            Choice('"dns", "uri", "email" or "cn"', ("dns", "uri", "email", "cn")),
            "`mtls`: what of the certificate names the caller: the first subject alternative name of this type, or the common name.",
        ),
    ] = "dns"
    roles: Annotated[tuple[str, ...], Key(Words("list of words", WORD), "Roles that every caller known this way has.", "none")] = ()


class Limit(Struct, frozen=True, kw_only=True):
    """How much may be asked for. Routes name limits in `limits`; one that two routes name counts for both together, unless `per` says `route`.

    On MCP routes each message of a batch (revision 2025-03-26) counts, and all or none of them are let through: more than there is room for at once never
    are. A batch that cannot be counted (more than 100 messages, larger than 1 MiB or `tools.peek`, no JSON in UTF-8) is refused.
    """

    per: Annotated[
        tuple[str, ...],
        Key(
            Words("word or list", Choice("word", ("address", "principal", "route", "tool")), bare=True),
            'What is counted apart: each client `"address"` (an IPv6 /64), each `"principal"` (each address where nobody is named), each `"route"`, '
            'each `"tool"` (calls of tools only; others do not count), or any combination. Empty: all together.',
        ),
    ] = ("principal",)
    rate: Annotated[
        Rate | None,
        Key(
            Frequency(),
            'How often (GCRA): `"30/m burst 10"` is one every two seconds on average, and ten more may come at once. Beyond it 429.',
        ),
    ] = None
    daily: Annotated[
        int | None,
        Key(Count(), "How many per day (UTC). Beyond it 429 until midnight. Counted in memory: a new start of the daemon begins anew."),
    ] = None
    concurrent: Annotated[int | None, Key(Count(), "How many at once, open streams included. Beyond it 429.")] = None


class Constraint(Struct, frozen=True, kw_only=True):
    """What an argument must be. Every condition given must hold; an argument that is not there (or null) holds none, unless `optional`.

    Numbers are compared as numbers (`42` is `42.0`), and `true` is not `1`. A value that a lenient server may take for another one (`"5"` for `5`, a
    number too large for 64-bit floats, a path with `..`) is neither: it fits no `allow`, but it fits a `deny`. A call in which an argument that a rule
    asks for is there twice, also in another case, is answered 400.
    """

    equals: Annotated[str | float | bool | None, Key(Scalar(), "Exactly this.")] = None
    one_of: Annotated[tuple[str | float | bool, ...], Key(Words("list", Scalar()), "One of these.", "anything")] = ()
    matches: Annotated[
        str | None,
        Key(
            Text("pattern", names.whole_pattern),
            "A text of at most 4096 characters that this regular expression matches from end to end. No text makes it slow, so there are no back "
            "references and no looking ahead or behind.",
        ),
    ] = None
    max_length: Annotated[int | None, Key(Count(least=0), "A text, list or table with at most so many characters or members.")] = None
    min: Annotated[float | None, Key(Number(), "A number, at least this.")] = None
    max: Annotated[float | None, Key(Number(), "A number, at most this.")] = None
    inside: Annotated[
        str | None,
        Key(
            Text("path", names.folder),
            "A path inside this folder: absolute, without `..` or `.` segments, backslashes, doubled slashes or NUL. What links lead to, only the "
            "server knows.",
        ),
    ] = None
    optional: Annotated[bool, Key(Flag(), "The argument may be missing.")] = False


class Rule(Struct, frozen=True, kw_only=True):
    """Who × what. It fits when everything it names fits; what it does not name fits always."""

    who: Annotated[
        tuple[str, ...],
        Key(
            Words("text or list", WORD, bare=True),
            'Callers: a name (`"agent-alpha"`, globs allowed), `"role:ops"`, `"scope:files:read"`, or `"*"` for everybody, the unnamed included.',
            "everybody",
        ),
    ] = ("*",)
    methods: Annotated[
        tuple[str, ...],
        Key(Words("text or list", WORD, bare=True), 'JSON-RPC methods, globs allowed: `"resources/*"`.', '`["tools/call"]`'),
    ] = ("tools/call",)
    tools: Annotated[
        tuple[str, ...],
        Key(
            Words("text or list", WORD, bare=True),
            "Names of tools (of prompts, URIs of resources), globs allowed: `search_*`. Upper and lower case differ.",
            "all",
        ),
    ] = ("*",)
    args: Annotated[
        dict[str, Constraint], Key(Named("tables by name", Constraint, names.words), "Conditions on arguments, see below.", "none")
    ] = field(default_factory=dict)


class Tools(Struct, frozen=True, kw_only=True):
    """Who may call what on this route. With this table every call that no `allow` fits is denied, and `deny` goes before `allow`.

    Calls are `tools/call`, `prompts/get`, `resources/read`, `resources/subscribe`, `completion/complete`, `tasks/…` and every method that is not
    known. What only keeps the conversation going (`initialize`, `ping`, `server/discover`, lists, `resources/unsubscribe`, `logging/setLevel`,
    `subscriptions/listen`, notifications, answers of the client) is allowed, unless a `deny` names it. A subscription is also judged as a
    `resources/subscribe` or `tasks/get` of everything it names. In a batch (revision 2025-03-26) one call that is denied denies all.

    Names that could be taken for others (another Unicode form, control characters, spaces around) are refused, and so are URIs with `..` segments,
    however they are encoded; a URI is judged as it is written and decoded. `mcpproxy explain` tells the verdict on a call, `mcpproxy policy test`
    checks a table of them.
    """

    allow: Annotated[tuple[Rule, ...], Key(Tables("list of tables", Rule), "Calls that are allowed.", "none")] = ()
    deny: Annotated[tuple[Rule, ...], Key(Tables("list of tables", Rule), "Calls that are denied, whatever `allow` says.", "none")] = ()
    read_only: Annotated[
        bool,
        Key(
            Flag(),
            "Only tools that say of themselves that they change nothing (`readOnlyHint`), as the last `tools/list` that passed here had it. A tool "
            "nobody has listed yet is denied.",
        ),
    ] = False
    shadow: Annotated[bool, Key(Flag(), "Deny nothing, but write into the audit log what would have been denied.")] = False
    trust_headers: Annotated[
        bool,
        Key(
            Flag(),
            "Calls of the 2026-07-28 revision are named by `Mcp-Method` and `Mcp-Name` alone, without a look at the body. Only where the server "
            "is known to refuse bodies that say otherwise. Rules about arguments always look.",
        ),
    ] = False
    peek: Annotated[
        int,
        Key(
            Size(least=1 * KIB),
            "The largest body that is looked at. It is kept in memory so long. A larger one is denied (413) where rules judge it; where they only watch "
            "(`shadow`) it goes on unread.",
        ),
    ] = 1 * MIB


class Credential(Struct, frozen=True, kw_only=True):
    """What we show to the upstream."""

    type: Annotated[
        Literal["header", "passthrough", "client-credentials", "token-exchange", "sigv4"],
        Key(
            Choice(
                '"header", "passthrough", "client-credentials", "token-exchange" or "sigv4"',
                ("header", "passthrough", "client-credentials", "token-exchange", "sigv4"),
            ),
            '`"header"`: a fixed field. `"passthrough"`: the caller\'s own credential (the MCP specification forbids it where the token was '
            'issued for us and not for the server). `"client-credentials"`: an OAuth token of our own. `"token-exchange"`: a token for each '
            'caller (RFC 8693). `"sigv4"`: AWS signatures.',
        ),
    ]
    header: Annotated[str, Key(Text("field name", names.header), "`header`: the field.")] = "Authorization"
    value: Annotated[str | None, Key(Secret(), "`header`: its value, whole: for `Authorization` with `Bearer ` in front.")] = None
    token_url: Annotated[
        str | None,
        Key(Text("URL", names.https_url), "`client-credentials`, `token-exchange`: the token endpoint of the authorization server."),
    ] = None
    client_id: Annotated[str | None, Key(WORD, "`client-credentials`, `token-exchange`: our client id there.")] = None
    client_secret: Annotated[str | None, Key(Secret(), "`client-credentials`, `token-exchange`: our client secret there.")] = None
    scope: Annotated[str | None, Key(WORD, "`client-credentials`, `token-exchange`: the scopes asked for, with spaces between.")] = None
    resource: Annotated[
        str | None,
        Key(WORD, "`client-credentials`, `token-exchange`: whom the token is for (RFC 8707), the URL of the upstream MCP endpoint."),
    ] = None
    audience: Annotated[str | None, Key(WORD, "`client-credentials`, `token-exchange`: the same in the words some servers want.")] = None
    private: Annotated[bool, Key(Flag(), "`client-credentials`, `token-exchange`: the token endpoint may have a private address.")] = False
    ca: Annotated[
        str | None,
        Key(
            File(),
            "`client-credentials`, `token-exchange`: authorities (PEM) that sign the token endpoint's certificate, instead of those of the system.",
            "the system's",
        ),
    ] = None
    region: Annotated[str | None, Key(WORD, "`sigv4`: the region.")] = None
    service: Annotated[str | None, Key(WORD, '`sigv4`: the service, like `"bedrock-agentcore"`.')] = None
    access_key: Annotated[str | None, Key(Secret(), "`sigv4`: the access key id.")] = None
    secret_key: Annotated[str | None, Key(Secret(), "`sigv4`: the secret access key.")] = None
    session_token: Annotated[str | None, Key(Secret(), "`sigv4`: the session token of temporary credentials.")] = None


class Identity(Struct, frozen=True, kw_only=True):
    """A short-lived, signed statement who calls, for the upstream: a JWT (EdDSA) whose key is at `/.well-known/mcpproxy-jwks.json` here."""

    header: Annotated[
        str, Key(Text("field name", names.header), "The field it stands in. A client's own field of this name is removed.")
    ] = "X-MCP-Identity"
    audience: Annotated[str | None, Key(WORD, "Its `aud`.", "the upstream's name")] = None
    issuer: Annotated[str, Key(WORD, "Its `iss`.")] = "mcpproxy"
    lifetime: Annotated[float, Key(Duration(), "How long one is good for.")] = MINUTE


class Audit(Struct, frozen=True, kw_only=True):
    """The audit log: one JSON line per MCP call, each with the hash of the line before, so that no line can be changed, moved or taken out unseen.

    `mcpproxy audit verify FILE` finds out.
    """

    file: Annotated[str, Key(File(), "Where it is written. Opened again at SIGUSR1; the chain goes on in the new file.")]
    fsync: Annotated[
        Literal["never", "second", "batch"],
        Key(
            Choice('"never", "second" or "batch"', ("never", "second", "batch")),
            "When lines are forced to the disk: when the system likes, at most a second late, or with every batch of lines.",
        ),
    ] = "second"
    when_full: Annotated[
        Literal["count", "block"],
        Key(
            Choice('"count" or "block"', ("count", "block")),
            'When lines cannot be written (a full disk): `"count"` serves on and writes how many are missing; `"block"` answers calls with 503 '
            "until it can be written again.",
        ),
    ] = "count"
    checkpoint: Annotated[float, Key(Duration(), "How often the chain is signed (Ed25519; the key is in the state directory).")] = (
        5 * MINUTE
    )
    reveal: Annotated[
        tuple[str, ...],
        Key(
            Words("list of patterns", WORD),
            "Arguments that are written in clear (shortened to 256 characters, after `redact`): `path`, or `search_*.query` for some tools only. "
            "Of others there is the name and a salted digest.",
            "none",
        ),
    ] = ()
    redact: Annotated[
        tuple[str, ...],
        Key(
            Words("list of patterns", Text("pattern", names.pattern)),
            "Regular expressions; what they find in revealed arguments is replaced by `[redacted]`. Added to those for common keys, tokens, "
            "e-mail addresses, card and phone numbers. Where a pattern may be slow (like `(a+)+b`), an argument that it is found in is replaced whole.",
            "none",
        ),
    ] = ()
    anomalies: Annotated[
        bool,
        Key(Flag(), "Add a `warning` line when a caller calls a tool it never called before, or ten times as often as it is used to."),
    ] = False


TABLES: dict[type, str] = {
    Auth: "[auth.NAME]",
    Limit: "[limit.NAME]",
    Tools: "[route.tools]",
    Rule: "[[route.tools.allow]], [[route.tools.deny]]",
    Constraint: "[route.tools.allow.args.NAME]",
    Credential: "[upstream.NAME.credential]",
    Identity: "[upstream.NAME.identity]",
    Audit: "[audit]",
}
