"""AWS signatures: as AWS's documents and botocore make them, to the byte."""

import string
from datetime import UTC, datetime
from unittest import mock
from urllib.parse import quote

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.policy.sigv4 import EMPTY, FIELDS, Outgoing, Signer, canonical_path, canonical_query

NOW = datetime(2015, 8, 30, 12, 36, 0, tzinfo=UTC).timestamp()
ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def fields(lines: bytes) -> dict[bytes, bytes]:
    assert lines.endswith(b"\r\n")
    return dict(line.split(b": ", 1) for line in lines[:-2].split(b"\r\n"))


def by_botocore(
    method: str, target: str, host: str, body: bytes, now: float, token: str | None = None, region="us-east-1", service="bedrock"
):
    request = AWSRequest(method, f"https://{host}{target}", headers={"Host": host}, data=body)
    request.headers["X-Amz-Content-SHA256"] = botocore.auth.SigV4Auth(None, "", "").payload(request)
    with mock.patch("botocore.auth.get_current_datetime", return_value=datetime.fromtimestamp(int(now), UTC)):
        botocore.auth.SigV4Auth(Credentials(ACCESS, SECRET, token), service, region).add_auth(request)
    return {name.lower().encode(): value.encode() for name, value in request.headers.items()}


def same_as_botocore(method: str, target: str, host: str, body: bytes, now: float, token: str | None = None) -> None:
    made = Signer("us-east-1", "bedrock", ACCESS, SECRET, token or "").lines(
        Outgoing(method.encode(), target.encode(), host.encode(), body), now
    )
    expected = by_botocore(method, target, host, body, now, token)
    del expected[b"host"]
    assert expected == {name.lower(): value for name, value in fields(made).items()}


# -- the real software ----------------------------------------------------------------------------------------------------------------------------

words = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FFF, exclude_categories=("Cs",)), max_size=8).map(
    lambda text: quote(text, safe="~")
)
segments = st.one_of(words, st.sampled_from(["", ".", "..", "...", "a:b@c", "$&'()*+,;=", "%2F", "%2e"]))
paths = st.lists(segments, max_size=6).map(lambda parts: "/" + "/".join(parts))
queries = st.lists(st.tuples(words, words), max_size=5).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))
targets = st.builds(
    lambda path, query: path + ("?" + query if query else ""), paths.filter(lambda path: not path.startswith("//")), queries
)


@given(
    st.sampled_from(["GET", "POST", "DELETE"]),
    targets,
    st.sampled_from(["bedrock.us-east-1.amazonaws.com", "localhost:8443", "Upper.Example"]),
    st.binary(max_size=300),
    st.floats(0, 4e9),
    st.sampled_from([None, "token/with+odd=characters"]),
)
def test_as_botocore_signs(method, target, host, body, now, token):
    same_as_botocore(method, target, host, body, now, token)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/mcp",
        "/a//b/./c/../d/",
        "/../..",
        "/runtimes/arn%3Aaws%3Abedrock-agentcore%3Aus-west-2%3A1%3Aruntime%2Fx/invocations?qualifier=DEFAULT",
        "/?Param2=value2&Param1=value1",
        "/?Param1=b&Param1=a",
        "/%E1%88%B4",
        "/?%E1%88%B4=bar",
        "/-._~0",
    ],
)
def test_as_botocore_signs_these(target):
    same_as_botocore("POST", target, "example.amazonaws.com", b'{"jsonrpc":"2.0"}', NOW)


def test_the_days_follow_each_other():
    """One signer, moments in any order: the key is the day's."""
    signer = Signer("us-east-1", "bedrock", ACCESS, SECRET)
    for now in (86_399.9, 86_400, 86_400.5, 0, 1e9, 86_399):
        made = fields(signer.lines(Outgoing(b"GET", b"/", b"h"), now))
        assert by_botocore("GET", "/", "h", b"", now)[b"authorization"] == made[b"Authorization"]


# -- what AWS writes ------------------------------------------------------------------------------------------------------------------------------


def test_the_signing_key_of_the_documents():
    """ "Deriving the signing key", AWS General Reference: 20150830, us-east-1, iam."""
    signer = Signer("us-east-1", "iam", ACCESS, SECRET)
    signer.lines(Outgoing(b"GET", b"/", b"iam.amazonaws.com"), NOW)
    assert "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9" == signer._key.hex()


def test_a_session_token_is_signed_and_sent():
    made = fields(Signer("eu-west-1", "svc", ACCESS, SECRET, "session").lines(Outgoing(b"POST", b"/mcp", b"h", b"x"), NOW))
    assert b"session" == made[b"X-Amz-Security-Token"]
    assert b"SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token," in made[b"Authorization"]
    assert b"Credential=AKIDEXAMPLE/20150830/eu-west-1/svc/aws4_request," in made[b"Authorization"]
    assert FIELDS == {name.lower() for name in made}, "what we say, nobody else says"


def test_no_body_has_a_digest_too():
    assert EMPTY == fields(Signer("r", "s", "a", "k").lines(Outgoing(b"GET", b"/", b"h"), NOW))[b"X-Amz-Content-SHA256"]


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        (b"/", b"/"),
        (b"", b"/"),
        (b"//", b"/"),
        (b"/a/", b"/a/"),
        (b"/a/..", b"/"),
        (b"/a/../", b"/"),
        (b"/../a", b"/a"),
        (b"/%20", b"/%2520"),
        (b"/~*'", b"/~%2A%27"),
        (b"/\xc3\xa9", b"/%C3%A9"),
    ],
)
def test_a_path_in_its_canonical_form(path, canonical):
    assert canonical == canonical_path(path)


@pytest.mark.parametrize(
    ("query", "canonical"),
    [
        (b"b=1&a=2", b"a=2&b=1"),
        (b"a", b"a="),
        (b"a=b=c", b"a=b%3Dc"),
        (b"a=%2f%7e", b"a=%2F~"),
        (b"a=x+y", b"a=x%20y"),
        (b"a=*", b"a=%2A"),
        (b"a=1&A=1&a=0", b"A=1&a=0&a=1"),
    ],
)
def test_a_query_in_its_canonical_form(query, canonical):
    """However a client writes it: the server decodes it before it signs."""
    assert canonical == canonical_query(query)


plain = st.text(string.ascii_letters + string.digits + "._~-/", max_size=30).map(lambda text: "/" + text)


@given(plain)
def test_the_short_way_for_plain_paths_is_the_long_one(path):
    signer = Signer("r", "s", "a", "k")
    short = signer.lines(Outgoing(b"GET", path.encode(), b"h"), NOW)
    with mock.patch("mcpproxy.policy.sigv4._is_plain", return_value=None):
        assert signer.lines(Outgoing(b"GET", path.encode(), b"h"), NOW) == short


# -- of a head ------------------------------------------------------------------------------------------------------------------------------------


def test_a_rendered_head_is_taken_apart():
    head = b"POST /mcp?x=1 HTTP/1.1\r\nContent-Length: 2\r\nhost: up.example:444\r\nX-Host: no\r\n"
    assert Outgoing(b"POST", b"/mcp?x=1", b"up.example:444", b"{}") == Outgoing.of(head, b"{}")


def test_nothing_secret_is_shown():
    assert SECRET not in repr(Signer("r", "s", ACCESS, SECRET)), "it has no words of its own"
