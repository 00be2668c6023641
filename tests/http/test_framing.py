import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpproxy.errors import Side
from mcpproxy.http.framing import (
    CHUNK_LIMIT,
    LINE_LIMIT,
    REQUEST,
    RESPONSE,
    TRAILER_LIMIT,
    TRAILER_LINES,
    ChunkedScanner,
    FramingError,
    LengthScanner,
    UntilClose,
)
from tests.http.cuts import cut_at, cuts

NEXT = b"GET /next HTTP/1.1\r\n"
Outcome = tuple[str, int, bytes]


def scan(side: Side, pieces: list[bytes]) -> Outcome:
    """How it ended, how many bytes belong to the body, its payload. After an error only the kind tells anything."""
    scanner = ChunkedScanner(side)
    used, payload = 0, []
    for piece in pieces:
        watched: list[bytes] = []
        try:
            took = scanner.feed(piece, watched)
        except FramingError as error:
            return error.kind, 0, b""
        assert 0 <= took <= len(piece)
        assert took == len(piece) or scanner.done, "less than given only at the end"
        used += took
        payload += watched
        if scanner.done:
            assert scanner.feed(b"x") == 0
            return "done", used, b"".join(payload)
    return "more", used, b"".join(payload)


def judge(side: Side, data: bytes) -> Outcome:
    """The outcome, after proving that it does not depend on how the bytes arrive, nor on whether somebody watches."""
    outcome = scan(side, [data])
    for pieces in cuts(data) if len(data) < 200 else [[data[i : i + 1] for i in range(len(data))]]:
        other = scan(side, pieces)
        assert other == outcome or {other[0], outcome[0]} <= BROKEN, pieces
    blind = ChunkedScanner(side)
    try:
        used = blind.feed(data)
    except FramingError:
        assert outcome[0] in BROKEN
    else:
        assert (used, blind.done) == (outcome[1], outcome[0] == "done")
    return outcome


BROKEN = {"bad-chunk-size", "bad-chunk-end", "bad-trailer", "trailers-too-large"}


# -- lengths


@pytest.mark.parametrize("pieces", cuts(b"helloGET"))
def test_body_ends_after_the_promised_length(pieces: list[bytes]) -> None:
    scanner = LengthScanner(5)
    payload: list[bytes] = []
    assert sum(scanner.feed(piece, payload) for piece in pieces) == 5
    assert (scanner.done, b"".join(payload)) == (True, b"hello")


def test_empty_body_is_done_before_it_begins() -> None:
    scanner = LengthScanner(0)
    assert scanner.done
    assert scanner.feed(NEXT) == 0


def test_unfinished_length_is_not_done() -> None:
    scanner = LengthScanner(5)
    assert (scanner.feed(b"hell"), scanner.done, scanner.between) == (4, False, False)
    assert (scanner.feed(b"o"), scanner.done) == (1, True)


def test_until_close_takes_everything_and_never_ends_by_itself() -> None:
    scanner = UntilClose()
    payload: list[bytes] = []
    assert (scanner.feed(b"abc"), scanner.feed(b"", payload), scanner.feed(b"def", payload)) == (3, 0, 3)
    assert (scanner.done, scanner.between, b"".join(payload)) == (False, True, b"def")


# -- chunks

GOOD = {
    b"0\r\n\r\n": b"",
    b"5\r\nhello\r\n0\r\n\r\n": b"hello",
    b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n": b"hello world",
    b"a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n": b"0123456789" * 2,
    b"0000000000000005\r\nhello\r\n0\r\n\r\n": b"hello",
    b"5\r\n0\r\n\r\n\r\n0\r\n\r\n": b"0\r\n\r\n",
    b"2\r\n\r\n\r\n0\r\n\r\n": b"\r\n",
    b"1\r\nx\r\n" * 9 + b"0\r\n\r\n": b"x" * 9,
    b"5\r\nhello\r\n0\r\nX: y\r\n\r\n": b"hello",
    b"0\r\nDigest: sha-256=abc\r\nX:\r\nZ: \t a b\xfc \r\n\r\n": b"",
    b"0\r\ngrpc-status: 0\r\nServer-Timing: a;dur=1\r\n\r\n": b"",
}


