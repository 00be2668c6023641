import pytest

from mcpproxy.mcp.call import calls_of
from mcpproxy.policy.exempt import DISCOVER_BODY, Exemption, discovers, exemption

NONE, CERTAIN, IF_BODY_SAYS = Exemption.NONE, Exemption.CERTAIN, Exemption.IF_BODY_SAYS
RESOURCE = b"/.well-known/oauth-protected-resource"


@pytest.mark.parametrize(
    ("method", "path", "claim", "length", "expected"),
    [
        (b"DELETE", b"/mcp", None, 0, CERTAIN),
        (b"DELETE", b"/mcp", b"tools/call", 100, CERTAIN),
        (b"GET", RESOURCE, None, 0, CERTAIN),
        (b"HEAD", RESOURCE, None, 0, CERTAIN),
        (b"GET", RESOURCE + b"/mcp", None, 0, CERTAIN),
        (b"GET", b"/mcp/.well-known/openid-configuration", None, 0, CERTAIN),
        (b"GET", b"/tenant/a/.well-known/oauth-authorization-server", None, 0, CERTAIN),
        # what only looks like it
        (b"POST", RESOURCE, None, 100, NONE),
        (b"GET", b"/mcp", None, 0, NONE),
        (b"GET", b"/.well-known", None, 0, NONE),
        (b"GET", b"/.well-known/", None, 0, NONE),
        (b"GET", b"/.well-knownx/a", None, 0, NONE),
        (b"GET", b"/mcp/.well-known/mcp", None, 0, NONE),
        (b"GET", b"/.well-known/../mcp", None, 0, NONE),
        (b"GET", b"/.well-known/..", None, 0, NONE),
        (b"GET", b"/.well-known/a/.", None, 0, NONE),
        (b"GET", b"/.well-known//mcp", None, 0, NONE),
        (b"GET", b"/.well-known/%2e%2e/mcp", None, 0, NONE),
        (b"GET", b"/.well-known/a;b", None, 0, NONE),
        (b"GET", b"/.well-known/a\\..\\..\\mcp", None, 0, NONE),
        (b"GET", b"/.well-known/a\n", None, 0, NONE),
        (b"get", RESOURCE, None, 0, NONE),
        (b"OPTIONS", b"/mcp", None, 0, NONE),
        # a claim is only a claim, and only where the body can be looked at
        (b"POST", b"/mcp", b"server/discover", 300, IF_BODY_SAYS),
        (b"POST", b"/mcp", b"server/discover", DISCOVER_BODY, IF_BODY_SAYS),
        (b"POST", b"/mcp", b"server/discover", DISCOVER_BODY + 1, NONE),
        (b"POST", b"/mcp", b"server/discover", 0, NONE),
        (b"POST", b"/mcp", b"server/discover", -1, NONE),
        (b"POST", b"/mcp", b"Server/Discover", 300, NONE),
        (b"POST", b"/mcp", b"tools/call", 300, NONE),
        (b"PUT", b"/mcp", b"server/discover", 300, NONE),
        (b"GET", b"/mcp", b"server/discover", 300, NONE),
    ],
)
def test_who_is_exempt_by_its_head(method: bytes, path: bytes, claim: bytes | None, length: int, expected: Exemption) -> None:
    assert exemption(method, path, claim, length) is expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"jsonrpc":"2.0","id":"server-discover-probe-1","method":"server/discover","params":{"_meta":{}}}', True),
        (b'{"jsonrpc":"2.0","id":0,"method":"server/discover"}', True),
        (b'[{"jsonrpc":"2.0","id":0,"method":"server/discover"}]', True),
        (b'{"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"server/discover"}}', False),
        (b'{"jsonrpc":"2.0","id":0,"method":"server/discover "}', False),
        (
            b'[{"jsonrpc":"2.0","id":0,"method":"server/discover"},{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}]',
            False,
        ),
        (b'[{"jsonrpc":"2.0","id":0,"method":"server/discover"},{"jsonrpc":"2.0","id":1,"method":"server/discover"}]', False),
    ],
)
def test_only_the_body_says_what_is_asked(body: bytes, expected: bool) -> None:
    assert discovers(calls_of(body)) is expected


def test_no_body_asks_for_nothing() -> None:
    assert not discovers(())
