"""The endpoint event of HTTP+SSE: found however it is cut, only the first, only its URL; and the way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.mcp.session import BOM, LARGEST, FirstEvent, restored, sealed_in, with_sealed

MESSAGE = b'event: message\r\ndata: {"jsonrpc":"2.0","id":1,"result":{}}\r\n\r\n'


def upper(url: bytes) -> bytes:
    return b"<" + url.upper() + b">"


def play(pieces: list[bytes]) -> bytes:
    first = FirstEvent(upper)
    return b"".join(map(first.feed, pieces)) + first.end()


ENDS = [b"\r\n", b"\n", b"\r"]


def stream(end: bytes, *, before: bytes = b"", after: bytes = MESSAGE) -> tuple[bytes, bytes]:
    """As the server sends it and as the client gets it."""
    sent = before + b"event: endpoint" + end + b"data: /m?session_id=ab" + end + end
    return sent + after, sent.replace(b"/m?session_id=ab", b"</M?SESSION_ID=AB>") + after


CASES = [
    *(stream(end) for end in ENDS),
    *(stream(end, before=b": hello" + end + end + b":" + end) for end in ENDS),
    *(stream(end, before=BOM) for end in ENDS),
    stream(b"\n", before=BOM + b": hi\n\n"),
    stream(b"\n", before=b"retry: 5\nid: 7\n: within\n"),
    (b"data:/x\nevent:endpoint\n\n", b"data:</X>\nevent:endpoint\n\n"),
    (b"event:endpoint\ndata\n\n", b"event:endpoint\ndata<>\n\n"),
    *((same, same) for same in (
        MESSAGE,
        b"data: {}\n\nevent: endpoint\ndata: /x\n\n",  # it is the second
        b"event: endpoint\ndata: /x\ndata: y\n\n",
        b"event: endpoint \ndata: /x\n\n",
        b"Event: endpoint\ndata: /x\n\n",
        b"event: endpoint\ndata: /x",
        b"event: endpoint\n\ndata: /x\n\n",
        b": only\n: comments\n\n\n",
        b"",
        b"\xef\xbb",
        b"event: message\ndata: event: endpoint\n\n",
    )),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "got"), CASES)
def test_the_url_is_written_anew_wherever_the_stream_is_cut(sent: bytes, got: bytes) -> None:
    assert play([sent]) == got
    assert play([sent[at : at + 1] for at in range(len(sent))]) == got
    for cut in range(len(sent) + 1):
        assert play([sent[:cut], sent[cut:]]) == got, cut
        assert play([sent[:cut], b"", sent[cut : cut + 1], sent[cut + 1 :]]) == got, cut


@given(
    st.lists(
        st.sampled_from([b"\r", b"\n", b"\r\n", b"event: endpoint", b"event: m", b"data: /x", b":c", b" ", BOM, b"data"]), max_size=14
    ),
    st.data(),
)
def test_how_it_is_cut_never_matters(words: list[bytes], data: st.DataObject) -> None:
    sent = b"".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    assert play(pieces) == play([sent])


@pytest.mark.parametrize("end", ENDS)
def test_the_event_leaves_with_the_byte_that_ends_it(end: bytes) -> None:
    sent, got = stream(end, after=b"")
    first = FirstEvent(upper)
    over = len(sent) - len(end) + 1  # with CRLF the CR is enough, and its LF passes alone
    assert first.feed(sent[: over - 1]) == b""
    assert first.feed(sent[over - 1 : over]) + first.feed(sent[over:]) == got
    assert first.done


def test_comments_before_it_do_not_wait() -> None:
    first = FirstEvent(upper)
    assert first.feed(b": ping\n\n") == b": ping\n\n"
    assert first.feed(b": pi") == b""
    assert first.feed(b"ng\r") == b": ping\r"
    assert first.feed(b"\n\r\n") == b"\n\r\n"
    assert not first.done
    assert first.feed(b"event: endpoint\n: here\ndata: /x\n\n") == b"event: endpoint\n: here\ndata: </X>\n\n"
    assert first.done


def test_another_event_passes_as_soon_as_its_name_is_known() -> None:
    first = FirstEvent(upper)
    assert first.feed(b"event: message\ndata: {") == b"event: message\ndata: {"
    assert first.done


def test_what_is_known_of_its_lines_is_not_copied_for_every_byte() -> None:
    first = FirstEvent(lambda url: url)
    assert first.feed(b"event: endpoint\n" + b"data:\n" * 2000) == b""
    known = first._values
    for _ in range(3):
        assert first.feed(b"d") == b""
    assert first._values is known
    assert len(known) == 2000


def test_what_is_kept_is_bounded() -> None:
    for begin in (b"data: ", b": ", b"event: endpoint\ndata: "):
        first = FirstEvent(upper)
        out = first.feed(begin)
        for _ in range(LARGEST + 99):
            out += first.feed(b"x")
        assert first.done
        assert out == begin + b"x" * (LARGEST + 99)


# -- the URL


def seal(id: bytes) -> bytes:
    return b"sealed-" + id


@pytest.mark.parametrize(
    ("url", "got"),
    [
        (b"/messages/?session_id=ab", b"/messages/?session_id=sealed-ab"),
        (b"/messages?sessionId=ab", b"/messages?sessionId=sealed-ab"),
        (b"messages?a=1&session_id=ab&b=2", b"messages?a=1&session_id=sealed-ab&b=2"),
        (b"?sessionid=a%2Fb#top", b"?sessionid=sealed-a%2Fb#top"),
        (b"/messages/ab", b"/messages/ab?session_id=sealed-"),
        (b"/messages/ab?x=1", b"/messages/ab?x=1&session_id=sealed-"),
        (b"http://srv:8000/m?session_id=ab", b"/m?session_id=sealed-ab"),
        (b"//SRV:8000/m?session_id=ab", b"/m?session_id=sealed-ab"),
        (b"http://else:8000/m?session_id=ab", b"http://else:8000/m?session_id=sealed-ab"),
        (b"http://srv:8000?session_id=ab", b"http://srv:8000?session_id=sealed-ab"),
        (b"/m?xsession_id=ab", b"/m?xsession_id=ab&session_id=sealed-"),
        (b"/m?session_id=ab&sessionId=cd", b"/m?session_id=ab&sessionId=cd"),
        (b"", b"?session_id=sealed-"),
    ],
)
def test_the_id_in_a_url_is_sealed(url: bytes, got: bytes) -> None:
    assert with_sealed(url, seal, b"srv:8000") == got


@pytest.mark.parametrize("target", [b"/m", b"/m?x=1", b"/m?session_id=ab", b"/m?a&sessionId=ab&b=2", b"/m/ab?y=&x=1"])
def test_what_was_sealed_comes_back(target: bytes) -> None:
    url = with_sealed(target, seal, b"srv")
    sealed = sealed_in(url)
    assert sealed is not None
    assert sealed.startswith(b"sealed-")
    assert restored(url, sealed.removeprefix(b"sealed-")) == target


def test_targets_without_and_with_several_ids() -> None:
    assert sealed_in(b"/m") is sealed_in(b"/m?x=1") is sealed_in(b"/session_id=1") is sealed_in(b"/m?session_id=") is None
    assert sealed_in(b"/m?session_id=a&session_id=a") == b""
