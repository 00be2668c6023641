"""An error knows everything its catcher needs."""

import pytest

from mcpproxy.errors import ProxyError, Retry, Side, StartError
from mcpproxy.http.framing import FramingError
from mcpproxy.http.head import HeadError


def test_a_failure_tells_its_slug_its_side_its_status_and_whether_to_try_again() -> None:
    error = ProxyError("connect-refused", Side.UPSTREAM, 502, Retry.SAFE)
    assert (str(error), error.kind, error.side, error.status, error.retry) == (
        "connect-refused",
        "connect-refused",
        Side.UPSTREAM,
        502,
        Retry.SAFE,
    )


def test_nothing_is_tried_again_unless_somebody_said_so() -> None:
    assert ProxyError("body-timeout", Side.DOWNSTREAM, 408).retry is Retry.NEVER


@pytest.mark.parametrize(
    ("error", "side", "status"),
    [
        (HeadError(431, "head-too-large"), Side.DOWNSTREAM, 431),
        (HeadError(502, "bad-status-line"), Side.UPSTREAM, 502),
        (FramingError("bad-chunk-size", Side.DOWNSTREAM), Side.DOWNSTREAM, 400),
        (FramingError("bad-chunk-size", Side.UPSTREAM), Side.UPSTREAM, 502),
    ],
)
def test_heads_and_bodies_blame_whoever_sent_them(error: ProxyError, side: Side, status: int) -> None:
    assert isinstance(error, ProxyError)
    assert (error.side, error.status) == (side, status)


def test_a_start_that_fails_is_a_line_advice_and_a_status() -> None:
    error = StartError("port taken", "choose another", code=2)
    assert (str(error), error.message, error.hint, error.code) == ("port taken", "port taken", "choose another", 2)
    assert (StartError("x").hint, StartError("x").code) == ("", 1)
