"""Certificates of a configuration: which there are, when they are asked for, who is told what. The authority is a stand-in; pebble is in the scenarios."""

import asyncio
import datetime
import os
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mcpproxy.clock import unix
from mcpproxy.config.load import load
from mcpproxy.control import certificates
from mcpproxy.control.certificates import Certificates, expiries, read_story, sites, wanted
from mcpproxy.pki import acme_files
from mcpproxy.pki.acme import Issued, Refused
from mcpproxy.pki.acme_client import Suggestion
from mcpproxy.pki.acme_files import Place
from mcpproxy.pki.store import Store
from tests.support.certs import make_certificate
from tests.support.waiting import until

DAY = 86_400.0
TEXT = """\
state_dir = "{state}"
[[listen]]
address = "127.0.0.1:80"
redirect = "https"
[[listen]]
address = "127.0.0.1:443"
[listen.tls]
acme = "ops@example.com"
hosts = ["a.example.com"]
certificates = [{{ hosts = ["c.example.com", "b.example.com"] }}, {{ cert = "{cert}", key = "{key}" }}]
[[listen]]
address = "[::1]:443"
tls = {{ hosts = ["a.example.com"], acme = "ops@example.com" }}
[upstream.u]
urls = ["http://127.0.0.1:9"]
[[route]]
upstream = "u"
"""


class Stand:
    """A clock, an authority, and what was said."""

    def __init__(self, directory: Path) -> None:
        self.files = make_certificate(directory / "given", "given.example.com")
        self.config = load(TEXT.format(state=directory / "state", cert=self.files.cert, key=self.files.key))
        self.now, self.life, self.refusal = unix(), 90 * DAY, ""
        self.wait = 0.0
        self.asked: list[tuple[str, ...]] = []
        self.kinds: list[str] = []
        self.said: list[tuple[str, str]] = []
        self.suggests = self.ask_in = 0.0
        self.suggestions = 0
        self.bug: Exception | None = None
        self.certificates = self.made()

    def made(self) -> Certificates:
        made = Certificates(self.config, lambda level, text: self.said.append((level, text)), now=lambda: self.now, chance=lambda: 0.5)
        made._asked = lambda: self  # type: ignore[method-assign,assignment,return-value]
        return made

    def certificate(self, hosts: tuple[str, ...], kind: str, answers: object, pause: object, place: Store) -> Issued:
        self.asked.append(hosts)
        self.kinds.append(kind)
        if self.bug is not None:
            raise self.bug
        if self.refusal:
            raise Refused(self.refusal, self.wait)
        return issue(hosts, self.now, self.life)

    def suggestion(self, chain: bytes) -> Suggestion:
        assert b"PRIVATE" not in chain
        self.suggestions += 1
        if self.refusal:
            raise Refused(self.refusal, self.wait)
        return Suggestion(self.suggests, self.suggests, self.ask_in, "https://authority.example/why")

    def texts(self, level: str) -> list[str]:
        return [text for each, text in self.said if each == level]

    def days(self, count: float, step: float = 0.25) -> None:
        """Let time pass, with rounds now and then."""
        for _ in range(round(count / step)):
            self.now += step * DAY
            self.certificates.round()


def issue(hosts: tuple[str, ...], now: float, life: float) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    begin = datetime.datetime.fromtimestamp(int(now), datetime.UTC)
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, begin + datetime.timedelta(seconds=life))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Issued(certificate.public_bytes(Encoding.PEM), secret)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_each_set_of_names_is_one_certificate(stand: Stand) -> None:
    assert [site.hosts for site in sites(stand.config)] == [("a.example.com",), ("c.example.com", "b.example.com")]
    assert wanted(stand.config)
    before = expiries(stand.config)
    assert [(each.source, each.end > 0) for each in before] == [("acme", False), ("acme", False), ("file", True)]
    stand.certificates.round()
    assert stand.asked == [("a.example.com",), ("c.example.com", "b.example.com")]
    after = stand.certificates.expiries()
    assert [each.hosts for each in after] == [("a.example.com",), ("c.example.com", "b.example.com"), ("given.example.com",)]
    assert all(abs(each.end - stand.now - 90 * DAY) < 2 for each in after[:2])
    assert {name: value for name, _, value in stand.certificates.samples()}["certificate_failures"] == 0
    assert len(list(stand.certificates.samples())) == 5
    assert all(57 * DAY < each.renewal - stand.now < 60 * DAY for each in after[:2])


def test_renewals_come_at_two_thirds_and_not_before(stand: Stand) -> None:
    stand.certificates.round()
    stand.days(55)
    assert len(stand.asked) == 2
    stand.days(6)
    assert len(stand.asked) == 4
    assert not [text for text in stand.texts("error") + stand.texts("warning") if str(stand.files.cert) not in text]


