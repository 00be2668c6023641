"""Upstreams whose messages go through the gateway process: servers that are started as child processes, several servers as one, and bridges.

`model` hangs these tables into the whole, as those of `policies`; how a table is written, read and documented is told there. `Upstream` has all the keys
below: `Sessions`, `Messages`, `Watched`, `Remote`, `Command` and `Hub` are in one line of descent only because the layouts of structures must be. Which of
them mean something depends on which of `urls`, `command` and `members` is given; check_gateway refuses the others by name.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct, field

from mcpproxy.config import names
from mcpproxy.config.kinds import ENVIRONMENT_NAME, Choice, Count, Duration, File, Flag, Given, Key, Named, Pairs, Size, Text, Words
from mcpproxy.config.mistakes import Wrong

MINUTE, HOUR = 60.0, 3600.0
MIB = 1 << 20
GLOB = Text("text", names.words)


def variable(text: str) -> str:
    """The name of an environment variable."""
    if not ENVIRONMENT_NAME.fullmatch(text):
        raise Wrong("not the name of a variable: letters, digits, underscores")
    return text


def word(text: str) -> str:
    """A word of a command line: any text that a program can be given."""
    if "\0" in text:
        raise Wrong("a program cannot be given a NUL")
    return text


def name_part(text: str) -> str:
    """What stands before names, or is one: what every client takes (MCP, tools: names)."""
    if len(text) > 64 or not all(each.isascii() and (each.isalnum() or each in "_-./") for each in text):
        raise Wrong("names have letters, digits, `_`, `-`, `.` and `/`, at most 64 of them")
    return text


class Facet(Struct, frozen=True, kw_only=True):
    """What of one of the `members` is offered, and by which names. Without the table: everything, behind the member's name."""

    prefix: Annotated[
        str | None,
        Key(
            Text("text", name_part),
            'What its names begin with: `"fs"` makes `read_file` `fs_read_file`; `""`: nothing.',
            "the member's name, or nothing, as the hub's `prefix` says",
        ),
    ] = None
    tools: Annotated[
        tuple[str, ...] | None,
        Key(
            Words("text or list", GLOB, bare=True),
            'Which of its tools, by its own names; globs: `"read_*"`. An empty list: none. '
            "This is what there is, for everybody; who may call what is said in `[route.tools]`.",
            "all",
        ),
    ] = None
    prompts: Annotated[tuple[str, ...] | None, Key(Words("text or list", GLOB, bare=True), "Which of its prompts, likewise.", "all")] = None
    resources: Annotated[
        tuple[str, ...] | None,
        Key(Words("text or list", GLOB, bare=True), "Which of its resources and templates, by their URIs, likewise.", "all"),
    ] = None
    rename: Annotated[
        dict[str, str],
        Key(
            Pairs("table of texts", Text("name", name_part)),
            "By its own name of a tool or prompt: the whole new one, without prefix.",
            "none",
        ),
    ] = field(default_factory=dict)
    hide: Annotated[
        tuple[str, ...],
        Key(
            Words("text or list", GLOB, bare=True),
            "What is left out nevertheless: tools and prompts by its own names, resources by URI.",
            "nothing",
        ),
    ] = ()
    describe: Annotated[
        dict[str, str],
        Key(Pairs("table of texts", GLOB), "By its own name of a tool or prompt: what clients are told that it does.", "as it says"),
    ] = field(default_factory=dict)


class Sessions(Struct, frozen=True, kw_only=True):
    """For every upstream that the gateway process serves: one with `command`, `members`, or `bridge = true`."""

    session_ttl: Annotated[
        float, Key(Duration(), "A session that is not used for this long is ended: its client is answered 404 and begins another one.")
    ] = 24 * HOUR
    max_sessions: Annotated[
        int, Key(Count(), "Sessions at once; beyond it the one that was not used for longest ends, of those without an open stream.")
    ] = 10_000


class Messages(Sessions, frozen=True, kw_only=True):
    """For every server that the gateway process speaks with itself: one with `command`, and one with `urls` that is a bridge or a member."""

    era: Annotated[
        Literal["auto", "legacy", "modern"],
        Key(
            Choice('"auto", "legacy" or "modern"', ("auto", "legacy", "modern")),
            'How MCP is spoken with it: `"legacy"` with `initialize` and sessions (up to 2025-11-25), `"modern"` without (2026-07-28). `"auto"` finds out. '
            "Clients of both are served in either case.",
        ),
    ] = "auto"
    call_timeout: Annotated[
        float,
        Key(Duration(), "How long a call may be without an answer or a sign of progress; then the server is told that it is cancelled."),
    ] = 10 * MINUTE
    call_ceiling: Annotated[float, Key(Duration(), "How long a call may take in all, whatever progress it makes.")] = HOUR
    max_message: Annotated[
        int,
        Key(
            Size(), "The largest message it may send. The call that a larger one answers fails; a child is ended where that cannot be told."
        ),
    ] = 16 * MIB


