"""Who knows callers, and how changes come to count."""

from pathlib import Path

import pytest

from mcpproxy.config import load as config_load
from mcpproxy.edge.questions import Questions
from mcpproxy.errors import StartError
from mcpproxy.observe.messages import Messages
from mcpproxy.staffing import LOOK_S, Offices
from tests.net.stepping import Steps
from tests.support.keys import Keys

TEXT = """
    state_dir = "{directory}/state"
    [[listen]]
    address = "127.0.0.1:1"
    [auth.keys]
    type = "api-key"
    file = "{directory}/keys.jsonl"
    [auth.corp]
    type = "jwt"
    issuer = "https://login.example"
    jwks = "file:{directory}/jwks.json"
    [limit.all]
    rate = "1/s"
    [upstream.u]
    urls = ["http://127.0.0.1:9"]
    {upstream}
    [upstream.v]
    urls = ["http://127.0.0.1:9"]
    [[route]]
    path = "/one"
    upstream = "u"
    auth = ["keys", "corp"]
    public_url = "https://mcp.example/one"
    limits = "all"
    [route.tools]
    read_only = true
    [[route]]
    path = "/two"
    upstream = "u"
    auth = "corp"
    public_url = "https://mcp.example/two"
    [[route]]
    upstream = "v"
"""


class Heard(Messages):
    """What the operator would read."""

    def __init__(self, level: str) -> None:
        super().__init__(level)
        self.lines: list[tuple[str, str]] = []

    def say(self, level: str, text: str) -> None:
        self.lines.append((level, text))


class Office:
    """Opened, in a directory with keys."""

    def __init__(self, directory: Path, steps: Steps, upstream: str = "") -> None:
        self.keys = Keys(directory)
        self.key = self.keys.add("agent-alpha")
        config = config_load.load(TEXT.format(directory=directory, upstream=upstream))
        self.said: list[tuple[str, str]] = []
        messages = Heard("debug")
        messages.lines = self.said
        self.forgotten = 0
        self.it = Offices(config, Questions(steps.loop), messages, forget=self._forget)
        self.it.open()

    def _forget(self) -> None:
        self.forgotten += 1


@pytest.fixture
def steps() -> object:
    return Steps()


@pytest.fixture
def office(tmp_path: Path, steps: Steps) -> object:
    yield Office(tmp_path, steps)
    steps.close()


def test_each_route_has_its_staff_in_order(office: Office) -> None:
    one, two, three = office.it.staff()
    assert [each.name for each in one.authenticators] == ["keys", "corp"]
    assert [each.name for each in two.authenticators] == ["corp"]
    assert one.authenticators[1] is not two.authenticators[0], "tokens are for one of them"
    assert one.look is not None and one.gate is not None and one.rules is not None and one.hints is not None
    assert two.gate is None and two.rules is None and not two.idle
    assert three.idle and three.look is None


def test_a_change_of_the_keys_is_read_once_and_everything_is_forgotten(office: Office) -> None:
    office.it.tick(0.0)
    assert office.forgotten == 0
    office.keys.add("agent-beta")
    for now in (0.5, 1.0, 1.5):
        office.it.tick(now)
    assert office.forgotten == 1
    assert office.said == [("info", "auth.keys: the keys were read again")]


def test_a_broken_file_is_told_once_and_nothing_is_forgotten(office: Office) -> None:
    office.keys.file.write_text("{ mcpp_secret")
    for now in (0.5, 1.0, 1.5):
        office.it.tick(now)
    [(level, text)] = office.said
    assert level == "error" and "the keys read before go on" in text and "mcpp_secret" not in text
    assert office.forgotten == 0


def test_secrets_that_changed_count_once_their_files_rest(tmp_path: Path, steps: Steps) -> None:
    file = tmp_path / "value"
    file.write_text("Bearer old")
    office = Office(tmp_path, steps, f'credential = {{ type = "header", value = "file:{file}" }}')
    outbound = office.it.outbounds["u"]
    office.it.tokens = None  # whose keys would be asked for
    office.it.tick(LOOK_S)
    file.write_text("Bearer another")
    for count in range(2, 9):
        office.it.tick(LOOK_S * count)
    assert (outbound.static, office.forgotten) == (b"Authorization: Bearer another\r\n", 1)
    file.write_text("")
    for count in range(10, 18):
        office.it.tick(LOOK_S * count)
    assert (outbound.static, office.forgotten) == (b"Authorization: Bearer another\r\n", 1)
    said = [(level, text) for level, text in office.said if "secret" in text]
    assert said == [
        ("info", f"secrets were read again: file:{file}"),
        ("error", f"file:{file}: empty, or larger than 64 KiB; the secret read before goes on"),
    ]


def test_what_will_be_needed_is_asked_for_ahead(office: Office, steps: Steps, tmp_path: Path) -> None:
    asked: list[str] = []
    ask = office.it.questions.ask

    def listening(question, go_on):  # type: ignore[no-untyped-def]
        asked.append(question.about)
        return ask(question, go_on)

    office.it.questions.ask = listening  # type: ignore[method-assign]
    office.it.tick(LOOK_S)
    assert asked == ["keys of corp"]
    office.it.tick(LOOK_S + 0.5)
    assert asked == ["keys of corp"], "not at every tick"
    steps.until(lambda: any("the key set cannot be had" in text for _, text in office.said), "the answer")


def test_a_file_that_is_not_there_is_no_start(tmp_path: Path) -> None:
    steps = Steps()
    office = Office(tmp_path, steps)
    office.keys.file.unlink()
    with pytest.raises(StartError, match=r"keys\.jsonl"):
        office.it.open()
    steps.close()


def test_the_key_that_signs_who_calls_is_made_where_it_is_wanted_and_kept(tmp_path: Path) -> None:
    steps = Steps()
    assert Office(tmp_path, steps).it.identity is None
    directory = tmp_path / "a"
    directory.mkdir()
    with_one = Office(directory, steps, "identity = {}")
    first, second = with_one.it, Offices(with_one.it.config, with_one.it.questions, with_one.it.messages)
    second.open()
    assert first.identity is not None and second.identity is not None
    assert first.identity.document == second.identity.document
    assert set(first.outbounds) == {"u"}
    steps.close()