def test_the_moment_an_authority_suggests_counts(stand: Stand) -> None:
    stand.certificates.round()
    stand.suggests = stand.now + 10 * DAY
    stand.days(9)
    assert len(stand.asked) == 2
    stand.days(1)
    assert len(stand.asked) == 4
    stand.days(3)
    assert len(stand.asked) <= 10, "an authority that always says so is not asked without end"


def test_an_authority_that_is_down_for_the_whole_time(stand: Stand) -> None:
    """Every failure is told, tries are at most half a day apart, a warning comes each day of the last fourteen, and the old certificate stays."""
    stand.certificates.round()
    [place] = [site.place for site in sites(stand.config) if site.hosts == ("a.example.com",)]
    kept = Path(place.pair).read_bytes()
    stand.refusal = "the authority cannot be reached"
    stand.days(89)
    assert Path(place.pair).read_bytes() == kept
    about = [text for text in stand.texts("warning") if "a.example.com" in text]
    assert 12 <= len(about) <= 14
    assert "expires in 13 days" in about[0]
    assert all("cannot be reached" in text for text in about)
    tries = stand.asked.count(("a.example.com",)) - 1
    assert 30 / 0.75 <= tries <= 30 / 0.25
    story = read_story(place)
    assert story.failures == tries
    stand.days(5)
    assert "has expired" in stand.texts("warning")[-1]
    stand.refusal = ""
    stand.days(1)
    assert read_story(place).failures == 0
    assert Path(place.pair).read_bytes() != kept


def test_what_the_authority_asks_for_is_waited(stand: Stand) -> None:
    stand.refusal, stand.wait = "the authority's limit is reached", 5 * DAY
    stand.certificates.round()
    stand.days(4.75)
    assert len(stand.asked) == 2
    stand.days(0.5)
    assert len(stand.asked) == 4


def test_a_restart_is_no_try(stand: Stand) -> None:
    stand.refusal = "no"
    stand.certificates.round()
    for _ in range(5):
        stand.certificates = stand.made()
        stand.certificates.round()
    assert len(stand.asked) == 2
    assert stand.kinds == ["http-01", "http-01"]
    stand.days(0.5)
    assert stand.kinds[2] == "tls-alpn-01", "the other way, also after a restart"


def test_files_of_others_are_warned_about_each_day(stand: Stand) -> None:
    stand.certificates.round()
    end = expiries(stand.config)[-1].end
    stand.now = end - 5 * DAY
    for _ in range(8):
        stand.certificates.round()
        stand.now += DAY / 4
    about = [text for text in stand.texts("warning") if str(stand.files.cert) in text]
    assert len(about) == 2
    assert "expires in" in about[0]


def test_a_state_directory_that_cannot_be_used_is_told_and_looked_at_again(stand: Stand) -> None:
    state = Path(stand.config.state_dir)
    state.mkdir()
    os.chmod(state, 0o777)
    wait = stand.certificates.round()
    stand.certificates.round()
    assert 0 < wait <= 60
    assert len([text for text in stand.texts("error") if "others may write" in text]) == 2, "once for each"
    os.chmod(state, 0o700)
    stand.certificates.round()
    assert len(stand.asked) == 2


def place_of(stand: Stand, *hosts: str) -> Place:
    [place] = [site.place for site in sites(stand.config) if site.hosts == (hosts or ("a.example.com",))]
    return place


def test_nothing_is_asked_for_while_it_could_not_be_kept(stand: Stand) -> None:
    """A full disk, say: authorities count what they sign, and what they refuse."""
    story = Path(place_of(stand).store().path, "story.json")
    story.mkdir()
    for _ in range(5):
        assert stand.certificates.round() <= 60
        stand.now += 60
    assert stand.asked == [("c.example.com", "b.example.com")]
    told = [text for text in stand.texts("error") if "a.example.com" in text]
    assert len(told) == 1, "once an hour"
    assert "story.json" in told[0] and "nothing is asked for" in told[0]
    story.rmdir()
    stand.certificates.round()
    assert stand.asked[1:] == [("a.example.com",)]


def test_a_certificate_that_cannot_be_kept_is_told_and_tried_again(stand: Stand) -> None:
    pair = Path(place_of(stand).store().path, "pair.pem")
    pair.mkdir()
    stand.certificates.round()
    [told] = [text for text in stand.texts("error") if "a.example.com" in text]
    assert "it is signed, but cannot be kept: " in told and "pair.pem" in told and "tried again in" in told
    assert read_story(place_of(stand)).failures == 1
    pair.rmdir()
    stand.days(0.25)
    assert [each for each in stand.texts("info") if "a.example.com: a new one is there" in each]


