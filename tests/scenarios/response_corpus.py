"""Malformed answers of an upstream, and odd ones that are fine: bytes, and what a client may be told.

PASS      the answer arrives whole; the link may be used again
LAST      the answer arrives whole, but its link is not used again (bytes followed it, or it said so)
GATEWAY   502, the link is closed
CUT       502, or an answer that visibly stops before its end; never a clean end
STRICT    either 502 or an answer that is well-formed now (RFC 9112 lets a proxy repair some things)
"""

from collections.abc import Iterator
from dataclasses import dataclass

PASS, LAST, GATEWAY, CUT, STRICT = "pass", "last", "gateway", "cut", "strict"
END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Row:
    name: str
    data: bytes
    verdict: str
    body: bytes = b""
    close: bool = False  # does the upstream close after sending this, or wait?
    status: int = 200

    @property
    def small(self) -> bool:
        return len(self.data) < 2000


def answer(*fields: bytes, body: bytes = b"", line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([line, *fields, b"", b""]) + body


def plain(*fields: bytes) -> bytes:
    """A good answer of five bytes with these fields added."""
    return answer(b"Content-Length: 5", *fields, body=b"hello")


def chunked(body: bytes) -> bytes:
    return answer(b"Transfer-Encoding: chunked", body=body)


def all_rows() -> list[Row]:
    rows = [*status_lines(), *fields(), *lengths(), *codings(), *chunks(), *trailers(), *ends(), *informational()]
    assert len({row.name for row in rows}) == len(rows), "row names are unique"
    return rows


def status_lines() -> Iterator[Row]:
    for line in (
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 200 a reason\twith tab",
        b"HTTP/1.1 299 x",
        b"HTTP/1.1 404 Not Found",
        b"HTTP/1.1 599 x",
    ):
        yield Row(f"line {line!r}", answer(b"Content-Length: 5", body=b"hello", line=line), PASS, b"hello", status=int(line.split()[1]))
    yield Row("HTTP/1.0 answer", answer(b"Content-Length: 5", body=b"hello", line=b"HTTP/1.0 200 OK"), LAST, b"hello")
    yield Row("no reason, no space", answer(b"Content-Length: 5", body=b"hello", line=b"HTTP/1.1 200"), STRICT, b"hello")
    yield Row("reason in latin-1", answer(b"Content-Length: 5", body=b"hello", line=b"HTTP/1.1 200 \xfcber"), STRICT, b"hello")
    yield Row("HTTP/1.9 answer", answer(b"Content-Length: 5", body=b"hello", line=b"HTTP/1.9 200 OK"), STRICT, b"hello")
    yield Row("empty line first", b"\r\n" + plain(), STRICT, b"hello")
    for status in (600, 700, 999):
        yield Row(
            f"status {status}", answer(b"Content-Length: 5", body=b"hello", line=b"HTTP/1.1 %d x" % status), STRICT, b"hello", status=status
        )
    for line in (
        b"HTTP/2.0 200 OK", b"HTTP/2 200 OK", b"HTTP/0.9 200 OK", b"HTTP/3.0 200 OK", b"HTTP/1.10 200 OK", b"http/1.1 200 OK",
        b"HTTP/1 200 OK", b"ICY 200 OK",
        b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 2x0 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 +200 OK", b"HTTP/1.1 000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1  200 OK", b" HTTP/1.1 200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 200\tOK", b"HTTP/1.1 0x1 OK", b"HTTP/1.1 two OK",
        b"HTTP/1.1 OK", b"HTTP/1.1",
        b"HTTP/1.1 200 \x00", b"HTTP/1.1 200 \x1b[31m", b"HTTP/1.1 200 a\x7f", b"HTTP/1.1 200 a\rb", b"HTTP/1.1 200 OK\x0b",
        b"HTTP /1.1 200 OK", b"200 OK",
        b"GET / HTTP/1.1", b"<html>", b"SSH-2.0-OpenSSH_9.2p1", b"\x15\x03\x01\x00\x02\x02\x0a", b'{"jsonrpc":"2.0"}',
        b"HTTP/1.1 \xd9\xa2\xd9\xa0\xd9\xa0 OK",
        b"\x00", b"HTTP/1.1 2_0 OK", b"HTTP/1.1 200.0 OK", b"HTTP/1.1 200OK",
    ):  # fmt: skip
        yield Row(f"bad line {line!r}", answer(b"Content-Length: 5", body=b"hello", line=line), GATEWAY)


def fields() -> Iterator[Row]:
    for byte in [c for c in range(0x20) if c not in b"\t\r\n"] + [0x7F]:
        yield Row(f"value with byte {byte:#04x}", plain(b"X: a%cb" % byte), GATEWAY)
        yield Row(f"name with byte {byte:#04x}", plain(b"X%cY: a" % byte), GATEWAY)
    for byte in b'(),/;<=>?@[\\]{}"\x80\xff':
        yield Row(f"name with byte {byte:#04x}", plain(b"X%cY: a" % byte), GATEWAY)
    for name, line in {
        "no colon": b"X", "empty name": b": v", "space in name": b"X y: v", "CR in value": b"X: a\rb", "CR in name": b"X\ry: v",
        "NUL in name": b"\x00X: a",
        "space before first name": b" X: v\r\nY: z", "split by bare CR": b"X: a\rSet-Cookie: evil=1", "CR CR LF": b"X: a\r",
    }.items():  # fmt: skip
        first = line.startswith(b" ")
        yield Row(
            f"field: {name}", (b"HTTP/1.1 200 OK\r\n" + line + b"\r\nContent-Length: 5\r\n\r\nhello") if first else plain(line), GATEWAY
        )
    for name, line in {
        "space before colon": b"X : v", "tab before colon": b"X\t: v", "folded": b"X: a\r\n b", "folded with tab": b"X: a\r\n\tb",
        "LF after it": b"X: a\nY: b",
        "space before Content-Length's colon": b"Content-Length : 5", "obs-text": b"X: \xfc", "split by LF": b"X: a\nSet-Cookie: evil=1",
    }.items():  # fmt: skip
        data = answer(line, body=b"hello") if b"Length" in line else plain(line)
        yield Row(f"field: {name}", data, STRICT, b"hello")
    yield Row("LF everywhere", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", STRICT, b"hello")
    yield Row("LF LF", b"HTTP/1.1 200 OK\r\nContent-Length: 5\n\nhello", STRICT, b"hello")
    yield Row("LF as empty line", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello", STRICT, b"hello")
    for name, value in {
        "empty": b"X:",
        "blanks": b"X: \t ",
        "no space": b"X:y",
        "underscore": b"X_Y: z",
        "tab": b"X: a\tb",
        "colons": b"X: :::",
    }.items():
        yield Row(f"good field: {name}", plain(value), PASS, b"hello")
    yield Row("60 fields", plain(*[b"X-%d: y" % i for i in range(60)]), PASS, b"hello")
    yield Row("two Set-Cookie", plain(b"Set-Cookie: a=b", b"Set-Cookie: c=d"), PASS, b"hello")
    yield Row(
        "hop by hop",
        plain(b"Connection: X-Secret, keep-alive", b"X-Secret: a", b"Keep-Alive: timeout=60", b"Proxy-Authenticate: x"),
        PASS,
        b"hello",
    )
    yield Row("5000 fields", plain(*[b"a: b"] * 5000), GATEWAY)
    yield Row("a value of 100000 bytes", plain(b"X: " + b"y" * 100_000), GATEWAY)
    yield Row("fields without end", answer(b"Content-Length: 5", *[b"a: b"] * 50_000)[:-2], GATEWAY)
    yield Row("a line without end", b"HTTP/1.1 200 " + b"x" * 100_000, GATEWAY)


def lengths() -> Iterator[Row]:
    for value in (
        b"+5", b"-5", b"5_0", b"5 0", b"0x5", b"5.0", b"5e0", b"5,6", b"5,", b"", b"five", b"5h", b'"5"', b"\xd9\xa5", b"5\xa0", b"5;",
        b"-0", b"9" * 30, b"\xef\xbc\x95",
        b"18446744073709551621", b"5\x0b", b"5\x00",
    ):  # fmt: skip
        yield Row(f"length {value!r}", answer(b"Content-Length: " + value, body=b"hello"), GATEWAY)
    yield Row("length 5, 5", answer(b"Content-Length: 5, 5", body=b"hello"), STRICT, b"hello")
    yield Row("length with zeros before", answer(b"Content-Length: 005", body=b"hello"), STRICT, b"hello")
    yield Row("two lengths, equal", answer(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), GATEWAY)
    yield Row("two lengths, different", answer(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"), GATEWAY)
    yield Row("two lengths, one 0", answer(b"Content-Length: 0", b"Content-Length: 5", body=b"hello"), GATEWAY)
    yield Row("length 0", answer(b"Content-Length: 0"), PASS)


def codings() -> Iterator[Row]:
    for value in (
        b"xchunked", b"identity", b"chunked, identity", b"identity, chunked", b"gzip, chunked", b"chunked, gzip", b"gzip",
        b"chunked, chunked", b"chunked;a=b", b"",
        b"chunked,", b",chunked", b'"chunked"', b"ch unked", b"chunked\xa0",
    ):  # fmt: skip
        yield Row(f"coding {value!r}", answer(b"Transfer-Encoding: " + value, body=b"5\r\nhello\r\n" + END), GATEWAY)
    yield Row("coding \\x0bchunked", answer(b"Transfer-Encoding: \x0bchunked", body=b"5\r\nhello\r\n" + END), GATEWAY)
    yield Row("coding in capitals", answer(b"TRANSFER-ENCODING: CHUNKED", body=b"5\r\nhello\r\n" + END), PASS, b"hello")
    yield Row("two codings", answer(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n" + END), GATEWAY)
    yield Row(
        "length and coding", answer(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n" + END), STRICT, b"hello"
    )
    yield Row(
        "coding and length", answer(b"Transfer-Encoding: chunked", b"Content-Length: 3", body=b"5\r\nhello\r\n" + END), STRICT, b"hello"
    )
    yield Row(
        "coding in HTTP/1.0", answer(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n" + END, line=b"HTTP/1.0 200 OK"), STRICT, b"hello"
    )


def chunks() -> Iterator[Row]:
    for name, body in {
        "one": b"5\r\nhello\r\n", "five": b"1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n", "zeros before": b"0005\r\nhello\r\n",
        "16 digits": b"0000000000000005\r\nhello\r\n",
    }.items():  # fmt: skip
        yield Row(f"chunks: {name}", chunked(body + END), PASS, b"hello")
    yield Row("chunks: none", chunked(END), PASS)
    yield Row("chunks: looks like an end", chunked(b"5\r\n0\r\n\r\n\r\n" + END), PASS, END)
    for ext in (b";a", b";a=b", b';a="b c"', b";a=b;c=d"):
        yield Row(f"chunk extension {ext!r}", chunked(b"5" + ext + b"\r\nhello\r\n" + END), STRICT, b"hello")
    for ext in (b";a\n", b";\n", b";a=b\rc", b';a="', b';a="\r\n"', b";a\x00", b";a=\x01", b"; \x7f", b";" + b"a" * 100_000):
        yield Row(f"chunk extension {ext[:12]!r} of {len(ext)}", chunked(b"5" + ext + b"\r\nhello\r\n" + END), CUT)
    for size in (
        b"+5", b"-5", b" 5", b"\t5", b"0x5", b"5_0", b"5h", b"g", b"", b"5.0", b"00000000000000005", b"10000000000000005", b"5\x00",
        b"\xd9\xa5", b"5 5", b"5\xa0", b"5\r", b"x",
        b"\x0b5", b"-", b"0x", b"5,",
    ):  # fmt: skip
        yield Row(f"chunk size {size!r}", chunked(size + b"\r\nhello\r\n" + END), CUT)
    yield Row("chunk size with a blank after", chunked(b"5 \r\nhello\r\n" + END), CUT)
    for name, body in {
        "LF after the size": b"5\nhello\r\n", "CR after the size": b"5\rhello\r\n", "LF after the data": b"5\r\nhello\n",
        "CR after the data": b"5\r\nhello\rX", "nothing after the data":
        b"5\r\nhello", "more data": b"5\r\nhello!\r\n", "less data": b"5\r\nhell\r\n", "two line ends": b"5\r\nhello\r\n\r\n",
        "text": b"hello", "NUL": b"\x00",
    }.items():  # fmt: skip
        yield Row(f"chunks: {name}", chunked(body + END), CUT)
    yield Row("chunks: LF after the last", chunked(b"5\r\nhello\r\n0\n\r\n"), CUT)
    yield Row("chunks: LF at the end", chunked(b"5\r\nhello\r\n0\r\n\n"), CUT)
    yield Row("chunks: the end is no end", chunked(b"5\r\nhello\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n"), CUT)


def trailers() -> Iterator[Row]:
    yield Row("trailers: one", chunked(b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"), PASS, b"hello")
    yield Row("trailers: two", chunked(b"5\r\nhello\r\n0\r\nX: y\r\nDigest: a=b\r\n\r\n"), PASS, b"hello")
    for name, lines in {
        "no colon": b"X\r\n", "space before colon": b"X : y\r\n", "folded": b"X: y\r\n z\r\n", "LF": b"X: y\n", "CR": b"X: y\rZ: a\r\n",
        "NUL": b"X: \x00\r\n",
        "control": b"X: \x01\r\n", "Content-Length": b"Content-Length: 9\r\n", "Transfer-Encoding": b"Transfer-Encoding: chunked\r\n",
        "empty name": b": y\r\n",
        "many": b"X: y\r\n" * 5000, "long": b"X: " + b"y" * 100_000 + b"\r\n",
    }.items():  # fmt: skip
        yield Row(f"bad trailers: {name}", chunked(b"5\r\nhello\r\n0\r\n" + lines + b"\r\n"), CUT)


def ends() -> Iterator[Row]:
    yield Row("nothing, closed", b"", GATEWAY, close=True)
    head = plain()[:-5]
    for i in (1, 8, 15, len(head) - 3, len(head) - 1):
        yield Row(f"closed after {i} bytes of head", head[:i], GATEWAY, close=True)
    for i in range(5):
        yield Row(f"closed after {i} of 5 bytes", plain()[: len(head) + i], CUT, close=True)
    whole = b"5\r\nhello\r\n" + END
    for i in range(len(whole)):
        yield Row(f"closed after {i} of {len(whole)} bytes of chunks", chunked(whole[:i]), CUT, close=True)
    yield Row("closed inside trailers", chunked(b"5\r\nhello\r\n0\r\nX: y\r\n"), CUT, close=True)
    yield Row("until close", answer(body=b"hello"), LAST, b"hello", close=True)
    yield Row("until close, said so", answer(b"Connection: close", body=b"hello"), LAST, b"hello", close=True)
    yield Row("until close, empty", answer(), LAST, b"", close=True)
    yield Row("until close, HTTP/1.0", answer(body=b"hello", line=b"HTTP/1.0 200 OK"), LAST, b"hello", close=True)
    yield Row("until close, a megabyte", answer(body=b"x" * 1_000_000), LAST, b"x" * 1_000_000, close=True)
    yield Row("length, said close, kept open", plain(b"Connection: close"), LAST, b"hello")
    yield Row("longer than promised", plain() + b" world", LAST, b"hello")
    yield Row("one byte too many", plain() + b"\n", LAST, b"hello")
    yield Row("two answers", plain() + plain(), LAST, b"hello")
    yield Row("two answers, the second evil", plain() + answer(b"Set-Cookie: evil=1", b"Content-Length: 4", body=b"evil"), LAST, b"hello")
    yield Row("bytes after chunks", chunked(b"5\r\nhello\r\n" + END) + b"x", LAST, b"hello")
    yield Row("an answer after chunks", chunked(b"5\r\nhello\r\n" + END) + plain(), LAST, b"hello")
    yield Row("204", answer(line=b"HTTP/1.1 204 No Content"), PASS, status=204)
    yield Row("204 with a body", answer(b"Content-Length: 5", body=b"hello", line=b"HTTP/1.1 204 No Content"), LAST, status=204)
    yield Row("204 with chunks", answer(b"Transfer-Encoding: chunked", body=END, line=b"HTTP/1.1 204 No Content"), LAST, status=204)
    yield Row("304 with a length", answer(b"Content-Length: 5", line=b"HTTP/1.1 304 Not Modified"), PASS, status=304)
    yield Row("304 with a body", answer(b"Content-Length: 5", body=b"hello", line=b"HTTP/1.1 304 Not Modified"), LAST, status=304)
    yield Row("205 with a length", answer(b"Content-Length: 0", line=b"HTTP/1.1 205 Reset Content"), PASS, status=205)


def informational() -> Iterator[Row]:
    yield Row("100 unasked", answer(line=b"HTTP/1.1 100 Continue") + plain(), PASS, b"hello")
    yield Row("103", answer(b"Link: </a>; rel=preload", line=b"HTTP/1.1 103 Early Hints") + plain(), PASS, b"hello")
    yield Row("three 103", answer(line=b"HTTP/1.1 103 Early Hints") * 3 + plain(), PASS, b"hello")
    yield Row("102 with fields", answer(b"X: y", line=b"HTTP/1.1 102 Processing") + plain(), PASS, b"hello")
    yield Row("199", answer(line=b"HTTP/1.1 199 x") + plain(), PASS, b"hello")
    yield Row(
        "101 unasked", answer(b"Connection: Upgrade", b"Upgrade: websocket", line=b"HTTP/1.1 101 Switching Protocols") + plain(), GATEWAY
    )
    yield Row("101 unasked, bare", answer(line=b"HTTP/1.1 101 Switching Protocols"), GATEWAY)
    yield Row("101 after 100", answer(line=b"HTTP/1.1 100 Continue") + answer(b"Upgrade: x", line=b"HTTP/1.1 101 x"), GATEWAY)
    yield Row("100 with a body", answer(b"Content-Length: 5", body=b"hello", line=b"HTTP/1.1 100 Continue") + plain(), GATEWAY)
    yield Row("100 only, closed", answer(line=b"HTTP/1.1 100 Continue"), GATEWAY, close=True)
    yield Row("100, then garbage", answer(line=b"HTTP/1.1 100 Continue") + b"garbage\r\n\r\n", GATEWAY)
    yield Row("a flood of 103", answer(line=b"HTTP/1.1 103 Early Hints") * 2000, STRICT, b"hello", close=True)
