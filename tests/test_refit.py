"""A configuration takes the place of another one while connections, exchanges and streams go on."""

import gc
import os
import re
import resource
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from mcpproxy import refit
from mcpproxy.assemble import assemble
from mcpproxy.config import load as config_load
from mcpproxy.errors import StartError
from mcpproxy.refit import Change, prepare
from tests.edge.conftest import HEAD_END, Edge
from tests.edge.h2client import H2Client
from tests.net.stepping import Steps
from tests.support.certs import Authority, Certificate, make_certificate
from tests.support.keys import Keys

GET = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n%b\r\n{}"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: x\n\n\r\n"
END = b"0\r\n\r\n"


class Town(Edge):
    """A proxy whose configuration the tests change: keyword arguments are lines of TOML, as in tests/edge."""

    def __init__(self, steps: Steps, directory: Path, **given: Any) -> None:
        server = socket.create_server(("127.0.0.1", 0))
        server.setblocking(False)
        steps.owned(server)
        self.url = f"http://127.0.0.1:{server.getsockname()[1]}"
        self.directory = directory
        super().__init__(steps, assemble(self.read_config(**given), steps.loop), server)

    def read_config(
        self,
        *,
        top: str = "",
        listen: str = "",
        more: str = "",
        upstream: str = "",
        route: str = "",
        limits: str = "",
        log: str = 'access = "off"',
    ) -> Any:
        address = "" if "address" in listen else 'address = "127.0.0.1:0"'
        return config_load.load(
            f'{top}\nstate_dir = "{self.directory}/state"\n[[listen]]\n{address}\n{listen}\n{more}\n[upstream.u]\nurls = ["{self.url}"]\n'
            f'{upstream}\n[[route]]\nupstream = "u"\n{route}\n[limits]\n{limits}\n[log]\n{log}\n'
        )

    def prepare(self, **given: Any) -> Change:
        return prepare(self.runtime, self.read_config(**given))

    def become(self, **given: Any) -> None:
        self.prepare(**given).commit()

    def stop(self) -> None:
        for pool in self.runtime.retired:
            pool.close_idle()
        super().stop()