def test_a_bug_is_a_failure_like_others(stand: Stand) -> None:
    """It is not asked for again at once, and others get theirs."""
    stand.bug = ZeroDivisionError("by whom?")
    for _ in range(5):
        stand.certificates.round()
    assert len(stand.asked) == 2
    assert read_story(place_of(stand)).error == "ZeroDivisionError: by whom?"


def test_two_daemons_with_one_state_directory(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """One asks; the other looks again soon, can be ended meanwhile, and finds what came."""
    other = acme_files.within(stand.config.state_dir, "acme")
    with other.locked():
        assert stand.certificates.round() <= 5
        assert not stand.asked and not stand.said
        monkeypatch.setattr(certificates, "LONG_BUSY_S", -1.0)
        for _ in range(3):
            stand.certificates.round()
        assert len(stand.texts("error")) == 2, "once an hour, for each"
        assert "another process is at work there" in stand.texts("error")[0] and "does it stand still?" in stand.texts("error")[0]
    stand.certificates.round()
    second = stand.made()
    second.round()
    assert len(stand.asked) == 2


def test_a_clock_that_was_set_back_is_no_wait(stand: Stand) -> None:
    stand.refusal, stand.wait = "the authority's limit is reached", 2 * DAY
    stand.certificates.round()
    stand.now -= 3 * DAY
    for _ in range(5):
        stand.certificates.round()
    assert len(stand.asked) == 4, "once, and then it waits again"


def test_complaints_come_again_after_a_clock_was_set_back(stand: Stand) -> None:
    Path(place_of(stand).store().path, "story.json").mkdir()
    stand.certificates.round()
    stand.now -= 300 * DAY
    stand.certificates.round()
    assert len([text for text in stand.texts("error") if "a.example.com" in text]) == 2


@pytest.mark.parametrize(("ask_in", "expected"), [(0.0, 4), (7200.0, 12), (10 * DAY, 1), (5.0, 24)])
def test_the_authority_says_when_it_wants_to_be_asked_again(stand: Stand, ask_in: float, expected: int) -> None:
    """At most every minute, at least once a day (RFC 9773 §4.3.2)."""
    stand.certificates.round()
    stand.ask_in = ask_in
    stand.certificates.round()
    stand.suggestions = 0
    for _ in range(24):
        stand.now += DAY / 24 + 1
        stand.certificates.round()
    assert stand.suggestions == expected * 2


def test_an_authority_that_cannot_say_is_asked_later(stand: Stand) -> None:
    stand.certificates.round()
    stand.refusal, stand.wait = "not now", 5 * 3600
    stand.certificates.round()
    stand.suggestions = 0
    for _ in range(24):
        stand.now += DAY / 24 + 1
        stand.certificates.round()
    assert stand.suggestions == 2 * 4


def test_a_renewal_that_should_be_earlier_is_told_once_with_its_reason(stand: Stand) -> None:
    stand.certificates.round()
    stand.suggests = stand.now + 10 * DAY
    stand.days(3)
    assert [text.partition(": ")[2] for text in stand.texts("info")[2:]] == [
        "the authority suggests to renew it earlier, see https://authority.example/why"
    ] * 2


def test_the_end_is_told_when_it_comes(stand: Stand) -> None:
    """Also of one that lives for a day only, and was warned about hours ago."""
    stand.life = DAY
    stand.certificates.round()
    stand.refusal = "the authority cannot be reached"
    stand.days(1.1, step=0.01)
    about = [text for text in stand.texts("warning") if "a.example.com" in text]
    assert about == [
        "certificate of a.example.com: expires within a day; the authority cannot be reached",
        "certificate of a.example.com: has expired; the authority cannot be reached",
    ]


def test_it_runs_in_a_thread_that_ends(stand: Stand) -> None:
    async def life() -> None:
        await stand.certificates.start()
        await asyncio.to_thread(until, lambda: len(stand.asked) == 2)
        await stand.certificates.stop()

    asyncio.run(life())
    assert not [thread for thread in threading.enumerate() if thread.name == "certificates"]


def test_a_bug_is_told_and_does_not_end_it(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand.certificates, "round", lambda: 1 / 0)

    async def life() -> None:
        await stand.certificates.start()
        await asyncio.to_thread(until, lambda: stand.texts("error"))
        await stand.certificates.stop()

    asyncio.run(life())
    assert "ZeroDivisionError" in stand.texts("error")[0]
