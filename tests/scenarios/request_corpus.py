"""Malformed requests, and well-formed ones that look odd: bytes, and the answers that are right.

A row says which statuses may come, in order, and how the connection may go on. From that the runner (test_malformed_requests) derives what
the upstream may have seen: exactly one complete request per 200 that came back, not one byte of a refused head, never a complete request
out of a broken body, and never the word "smuggled". Where RFC 9110/9112 leave a choice the row accepts every sane one.

The file is long because it is a table.

REFUSED   400 and close          CUT  a body that broke: 400 or a closed connection (0), no complete request upstream
"""

from collections.abc import Iterator
from dataclasses import dataclass

CLOSE, OPEN, EITHER = "close", "open", "either"
BAD = frozenset({400})
OK = frozenset({200})
LENIENT = frozenset({200, 400})
BODY = frozenset({400, 413, 0})  # 0: closed without an answer
CODING = frozenset({400, 501})
VERSION = frozenset({400, 505})
HOST = frozenset({400, 421})
MARK = b"X-Cut: yes"  # a field of every request whose body breaks: only these may reach the upstream unfinished
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Row:
    name: str
    data: bytes
    answers: tuple[frozenset[int], ...]
    then: str
    partial: bool = False  # may the upstream see an unfinished request?

    @property
    def small(self) -> bool:
        """Small enough to be sent byte by byte as well."""
        return len(self.data) < 2000


def refused(name: str, data: bytes, statuses: frozenset[int] = BAD) -> Row:
    return Row(name, data, (statuses,), EITHER if statuses & {200, 421} else CLOSE)  # after 421 the connection may go on


def accepted(name: str, data: bytes, count: int = 1) -> Row:
    return Row(name, data, (OK,) * count, OPEN)


def cut(name: str, data: bytes, statuses: frozenset[int] = BODY) -> Row:
    return Row(name, data.replace(b"\r\n\r\n", b"\r\n" + MARK + b"\r\n\r\n", 1), (statuses,), CLOSE, partial=True)


