"""What must not be copied: which names and values are secrets or variables, and the references that stand for them.

In doubt it is one: a value of an environment is written into our file only where name or value show that it is harmless. A word of a command line that holds
a secret cannot be a reference (a command's words are texts), so a shell puts it there from the environment of the child: `words`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from mcpproxy.migrate.found import Found, Keys

WORDS = frozenset(
    "key keys apikey token tokens secret secrets password passwd passphrase pass pwd auth authorization credential credentials cred creds bearer "
    "cookie pat dsn jwt pin signature accesskey secretkey webhook connectionstring oauth session private".split()
)
ENDS = ("token", "secret", "password", "passwd", "apikey")
HARMLESS_END = frozenset("file path dir directory type mode url uri header name id env prefix scheme".split())  # --key-file, AUTH_TYPE
PLAIN_NAMES = frozenset(
    "PATH HOME LANG LC_ALL TZ TERM NODE_ENV NODE_PATH NODE_OPTIONS PYTHONPATH PYTHONUNBUFFERED PYTHONIOENCODING LOG_LEVEL LOGLEVEL DEBUG PORT HOST "
    "FASTMCP_LOG_LEVEL NO_COLOR FORCE_COLOR".split()
)
PLAIN_VALUE = re.compile(
    r"|true|false|on|off|yes|no|[0-9]{1,5}|debug|info|warn|warning|error|trace|silent|production|development|test|staging|stdio|sse|http|"
    r"localhost|127\.0\.0\.1|0\.0\.0\.0|utf-?8",
    re.IGNORECASE,
)
LONGEST = 4096  # characters
KNOWN = re.compile(
    r"(?:sk|pk|rk)[-_][A-Za-z0-9_-]{8}|gh[pousr]_[A-Za-z0-9]{10}|github_pat_|glpat-|xox[abeprs]-|xapp-|A[KS]IA[A-Z0-9]{12}|AIza[A-Za-z0-9_-]{10}|"
    r"eyJ[A-Za-z0-9_-]{8}|ya29\.|npm_[A-Za-z0-9]{10}|hf_[A-Za-z0-9]{10}|tvly-|ntn_|secret_|lin_api_|figd_|SG\.[A-Za-z0-9]{8}|-----BEGIN"
)
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
RUN = re.compile(r"[A-Za-z0-9+=]{20,}")
USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/@\s]*:[^/@\s]*@")
QUERY = re.compile(r"[?&]([^=&\s]{1,64})=[^&\s]")
SCHEME = re.compile(r"(?:Bearer|Basic|Token|ApiKey)\s+\S", re.IGNORECASE)
EXPANSION = re.compile(r"\$\{(?:(env|input|command|config|secrets?):)?([^{}:]{1,100})(?::-?[^{}]*)?\}")
FOLDERS = {"userHome": "HOME", "workspaceFolder": "WORKSPACE_FOLDER", "workspaceRoot": "WORKSPACE_FOLDER", "cwd": "WORKSPACE_FOLDER"}
ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.+)", re.DOTALL)
FLAG = re.compile(r"(--?[A-Za-z][A-Za-z0-9_.-]*)=(.+)", re.DOTALL)
FIELD = re.compile(r"([A-Za-z][A-Za-z0-9-]{0,63}):(\s*)(.+)", re.DOTALL)


def secret_name(name: str) -> bool:
    """Is what has this name a secret?"""
    parts = [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]
    if not parts or (len(parts) > 1 and parts[-1] in HARMLESS_END):
        return False
    return any(part in WORDS or part.endswith(ENDS) for part in parts)


def secret_value(text: str) -> bool:
    """Does this look like one, whatever it is called?"""
    if len(text) > LONGEST:
        return True  # a key in PEM; or what would take long to look at
    if KNOWN.search(text) or UUID.search(text) or USERINFO.search(text) or SCHEME.match(text):
        return True
    if any(secret_name(name) for name in QUERY.findall(text)):
        return True
    plain = re.sub(r"sha(?:256|512)[:-][0-9a-f]+|@[0-9a-f]{40}\b", "", text)  # digests of images, commits of sources
    return any(re.search("[0-9]", run) and re.search("[A-Za-z]", run) for run in RUN.findall(plain))


def harmless(name: str, value: str) -> bool:
    """May a value of an environment be written down?"""
    if (
        secret_name(name)
        or secret_value(value)
        or EXPANSION.search(value)
        or value.startswith(("env:", "file:", "os.environ/"))
        or "\0" in value
    ):
        return False
    return name in PLAIN_NAMES or PLAIN_VALUE.fullmatch(value) is not None


def environment(found: Found, owner: str, name: str, value: str, place: str) -> str:
    """What stands in our `env` for NAME=value: the value where it is harmless, else a reference."""
    if harmless(name, value):
        return value
    about = f"{name} of {owner}"
    whole = EXPANSION.fullmatch(value)
    if whole:
        return found.expansion(_variable(whole), about)
    if value.startswith("os.environ/"):
        return found.expansion(value.removeprefix("os.environ/"), about)
    if EXPANSION.search(value):
        found.note(place, f"{name} is put together from variables: set the one for it to the whole value")
    return found.variable(owner, name, about)


def credential(found: Found, owner: str, field: str, value: str) -> str:
    """A reference for the whole value of a header field."""
    whole = EXPANSION.fullmatch(value) or re.fullmatch(r"os\.environ/()(\S+)", value)
    about = f"the whole {field} field for {owner}"
    if whole:
        return found.expansion(_variable(whole), about)
    scheme = re.match(r"(Bearer|Basic|Token)\s", value, re.IGNORECASE)
    return found.variable(owner, field, about + (f', "{scheme[1]} …"' if scheme else ""))


def _variable(found: re.Match[str]) -> str:
    return FOLDERS.get(found[2], found[2])


@dataclass(frozen=True, slots=True)
class Reference:
    """A piece of a word that comes from a variable of the child."""

    name: str


def words(found: Found, owner: str, given: list[str], place: str) -> tuple[list[str], Keys]:
    """A command line without its secrets, and the variables that hold them."""
    split: list[list[str | Reference]] = []
    env: Keys = {}
    flag = ""
    for word in given:
        pieces = _pieces(found, owner, word, flag, env)
        flag = word if word.startswith("-") and "=" not in word else ""
        split.append(pieces)
    if all(isinstance(piece, str) for pieces in split for piece in pieces):
        return ["".join(map(str, pieces)) for pieces in split], {}
    found.note(
        place,
        "secrets and variables in its arguments come from its environment now, through /bin/sh: other users of the machine see arguments",
    )
    return ["/bin/sh", "-c", "exec " + " ".join(_quoted(pieces) for pieces in split)], dict(env)


def _pieces(found: Found, owner: str, word: str, flag: str, env: Keys) -> list[str | Reference]:
    def hide(name: str) -> Reference:
        reference = found.variable(owner, name, f"an argument of {owner} ({name})")
        env[reference[4:]] = reference
        return Reference(reference[4:])

    if EXPANSION.search(word):
        pieces: list[str | Reference] = []
        end = 0
        for each in EXPANSION.finditer(word):
            name = _variable(each)
            reference = found.expansion(name, f"an argument of {owner}")[4:]
            env[reference] = f"env:{reference}"
            before = word[end : each.start()]
            pieces += [before if not secret_value(before.strip()) or SCHEME.match(before + "x") else hide("argument"), Reference(reference)]
            end = each.end()
        rest = word[end:]
        return [*pieces, hide("argument") if secret_value(rest) else rest]
    if flag and secret_name(flag) and not word.startswith("-"):
        return [hide(flag.lstrip("-"))]
    for shape in (FLAG, ASSIGNMENT):
        parts = shape.fullmatch(word)
        if parts and (secret_name(parts[1]) or secret_value(parts[2])):
            return [f"{parts[1]}=", hide(parts[1].lstrip("-"))]
    parts = FIELD.fullmatch(word)
    if parts and "//" not in word[: len(parts[1]) + 3] and (secret_name(parts[1]) or secret_value(parts[3])):
        scheme = re.match(r"(?:Bearer|Basic|Token)\s+", parts[3], re.IGNORECASE)
        return [f"{parts[1]}:{parts[2]}{scheme[0] if scheme else ''}", hide(parts[1])]
    return [hide("argument")] if secret_value(word) else [word]


def _quoted(pieces: list[str | Reference]) -> str:
    if all(isinstance(piece, str) for piece in pieces):
        return shlex.quote("".join(map(str, pieces)))
    inside = ("${" + piece.name + "}" if isinstance(piece, Reference) else re.sub(r'([\\"$`])', r"\\\1", piece) for piece in pieces)
    return '"' + "".join(inside) + '"'
