"""What the second attack found: a body nobody awaited, a redirect without a path, a chunked body measured by the wrong head, answers without a date."""

from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.ports import free_port
from tests.support.upstream import Link, ScriptedUpstream, answer, response


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_a_body_that_was_not_awaited_never_begins_the_next_request(interim: bytes, run: Run) -> None:
    """`Expect: 100-continue` answered by a final status: the server may take the body for never sent, so its link is not used again."""

    def refuse(link: Link) -> None:
        link.read_head()
        link.send(interim + b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        link.read_until_closed()

    with ScriptedUpstream(refuse, answer(response(b"ok"))) as upstream:
        with run(upstream.url).client() as client:
            body = b"GET /smuggled HTTP/1.1\r\nHost: a\r\nX: y"
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert client.response().status == 417
            client.send(b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.response().body == b"ok"
        assert len(upstream.links) == 2
        assert b"/after" not in upstream.links[0].received


@pytest.mark.parametrize("target", [b"*", b"http://ex.com"])
def test_a_redirect_of_a_whole_server_has_no_path(target: bytes, run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        listen: dict[str, Any] = {"address": f"127.0.0.1:{free_port()}", "redirect": "https"}
        with run(upstream.url, listen=listen).client() as client:
            head = client.exchange(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: ex.com\r\n\r\n")
            assert (head.status, head.first("location")) == (308, b"https://ex.com")


def test_a_chunked_body_is_measured_without_its_head(run: Run) -> None:
    """Fields that are not forwarded are no body."""
    dropped = b"".join(b"X-Forwarded-A%d: %s\r\n" % (number, b"y" * 100) for number in range(40))
    with ScriptedUpstream(answer(response())) as upstream:
        with run(upstream.url, route={"max_body": "1KiB"}).client() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + dropped + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            assert client.response().status == 200


@pytest.mark.parametrize(
    "wire",
    [
        b"GET /..  HTTP/1.1\r\n\r\n",
        b"GET /.. HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx",
    ],
)
def test_a_refusal_has_a_date(wire: bytes, run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        with run(upstream.url).client() as client:
            client.send(wire)
            refused = client.response()
            assert (refused.status, refused.first("date") is not None) == (400, True)