class Watched(Messages, frozen=True, kw_only=True):
    """What a server behind the gateway process says about itself, and is not to be believed without a look: models read it, and do what it says."""

    lock: Annotated[
        str | None,
        Key(
            File(),
            "What you have approved of its tools, prompts and resource templates: the file `mcpproxy lock` writes, to be kept with this one. "
            "Several upstreams may share it.",
            "none",
        ),
    ] = None
    drift: Annotated[
        Literal["log", "hide", "block"],
        Key(
            Choice('"log", "hide" or "block"', ("log", "hide", "block")),
            'What is done about an entry that is not as the lock file has it, or not in it. `"log"`: a message, and a metric. `"hide"`: nobody sees it, '
            'and it cannot be called. `"block"`: calls are refused with the reason; one that changed is listed as it was approved, a new one not at all.',
        ),
    ] = "log"
    suspicious: Annotated[
        Literal["log", "hide", "off"],
        Key(
            Choice('"log", "hide" or "off"', ("log", "hide", "off")),
            "What is done about an entry that seems to speak to the model behind people's backs: invisible characters, names that look like another tool's, "
            'comments, words like "ignore previous instructions". `"log"`: a message, and a metric. `"hide"`: nobody sees it, and it cannot be called. '
            "What is approved in a lock file is not looked at.",
        ),
    ] = "log"
    max_result: Annotated[
        int | None,
        Key(
            Size(),
            "The largest result a client is given. Texts of a tool's result are cut, and say so; what cannot be cut is answered with an error.",
            "as `max_message`",
        ),
    ] = None


class Remote(Watched, frozen=True, kw_only=True):
    """For an upstream with `urls` that is a bridge or a member."""

    bridge: Annotated[
        bool,
        Key(
            Flag(),
            "Its messages go through the gateway process: clients of both eras, and of HTTP+SSE, are served, whatever the server speaks. "
            "Without it bytes are passed on as they are, which is faster.",
        ),
    ] = False
    mcp_path: Annotated[
        str,
        Key(
            Text("path", names.path),
            "Where the server has its MCP endpoint. Of HTTP+SSE: its event stream, which is looked for at `/sse`, too.",
        ),
    ] = "/mcp"
    transport: Annotated[
        Literal["auto", "streamable", "sse"],
        Key(
            Choice('"auto", "streamable" or "sse"', ("auto", "streamable", "sse")),
            '`"streamable"`: Streamable HTTP. `"sse"`: HTTP+SSE (2024-11-05). `"auto"` tries the first, and the other where that is answered 4xx.',
        ),
    ] = "auto"


