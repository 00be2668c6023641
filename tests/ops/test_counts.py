"""What the process says about itself is what it did."""

from mcpproxy.edge.store import Store
from mcpproxy.ops.counts import counts
from tests.edge.conftest import HEAD_END

ASK = b"GET /%b HTTP/1.1\r\nHost: a.test\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_what_was_asked_and_what_it_took(proxy) -> None:
    edge = proxy("")
    client = edge.client()
    server = None
    for number in range(4):  # the first two heads are judged, from then on this head is known
        client.sendall(ASK % b"known")
        server = server or edge.accept()
        edge.read(server, HEAD_END)
        if number == 3:
            said = counts(edge.runtime)
            assert said["upstreams"] == {"u": {"in_use": 1, "idle": 0, "waiting": 0, "unreachable": 0}}
        server.sendall(ANSWER)
        edge.read(client, b"ok")
    said = counts(edge.runtime)
    assert said["requests"] == 4
    assert said["connections"] == {"open": 1, "accepted": 1, "turned_away": 0, "handshakes_failed": 0}
    assert said["new_request_heads"] == {"filled": 0, "judged": 2, "kept": 1}
    assert said["new_response_heads"]["judged"] + said["new_response_heads"]["filled"] == 2
    assert said["upstreams"] == {"u": {"in_use": 0, "idle": 1, "waiting": 0, "unreachable": 0}}
    client.close()
    edge.steps.until(lambda: not edge.runtime.links)
    said = counts(edge.runtime)
    assert (said["requests"], said["connections"]["open"]) == (4, 0)


def test_a_server_nobody_reached_is_counted_until_it_is_tried_again(proxy) -> None:
    edge = proxy(url="http://127.0.0.1:1")
    client = edge.client()
    client.sendall(ASK % b"")
    edge.steps.until(lambda: counts(edge.runtime)["upstreams"]["u"]["unreachable"] == 1)


def test_heads_that_fit_a_template_are_told_from_those_that_were_judged(proxy) -> None:
    edge = proxy("")
    client = edge.client()
    server = None
    for number in range(6):
        client.sendall(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%b" % (number + 1, b"x" * (number + 1)))
        server = server or edge.accept()
        edge.read(server, HEAD_END + b"x" * (number + 1))
        server.sendall(ANSWER)
        edge.read(client, b"ok")
    heads = counts(edge.runtime)["new_request_heads"]
    assert heads["judged"] + heads["filled"] == 6
    assert heads["filled"] >= 3


def test_a_store_counts_what_it_was_asked() -> None:
    store: Store[int] = Store(2, 1 << 20)
    assert store.find(b"a") is None
    store.put(b"a", 1)
    assert store.find(b"a") == 1
    store.put(b"b", 2)  # no room: "a" is old now
    assert store.find(b"a") == 1
    assert (store.found, store.misses) == (2, 1)
