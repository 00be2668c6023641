"""Fields for security's sake: beside what a server says, never over it."""

from mcpproxy.config.model import Route
from mcpproxy.http.forward import Dress, render_response
from mcpproxy.http.head import parse_response
from mcpproxy.policy.headers import dress

PROTECTED = Route(upstream="u", security_headers=True)
HSTS = b"Strict-Transport-Security: max-age=63072000; includeSubDomains"
ALWAYS = [b"X-Content-Type-Options: nosniff", b"X-Frame-Options: DENY"]


def lines(worn: Dress | None, *fields: bytes, status: bytes = b"200 OK") -> list[bytes]:
    """The fields a client gets for these of a server."""
    head = parse_response(b"\r\n".join([b"HTTP/1.1 " + status, *fields, b"", b""]), b"GET")
    return render_response(head, close=False, client_version=11, dechunk=False, dress=worn).split(b"\r\n")[1:-2]


def test_a_route_that_asks_for_nothing_changes_nothing() -> None:
    assert dress(Route(upstream="u"), secure=True) is None


def test_browsers_are_told_to_be_careful() -> None:
    assert lines(dress(PROTECTED, secure=False), b"Content-Length: 0") == [b"Content-Length: 0", *ALWAYS]
    assert lines(dress(PROTECTED, secure=True), b"Content-Length: 0") == [b"Content-Length: 0", HSTS, *ALWAYS]


def test_what_the_server_says_stays() -> None:
    own = [b"x-frame-options: SAMEORIGIN", b"Strict-Transport-Security: max-age=0", b"X-Content-Type-Options: x", b"Content-Length: 0"]
    assert lines(dress(PROTECTED, secure=True), *own) == own


def test_answers_of_our_own_wear_the_same() -> None:
    worn = dress(PROTECTED, secure=True)
    assert worn is not None
    assert [b"%b: %b" % field for field in worn.fields()] == [HSTS, *ALWAYS]


def test_interim_answers_have_none() -> None:
    assert lines(dress(PROTECTED, secure=True), b"Link: </a>", status=b"103 Early Hints") == [b"Link: </a>"]


def test_fields_that_tell_too_much_go() -> None:
    worn = dress(Route(upstream="u", hide_headers=("Server", "x-powered-by")), secure=True)
    assert lines(worn, b"server: uvicorn", b"X-Powered-By: a", b"X-POWERED-BY: b", b"Content-Length: 0") == [b"Content-Length: 0"]


def test_instead_of_a_hidden_field_there_is_ours() -> None:
    worn = dress(Route(upstream="u", hide_headers=("X-Frame-Options",), security_headers=True), secure=False)
    assert lines(worn, b"X-Frame-Options: ALLOWALL", b"Content-Length: 0") == [b"Content-Length: 0", *ALWAYS]