class Command(Remote, frozen=True, kw_only=True):
    """For an upstream with `command`: a server that is started as a child process, and speaks over stdin and stdout."""

    command: Annotated[
        tuple[str, ...],
        Key(
            Words("list of words", Text("word", word), least=1, distinct=False),
            "The program and its arguments, each a text of its own; no shell reads them. What it writes to stderr goes to our messages.",
            "needed, unless `urls` or `members`",
        ),
    ] = ()
    env: Annotated[
        dict[str, str],
        Key(
            Pairs("table of texts or secret references", Given(), variable),
            'Variables of its environment: `{ MODE = "x", API_KEY = "env:FILES_KEY" }`, plain or as `env:NAME` and `file:path`. Beside these it has HOME, '
            "LOGNAME, PATH, SHELL, TERM, USER and the locale; nothing else of ours.",
            "none",
        ),
    ] = field(default_factory=dict)
    inherit: Annotated[
        tuple[str, ...],
        Key(Words("list of names", Text("name", variable), bare=True), "More variables it gets from our own environment.", "none"),
    ] = ()
    cwd: Annotated[str | None, Key(File("directory"), "Its working directory.", "`state_dir`")] = None
    user: Annotated[
        str | None,
        Key(Text("user", names.account), "Who it runs as; only where the daemon itself stays root.", "who serves"),
    ] = None
    mode: Annotated[
        Literal["shared", "per-session", "per-principal"],
        Key(
            Choice('"shared", "per-session" or "per-principal"', ("shared", "per-session", "per-principal")),
            '`"shared"`: one process for everybody: for servers that keep nothing about who asks. `"per-session"`: one for each session. `"per-principal"`: '
            "one for each caller (route with `auth`).",
        ),
    ] = "shared"
    start: Annotated[
        Literal["on-demand", "warm"],
        Key(
            Choice('"on-demand" or "warm"', ("on-demand", "warm")),
            '`"on-demand"`: with the first call. `"warm"`: with the daemon (where `mode` is `"shared"`).',
        ),
    ] = "on-demand"
    idle_stop: Annotated[
        float | None,
        Key(Duration(never="off"), 'A process that nobody used for this long is ended; the next call starts another. `"off"`: never.'),
    ] = 10 * MINUTE
    max_children: Annotated[int, Key(Count(), "Processes at once; a session or caller beyond it is told to come again.")] = 16
    sandbox: Annotated[
        Literal["off", "bwrap", "systemd"],
        Key(
            Choice('"off", "bwrap" or "systemd"', ("off", "bwrap", "systemd")),
            '`"bwrap"`: in namespaces of its own (bubblewrap): the file system is read-only but for `cwd`. `"systemd"`: in a scope of its own (`systemd-run`).',
        ),
    ] = "off"
    start_timeout: Annotated[float, Key(Duration(), "How long it may take until it answers for the first time; then it is ended.")] = 30.0
    stop_grace: Annotated[float, Key(Duration(), "To end it: stdin is closed, after this long SIGTERM, after as long again SIGKILL.")] = 2.0
    memory: Annotated[int | None, Key(Size(), "Address space it may have, each of its processes (RLIMIT_AS).", "no limit")] = None
    files: Annotated[int | None, Key(Count(), "Files it may have open (RLIMIT_NOFILE).", "as we")] = None
    processes: Annotated[int | None, Key(Count(), "Processes its user may have at once (RLIMIT_NPROC).", "as we")] = None


class Hub(Command, frozen=True, kw_only=True):
    """For an upstream with `members`: several servers as one. Each is an upstream of its own, with `command` or `urls`, with or without a route."""

    members: Annotated[
        tuple[str, ...],
        Key(
            Words("list of upstream names", Text("name", names.upstream_name), least=1),
            "Names of the upstreams. Where one is away, the others serve.",
            "needed, unless `urls` or `command`",
        ),
    ] = ()
    member: Annotated[
        dict[str, Facet],
        Key(Named("tables by member", Facet), "What of each is offered, see `[upstream.NAME.member.MEMBER]`.", "everything"),
    ] = field(default_factory=dict)
    expose: Annotated[
        Literal["all", "search"],
        Key(
            Choice('"all" or "search"', ("all", "search")),
            '`"all"`: clients see all tools. `"search"`: they see two, one that finds tools, and one that calls what was found: for hundreds of '
            "tools, which would fill the context of a model.",
        ),
    ] = "all"
    prefix: Annotated[
        Literal["member", "none"],
        Key(
            Choice('"member" or "none"', ("member", "none")),
            '`"member"`: `read_file` of `files` is `files_read_file`. `"none"`: names stay; one that comes twice gets its member\'s name nevertheless.',
        ),
    ] = "member"
    name_length: Annotated[int, Key(Count(least=16, most=128), "Names that would be longer are shortened, with a hash at their end.")] = 64
    deadline: Annotated[float, Key(Duration(), "A member that takes longer is left out of a list, until it is there.")] = 5.0
    cache: Annotated[
        float | None,
        Key(
            Duration(never="off"),
            "How long lists of members are kept that do not say so themselves (`ttlMs`). They are forgotten when the member says that they changed.",
        ),
    ] = None


TABLES: dict[type, str] = {
    Facet: "[upstream.NAME.member.MEMBER]",
}
PARTS: dict[type, str] = {  # of [upstream.NAME], for the reference: each with its own keys
    Command: "with `command`",
    Hub: "with `members`",
    Remote: "with `urls`, as a bridge or a member",
    Messages: "servers behind the gateway",
    Watched: "servers behind the gateway, watched",
    Sessions: "sessions of the gateway",
}


def own_keys(table: type) -> tuple[str, ...]:
    """The keys of this one, without those it has from others."""
    above = table.__mro__[1]
    inherited = () if above is Struct else above.__struct_fields__  # type: ignore[attr-defined]
    return tuple(name for name in table.__struct_fields__ if name not in inherited)  # type: ignore[attr-defined]
