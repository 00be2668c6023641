"""Logins with a real authorization server, and a person who says yes at once."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mcpproxy.connect.documents import Authority as Documents
from mcpproxy.connect.login import Login, Wishes, code_in
from mcpproxy.connect.places import WireError
from mcpproxy.connect.remote import Remote
from mcpproxy.connect.tokens import Store
from mcpproxy.connect.wire import Wire
from tests.connect.rig import Answer, Seen, far, later
from tests.support.authorization import Authority, found


@pytest.fixture
def authority() -> Iterator[Authority]:
    with Authority() as made:
        yield made


NONE = Wishes()


class Guarded:
    """A server that wants a token of this authority, for itself, and for `scope` where that is asked."""

    def __init__(self, authority: Authority) -> None:
        self.authority, self.scope = authority, ""
        self.shown: list[str] = []
        self.documents = True

    async def __call__(self, seen: Seen, to: Answer) -> None:
        origin = f"http://{seen.fields['host']}"
        if seen.target == "/.well-known/oauth-protected-resource/mcp" and self.documents:
            await to.json({"resource": f"{origin}/mcp", "authorization_servers": [self.authority.issuer], "scopes_supported": ["read"]})
            return
        if seen.target.startswith("/.well-known/"):
            await to.plain(404)
            return
        said = (
            f'Basic realm="x", Bearer resource_metadata="{origin}/.well-known/oauth-protected-resource/mcp"' if self.documents else "Bearer"
        )
        token = seen.fields.get("authorization", "").removeprefix("Bearer ")
        issued = self.authority.tokens.get(token)
        if issued is None or issued.revoked or issued.claims["exp"] <= time.time() or issued.claims["aud"] != f"{origin}/mcp":
            await to.plain(401, WWW_Authenticate=said)
        elif self.scope not in issued.claims["scope"].split() and self.scope:
            await to.plain(403, WWW_Authenticate=f'{said}, error="insufficient_scope", scope="{self.scope}"')
        else:
            self.shown.append(token)
            await to.plain(200, b"welcome")


class Person:
    """At the browser. `pages`: which were opened."""

    def __init__(self, *, says_yes: bool = True) -> None:
        self.pages: list[str] = []
        self.says_yes = says_yes

    def __call__(self, page: str) -> None:
        self.pages.append(page)
        if self.says_yes:
            threading.Thread(target=self._visit, args=(page,), daemon=True).start()

    @staticmethod
    def _visit(page: str) -> None:
        with urllib.request.urlopen(page, timeout=10) as answer:
            assert b"logged in" in answer.read()

    @property
    def asked(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.pages[-1]).query).items()}


class Visitor:
    """An instance of the program."""

    def __init__(self, url: str, directory: Path, person: Person, wishes: Wishes = NONE, **more: Any) -> None:
        self.said: list[str] = []
        self.wire = Wire(environment={})
        self.store = Store(directory, url, wishes.client_id or wishes.metadata_url)
        self.login = Login(self.wire, url, self.store, self.said.append, wishes, person, **more)
        self.remote = Remote(self.wire, url, b"", self.login, self.said.append, patience=0)

    async def ask(self) -> bytes:
        reply = await self.remote.send(b"POST", b"", b"{}")
        body = await reply.body()
        return body if reply.status == 200 else str(reply.status).encode()


def kept_in(directory: Path) -> list[Path]:
    return [*directory.glob("*.json")]


async def test_a_person_logs_in_once_and_is_known_from_then_on(authority: Authority, tmp_path: Path) -> None:
    async with far(Guarded(authority)) as server:
        person = Person()
        first = Visitor(server.url, tmp_path, person)
        assert await first.ask() == b"welcome"
        asked = person.asked
        assert (asked["resource"], asked["scope"], asked["code_challenge_method"]) == (server.url, "read", "S256")
        assert urlsplit(asked["redirect_uri"]).hostname == "127.0.0.1"
        assert await first.ask() == b"welcome"
        assert await Visitor(server.url, tmp_path, person).ask() == b"welcome", "another run"
        assert len(person.pages) == 1
        assert authority.asked["/register"] == authority.asked["/token"] == 1
        assert [file.stat().st_mode & 0o777 for file in kept_in(tmp_path)] == [0o600]
        assert not any(token in line for token in authority.tokens for line in first.said)


async def test_tokens_are_renewed_in_time_and_after_a_refusal(authority: Authority, tmp_path: Path) -> None:
    guarded = Guarded(authority)
    async with far(guarded) as server:
        person = Person()
        at = Visitor(server.url, tmp_path, person)
        await at.ask()
        kept = at.store.read()
        assert kept is not None
        assert kept.renew > time.time() + 3000
        kept.renew = 1.0
        at.store.write(kept)
        at = Visitor(server.url, tmp_path, person)
        assert await at.ask() == b"welcome"
        assert len(authority.tokens) == 2 and guarded.shown[-1] == [*authority.tokens][1], "before it was refused"
        authority.revoke(guarded.shown[-1])
        authority.tokens[guarded.shown[-1]].revoked = False
        authority.tokens[guarded.shown[-1]].claims["exp"] = 1
        assert await at.ask() == b"welcome"
        assert len(authority.tokens) == 3, "after it was"
        assert len(person.pages) == 1


async def test_only_the_authority_ends_a_refresh_token(authority: Authority, tmp_path: Path) -> None:
    guarded = Guarded(authority)
    async with far(guarded) as server:
        person = Person()
        at = Visitor(server.url, tmp_path, person)
        await at.ask()
        for token in authority.tokens.values():
            token.claims["exp"] = 1
        authority.replaced["/token"] = lambda: (503, b"", [])
        with pytest.raises(WireError, match="answered 503"):
            await at.ask()
        assert len(person.pages) == 1, "no browser for an authority that is away"
        authority.replaced["/token"] = lambda: (400, b'{"error":"invalid_grant"}', [])
        asking = asyncio.ensure_future(at.ask())
        await later(lambda: len(person.pages) == 2)
        await asyncio.gather(asking, return_exceptions=True)


async def test_of_several_instances_one_asks_the_person(authority: Authority, tmp_path: Path) -> None:
    async with far(Guarded(authority)) as server:
        person = Person()
        many = [Visitor(server.url, tmp_path, person) for _ in range(5)]
        assert await asyncio.gather(*(at.ask() for at in many for _ in range(3))) == [b"welcome"] * 15
        assert len(person.pages) == 1
        for token in authority.tokens.values():
            token.claims["exp"] = 1
        assert await asyncio.gather(*(at.ask() for at in many)) == [b"welcome"] * 5
        assert (len(person.pages), authority.asked["/token"]) == (1, 2), "one renews, the others take what it got"


async def test_a_login_that_failed_opens_no_second_page(authority: Authority, tmp_path: Path) -> None:
    async with far(Guarded(authority)) as server:
        person = Person(says_yes=False)
        many = [Visitor(server.url, tmp_path, person, patience=0.3) for _ in range(3)]
        seen = await asyncio.gather(*(at.ask() for at in many), return_exceptions=True)
        assert all(isinstance(each, WireError) for each in seen)
        assert len(person.pages) == 1
        with pytest.raises(WireError, match="a moment ago"):
            await many[0].ask()


async def test_more_scopes_are_asked_for_when_the_server_says_so_once(authority: Authority, tmp_path: Path) -> None:
    guarded = Guarded(authority)
    async with far(guarded) as server:
        person = Person()
        at = Visitor(server.url, tmp_path, person)
        await at.ask()
        guarded.scope = "write"
        assert await at.ask() == b"welcome"
        assert person.asked["scope"] == "read write"
        assert authority.asked["/register"] == 1, "the same client, with the same door"
        guarded.scope = "write more"
        assert await at.ask() == b"403"
        assert len(person.pages) <= 3


async def test_a_client_that_is_known_there_already(authority: Authority, tmp_path: Path) -> None:
    from tests.support.authorization import Client

    authority.clients["desk"] = Client(
        "desk", "hush%", "client_secret_basic", ["http://localhost:1/x"], ["authorization_code", "refresh_token"]
    )
    async with far(Guarded(authority)) as server:
        person = Person()
        at = Visitor(server.url, tmp_path, person, Wishes(client_id="desk", client_secret="hush%", scope="mine"))
        authority.clients["desk"].check_redirect_uri = lambda uri: True  # type: ignore[method-assign]
        assert await at.ask() == b"welcome"
        assert (authority.asked["/register"], person.asked["client_id"], person.asked["scope"]) == (0, "desk", "mine")


async def test_a_metadata_document_is_our_name_where_the_authority_takes_them(authority: Authority, tmp_path: Path) -> None:
    from tests.support.authorization import Client

    name = "https://us.example/client.json"
    authority.clients[name] = Client(name, "", "none", [], ["authorization_code", "refresh_token"])
    authority.clients[name].check_redirect_uri = lambda uri: True  # type: ignore[method-assign]
    path = "/.well-known/oauth-authorization-server"
    authority.replaced[path] = lambda: found({**authority.metadata(), "client_id_metadata_document_supported": True})
    async with far(Guarded(authority)) as server:
        person = Person()
        assert await Visitor(server.url, tmp_path, person, Wishes(metadata_url=name)).ask() == b"welcome"
        assert (authority.asked["/register"], person.asked["client_id"]) == (0, name)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"issuer": "http://localhost:1"}, "is of the issuer"),
        ({"code_challenge_methods_supported": ["plain"]}, "PKCE"),
        ({"token_endpoint": "http://elsewhere.example/token"}, "not https"),
        ({"registration_endpoint": ""}, "--client-id"),
    ],
)
async def test_an_authority_that_cannot_be_trusted(changed: dict[str, Any], said: str, authority: Authority, tmp_path: Path) -> None:
    authority.replaced["/.well-known/oauth-authorization-server"] = lambda: found({**authority.metadata(), **changed})
    async with far(Guarded(authority)) as server:
        person = Person()
        with pytest.raises(WireError, match=said):
            await Visitor(server.url, tmp_path, person).ask()
        assert not person.pages


async def test_what_was_registered_at_one_issuer_is_not_shown_to_another(authority: Authority, tmp_path: Path) -> None:
    guarded = Guarded(authority)
    async with far(guarded) as server:
        person = Person()
        at = Visitor(server.url, tmp_path, person)
        await at.ask()
        with Authority() as other:
            guarded.authority = other
            kept = at.store.read()
            assert kept is not None
            kept.refresh_token = ""
            at.store.write(kept)
            assert await Visitor(server.url, tmp_path, person).ask() == b"welcome"
            assert other.asked["/register"] == 1


async def test_a_server_of_2025_03_26_is_its_own_authority(authority: Authority, tmp_path: Path) -> None:
    """No documents at all: /register, /authorize and /token lie at its origin."""
    guarded = Guarded(authority)
    guarded.documents = False

    async def answer(seen: Seen, to: Answer) -> None:
        path = urlsplit(seen.target).path
        if path not in ("/register", "/authorize", "/token"):
            await guarded(seen, to)
            return

        def relay() -> tuple[int, bytes, dict[str, str]]:
            class Stay(urllib.request.HTTPRedirectHandler):
                def redirect_request(self, *_: Any) -> None:
                    return None

            there = urllib.request.Request(
                authority.origin + seen.target, seen.body or None, {"Content-Type": seen.fields.get("content-type", "")}
            )
            try:
                with urllib.request.build_opener(Stay).open(there) as said:
                    return said.status, said.read(), dict(said.headers)
            except urllib.error.HTTPError as error:
                return error.code, error.read(), dict(error.headers)

        status, body, headers = await asyncio.to_thread(relay)
        await to.plain(status, body, **({"Location": headers["Location"]} if "Location" in headers else {}))

    async with far(answer) as server:
        assert await Visitor(server.url, tmp_path, Person()).ask() == b"welcome"


async def test_logging_out_forgets_everything(authority: Authority, tmp_path: Path) -> None:
    revoked: list[int] = []
    path = "/.well-known/oauth-authorization-server"
    authority.replaced[path] = lambda: found({**authority.metadata(), "revocation_endpoint": f"{authority.issuer}/revoke"})

    def revoke() -> tuple[int, bytes, list[tuple[str, str]]]:
        revoked.append(1)
        return 200, b"", []

    authority.replaced["/revoke"] = revoke
    async with far(Guarded(authority)) as server:
        person = Person()
        at = Visitor(server.url, tmp_path, person)
        await at.ask()
        assert await Visitor(server.url, tmp_path, person).login.log_out() is True
        assert revoked
        assert not kept_in(tmp_path)
        assert await Visitor(server.url, tmp_path, person).login.log_out() is False


async def test_tokens_go_nowhere_else(authority: Authority, tmp_path: Path) -> None:
    """A server that sends us elsewhere does not learn what we show it, for elsewhere is not gone to."""
    guarded = Guarded(authority)
    async with far(guarded) as server, far(guarded) as elsewhere:
        at = Visitor(server.url, tmp_path, Person())
        await at.ask()
        server.answer = lambda seen, to: to.plain(307, Location=elsewhere.url)
        with pytest.raises(WireError, match="not followed"):
            await at.ask()
        assert not elsewhere.seen


@pytest.mark.parametrize(
    ("came", "said"),
    [
        ({"code": "x", "iss": "https://evil.example"}, "is of https://evil.example"),
        ({"code": "x"}, "does not say"),
        ({"error": "access_denied", "error_description": "no\x1b[2J", "iss": "https://a"}, r"access_denied no\?\[2J"),
        ({"iss": "https://a"}, "no code"),
    ],
)
def test_the_answer_of_a_login_is_looked_at(came: dict[str, str], said: str) -> None:
    documents = Documents("https://a", authorization_response_iss_parameter_supported=True)
    with pytest.raises(WireError, match=said):
        code_in(came, documents)
    assert code_in({"code": "x", "iss": "https://a"}, documents) == "x"