@pytest.mark.parametrize("side", [REQUEST, RESPONSE])
@pytest.mark.parametrize("body", GOOD)
def test_chunked_body_ends_with_its_last_line(side: Side, body: bytes) -> None:
    assert judge(side, body) == ("done", len(body), GOOD[body])
    assert judge(side, body + NEXT) == ("done", len(body), GOOD[body])
    for i in range(len(body)):
        assert scan(side, [body[:i]])[0] == "more", "every beginning is accepted as one"


BAD_SIZES = (
    b"+5", b"-5", b" 5", b"5 ", b"\t5", b"5\t", b"0x5", b"5_0", b"h", b"", b"5,", b"5.0", b'"5"', b"5\0", b"\x0b5", b"5\x0b", b"\xd9\xa5",
    b"5\xa0", b"5 5", b"00000000000000005", b"10000000000000005", b"5\r", b"\r5", b"5:5", b"5;", b";a", b"8000000000000000", b"f" * 16,
)  # fmt: skip


@pytest.mark.parametrize("side", [REQUEST, RESPONSE])
@pytest.mark.parametrize("size", BAD_SIZES)
def test_chunk_size_that_two_servers_could_read_differently_is_refused(side: Side, size: bytes) -> None:
    assert judge(side, size + b"\r\nhello\r\n0\r\n\r\n" + NEXT)[0] in BROKEN
    assert judge(side, b"1\r\nx\r\n" + size + b"\r\nhello\r\n0\r\n\r\n")[0] in BROKEN


@pytest.mark.parametrize("side", [REQUEST, RESPONSE])
@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\r\nhello\r\n0\r\n\r\n",
        b"5\n\rhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello\rX0\r\n\r\n",
        b"5\r\nhelloX\n0\r\n\r\n",
        b"5\r\nhelloxx0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"5\r\nhello\r\n\r\n0\r\n\r\n",
        b"5\r\n\r\nhello\r\n0\r\n\r\n",
        b"0\n\r\n",
        b"0\r\n\n",
        b"0\r\n\rX",
        b"0\r\n\0",
        b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"hello world",
        b"\0",
    ],
)
def test_line_ends_are_exact(side: Side, body: bytes) -> None:
    assert judge(side, body)[0] in BROKEN


EXTENSIONS = (b";a", b";a=b", b';a="b c"', b";a=b;c=d", b" ; a = b", b';a="\\"\\x;\t"', b';a=""', b";" + b"a" * 3000)
BAD_EXTENSIONS = (
    b";", b";;", b"; ", b";a=", b";a;", b";=b", b';a="', b';a="\n"', b';a="\r\n"', b";a\0", b";a\n", b";a\r", b";a=\x01", b";a\xff",
    b';a="\xff"', b';a="\\\n"', b"x", b" a", b";a b", b';a="b"c', b";" + b"a" * LINE_LIMIT, b";a\n\n5",
)  # fmt: skip


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_extensions_pass_only_in_responses_and_only_well_formed(extension: bytes) -> None:
    body = b"5" + extension + b"\r\nhello\r\n1\r\n!\r\n0" + extension + b"\r\n\r\n"
    assert judge(RESPONSE, body) == ("done", len(body), b"hello!")
    assert judge(REQUEST, body)[0] == "bad-chunk-size"


@pytest.mark.parametrize("extension", BAD_EXTENSIONS)
def test_malformed_extensions_are_refused(extension: bytes) -> None:
    assert judge(RESPONSE, b"5" + extension + b"\r\nhello\r\n0\r\n\r\n")[0] in BROKEN
    assert judge(RESPONSE, b"0" + extension + b"\r\n\r\n")[0] in BROKEN


def test_many_extended_chunks_in_one_read_cost_no_recursion() -> None:
    body = b"1;a=b\r\nx\r\n" * 5000 + b"0\r\n\r\n"
    assert scan(RESPONSE, [body]) == ("done", len(body), b"x" * 5000)


# -- trailers

BAD_TRAILERS = (
    b"X", b": y", b"X : y", b" X: y", b"X: y\r\n z", b"X: y\n", b"X: y\nZ: a", b"X: y\rZ: a", b"X: \0", b"X: \x01", b"X: \x7f", b"X(): y",
    b"X\0: y", b"X: y\r", b"\xfc: y",
    b"Content-Length: 5", b"content-length:5", b"Transfer-Encoding: chunked", b"Host: evil", b"Authorization: Bearer x",
    b"Connection: close",
    b"Cookie: a", b"Set-Cookie: a=b", b"Trailer: X", b"X-Forwarded-For: ::1", b"Mcp-Name: x", b"If-Match: x", b"Upgrade: x",
    b"Proxy-X: y",
    b"Content-Type: a/b", b"Content-Encoding: gzip", b"Forwarded: for=x", b"TE: x", b"Expect: 100-continue",
)  # fmt: skip


