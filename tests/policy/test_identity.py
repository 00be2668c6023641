"""Who calls, said so that an upstream can check it: with the libraries that upstreams use."""

import json
import stat

import jwt as pyjwt
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from mcpproxy.config.policies import Identity
from mcpproxy.errors import StartError
from mcpproxy.http.head import HeadLimits, parse_request
from mcpproxy.pki.store import Store
from mcpproxy.policy.identity import FILE, KEPT, PLACE, IdentityKey, Statements
from mcpproxy.policy.verdict import Principal

NOW = 1_800_000_000.25
ALPHA = Principal("agent-alpha", "keys", frozenset({"ops", "dev"}))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "state")


@pytest.fixture
def key(store):
    return IdentityKey.kept(store)


def token_in(line: bytes, header: bytes = b"X-MCP-Identity") -> str:
    name, _, value = line.partition(b": ")
    assert (header, b"\r\n") == (name, value[-2:])
    return value[:-2].decode()


def claims_in(line: bytes) -> dict[str, object]:
    return pyjwt.decode(token_in(line), options={"verify_signature": False})


# -- what it says ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")  # "EdDSA" has a newer name, which few libraries know
def test_joserfc_believes_it(key):
    line = Statements("files", Identity(), key).line(Principal("alice", "corp", frozenset(), frozenset({"b", "a"}), scoped=True), NOW)
    found = jwt.decode(token_in(line), KeySet.import_key_set(json.loads(key.document)), algorithms=["EdDSA"])
    assert {"alg": "EdDSA", "kid": key.id, "typ": "JWT"} == found.header
    expected = {
        "iss": "mcpproxy",
        "aud": "files",
        "sub": "alice",
        "auth": "corp",
        "scope": "a b",
        "iat": 1_800_000_000,
        "exp": 1_800_000_060,
    }
    assert expected == found.claims


def test_pyjwt_believes_it(key):
    identity = Identity(header="X-Who", audience="https://files.example", issuer="https://mcp.example", lifetime=30.5)
    token = token_in(Statements("files", identity, key).line(ALPHA, NOW), b"X-Who")
    keys = pyjwt.PyJWKSet.from_json(key.document.decode())
    found = pyjwt.decode(
        token,
        keys[pyjwt.get_unverified_header(token)["kid"]],
        algorithms=["EdDSA"],
        audience="https://files.example",
        issuer="https://mcp.example",
        options={"require": ["exp", "iat", "sub"], "verify_exp": False, "verify_iat": False},
    )
    assert (["dev", "ops"], 30) == (found["roles"], found["exp"] - found["iat"])


def test_another_key_is_not_believed(key, tmp_path):
    other = IdentityKey.kept(Store(tmp_path / "other"))
    token = token_in(Statements("files", Identity(), other).line(ALPHA, NOW))
    with pytest.raises(pyjwt.InvalidSignatureError):
        pyjwt.decode(token, pyjwt.PyJWKSet.from_json(key.document.decode()).keys[0], algorithms=["EdDSA"], audience="files")


@pytest.mark.parametrize("name", ["ünï ☃", 'a"b\\c', "x" * 256, "a,b;c=d"])
def test_odd_names_arrive_as_they_are(key, name):
    line = Statements("files", Identity(), key).line(Principal(name, "corp"), NOW)
    assert name == claims_in(line)["sub"]
    assert line.isascii() and 1 == line.count(b"\r\n")


# -- how long -------------------------------------------------------------------------------------------------------------------------------------


def test_it_is_shown_again_for_half_its_life(key):
    statements = Statements("files", Identity(lifetime=60), key)
    first = statements.line(ALPHA, NOW)
    assert statements.line(ALPHA, NOW + 29.9) is first
    later = statements.line(ALPHA, NOW + 30)
    assert 1_800_000_090 == claims_in(later)["exp"]
    assert statements.line(ALPHA, NOW - 100) != later, "the clock was set back: it would not be valid yet"


def test_even_the_shortest_has_a_life(key):
    claims = claims_in(Statements("files", Identity(lifetime=0.2), key).line(ALPHA, NOW))
    assert claims["iat"] < claims["exp"]


def test_each_caller_has_its_own(key):
    statements = Statements("files", Identity(), key)
    callers = [
        ALPHA,
        Principal("agent-beta", "keys"),
        Principal("agent-alpha", "corp"),
        Principal("agent-alpha", "keys", frozenset({"ops"})),
        Principal("agent-alpha", "keys", frozenset({"ops"}), frozenset({"x"})),
    ]
    lines = [statements.line(caller, NOW) for caller in callers]
    assert len(callers) == len(set(lines))
    assert lines == [statements.line(caller, NOW + 1) for caller in callers]


def test_their_number_is_bounded(key):
    statements = Statements("files", Identity(), key)
    first = statements.line(ALPHA, NOW)
    for number in range(KEPT):
        statements.line(Principal(str(number), "keys"), NOW)
    assert KEPT == len(statements._known)
    assert statements.line(ALPHA, NOW + 1) is not first


# -- the key --------------------------------------------------------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_is_nobody_elses(store, key):
    assert 0o600 == stat.S_IMODE((store.path / FILE).stat().st_mode)
    again = IdentityKey.kept(store)
    assert (key.id, key.document) == (again.id, again.document)


def test_a_key_others_can_read_is_not_used(store, key):
    (store.path / FILE).chmod(0o644)
    with pytest.raises(StartError, match="others may read"):
        IdentityKey.kept(store)


@pytest.mark.parametrize("kind", ["garbage", "RSA"])
def test_a_file_that_is_no_such_key(store, certificate, kind):
    store.write_secret(FILE, b"garbage" if kind == "garbage" else certificate.key.read_bytes())
    with pytest.raises(StartError, match="no Ed25519 key") as caught:
        IdentityKey.kept(store)
    assert "garbage" not in str(caught.value)


def test_the_key_id_is_the_thumbprint(key):
    [published] = KeySet.import_key_set(json.loads(key.document)).keys
    assert key.id == published.thumbprint()
    assert not published.is_private


# -- where it is published --------------------------------------------------------------------------------------------------------------------------


def asked(text: str):
    return parse_request(f"{text} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), HeadLimits())


def test_the_key_is_published(key):
    answer = key.find(asked(f"GET {PLACE.decode()}"))(False)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert key.document == body
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Access-Control-Allow-Origin: *" in head and b"max-age=300" in head and b"Connection: close" not in head
    assert b"Connection: close" in key.find(asked(f"GET {PLACE.decode()}?x"))(True)
    assert key.find(asked(f"HEAD {PLACE.decode()}"))(False) == head + b"\r\n\r\n"
    assert b"Access-Control-Allow-Methods" in key.find(asked(f"OPTIONS {PLACE.decode()}"))(False)


@pytest.mark.parametrize("text", ["GET /", f"POST {PLACE.decode()}", f"GET {PLACE.decode()}/x"])
def test_nothing_else_is_answered(key, text):
    assert key.find(asked(text)) is None
