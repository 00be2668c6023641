"""What a worker tells: all of it, once, and nothing is lost while nobody listens."""

from mcpproxy.net.timers import TICK
from mcpproxy.ops.report import UNHEARD, Report
from tests.edge.conftest import HEAD_END

ASK = b"GET /%b HTTP/1.1\r\nHost: a.test\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Line:
    """Takes what is said, or not."""

    def __init__(self):
        self.takes, self.said = True, []

    def say(self, topic, data):
        if self.takes:
            self.said.append((topic, data))
        return self.takes

    def numbers(self):
        """What was told, by name and labels, each message once."""
        found = {}
        for message in {data["number"]: data for topic, data in self.said if topic == "tally"}.values():
            for *key, value in message["sums"]["numbers"]:
                found[tuple(key)] = found.get(tuple(key), 0) + value
        return found


class Talk:
    """One client, and the one connection its requests need."""

    def __init__(self, edge):
        self.edge, self.client, self.server = edge, edge.client(), None

    def asks(self, number=1):
        for _ in range(number):
            self.client.sendall(ASK % b"")
            self.server = self.server or self.edge.accept()
            self.edge.read(self.server, HEAD_END)
            self.server.sendall(ANSWER)
            self.edge.read(self.client, b"ok")


def requests(line):
    return sum(value for key, value in line.numbers().items() if key[0] == "requests")


def test_an_exchange_is_told_when_control_asks(proxy):
    edge, line = proxy(""), Line()
    report, talk = Report(edge.runtime, line.say), Talk(edge)
    talk.asks(3)
    gauges = report.flush()
    endpoint = edge.pool.endpoints[0].label
    assert line.numbers()["requests", "/", "u", endpoint, "200", "done"] == 3
    assert line.numbers()["accepted",] == 1
    assert gauges["connections"] == 1
    assert gauges["exchanges"] == {"http1": 0, "http2": 0, "events": 0, "tunnels": 0}
    assert gauges["upstreams"]["u"]["endpoints"][0]["idle"] == 1
    assert gauges["rss"] > 1_000_000
    assert gauges["descriptors"] > 3
    report.flush()
    assert line.numbers()["accepted",] == 1


def test_what_is_under_way_is_told(proxy):
    edge, line = proxy(""), Line()
    report = Report(edge.runtime, line.say)
    client = edge.client()
    client.sendall(ASK % b"")
    server = edge.accept()
    edge.read(server, HEAD_END)
    assert report.flush()["exchanges"] == {"http1": 1, "http2": 0, "events": 0, "tunnels": 0}
    server.sendall(EVENTS)
    edge.read(client, HEAD_END)
    assert report.flush()["exchanges"]["events"] == 1
    client.close()
    edge.until(lambda: not edge.runtime.links)
    assert report.flush()["exchanges"] == {"http1": 0, "http2": 0, "events": 0, "tunnels": 0}


def test_what_nobody_takes_is_kept_and_told_later(proxy):
    edge, line = proxy(""), Line()
    report, talk = Report(edge.runtime, line.say), Talk(edge)
    line.takes = False
    talk.asks(2)
    report.flush()
    talk.asks(3)
    report.flush()
    assert line.said == []
    line.takes = True
    report.flush()
    assert requests(line) == 5
    assert line.numbers()["accepted",] == 1


def test_what_was_not_confirmed_is_said_again(proxy):
    edge, line = proxy(""), Line()
    report, talk = Report(edge.runtime, line.say), Talk(edge)
    talk.asks()
    report.flush()
    report.tallied(1)
    talk.asks()
    report.flush()
    before = len(line.said)
    report.joined()
    assert [data["number"] for _, data in line.said[before:]] == [2]
    assert requests(line) == 2
    report.tallied(2)
    report.joined()
    assert len(line.said) == before + 1


def test_who_never_confirms_costs_no_memory(proxy):
    edge, line = proxy(""), Line()
    report, talk = Report(edge.runtime, line.say), Talk(edge)
    for _ in range(UNHEARD + 4):
        talk.asks()
        report.flush()
    assert len(line.said) == UNHEARD
    report.tallied(UNHEARD)
    report.flush()
    assert requests(line) == UNHEARD + 4


def test_ticks_tell_counts_and_now_and_then_how_things_stand(proxy):
    edge, line = proxy(""), Line()
    report, talk = Report(edge.runtime, line.say), Talk(edge)
    report.tick(100.0)
    assert [topic for topic, _ in line.said][-1] == "gauges"
    line.said.clear()
    talk.asks()
    edge.runtime.log.tick()
    report.tick(100.0 + TICK)
    assert [topic for topic, _ in line.said] == ["tally"]
    assert requests(line) == 1
    report.tick(100.0 + 2 * TICK)
    assert len(line.said) == 1  # nothing happened
    for number in range(3, 11):
        report.tick(100.0 + number * TICK)
    assert [topic for topic, _ in line.said].count("gauges") == 1


def test_a_late_tick_is_a_lag(proxy):
    edge, line = proxy(""), Line()
    report = Report(edge.runtime, line.say)
    report.tick(100.0)
    report.tick(100.0 + TICK)
    report.tick(100.0 + 2 * TICK + 0.3)
    assert report.flush()["lag_s"] == 0.3
    lags = [times for _, data in line.said if "sums" in data for name, times in data["sums"]["times"] if name == "lag"][-1]
    assert round(lags[0], 6) == 0.3
    assert lags[1] == 1
    assert sum(lags[1:]) == 2
    assert report.flush()["lag_s"] == 0.0