@pytest.mark.parametrize("side", [REQUEST, RESPONSE])
@pytest.mark.parametrize("trailer", BAD_TRAILERS)
def test_trailers_that_steer_or_are_malformed_are_refused(side: Side, trailer: bytes) -> None:
    assert judge(side, b"0\r\n" + trailer + b"\r\n\r\n")[0] in BROKEN
    assert judge(side, b"5\r\nhello\r\n0\r\nX: y\r\n" + trailer + b"\r\n\r\n")[0] in BROKEN


def test_underscores_are_refused_in_trailers_of_requests_only() -> None:
    body = b"0\r\nContent_Length: 5\r\n\r\n"
    assert judge(REQUEST, body)[0] == "bad-trailer"
    assert judge(RESPONSE, body)[0] == "done"


def fed(scanner: ChunkedScanner, *pieces: bytes) -> int:
    return sum(scanner.feed(piece) for piece in pieces)


def test_names_that_a_route_uses_are_refused_too() -> None:
    body = b"0\r\nX-Sum: 1\r\nX-cALLER: me\r\n\r\n"
    for cut in range(len(body)):
        with pytest.raises(FramingError, match="bad-trailer"):
            fed(ChunkedScanner(REQUEST, frozenset({b"x-caller"})), body[:cut], body[cut:])
    assert fed(ChunkedScanner(REQUEST, frozenset({b"x-call"})), body) == len(body)