Make = Callable[..., Town]


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """The room for connections raises the soft limit of descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Make]:
    steps = Steps()
    made: list[Town] = []

    def make(**given: Any) -> Town:
        made.append(Town(steps, tmp_path, **given))
        return made[-1]

    yield make
    for each in made:
        each.stop()
    steps.close()


def served(town: Town, client: socket.socket, link: socket.socket | None = None, request: bytes = GET) -> tuple[bytes, socket.socket]:
    """A request that the server answers: its head as the server saw it, and the link."""
    client.sendall(request)
    link = link or town.accept()
    head = town.read(link, HEAD_END if request is GET else b"{}")
    link.sendall(OK)
    town.read(client, b"ok")
    return head, link


def streaming(town: Town) -> tuple[socket.socket, socket.socket]:
    """A client with an open event stream, and its link."""
    client = town.client()
    client.sendall(GET)
    link = town.accept()
    town.read(link)
    link.sendall(STREAM + EVENT)
    town.read(client, EVENT)
    return client, link


def status(town: Town, client: socket.socket, request: bytes = b"") -> int:
    """Of an answer of our own, read to its end."""
    client.sendall(request)
    got = bytearray()

    def whole() -> bool:
        try:
            got.extend(client.recv(65536))
        except BlockingIOError:
            return False
        head, _, body = got.partition(HEAD_END)
        length = re.search(rb"Content-Length: ([0-9]+)", head)
        return length is not None and len(body) == int(length[1])

    town.until(whole, "an answer")
    return int(got.split()[1])


# -- connections ------------------------------------------------------------------------------------------------------------------------


def test_the_next_request_of_an_open_connection_is_judged_anew(town: Make) -> None:
    edge = town(route='path = "/mcp"')
    client = edge.client()
    _, link = served(edge, client)
    edge.become(route='path = "/mcp"\nstrip_prefix = true')
    head, _ = served(edge, client, link)
    assert head.startswith(b"GET / HTTP/1.1\r\n")
    edge.become(route='path = "/other"')
    assert status(edge, client, GET) == 404


def test_a_stream_of_http2_meets_the_new_configuration_and_the_open_one_goes_on(town: Make) -> None:
    edge = town()
    client = H2Client(edge)
    stream = client.open()
    link = edge.accept()
    edge.read(link)
    link.sendall(STREAM)
    client.until(lambda: client.heads)
    edge.become(route='path = "/other"')
    refused = client.open()
    client.until(lambda: refused in client.heads)
    assert client.heads[refused][0][b":status"] == b"404"
    link.sendall(EVENT + END)
    client.until(lambda: stream in client.ends)
    assert client.bodies[stream] == b"data: x\n\n"


def test_limits_of_connections_count_for_those_that_are_there(town: Make) -> None:
    edge = town()
    client = edge.client()
    _, link = served(edge, client)
    edge.become(limits="fields = 2")
    assert status(edge, client, POST % b"") == 431
    link.close()


def test_who_may_come_from_where_is_asked_again(town: Make) -> None:
    edge = town()
    client = edge.client()
    _, link = served(edge, client)
    edge.become(route='deny_from = "127.0.0.0/8"')
    assert status(edge, client, GET) == 403
    edge.become()
    served(edge, client, link)


def test_an_address_becomes_a_proxys_and_is_logged_as_one(town: Make) -> None:
    edge = town()
    client = edge.client()
    _, link = served(edge, client)
    edge.become(listen='trusted_proxies = "127.0.0.1"')
    head, _ = served(edge, client, link, POST % b"X-Forwarded-For: 192.0.2.7\r\n")
    assert b"X-Real-IP: 192.0.2.7" in head
    before, after = edge.lines(2)
    assert (before["client"], before.get("proxy")) == ("127.0.0.1", None)
    assert (after["client"], after["proxy"]) == ("192.0.2.7", "127.0.0.1")


def test_limits_begin_to_count_for_connections_that_are_there(town: Make) -> None:
    edge = town()
    client = edge.client()
    _, link = served(edge, client)
    rate = 'rate = "1/h burst 1"'
    edge.become(route=rate)
    for _ in range(2):  # a burst of one, and one more
        served(edge, client, link, POST % b"")
    assert status(edge, client, POST % b"") == 429
    edge.become(route=rate + '\npath = "/"\nmax_body = "1KiB"')
    assert status(edge, client, POST % b"") == 429, "what was used up is used up"


def test_places_that_are_held_stay_held_and_are_given_back(town: Make) -> None:
    edge = town(more="[limit.one]\nconcurrent = 1\nper = []", route='limits = "one"')
    client, link = streaming(edge)
    edge.become(more="[limit.one]\nconcurrent = 1\nper = []", route='limits = "one"\nmax_body = "1KiB"')
    other = edge.client()
    assert status(edge, other, POST % b"") == 429
    link.sendall(END)
    edge.read(client, END)
    served(edge, other, link, POST % b"")


# -- who is who -------------------------------------------------------------------------------------------------------------------------


def test_a_revoked_key_stops_at_once_on_an_open_connection(town: Make, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    key = keys.add("agent")
    auth = {"more": f'[auth.keys]\ntype = "api-key"\nfile = "{keys.file}"', "route": 'auth = "keys"'}
    edge = town(**auth)
    client = edge.client()
    request = POST % b"X-API-Key: %b\r\n" % key.encode()
    _, link = served(edge, client, None, request)
    known = edge.runtime.offices.keys["keys"]
    edge.become(**{**auth, "route": auth["route"] + '\nmax_body = "1KiB"'})
    assert edge.runtime.offices.keys["keys"] is known
    served(edge, client, link, request)
    edge.runtime.ticker.stop()  # nobody else looks at the file
    keys.revoke("agent")
    edge.become(**{**auth, "route": auth["route"] + '\nmax_body = "1KiB"'})
    assert status(edge, client, request) == 401


def test_a_secret_counts_at_once(town: Make, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("old")
    given = {"upstream": f'credential = {{ type = "header", value = "file:{file}" }}'}
    edge = town(**given)
    client = edge.client()
    head, link = served(edge, client)
    assert b"Authorization: old" in head
    edge.runtime.ticker.stop()
    file.write_text("another")
    edge.become(**given)
    head, _ = served(edge, client, link)
    assert b"Authorization: another" in head


def test_what_was_learned_from_an_issuer_is_known_by_the_new_configuration(town: Make, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text('{"keys": []}')
    auth = f'[auth.corp]\ntype = "jwt"\nissuer = "https://login.example"\njwks = "file:{tmp_path}/jwks.json"'
    given = {"more": auth, "route": 'auth = "corp"\npublic_url = "https://mcp.example"'}
    edge = town(**given)
    (before,) = edge.runtime.staffs[0].authenticators
    failures = edge.runtime.offices.failures
    edge.become(**{**given, "route": given["route"] + '\nmax_body = "1KiB"'})
    assert edge.runtime.staffs[0].authenticators == (before,)
    assert edge.runtime.offices.failures is failures
    edge.become(**{**given, "more": auth + '\nskew = "5s"'})
    assert edge.runtime.staffs[0].authenticators != (before,)
    edge.become(**given, limits='failed_credentials = "1/s"')
    assert edge.runtime.offices.failures is not failures


# -- pools ------------------------------------------------------------------------------------------------------------------------------


def test_a_pool_that_is_configured_alike_is_the_same(town: Make) -> None:
    edge = town()
    _, link = served(edge, edge.client())
    before, hints = edge.pool, edge.runtime.offices.hints["u"]
    edge.become(upstream='host = "keep"\ncookies = true')
    assert edge.pool is before
    head, _ = served(edge, edge.client(), link)
    assert b"\r\nHost: localhost\r\n" in head
    assert edge.runtime.offices.hints["u"] is not hints, "another name: perhaps another server"
    assert edge.no_more_connections()


def test_another_pool_takes_new_requests_and_the_old_one_ends_with_its_last(town: Make) -> None:
    edge = town()
    client, link = streaming(edge)
    _, idle = served(edge, edge.client())
    before = weakref.ref(edge.pool)
    edge.become(upstream="keepalive = 3")
    assert edge.end(idle) == (b"", "fin")
    assert edge.pool is not before()
    _, fresh = served(edge, edge.client())
    assert fresh is not link
    link.sendall(EVENT + END)
    edge.read(client, END)
    assert edge.end(link) == (b"", "fin")
    client.close()
    edge.until(lambda: before() is None, "nothing is left of it")


def test_who_waits_for_a_link_of_the_old_pool_gets_one(town: Make) -> None:
    edge = town(upstream="max_connections = 1")
    client, link = streaming(edge)
    waiting = edge.client()
    waiting.sendall(GET)
    edge.until(lambda: edge.pool.waiting)
    edge.become(upstream="max_connections = 2")
    link.sendall(END)
    edge.read(link)
    link.sendall(OK)
    edge.read(waiting, b"ok")
    client.close()


def test_who_waits_in_vain_at_the_old_pool_is_told(town: Make) -> None:
    edge = town(upstream='max_connections = 1\nqueue_timeout = "1s"')
    client, _ = streaming(edge)
    waiting = edge.client()
    waiting.sendall(GET)
    edge.until(lambda: edge.pool.waiting)
    edge.become()
    assert status(edge, waiting) == 503
    client.close()


# -- nothing stays ----------------------------------------------------------------------------------------------------------------------


def test_a_configuration_is_gone_with_its_last_exchange(town: Make) -> None:
    """Without the collector: who walks a process of gigabytes for that would stop its streams."""
    patient = 'keepalive_idle = "5m"'  # the machine may be busy
    edge = town(route='rate = "1000/s"', upstream=patient)
    client, link = streaming(edge)
    speaker = H2Client(edge)
    gc.collect()
    gc.disable()
    try:
        traces: list[list[weakref.ref[Any]]] = []
        idle, upstream = edge.client(), None
        for number in range(10):
            _, upstream = served(edge, idle, upstream, POST % b"")
            stream = speaker.open()
            edge.read(upstream)
            upstream.sendall(OK)
            speaker.until(lambda stream=stream: stream in speaker.ends)
            front = edge.runtime.fronts[0]
            admission = weakref.ref(front.judge.routes[0].admission)
            router = weakref.ref(front.judge.router)
            traces.append([admission, router])
            edge.become(route=f'rate = "1000/s"\nmax_body = "{number + 1}KiB"', upstream=patient)
        alive = [[each() is not None for each in row] for row in traces]
        assert alive[0] == [True, False], "the stream's own guard"
        assert not any(any(row) for row in alive[1:]), alive
        link.sendall(END)
        edge.read(client, END)
        client.close()
        edge.until(lambda: len(edge.runtime.links) == 2)
        assert traces[0][0]() is None
    finally:
        gc.enable()


def test_an_equal_configuration_forgets_nothing(town: Make) -> None:
    edge = town()
    client = edge.client()
    _, link = served(edge, client)
    served(edge, client, link)
    front = edge.runtime.fronts[0]
    judge, plans = front.judge, len(front.shelves.anybody.plans)
    assert plans
    edge.become()
    assert edge.runtime.fronts == [front]
    assert front.judge is judge
    assert len(front.shelves.anybody.plans) == plans


def test_counts_go_on(town: Make) -> None:
    edge = town()
    client = edge.client()
    served(edge, client)
    front = edge.runtime.fronts[0]
    compiled, prefix, variants = front.judge.compiled, front.id_prefix, front.judge.variants
    edge.become(route='max_body = "1KiB"')
    assert (front.greeted, front.judge.compiled, front.id_prefix) == (1, compiled, prefix)
    assert front.judge.variants is variants, "what responses mean is the same"
    edge.become(limits="plans = 100")
    assert front.judge.variants is not variants


# -- listeners --------------------------------------------------------------------------------------------------------------------------


def two(tmp_path: Path) -> str:
    return f'[[listen]]\naddress = "unix:{tmp_path}/two.sock"'


def test_a_listener_begins_and_ends_and_what_it_has_runs_to_its_end(town: Make, tmp_path: Path) -> None:
    edge = town()
    edge.become(more=two(tmp_path))
    assert edge.runtime.urls[1] == f"unix:{tmp_path}/two.sock"
    client, idle = edge.client(1), edge.client(1)
    _, link = served(edge, idle)
    client.sendall(GET)
    edge.read(link)
    link.sendall(STREAM)
    edge.read(client)
    edge.become()
    assert not (tmp_path / "two.sock").exists()
    assert edge.end(idle) == (b"", "fin")
    link.sendall(EVENT + END)
    assert edge.end(client) == (EVENT + END, "fin")
    edge.until(lambda: not edge.runtime.leaving)


def test_what_is_left_of_a_listener_is_ended_in_time(town: Make, tmp_path: Path) -> None:
    edge = town(more=two(tmp_path), top='drain = "1s"')
    client = edge.client(1)
    client.sendall(GET)
    link = edge.accept()
    edge.read(link)
    link.sendall(STREAM)
    edge.read(client)
    edge.become(top='drain = "1s"')
    assert edge.end(client)[1] in ("reset", "fin")
    assert edge.lines(1)[0]["end"] == "stopped"


def test_http2_on_a_listener_that_ends_is_told(town: Make, tmp_path: Path) -> None:
    address = edge_address = f"unix:{tmp_path}/one.sock"
    edge = town(listen=f'address = "{edge_address}"')
    client = H2Client(edge)
    stream = client.open()
    link = edge.accept()
    edge.read(link)
    link.sendall(STREAM)
    client.until(lambda: client.heads)
    edge.become(listen=f'address = "{address}2"')
    client.until(lambda: client.goodbye == 0)
    link.sendall(EVENT + END)
    client.until(lambda: stream in client.ends)
    assert client.bodies[stream] == b"data: x\n\n"


def test_a_listener_speaks_tls_from_now_on(town: Make, certificate: Certificate) -> None:
    edge = town()
    plain = edge.client()
    _, link = served(edge, plain)
    edge.become(listen=f'tls = {{ cert = "{certificate.cert}", key = "{certificate.key}" }}')
    assert edge.runtime.urls[0].startswith("https://")
    assert edge.runtime.listeners[0].full == b""
    client = edge.tls_client(certificate.client())
    client.sendall(GET)
    edge.read(link)
    link.sendall(OK)
    edge.read(client, b"ok")
    served(edge, plain, link)


def shake(edge: Town, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[ssl.SSLSocket, bool]:
    """A connection that has asked for something (the ticket comes with the answer), and whether its session was resumed."""
    raw = edge.client()
    client = context.wrap_socket(raw, server_hostname="localhost", do_handshake_on_connect=False, session=session)
    edge.steps.owned(client)

    def shaken() -> bool:
        try:
            client.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    edge.until(shaken, "the handshake")
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    edge.read(client, b"}\n")
    return client, bool(client.session_reused)


def test_sessions_are_resumed_under_another_certificate(town: Make, tmp_path: Path, certificate: Certificate) -> None:
    directory = tmp_path / "other"
    directory.mkdir()
    other = make_certificate(directory)
    context = certificate.client()

    def tls(pair: Certificate, more: str = "") -> dict[str, str]:
        return {"listen": f'tls = {{ cert = "{pair.cert}", key = "{pair.key}"{more} }}', "top": 'health = "/healthz"'}

    edge = town(**tls(certificate))
    first, _ = shake(edge, context)
    live = edge.runtime.fronts[0].context
    edge.become(**tls(other))
    assert edge.runtime.fronts[0].context is live
    _, resumed = shake(edge, context, first.session)
    assert resumed
    second, _ = shake(edge, other.client())
    assert second.getpeercert(True) != first.getpeercert(True)
    edge.become(**tls(certificate))
    third, _ = shake(edge, context)
    assert third.getpeercert(True) == first.getpeercert(True)


def test_certificates_of_other_authorities_count_no_more(town: Make, tmp_path: Path, certificate: Certificate) -> None:
    """Neither a session nor a connection carries them over."""
    one, two = (Authority.make(tmp_path, name) for name in ("one", "two"))
    pair = one.issue(tmp_path / "agent", x509.DNSName("agent.example"))

    def tls(authority: Authority) -> dict[str, str]:
        files = f'cert = "{certificate.cert}", key = "{certificate.key}", client_ca = "{authority.files.cert}"'
        return {
            "listen": f"tls = {{ {files} }}",
            "top": 'health = "/healthz"',
            "more": '[auth.agents]\ntype = "mtls"\nname_from = "dns"',
            "route": 'auth = "agents"',
        }

    edge = town(**tls(one))
    context = certificate.client()
    context.load_cert_chain(pair.cert, pair.key)
    client, _ = shake(edge, context)
    client.sendall(GET)
    link = edge.accept()
    edge.read(link)
    link.sendall(OK)
    edge.read(client, b"ok")
    edge.become(**tls(two))
    _, how = edge.end(client)
    assert how == "fin"


# -- what is refused --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"top": "workers = 3"}, "workers: another number"),
        ({"listen": 'address = "127.0.0.1:0"\ntls = { cert = "/nowhere.pem", key = "/nowhere.key" }'}, "nowhere"),
        ({"log": 'access = "/nowhere/access.log"'}, "nowhere/access.log"),
        ({"more": '[auth.keys]\ntype = "api-key"\nfile = "/nowhere/keys"', "route": 'auth = "keys"'}, "nowhere/keys"),
    ],
)
def test_what_cannot_be_had_changes_nothing(given: dict[str, Any], said: str, town: Make, tmp_path: Path) -> None:
    edge = town()
    client = edge.client()
    _, link = served(edge, client)
    before = (edge.runtime.config, edge.pool, edge.runtime.offices, edge.runtime.fronts[0].judge)
    open_files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartError, match=said):
        edge.prepare(**{"more": two(tmp_path), **given})
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert before == (edge.runtime.config, edge.pool, edge.runtime.offices, edge.runtime.fronts[0].judge)
    served(edge, client, link)


def test_a_port_that_is_taken_changes_nothing(town: Make) -> None:
    edge = town()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StartError, match="in use"):
        edge.prepare(more=f'[[listen]]\naddress = "127.0.0.1:{taken.getsockname()[1]}"')


def test_what_is_not_wanted_after_all_leaves_nothing(town: Make, tmp_path: Path) -> None:
    edge = town()
    judge = edge.runtime.fronts[0].judge
    change = edge.prepare(more=two(tmp_path), log=f'access = "{tmp_path}/access.log"')
    assert (tmp_path / "two.sock").exists()
    change.abort()
    assert not (tmp_path / "two.sock").exists()
    assert (edge.runtime.fronts[0].judge, len(edge.runtime.listeners)) == (judge, 1)


def test_the_audit_log_can_begin_but_not_change(town: Make, tmp_path: Path) -> None:
    edge = town()
    edge.become(more=f'[audit]\nfile = "{tmp_path}/audit.jsonl"')
    audit = edge.runtime.offices.audit
    assert audit is not None
    _, link = served(edge, edge.client(), None, POST % b"")
    for more in (f'[audit]\nfile = "{tmp_path}/other.jsonl"', ""):
        with pytest.raises(StartError, match="audit log"):
            edge.prepare(more=more)
    assert audit.close(10)
    assert (tmp_path / "audit.jsonl").stat().st_size
    link.close()


def test_who_is_ending_takes_no_configuration(town: Make) -> None:
    edge = town()
    edge.runtime.draining.is_set = True
    with pytest.raises(StartError, match="ending"):
        edge.prepare()


def test_the_state_directory_stays() -> None:
    text = 'state_dir = "{}"\n[[listen]]\naddress = "127.0.0.1:0"\nredirect = "https"\n'
    one, other = (config_load.load(text.format(directory)) for directory in ("/a", "/b"))
    assert [said.partition(":")[0] for said in refit.fixed(one, other)] == ["state_dir"]
    assert refit.fixed(one, one) == []


def test_who_serves_stays() -> None:
    text = '{}\nstate_dir = "/a"\n[[listen]]\naddress = "127.0.0.1:0"\nredirect = "https"\n'
    one, other = (config_load.load(text.format(who)) for who in ("", 'user = "nobody"'))
    assert [said.partition(":")[0] for said in refit.fixed(one, other)] == ["user, group"]


# -- the log ----------------------------------------------------------------------------------------------------------------------------


def test_the_log_goes_on_elsewhere(town: Make, tmp_path: Path) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    edge = town(log=f'access = "{first}"')
    edge.runtime.log._sink = edge.runtime.sink  # not the one that tests read
    client = edge.client()
    _, link = served(edge, client)
    edge.become(log=f'access = "{second}"\nlevel = "error"')
    served(edge, client, link)
    edge.until(lambda: first.read_bytes().count(b"\n") == second.read_bytes().count(b"\n") == 1, "a line in each")
    edge.become(log='access = "off"')
    assert edge.runtime.sink is None
    served(edge, client, link)
