"""Certificates that come by themselves, and the ends of all others.

    certificates = Certificates(config, messages.say);  await certificates.start();  …;  await certificates.stop()

A thread of the control process asks for what is due (pki/acme_plan says when, pki/acme speaks) and writes files; workers find them there (pki/acme_files).
Nothing else connects the two: whoever of them dies or stands still, the other goes on with what lies on the disk. One certificate for each set of names, one
after the other, and one daemon at a time for each state directory. Nothing is asked for while what comes of it could not be kept.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from cryptography import x509

from mcpproxy import __version__
from mcpproxy.clock import monotonic, unix
from mcpproxy.config.model import Config, Tls
from mcpproxy.config.secrets import secret
from mcpproxy.errors import StartError
from mcpproxy.pki import acme_files, acme_plan, devca
from mcpproxy.pki.acme_files import CHAIN, STORY, Challenges, Place
from mcpproxy.pki.acme_plan import DAY, Span, Story
from mcpproxy.pki.store import Busy

if TYPE_CHECKING:
    from mcpproxy.pki.acme import Authority

LONGEST_S, SHORTEST_S = 60.0, 0.2  # seconds between two looks at what is due: clocks jump, and machines sleep
ASK_AGAIN_S = DAY / 4  # until an authority is asked again what it suggests (RFC 9773 §4.3.3); a sixth of that when it did not answer
STOP_S = 1.0  # for the thread to end; it may wait for an answer
BUSY_S = 5.0  # between two looks while another daemon has the state directory
LONG_BUSY_S = 1800.0  # more than one takes to ask for a certificate: nobody should have it for so long


class Expiry(NamedTuple):
    """What is known of one certificate of the configuration."""

    name: str  # of its file, or of its set of names
    source: str  # "file", "acme", "dev"
    hosts: tuple[str, ...]
    begin: float  # Unix time; 0 where there is none yet
    end: float
    renewal: float  # when it is asked for again; 0: not by us
    error: str  # of the last try
    failures: int = 0  # in a row


class Site(NamedTuple):
    """One certificate by ACME."""

    hosts: tuple[str, ...]
    secure: bool  # its listener can be reached by TCP
    place: Place


def sites(config: Config) -> list[Site]:
    """Each set of names once."""
    found: dict[str, Site] = {}
    for listen in config.listen:
        if isinstance(listen.tls, Tls):
            secure = not listen.address.startswith("unix:")
            for hosts in listen.tls.host_sets:
                name = acme_files.set_name(hosts)
                known = found.get(name)
                found[name] = Site(hosts, secure or (known is not None and known.secure), Place.of(config.state_dir, hosts))
    return list(found.values())


def wanted(config: Config) -> bool:
    """Is there anything to be done for this configuration?"""
    return any(listen.tls is not None for listen in config.listen)


def expiries(config: Config) -> list[Expiry]:
    """Every certificate of the configuration, from what lies on the disk."""
    return [*_by_acme(config), *_by_files(config), *_by_ourselves(config)]


class Certificates:
    """Asks for certificates for as long as it runs."""

    def __init__(
        self,
        config: Config,
        say: Callable[[str, str], None],
        *,
        now: Callable[[], float] = unix,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._config, self._say, self._now, self._chance = config, say, now, chance
        self._sites = sites(config)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._authority: object = None
        self._warned: dict[str, float] = {}  # files
        self._busy_since = 0.0  # 0: nobody else has the state directory

    async def start(self) -> None:
        """Begin, in a thread."""
        if self._thread is None and wanted(self._config):
            self._thread = threading.Thread(target=self._run, name="certificates", daemon=True)
            self._thread.start()

    async def stop(self) -> None:
        """End; an answer that is waited for is not heard any more."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_S)

    def expiries(self) -> list[Expiry]:
        """Every certificate of the configuration."""
        return expiries(self._config)

    def samples(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """For control/metrics."""
        for each in self.expiries():
            if each.end:
                yield "certificate_expiry_time_seconds", (each.name, each.source), each.end
            if each.source == "acme":
                yield "certificate_failures", (each.name,), each.failures

    # -- the thread --------------------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            try:
                wait = self.round()
            except Exception as error:  # nobody else would come and look
                self._say("error", f"certificates: {type(error).__name__}: {error}")
                wait = LONGEST_S

    def round(self) -> float:
        """Do what is due; seconds until the next look."""
        moments = [self._look(site) for site in self._sites]
        self._warn_of_files()
        wait = min(moments, default=self._now() + LONGEST_S) - self._now()
        return min(max(wait, SHORTEST_S), LONGEST_S)

    def _look(self, site: Site) -> float:
        """Ask for this certificate, if it is time. The moment to look again."""
        name = acme_files.set_name(site.hosts)
        try:
            store = site.place.store()
            with acme_files.within(self._config.state_dir, "acme").locked(patient=False):
                self._busy_since = 0.0
                story, span = read_story(site.place), read_span(site.place.pair)
                if span is not None and not self._stop.is_set():
                    self._ask_for_suggestion(site, story, span)
                if acme_plan.due(span, story, self._now()) <= self._now() and not self._stop.is_set():
                    store.write(STORY, msgspec.json.encode(story))  # where it cannot be, nothing is asked for
                    self._renew(site, story, span)
                    span = read_span(site.place.pair)
                if span is not None and acme_plan.warns(span, story, self._now()):
                    story.warned_at = self._now()
                    self._say(
                        "warning",
                        f"certificate of {name}: {acme_plan.left(span.end - self._now())}; {story.error or 'it is being renewed'}",
                    )
                store.write(STORY, msgspec.json.encode(story))
        except Busy as busy:
            self._busy_since = self._busy_since or monotonic()
            if monotonic() - self._busy_since > LONG_BUSY_S:
                self._complain(name, f"{busy.message}, and has been for {_in_words(monotonic() - self._busy_since)}: does it stand still?")
            return self._now() + BUSY_S
        except StartError as error:
            self._complain(name, f"{error.message}; until this can be written nothing is asked for")
            return self._now() + LONGEST_S
        return acme_plan.due(span, story, self._now())

    def _complain(self, name: str, text: str) -> None:
        """Once an hour."""
        if not 0 <= self._now() - self._warned.get(name, 0.0) < DAY / 24:
            self._warned[name] = self._now()
            self._say("error", f"certificate of {name}: {text}")

    def _renew(self, site: Site, story: Story, old: Span | None) -> None:
        from mcpproxy.pki.acme import Refused, Stopped  # a tenth of a second of imports, only where it is needed

        config, name = self._config.acme, acme_files.set_name(site.hosts)
        plain = any(listen.tls is None and not listen.address.startswith("unix:") for listen in self._config.listen)
        story.challenge = acme_plan.choose(config.challenge, plain, site.secure, story)
        store, told = site.place.store(), 0.0
        try:
            issued = self._asked().certificate(site.hosts, story.challenge, Challenges(self._config.state_dir), self._pause, store)
            issued.keep(store)
        except Stopped:
            return
        except Refused as refused:
            error, told = refused.message, refused.wait
        except StartError as full:
            error = f"it is signed, but cannot be kept: {full.message}; it is fetched again then"
        except Exception as bug:  # or it would be asked for again at once, and again
            error = f"{type(bug).__name__}: {bug}"
        else:
            story.succeeded(self._chance())
            span = read_span(site.place.pair)
            days = (span.end - self._now()) / DAY if span is not None else 0.0
            self._say("info", f"certificate of {name}: a new one is there, good for {days:.1f} days ({', '.join(site.hosts)})")
            return
        story.failed(self._now(), error, config.retry, self._chance(), told, old)
        self._say("error", f"certificate of {name}: {error}; tried again in {_in_words(story.not_before - self._now())}")

    def _ask_for_suggestion(self, site: Site, story: Story, span: Span) -> None:
        """When does the authority want this one to be renewed? It need not know, and need not answer."""
        now = self._now()
        if now >= span.end or 0 <= story.ask_at - now <= DAY:
            return
        from mcpproxy.pki.acme import Refused, Stopped

        before = acme_plan.renewal(span, story)
        try:
            told = self._asked().suggestion(Path(site.place.directory, CHAIN).read_bytes())
            story.suggested = acme_plan.suggested(
                told.begin, told.end, span, story.chance
            )  # the same moment, as long as the window is the same
            wait = told.ask_in or ASK_AGAIN_S
            if acme_plan.renewal(span, story) < before - DAY:
                why = f", see {told.why}" if told.why else ""
                self._say("info", f"certificate of {acme_files.set_name(site.hosts)}: the authority suggests to renew it earlier{why}")
        except Refused as refused:
            wait = max(ASK_AGAIN_S / 6, refused.wait)
        except (Stopped, OSError):
            wait = ASK_AGAIN_S / 6
        story.ask_at = now + min(max(wait, LONGEST_S), DAY)

    def _asked(self) -> Authority:
        from mcpproxy.pki.acme import Authority as Made
        from mcpproxy.pki.acme import Refused, account_name

        if not isinstance(self._authority, Made):
            acme = self._config.acme
            contacts = [listen.tls.acme for listen in self._config.listen if isinstance(listen.tls, Tls) and listen.tls.acme is not None]
            try:
                eab = (acme.eab_key_id, secret(acme.eab_hmac)) if acme.eab_key_id and acme.eab_hmac else None
                store = acme_files.within(self._config.state_dir, "acme", "accounts", account_name(acme.url))
            except StartError as error:
                raise Refused(error.message) from None
            agent = f"mcpproxy/{__version__}"
            self._authority = Made(acme.url, store, contacts=contacts, ca=acme.ca, eab=eab, agent=agent)
        return self._authority

    def _pause(self, seconds: float) -> None:
        from mcpproxy.pki.acme import Stopped

        if self._stop.wait(seconds):
            raise Stopped

    def _warn_of_files(self) -> None:
        """Those that others renew: each day, once little is left."""
        for each in (*_by_files(self._config), *_by_ourselves(self._config)):
            span, story = Span(each.begin, each.end), Story(warned_at=self._warned.get(each.name, 0.0))
            if each.end and acme_plan.warns(span, story, self._now()):
                self._warned[each.name] = self._now()
                self._say("warning", f"{each.name}: the certificate {acme_plan.left(each.end - self._now())}")


def read_story(place: Place) -> Story:
    """What was tried for it."""
    with suppress(OSError, UnicodeDecodeError):
        return acme_plan.told(Path(place.directory, STORY).read_text())
    return Story()


def read_span(file: str) -> Span | None:
    """From when to when the certificate in a file is valid; None when there is none."""
    try:
        leaf = x509.load_pem_x509_certificates(Path(file).read_bytes())[0]
    except (OSError, ValueError):
        return None
    return Span(leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())


def _by_acme(config: Config) -> Iterator[Expiry]:
    for site in sites(config):
        span, story = read_span(site.place.pair), read_story(site.place)
        name = acme_files.set_name(site.hosts)
        begin, end = span or (0.0, 0.0)
        yield Expiry(name, "acme", site.hosts, begin, end, acme_plan.due(span, story, unix()), story.error, story.failures)


def _by_files(config: Config) -> Iterator[Expiry]:
    seen = set()
    for listen in config.listen:
        for each in listen.tls.files if isinstance(listen.tls, Tls) else ():
            if each.cert is None or each.cert in seen:
                continue
            seen.add(each.cert)
            span = read_span(each.cert)
            begin, end = span or (0.0, 0.0)
            yield Expiry(each.cert, "file", _names(each.cert), begin, end, 0.0, "" if span else "there is no certificate that can be read")


def _by_ourselves(config: Config) -> Iterator[Expiry]:
    """The development certificate: made again at the start, in its last 90 days."""
    if any(listen.tls == "dev" or (isinstance(listen.tls, Tls) and not listen.tls.identities) for listen in config.listen):
        file = str(devca.files(config.state_dir).cert)
        begin, end = read_span(file) or (0.0, 0.0)
        yield Expiry(file, "dev", _names(file), begin, end, 0.0, "")


def _names(file: str) -> tuple[str, ...]:
    try:
        leaf = x509.load_pem_x509_certificates(Path(file).read_bytes())[0]
        return tuple(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName))
    except (OSError, ValueError, x509.ExtensionNotFound):
        return ()


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