def test_trailers_are_bounded_however_they_arrive() -> None:
    longest = b"X: " + b"y" * (LINE_LIMIT - 5) + b"\r\n"
    assert judge(REQUEST, b"0\r\n" + longest + b"\r\n")[0] == "done"
    assert judge(REQUEST, b"0\r\nX" + longest + b"\r\n")[0] == "trailers-too-large"
    assert judge(REQUEST, b"0\r\n" + longest * (TRAILER_LIMIT // LINE_LIMIT) + b"\r\n")[0] == "trailers-too-large"
    assert judge(REQUEST, b"0\r\n" + b"X: y\r\n" * TRAILER_LINES + b"\r\n")[0] == "done"
    assert judge(REQUEST, b"0\r\n" + b"X: y\r\n" * (TRAILER_LINES + 1) + b"\r\n")[0] == "trailers-too-large"
    for total in (TRAILER_LIMIT - 2, TRAILER_LIMIT - 1, TRAILER_LIMIT):
        rest = longest[: total - LINE_LIMIT - 2] + b"\r\n"
        assert judge(REQUEST, b"0\r\n" + longest + rest + b"\r\n")[0] == ("done" if total < TRAILER_LIMIT else "trailers-too-large")


def scan_endless(scanner: ChunkedScanner) -> int:
    """How many more bytes are taken before it is refused."""
    for count in range(TRAILER_LIMIT * 2):
        try:
            scanner.feed(b"a")
        except FramingError:
            return count
    raise AssertionError("never refused")


def test_a_line_without_end_is_not_kept() -> None:
    for side, start in ((REQUEST, b"5"), (RESPONSE, b"5;a"), (REQUEST, b"0\r\nX: "), (REQUEST, b"0\r\nX")):
        scanner = ChunkedScanner(side)
        scanner.feed(start)
        assert scan_endless(scanner) <= LINE_LIMIT


# -- sides, places between, large bodies


def test_the_error_knows_whose_body_it_was() -> None:
    for side, status in ((REQUEST, 400), (RESPONSE, 502)):
        with pytest.raises(FramingError) as caught:
            ChunkedScanner(side).feed(b"x")
        assert (caught.value.side, caught.value.status) == (side, status)


def test_between_is_true_exactly_between_two_chunks() -> None:
    body = b"5\r\nhello\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
    scanner = ChunkedScanner(RESPONSE)
    places = [scanner.between]
    for i in range(len(body)):
        scanner.feed(body[i : i + 1])
        places.append(scanner.between)
    assert [i for i, between in enumerate(places) if between] == [0, 10, 18]


@pytest.mark.parametrize("slices", cuts(b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"))
def test_pieces_of_a_view_are_the_same_pieces(slices: list[bytes]) -> None:
    copied, viewed = ChunkedScanner(RESPONSE), ChunkedScanner(RESPONSE)
    for slice_ in slices:
        pieces: list[bytes] = []
        parts: list[bytes] = []
        assert copied.feed(slice_, pieces) == viewed.feed(slice_, parts, memoryview(slice_))
        assert [bytes(part) for part in parts] == pieces
    assert copied.done and viewed.done


def test_a_large_chunk_passes_slice_by_slice() -> None:
    size = 64 * 1024 * 1024
    scanner = ChunkedScanner(RESPONSE)
    assert scanner.feed(b"%x\r\n" % size) == 9
    piece = b"x" * 65536
    for _ in range(size // len(piece)):
        assert scanner.feed(piece) == len(piece)
        assert not scanner.between
    assert scanner.feed(b"\r\n0\r\n\r\nNEXT") == 7
    assert scanner.done


def test_a_chunk_may_be_as_large_as_a_signed_integer() -> None:
    scanner = ChunkedScanner(REQUEST)
    assert scanner.feed(b"%x\r\n" % (CHUNK_LIMIT - 1)) == 18
    with pytest.raises(FramingError):
        ChunkedScanner(REQUEST).feed(b"%x\r\n" % CHUNK_LIMIT)


# -- properties


@st.composite
def chunked(draw: st.DrawFn, extensions: bool = False) -> tuple[bytes, bytes]:
    """A well-formed chunked body and its payload."""
    out, payload = [], []
    for data in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=8)):
        size = b"0" * draw(st.integers(0, 13)) + (b"%X" if draw(st.booleans()) else b"%x") % len(data)
        out.append(size + (draw(st.sampled_from((b"", *EXTENSIONS[:7]))) if extensions else b"") + b"\r\n" + data + b"\r\n")
        payload.append(data)
    out.append(b"0" * draw(st.integers(1, 16)) + b"\r\n")
    out.extend(draw(st.lists(st.sampled_from((b"X: y\r\n", b"Digest:\r\n", b"a-b: \t z\xff \r\n")), max_size=3)))
    out.append(b"\r\n")
    return b"".join(out), b"".join(payload)


@given(chunked(extensions=True), st.binary(max_size=20), st.lists(st.integers(0, 1000), max_size=12))
def test_any_cut_of_any_chunking_gives_the_same_body(made: tuple[bytes, bytes], after: bytes, places: list[int]) -> None:
    body, payload = made
    assert scan(RESPONSE, cut_at(body + after, places)) == ("done", len(body), payload)


def read_by_h11(data: bytes) -> tuple[str, bytes]:
    """What h11 makes of the same body: `done`, `more` or `broken`, and the payload."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=10**6)
    reader.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    payload = b""
    try:
        while True:
            event = reader.next_event()
            if isinstance(event, h11.Data):
                payload += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return "done", payload
            elif event is h11.NEED_DATA:
                return "more", payload
    except h11.RemoteProtocolError:
        return "broken", b""


@given(chunked(), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from("rid")), max_size=3))
@example((b"5\r\nhello\r\n0\r\n\r\n", b"hello"), [(1, 10, "r")])
def test_a_mutated_body_is_refused_or_read_as_h11_reads_it(made: tuple[bytes, bytes], mutations: list[tuple[int, int, str]]) -> None:
    data = bytearray(made[0])
    for place, byte, how in mutations:
        at = place % (len(data) + 1)
        if how == "i":
            data[at:at] = bytes((byte,))
        elif how == "d":
            del data[at : at + 1]
        else:
            data[at : at + 1] = bytes((byte,))
    ours = judge(REQUEST, bytes(data))
    if ours[0] == "done":
        assert read_by_h11(bytes(data)) == ("done", ours[2])


@given(st.binary(max_size=60), st.sampled_from([REQUEST, RESPONSE]))
def test_arbitrary_bytes_never_break_the_scanner_itself(data: bytes, side: Side) -> None:
    judge(side, data)


@given(st.text('0123456789abcdefAF\r\n;= :"xX', max_size=40).map(str.encode), st.sampled_from([REQUEST, RESPONSE]))
def test_almost_chunks_are_judged_alike_however_they_arrive(data: bytes, side: Side) -> None:
    outcome = judge(side, data)
    if outcome[0] == "done" and side is REQUEST:
        assert read_by_h11(data) == ("done", outcome[2])