def request(line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes = b"localhost", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: " + host, *fields, b"", b""]) + body


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return request(b"POST / HTTP/1.1", *fields, body=body)


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def all_rows() -> list[Row]:
    rows = [
        *request_lines(),
        *versions(),
        *targets(),
        *field_names(),
        *field_values(),
        *line_ends(),
        *floods(),
        *hosts(),
        *lengths(),
        *codings(),
        *chunks(),
        *trailers(),
        *sequences(),
        *hop_by_hop(),
        *not_http(),
    ]
    assert len({row.name for row in rows}) == len(rows), "row names are unique"
    return rows


# --- RFC 9112 §3: the request line


def request_lines() -> Iterator[Row]:
    for method in (b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"PROPFIND", b"M-SEARCH", b"get", b"!#$%&'*+-.^_`|~09aZ"):
        yield accepted(f"method {method.decode()}", request(method + b" / HTTP/1.1"))
    for method in (b"CONNECT", b"TRACE"):
        yield refused(f"method {method.decode()}", request(method + b" / HTTP/1.1"), frozenset({400, 405, 501}))
    yield refused(
        "CONNECT with an authority", b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\n\r\n", frozenset({400, 405, 421, 501})
    )
    for byte in (c for c in range(256) if c not in TOKEN and c not in b"\r\n "):
        yield refused(f"method with byte {byte:#04x}", request(b"G%cT / HTTP/1.1" % byte))
    for name, line in {
        "space before method": b" GET / HTTP/1.1",
        "tab before method": b"\tGET / HTTP/1.1",
        "two spaces after method": b"GET  / HTTP/1.1",
        "two spaces before version": b"GET /  HTTP/1.1",
        "space after version": b"GET / HTTP/1.1 ",
        "tab after version": b"GET / HTTP/1.1\t",
        "tab after method": b"GET\t/ HTTP/1.1",
        "tab before version": b"GET /\tHTTP/1.1",
        "vertical tab as separator": b"GET\x0b/ HTTP/1.1",
        "form feed before version": b"GET /\x0cHTTP/1.1",
        "no-break space as separator": b"GET\xa0/ HTTP/1.1",
        "method only": b"GET",
        "no target": b"GET HTTP/1.1",
        "no target, two spaces": b"GET  HTTP/1.1",
        "extra word": b"GET / x HTTP/1.1",
        "word after version": b"GET / HTTP/1.1 x",
        "empty method": b" / HTTP/1.1",
        "carriage return inside": b"GET /\r HTTP/1.1",
        "carriage return before version": b"GET / \rHTTP/1.1",
        "NUL before method": b"\x00GET / HTTP/1.1",
        "NUL after version": b"GET / HTTP/1.1\x00",
        "byte order mark": b"\xef\xbb\xbfGET / HTTP/1.1",
        "quoted method": b'"GET" / HTTP/1.1',
        "colon in method": b"GET: / HTTP/1.1",
        "a response": b"HTTP/1.1 200 OK",
        "a field": b"Host: localhost",
    }.items():
        yield refused(f"request line: {name}", request(line))
    yield refused("HTTP/0.9", b"GET /\r\n\r\n", VERSION)
    yield refused("HTTP/0.9 with fields", request(b"GET /"), VERSION)
    yield refused("method of 9000 bytes", request(b"A" * 9000 + b" / HTTP/1.1"), frozenset({400, 414, 431, 501}))
    # RFC 9112 §2.2: one empty line before a request SHOULD be ignored; more is nobody's duty
    yield refused("empty line before the request", b"\r\n" + request(), LENIENT)
    yield refused("two empty lines before the request", b"\r\n\r\n" + request(), LENIENT)
    yield refused("bare LF before the request", b"\n" + request(), LENIENT)
    yield refused("bare CR before the request", b"\r" + request())
    yield refused("CR CR LF before the request", b"\r\r\n" + request())
    yield refused("a thousand empty lines", b"\r\n" * 1000 + request(), frozenset({400, 431, 408}))


def versions() -> Iterator[Row]:
    for version in [
        "HTTP/0.9",
        "HTTP/2.0",
        "HTTP/2",
        "HTTP/3.0",
        "HTTP/9.9",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/1.1.1",
        "HTTP/11",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/",
        "HTTP",
        "HTTP/1,1",
        "HTTP/-1.1",
        "HTTP/+1.1",
        "HTTP/1.-1",
        "HTTP/1.1a",
        "HTTP/a.1",
        "HTTP/1.x",
        "HTTP//1.1",
        "http/1.1",
        "Http/1.1",
        "HTTPS/1.1",
        "HTP/1.1",
        "XHTTP/1.1",
        "ICY/1.1",
        "RTSP/1.0",
        "HTTP\\1.1",
        "HTTP:1.1",
        "HTTP/1:1",
        "HTTP/1.1;",
        "HTTP/1.1,",
        "HTTP/0x1.1",
        "HTTP/1_1",
        "HTTP/१.१",
    ]:
        yield refused(f"version {version}", request(b"GET / " + version.encode()), VERSION)
    yield refused("version HTTP/1.2", request(b"GET / HTTP/1.2"), VERSION | OK)  # RFC 9110 §2.5: a higher minor version may be taken
    yield refused("version HTTP/1.9", request(b"GET / HTTP/1.9"), VERSION | OK)
    yield Row("version HTTP/1.0", request(b"GET / HTTP/1.0"), (OK,), CLOSE)
    yield Row("version HTTP/1.0 keep-alive", request(b"GET / HTTP/1.0", b"Connection: keep-alive"), (OK,), EITHER)


# --- RFC 9112 §3.2: the target


def targets() -> Iterator[Row]:
    for target in (
        "/",
        "/a",
        "/a/b?c=d",
        "/?",
        "/a%20b",
        "/a?b?c",
        "//",
        "//a//b",
        "/a;b=c,d",
        "/:@!$&'()*+,;=-._~",
        "/" + "a" * 2000,
    ):
        yield accepted(f"target {target[:40]}", request(f"GET {target} HTTP/1.1".encode()))
    for target in (
        "/../etc/passwd",
        "/%2e%2e",
        "/./",
        "/a#b",
        '/"',
        "/<>",
        "/\\",
        "/^",
        "/`",
        "/{}",
        "/|",
        "/[]",
        "/%",
        "/%z",
        "/%zz",
        "/%00",
        "/%0d%0aX:y",
        "//evil.example/",
    ):
        yield refused(f"odd target {target}", request(f"GET {target} HTTP/1.1".encode()), LENIENT)
    for byte in [c for c in range(0x20) if c not in b"\r\n"] + [0x7F]:
        yield refused(f"target with byte {byte:#04x}", request(b"GET /a%cb HTTP/1.1" % byte))
    for byte in (0x80, 0xA0, 0xC3, 0xFF):
        yield refused(f"target with byte {byte:#04x}", request(b"GET /a%cb HTTP/1.1" % byte))
    yield refused("target with utf-8", request("GET /ü HTTP/1.1".encode()))
    for name, line in {
        "asterisk with GET": b"GET * HTTP/1.1",
        "asterisk with POST": b"POST * HTTP/1.1",
        "two asterisks": b"OPTIONS ** HTTP/1.1",
        "asterisk path with OPTIONS": b"OPTIONS */a HTTP/1.1",
        "without slash": b"GET a HTTP/1.1",
        "query only": b"GET ?a=b HTTP/1.1",
        "fragment only": b"GET #a HTTP/1.1",
        "authority-form": b"GET localhost:80 HTTP/1.1",
        "authority-form, no port": b"GET localhost HTTP/1.1",
        "backslash": b"GET \\a HTTP/1.1",
        "dot": b"GET . HTTP/1.1",
        "dots": b"GET ../a HTTP/1.1",
        "exclamation": b"GET ! HTTP/1.1",
        "colon": b"GET :80 HTTP/1.1",
        "absolute, other scheme": b"GET ftp://localhost/ HTTP/1.1",
        "absolute, file": b"GET file:///etc/passwd HTTP/1.1",
        "absolute, javascript": b"GET javascript:alert(1) HTTP/1.1",
        "absolute, no authority": b"GET http:///a HTTP/1.1",
        "absolute, nothing": b"GET http:// HTTP/1.1",
        "absolute, one slash": b"GET http:/localhost/ HTTP/1.1",
        "absolute, no slashes": b"GET http:localhost HTTP/1.1",
        "absolute, userinfo": b"GET http://user@localhost/ HTTP/1.1",
        "absolute, user and password": b"GET http://u:p@localhost/ HTTP/1.1",
        "absolute, bad port": b"GET http://localhost:x/ HTTP/1.1",
        "absolute, two ports": b"GET http://localhost:80:80/ HTTP/1.1",
        "absolute, space in authority": b"GET http://local host/ HTTP/1.1",
        "absolute, comma": b"GET http://localhost,evil/ HTTP/1.1",
        "absolute, backslash authority": b"GET http://localhost\\evil/ HTTP/1.1",
    }.items():
        yield refused(f"target {name}", request(line))
    yield refused("asterisk with OPTIONS", request(b"OPTIONS * HTTP/1.1"), frozenset({200, 400, 404}))
    yield accepted("absolute-form, same authority", request(b"GET http://localhost/a?b HTTP/1.1"))
    yield accepted("absolute-form, scheme in capitals", request(b"GET HTTP://localhost/ HTTP/1.1"))
    yield accepted("absolute-form, host in capitals", request(b"GET http://LOCALHOST/ HTTP/1.1"))
    yield accepted("absolute-form, no path", request(b"GET http://localhost HTTP/1.1"))
    yield refused("absolute-form, query without path", request(b"GET http://localhost?a HTTP/1.1"), LENIENT)
    yield refused("absolute-form, https on either listener", request(b"GET https://localhost/ HTTP/1.1"), frozenset({200, 400, 421}))
    yield refused("absolute-form, other authority", request(b"GET http://evil.example/ HTTP/1.1"), HOST)
    yield refused("absolute-form, Host differs, both known", request(b"GET http://other.localhost/ HTTP/1.1"), HOST)
    yield refused("absolute-form, port differs", request(b"GET http://localhost:81/ HTTP/1.1"), HOST)
    yield refused("absolute-form, no Host", b"GET http://localhost/ HTTP/1.1\r\n\r\n")
    yield accepted("target of 8000 bytes", request(b"GET /" + b"a" * 7999 + b" HTTP/1.1"))
    yield refused("target of 8193 bytes", request(b"GET /" + b"a" * 8192 + b" HTTP/1.1"), frozenset({414}))
    yield refused("target of 20000 bytes", request(b"GET /" + b"a" * 19999 + b" HTTP/1.1"), frozenset({414}))
    yield refused("target of 200000 bytes", request(b"GET /" + b"a" * 200000 + b" HTTP/1.1"), frozenset({414, 431}))
    yield refused("target of 200000 bytes, unfinished", b"GET /" + b"a" * 200000, frozenset({414, 431}))


# --- RFC 9112 §5: field lines


def field_names() -> Iterator[Row]:
    for byte in (c for c in range(256) if c not in TOKEN and c not in b":\n\r"):
        yield refused(f"field name with byte {byte:#04x}", request(b"GET / HTTP/1.1", b"X%cY: v" % byte))
    for name, line in {
        "carriage return in name": b"X\rY: v",
        "line feed in name": b"X\nY: v",
        "carriage return before name": b"\rX: v",
        "carriage return before colon": b"X\r: v",
        "no colon": b"X",
        "no colon, with space": b"X y",
        "empty name": b": v",
        "colon only": b":",
        "name in quotes": b'"X": v',
        "space before colon": b"X : v",
        "tab before colon": b"X\t: v",
        "space before name": b" X: v",
        "tab before name": b"\tX: v",
        "NUL before name": b"\x00X: v",
        "zero-width space in name": b"X\xe2\x80\x8b: v",
        "space before Content-Length's colon": b"Content-Length : 5",
        "space before Transfer-Encoding's colon": b"Transfer-Encoding : chunked",
        "Transfer-Encoding after a space": b" Transfer-Encoding: chunked",
        "Transfer-Encoding with a bare CR before": b"X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding with a bare LF before": b"X: y\nTransfer-Encoding: chunked",
        "Content-Length with a bare LF before": b"X: y\nContent-Length: 5",
        "folded with a space": b"X: a\r\n b",
        "folded with a tab": b"X: a\r\n\tb",
        "folded, empty": b"X: a\r\n ",
        "folded Transfer-Encoding": b"Transfer-Encoding:\r\n chunked",
        "folded Content-Length": b"Content-Length:\r\n 5",
        "folded after a colon line": b"X:\r\n\r \r\n y",
    }.items():
        yield refused(f"field: {name}", request(b"GET / HTTP/1.1", line))
    yield refused("first line folded", b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n")
    yield refused("Host folded", b"GET / HTTP/1.1\r\nHost:\r\n localhost\r\n\r\n")
    yield refused("space before Host's colon", b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n")
    yield accepted("every token character in a name", request(b"GET / HTTP/1.1", TOKEN + b": v"))
    yield accepted("name with underscore", request(b"GET / HTTP/1.1", b"X_Y: v"))
    yield accepted("empty value", request(b"GET / HTTP/1.1", b"X:"))
    yield accepted("value of blanks", request(b"GET / HTTP/1.1", b"X: \t "))
    yield accepted("value without space", request(b"GET / HTTP/1.1", b"X:y"))
    yield accepted("colons in value", request(b"GET / HTTP/1.1", b"X: :y: z"))
    yield refused("name of 40000 bytes", request(b"GET / HTTP/1.1", b"X" * 40000 + b": v"), frozenset({431}))


def field_values() -> Iterator[Row]:
    for byte in [c for c in range(0x20) if c not in b"\t\n\r"] + [0x7F]:
        yield refused(f"value with byte {byte:#04x}", request(b"GET / HTTP/1.1", b"X: a%cb" % byte))
        yield refused(f"value ending in byte {byte:#04x}", request(b"GET / HTTP/1.1", b"X: a%c" % byte))
        yield refused(f"value beginning with byte {byte:#04x}", request(b"GET / HTTP/1.1", b"X: %ca" % byte))
    yield refused("value with a bare CR", request(b"GET / HTTP/1.1", b"X: a\rb"))
    yield refused("value ending in CR CR", request(b"GET / HTTP/1.1", b"X: a\r"))
    yield refused("value with an escape sequence", request(b"GET / HTTP/1.1", b"User-Agent: \x1b[31mred"))
    yield accepted("value with tabs inside", request(b"GET / HTTP/1.1", b"X: a\tb"))
    yield refused("value with obs-text", request(b"GET / HTTP/1.1", b"X: \x80\xfe"), LENIENT)
    yield refused("value with utf-8", request(b"GET / HTTP/1.1", "X: gruezi ü".encode()), LENIENT)


def line_ends() -> Iterator[Row]:
    yield refused("LF everywhere", b"GET / HTTP/1.1\nHost: localhost\n\n")
    yield refused("LF after the request line", b"GET / HTTP/1.1\nHost: localhost\r\n\r\n")
    yield refused("LF after a field", b"GET / HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n")
    yield refused("LF as empty line", b"GET / HTTP/1.1\r\nHost: localhost\r\n\n")
    yield refused("LF LF", b"GET / HTTP/1.1\r\nHost: localhost\n\n")
    yield refused("LF CR LF", b"GET / HTTP/1.1\r\nHost: localhost\n\r\n")
    yield refused("CR everywhere", b"GET / HTTP/1.1\rHost: localhost\r\r", frozenset({400, 408}))
    yield refused("CR CR LF at the end", b"GET / HTTP/1.1\r\nHost: localhost\r\r\n\r\n")
    yield refused("CR LF CR at the end", b"GET / HTTP/1.1\r\nHost: localhost\r\n\rX", frozenset({400, 408}))
    yield refused("LF CR at the end", b"GET / HTTP/1.1\r\nHost: localhost\n\r", frozenset({400, 408}))
    yield refused("hidden request behind LF LF", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y\n\n" + SMUGGLED)
    yield refused("hidden request behind CR CR", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y\r\r" + SMUGGLED)
    yield refused("unfinished head", b"GET / HTTP/1.1\r\nHost: localhost\r\n", frozenset({408}))
    yield refused("unfinished request line", b"GET / HT", frozenset({408}))
    yield refused("one letter", b"G", frozenset({408}))


def floods() -> Iterator[Row]:
    many = frozenset({431})
    yield accepted("99 fields beside Host", request(b"GET / HTTP/1.1", *[b"X-%d: y" % i for i in range(99)]))
    yield refused("101 fields", request(b"GET / HTTP/1.1", *[b"X-%d: y" % i for i in range(100)]), many)
    yield refused("5000 fields", request(b"GET / HTTP/1.1", *[b"a:" for _ in range(5000)]), many)
    yield refused("200000 fields", request(b"GET / HTTP/1.1", *[b"a:" for _ in range(200_000)]), many)
    yield refused("fields without end", request(b"GET / HTTP/1.1", *[b"a: b" for _ in range(100_000)])[:-2], many)
    yield accepted("a value of 20000 bytes", request(b"GET / HTTP/1.1", b"X: " + b"y" * 20000))
    yield refused("a value of 33000 bytes", request(b"GET / HTTP/1.1", b"X: " + b"y" * 33000), many)
    yield refused("a value of 2 MB", request(b"GET / HTTP/1.1", b"X: " + b"y" * 2_000_000), many)
    yield refused("a value without end", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000, many)
    yield refused("50 values of 1000 bytes", request(b"GET / HTTP/1.1", *[b"X: " + b"y" * 1000 for _ in range(50)]), many)
    yield refused("a name without end", b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"y" * 100_000, frozenset({400, 431}))


def hosts() -> Iterator[Row]:
    yield refused("no Host", b"GET / HTTP/1.1\r\n\r\n")
    yield refused("no Host, other fields", b"GET / HTTP/1.1\r\nX: y\r\n\r\n")
    yield refused("two equal Hosts", request(b"GET / HTTP/1.1", b"Host: localhost"))
    yield refused("two different Hosts", request(b"GET / HTTP/1.1", b"Host: evil.example"))
    yield refused("two Hosts, other case", request(b"GET / HTTP/1.1", b"HOST: evil.example"))
    yield refused("two Hosts, one empty", request(b"GET / HTTP/1.1", b"Host:"))
    for host in (
        b"local host", b"localhost/", b"localhost/a", b"user@localhost", b"localhost@evil", b"localhost,evil", b"localhost, evil",
        b"localhost:x",
        b"localhost:-1", b"localhost:+80", b"localhost:80:80", b"localhost:8 0", b"localhost:80/", b"[::1", b"::1]", b"[::1]x", b"[]",
        b"[x]", b"[::1]:x",
        b"local\thost", b"localhost#", b"localhost?", b"local\\host", b'"localhost"', b"<localhost>", b"http://localhost", b"localhost;",
        b"local{host}",
        b"localhost|", b"local^host", b"local`host", b"%", b"%zz", b"local%00host", b"*", b"localh\xc3\xb6st", b"local\xa0host", b"@",
        b":", b":80", b"/",
    ):  # fmt: skip
        yield refused(f"Host {host!r}", request(host=host), HOST)
    for host in (
        b"evil.example",
        b"localhost.evil.example",
        b"evil-localhost",
        b"127.0.0.1",
        b"[::1]",
        b"[::1]:80",
        b"localhos",
        b"localhostx",
    ):
        yield refused(f"unknown Host {host!r}", request(host=host), frozenset({421}))
    yield refused("empty Host", request(host=b""), HOST)
    yield refused("Host of blanks", b"GET / HTTP/1.1\r\nHost:  \t \r\n\r\n", HOST)
    yield refused("Host with a trailing dot", request(host=b"localhost."), HOST | OK)
    yield refused("Host with an empty port", request(host=b"localhost:"), HOST | OK)
    yield refused("Host with port 99999", request(host=b"localhost:99999"), HOST | OK)
    yield refused("Host of 5000 bytes", request(host=b"a" * 5000), HOST)
    yield accepted("Host with a port", request(host=b"localhost:8080"))
    yield accepted("Host in capitals", request(host=b"LOCALHOST"))
    yield accepted("Host with blanks around", b"GET / HTTP/1.1\r\nhost: \t localhost \t\r\n\r\n")
    yield accepted("Host as the last field", b"GET / HTTP/1.1\r\nX: y\r\nHOST:localhost\r\n\r\n")
    yield accepted("Host below a wildcard", request(host=b"a.wild.localhost"))
    yield refused("the bare name of a wildcard", request(host=b"wild.localhost"), frozenset({421}))
    yield refused("HTTP/1.0 without Host", b"GET / HTTP/1.0\r\n\r\n", frozenset({200, 400, 421}))


# --- RFC 9112 §6: how long is the body?


def lengths() -> Iterator[Row]:
    yield accepted("length 5", post(b"Content-Length: 5", body=b"hello"))
    yield accepted("length 0", post(b"Content-Length: 0"))
    yield accepted("no length", post())
    yield accepted("length on GET", request(b"GET / HTTP/1.1", b"Content-Length: 5", body=b"hello"))
    yield accepted("length on DELETE", request(b"DELETE / HTTP/1.1", b"Content-Length: 5", body=b"hello"))
    yield accepted("length with blanks around", post(b"Content-Length: \t5 \t", body=b"hello"))
    yield refused("length with zeros before", post(b"Content-Length: 0005", body=b"hello"), LENIENT)
    for value in (
        b"+5", b"-5", b"5_0", b"5 0", b"5\t5", b"0x5", b"5.0", b"5e0", b"5,5", b"5, 5", b"5,", b",5", b"5;", b"", b"five", b"5h", b"h5",
        b"'5'", b'"5"',
        b"\xd9\xa5", b"\xc2\xb2", b"\xef\xbc\x95", b"5\xa0", b"\xa05", b"\x0b5", b"5\x00", b"\x005", b"-0", b"+0", b"--5", b"0b1", b"0o5",
        b"inf", b"NaN",
        b"5L", b"5 bytes", b"5\x0c", b"(5)", b"*",
    ):  # fmt: skip
        yield refused(f"length {value!r}", post(b"Content-Length: " + value, body=b"hello"))
    huge = frozenset({400, 413})
    for value in (
        b"9223372036854775807",
        b"9223372036854775808",
        b"18446744073709551615",
        b"18446744073709551616",
        b"18446744073709551621",
        b"9" * 30,
        b"9" * 5000,
    ):
        yield refused(f"length {value[:30]!r} of {len(value)} digits", post(b"Content-Length: " + value, body=b"hello"), huge)
    yield refused("length above the limit", post(b"Content-Length: 10485761"), frozenset({413}))
    for name, first, second in (
        ("equal", b"5", b"5"),
        ("different", b"5", b"6"),
        ("0 and 43", b"0", b"43"),
        ("one bad", b"5", b"x"),
        ("one empty", b"5", b""),
    ):
        yield refused(f"two lengths, {name}", post(b"Content-Length: " + first, b"Content-Length: " + second, body=b"hello" + SMUGGLED))
    yield refused("two lengths, other case", post(b"Content-Length: 5", b"content-length: 0", body=b"hello" + SMUGGLED))
    yield refused("three lengths", post(*[b"Content-Length: 5"] * 3, body=b"hello"))
    yield accepted("Content_Length is not a length", post(b"Content_Length: 5"))
    yield accepted("X-Content-Length is not a length", post(b"X-Content-Length: 5"))


def codings() -> Iterator[Row]:
    end = b"0\r\n\r\n"
    for value in (b"chunked", b"Chunked", b"CHUNKED", b" \tchunked \t"):
        yield accepted(f"coding {value!r}", post(b"Transfer-Encoding: " + value, body=end))
    for value in (
        b"xchunked", b"chunkedx", b"chunke", b"chunked, identity", b"identity, chunked", b"identity", b"chunked, chunked",
        b"chunked,chunked", b"gzip, chunked",
        b"gzip", b"deflate", b"compress", b"br, chunked", b"chunked, gzip", b"chunked;", b"chunked;q=1", b"chunked; x=y", b"chunked ; x",
        b'"chunked"',
        b"'chunked'", b",chunked", b"chunked,", b", chunked", b"chunked ,", b",", b"", b"ch unked", b"chunked chunked", b"chunked\tx",
        b"x chunked",
        b"[chunked]", b"\x0bchunked", b"chunked\x0b", b"\x00chunked", b"chunked\x00", b"chunked\x0c", b"\xa0chunked", b"chunked\xa0",
        b"\xe2\x84\xaaunked",
        b"chun\xc4\xb7ed", b"chunk\xe9d", b"chunked:", b"chunked=1", b"none", b"null", b"*", b"trailers", b"chunked\x7f", b"chun\x08ked",
    ):  # fmt: skip
        yield refused(f"coding {value!r}", post(b"Transfer-Encoding: " + value, body=end + SMUGGLED), CODING)
        if value in (b"xchunked", b"identity", b"chunked, identity", b"", b"\x0bchunked", b"chunked\xa0"):
            yield refused(
                f"coding {value!r} and a length", post(b"Transfer-Encoding: " + value, b"Content-Length: 5", body=end + SMUGGLED), CODING
            )
    both = (b"Content-Length: 5", b"Transfer-Encoding: chunked")
    yield refused("length and coding", post(*both, body=end + SMUGGLED))
    yield refused("coding and length", post(*both[::-1], body=end + SMUGGLED))
    yield refused("length 0 and coding", post(b"Content-Length: 0", both[1], body=end + SMUGGLED))
    yield refused("length and coding on GET", request(b"GET / HTTP/1.1", *both, body=end + SMUGGLED))
    yield refused("length and coding, other case", post(b"content-length: 5", b"TRANSFER-ENCODING: Chunked", body=end + SMUGGLED))
    yield refused("bad length and coding", post(b"Content-Length: x", both[1], body=end))
    yield refused("two codings", post(both[1], both[1], body=end + SMUGGLED), CODING)
    yield refused("two codings, chunked then identity", post(both[1], b"Transfer-Encoding: identity", body=end + SMUGGLED), CODING)
    yield refused("two codings, identity then chunked", post(b"Transfer-Encoding: identity", both[1], body=end + SMUGGLED), CODING)
    yield refused("two codings, gzip then chunked", post(b"Transfer-Encoding: gzip", both[1], body=end + SMUGGLED), CODING)
    yield refused("coding with HTTP/1.0", request(b"POST / HTTP/1.0", both[1], body=end + SMUGGLED), CODING)
    yield refused(
        "coding with HTTP/1.0 keep-alive", request(b"POST / HTTP/1.0", both[1], b"Connection: keep-alive", body=end + SMUGGLED), CODING
    )
    yield accepted("coding on GET", request(b"GET / HTTP/1.1", both[1], body=end))
    yield accepted("Transfer_Encoding is not a coding", post(b"Transfer_Encoding: chunked", b"Content-Length: 5", body=b"hello"))
    yield accepted("X-Transfer-Encoding is not a coding", post(b"X-Transfer-Encoding: chunked", b"Content-Length: 5", body=b"hello"))
    yield accepted("Content-Encoding is not a coding", post(b"Content-Encoding: chunked", b"Content-Length: 5", body=b"hello"))


# --- RFC 9112 §7.1: chunks


def chunks() -> Iterator[Row]:
    end = b"0\r\n\r\n"
    for name, body in {
        "empty": end,
        "one": b"5\r\nhello\r\n" + end,
        "two": b"5\r\nhello\r\n6\r\n world\r\n" + end,
        "capital hex": b"A\r\n0123456789\r\n" + end,
        "small hex": b"a\r\n0123456789\r\n" + end,
        "zeros before": b"005\r\nhello\r\n" + end,
        "16 digits": b"0000000000000005\r\nhello\r\n" + end,
        "several zeros at the end": b"5\r\nhello\r\n000\r\n\r\n",
        "data that looks like a chunk": b"5\r\n0\r\n\r\n\r\n" + end,
        "data that looks like a request": b"%x\r\n%b\r\n"
        % (len(SMUGGLED.replace(b"smuggled", b"data")), SMUGGLED.replace(b"smuggled", b"data"))
        + end,
        "CR and LF as data": b"2\r\n\r\n\r\n" + end,
        "60 chunks of one byte": b"1\r\nx\r\n" * 60 + end,
    }.items():
        yield accepted(f"chunks: {name}", chunked(body))
    for size in (
        b"+5", b"-5", b" 5", b"5 ", b"\t5", b"5\t", b"0x5", b"0X5", b"5_0", b"0_5", b"5h", b"h", b"g", b"", b"5,", b"5.0", b"5L", b"'5'",
        b'"5"', b"5\x00", b"\x005",
        b"\x0b5", b"5\x0b", b"\xd9\xa5", b"\xef\xbc\x95", b"5\xa0", b"\xa05", b"5 5", b"--5", b"5-", b"5+", b"00000000000000005",
        b"0" * 17 + b"5",
        b"10000000000000005", b"100000000000000005", b"5\r", b"\r5", b"5:5", b"5=5", b"(5)", b"*", b"x5", b"\\x35", b"%35", b"5%", b"5/",
        b"\x7f5", b"5\x08",
    ):  # fmt: skip
        yield cut(f"chunk size {size!r}", chunked(size + b"\r\nhello\r\n" + end + SMUGGLED))
    for size in (
        b"ffffffffffffffff",
        b"FFFFFFFFFFFFFFFF",
        b"8000000000000000",
        b"7fffffffffffffff",
        b"fffffffffffffffb",
        b"80000000",
        b"ffffffff",
        b"a00001",
    ):
        yield cut(f"chunk size {size!r}", chunked(size + b"\r\nhello\r\n" + end), BODY | {408})
    for ext in (
        b";", b";a", b";a=b", b';a="b"', b" ;a", b"; a=b", b";a=b;c=d", b';a="\r\n"', b';a="', b";a\x00", b";a\xff", b";a=\x01", b";\r",
        b";a\n", b";a=b\n5", b";\n", b";\nx",
        b";" + b"a" * 5000,
    ):  # fmt: skip
        yield cut(f"chunk extension {ext[:12]!r} of {len(ext)}", chunked(b"5" + ext + b"\r\nhello\r\n" + end + SMUGGLED), BODY | {431})
    yield cut("last chunk with an extension", chunked(b"5\r\nhello\r\n0;a=b\r\n\r\n"))
    for name, body in {
        "LF after the size": b"5\nhello\r\n" + end,
        "CR after the size": b"5\rhello\r\n" + end,
        "CR CR LF after the size": b"5\r\r\nhello\r\n" + end,
        "LF CR after the size": b"5\n\rhello\r\n" + end,
        "LF after the data": b"5\r\nhello\n" + end,
        "CR after the data": b"5\r\nhello\r" + end,
        "CR X after the data": b"5\r\nhello\rX" + end,
        "X LF after the data": b"5\r\nhelloX\n" + end,
        "two bytes after the data": b"5\r\nhelloxx" + end,
        "nothing after the data": b"5\r\nhello" + end,
        "more data than promised": b"5\r\nhello!\r\n" + end,
        "less data than promised": b"5\r\nhell\r\n" + end,
        "two line ends after the data": b"5\r\nhello\r\n\r\n" + end,
        "two line ends after the size": b"5\r\n\r\nhello\r\n" + end,
        "LF after the last chunk": b"0\n\r\n",
        "LF at the very end": b"0\r\n\n",
        "LF LF at the end": b"0\n\n",
        "CR at the very end": b"0\r\n\rX",
        "CR LF missing, then a request": b"0\r\n" + SMUGGLED,
        "empty line first": b"\r\n5\r\nhello\r\n" + end,
        "blank first": b" \r\n" + end,
        "no chunks at all": b"hello world, this is a body",
        "NUL": b"\x00" * 20,
    }.items():
        yield cut(f"chunks: {name}", chunked(body + SMUGGLED))
    for name, body in {
        "nothing": b"",
        "half a size": b"5",
        "size only": b"5\r\n",
        "half the data": b"5\r\nhe",
        "no last chunk": b"5\r\nhello\r\n",
    }.items():
        yield cut(f"unfinished chunks: {name}", chunked(body), frozenset({408, 0}))
    yield cut("unfinished chunks: half the end", chunked(b"5\r\nhello\r\n0\r\n\r"), frozenset({408, 0}))
    yield cut("unfinished length", post(b"Content-Length: 10", body=b"hello"), frozenset({408, 0}))
    yield cut("a size without end", chunked(b"0" * 70000), BODY)
    yield cut(
        "chunked body above the limit",
        chunked(b"100000\r\n" + b"x" * 0x100000 + b"\r\n") + (b"100000\r\n" + b"x" * 0x100000 + b"\r\n") * 10 + end,
        BODY,
    )


def trailers() -> Iterator[Row]:
    for name, lines in {
        "one": b"X: y\r\n",
        "two": b"X: y\r\nZ: a b\r\n",
        "empty value": b"X:\r\n",
        "digest": b"Digest: sha-256=abc\r\n",
    }.items():
        yield accepted(f"trailers: {name}", chunked(b"5\r\nhello\r\n0\r\n" + lines + b"\r\n"))
    for name, lines in {
        "no colon": b"X\r\n",
        "empty name": b": y\r\n",
        "space before colon": b"X : y\r\n",
        "space before name": b" X: y\r\n",
        "folded": b"X: y\r\n z\r\n",
        "LF": b"X: y\n",
        "LF inside": b"X: y\nZ: a\r\n",
        "bare CR": b"X: y\rZ: a\r\n",
        "NUL": b"X: \x00\r\n",
        "control character": b"X: \x01\r\n",
        "DEL": b"X: \x7f\r\n",
        "bad name": b"X(): y\r\n",
        "name with NUL": b"X\x00: y\r\n",
        "a request line": b"GET /smuggled HTTP/1.1\r\n",
        "Content-Length": b"Content-Length: 5\r\n",
        "Transfer-Encoding": b"Transfer-Encoding: chunked\r\n",
        "Host": b"Host: evil.example\r\n",
        "Authorization": b"Authorization: Bearer x\r\n",
        "Connection": b"Connection: close\r\n",
        "content-length in small letters": b"content-length: 5\r\n",
        "CR CR LF": b"X: y\r\r\n",
    }.items():
        yield cut(f"trailers: {name}", chunked(b"5\r\nhello\r\n0\r\n" + lines + b"\r\n" + SMUGGLED))
    yield cut("trailers: 5000 lines", chunked(b"0\r\n" + b"X: y\r\n" * 5000 + b"\r\n"), BODY | {431})
    yield cut("trailers: 100000 bytes", chunked(b"0\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"), BODY | {431})
    yield cut("trailers: without end", chunked(b"0\r\nX: " + b"y" * 100_000), BODY | {431})
    yield cut("trailers: unfinished", chunked(b"0\r\nX: y\r\n"), frozenset({408, 0}))


# --- what follows what


def sequences() -> Iterator[Row]:
    good, whole = request(), post(b"Content-Length: 5", body=b"hello")
    close = frozenset({200, 400})
    yield accepted("two requests at once", good * 2, 2)
    yield accepted("ten requests at once", good * 10, 10)
    yield accepted("bodies in a row", (whole + chunked(b"5\r\nhello\r\n0\r\n\r\n")) * 3, 6)
    yield Row("bytes after the body", whole + b"xyz\r\n\r\n", (OK, BAD), CLOSE)
    yield Row("longer body than promised", post(b"Content-Length: 3", body=b"hello\r\n\r\n"), (OK, BAD), CLOSE)
    yield Row("CR LF after a body", whole + b"\r\n" + good, (OK, LENIENT), EITHER)  # RFC 9112 §2.2: old clients do that
    yield Row("NUL after a request", good + b"\x00" + good, (OK, BAD), CLOSE)
    yield Row("good, then bad", good + request(b"GET  / HTTP/1.1") + SMUGGLED, (OK, BAD), CLOSE)
    yield Row("good, then two lengths", good + post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello") + SMUGGLED, (OK, BAD), CLOSE)
    yield Row(
        "good, then a bad chunk",
        good + request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", MARK, body=b"x\r\n" + SMUGGLED),
        (OK, BODY),
        CLOSE,
    )
    yield Row("bad, then good", request(b"GET / HTTP/9.9") + SMUGGLED, (VERSION,), CLOSE)
    yield Row("request behind Connection: close", request(b"GET / HTTP/1.1", b"Connection: close") + SMUGGLED, (close,), CLOSE)
    yield Row("garbage behind Connection: close", request(b"GET / HTTP/1.1", b"Connection: close") + b"garbage", (close,), CLOSE)
    yield Row("request behind HTTP/1.0", request(b"GET / HTTP/1.0") + SMUGGLED, (close,), CLOSE)
    yield Row("body behind Connection: close", post(b"Connection: close", b"Content-Length: 5", body=b"hello" + SMUGGLED), (close,), CLOSE)
    yield accepted("request in a body", post(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED))
    yield Row("HEAD between", request(b"HEAD / HTTP/1.1") + good, (OK, OK), EITHER)


def hop_by_hop() -> Iterator[Row]:
    for name, fields in {
        "keep-alive": (b"Connection: keep-alive",),
        "nominated field": (b"Connection: X-Secret", b"X-Secret: a"),
        "two Connection fields": (b"Connection: X-Secret", b"Connection: keep-alive", b"X-Secret: a"),
        "unknown option": (b"Connection: banana",),
        "empty option": (b"Connection:",),
        "commas only": (b"Connection: , ,,",),
        "te": (b"TE: trailers", b"Connection: TE"),
        "upgrade to h2c": (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
        "upgrade without Connection": (b"Upgrade: websocket",),
        "upgrade to nothing known": (b"Connection: Upgrade", b"Upgrade: banana/9"),
        "Proxy fields": (b"Proxy-Connection: keep-alive", b"Proxy-Authorization: Basic YQ==", b"Proxy: http://evil.example"),
        "forwarded by the client": (b"X-Forwarded-For: 6.6.6.6", b"Forwarded: for=6.6.6.6", b"X-Real-IP: 6.6.6.6",
        b"X-Forwarded-Host: evil", b"X-Forwarded-Proto: gopher"),
        "underscores": (b"X_Forwarded_For: 6.6.6.6", b"Content_Length: 7", b"Mcp_Session_Id: z"),
    }.items():  # fmt: skip
        yield accepted(f"hop by hop: {name}", request(b"GET / HTTP/1.1", *fields))
    for nominated in (b"Host", b"Content-Length", b"Transfer-Encoding", b"Content-Type", b"Cookie", b"X-Forwarded-For"):
        data = post(b"Connection: " + nominated, b"Content-Length: 5", body=b"hello")
        yield refused(f"Connection nominates {nominated.decode()}", data, LENIENT)
    yield refused(
        "Connection nominates Transfer-Encoding of this message",
        post(b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        LENIENT,
    )
    yield refused("unknown expectation", post(b"Expect: banana", b"Content-Length: 5", body=b"hello"), frozenset({200, 400, 417}))
    yield refused("websocket key missing", request(b"GET / HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket"), LENIENT | {426})
    yield refused(
        "websocket by POST",
        post(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
        LENIENT,
    )


def not_http() -> Iterator[Row]:
    hang_up = frozenset({400, 408, 431, 505, 0})
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(range(200))
    yield Row("a TLS ClientHello in clear", hello, (hang_up,), CLOSE)
    yield Row("an SSH banner", b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", (hang_up,), CLOSE)
    yield Row("a PROXY line", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + SMUGGLED, (hang_up,), CLOSE)
    yield Row("PROXY v2", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + SMUGGLED, (hang_up,), CLOSE)
    yield Row("NUL bytes", bytes(64), (hang_up,), CLOSE)
    yield Row("bytes 0xff", b"\xff" * 64, (hang_up,), CLOSE)
    yield Row("every byte", bytes(range(256)), (hang_up,), CLOSE)
    yield Row("JSON", b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n\n', (hang_up,), CLOSE)
    yield Row("an SMTP greeting", b"EHLO evil.example\r\nMAIL FROM:<a@b>\r\n\r\n", (hang_up,), CLOSE)
    yield Row("line ends only", b"\r\n\r\n\r\n\r\n", (hang_up,), CLOSE)
    yield Row("a megabyte of nothing", b"\x00" * 1_000_000, (hang_up,), CLOSE)
