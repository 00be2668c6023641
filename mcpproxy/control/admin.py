"""The admin listener: what an operator may ask and order (docs/operations.md, "Watching it").

    GET  /                      the dashboard                    GET  /healthz  /readyz     for probes; nobody shows a token
    GET  /metrics               for Prometheus                   GET  /api/v1/…             questions
    GET  /api/v1/events         the dashboard's looks            POST /api/v1/…             orders: JSON, logged with who gave them

The doorman (control/doorman) says who may come in; whom he admits may do everything. Answers are JSON; `{"error": …, "status": …}` where something is wrong.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from mcpproxy.clock import monotonic, unix
from mcpproxy.config.names import shown_url
from mcpproxy.config.secrets import secret
from mcpproxy.config.serving import OFF, admin_place
from mcpproxy.control import dashboard
from mcpproxy.control.certificates import expiries
from mcpproxy.control.doorman import Doorman
from mcpproxy.control.place import GROUP, OWNER, Place
from mcpproxy.control.survey import Family, Survey
from mcpproxy.control.switchboard import GATEWAY, Refused
from mcpproxy.control.web import HTML, Answer, Events, Refusal, Request, Web, as_json
from mcpproxy.errors import StartError
from mcpproxy.observe.messages import LEVELS

if TYPE_CHECKING:
    from mcpproxy.control.run import Control

DAY = 86_400.0
FRESH_S = 10.0  # for so long what was read of certificates is
AGAIN_S = 2.0  # until a listener that could not be opened is tried again: a predecessor may still have it
MOST = 500  # items of a page
ORDER_S = 60.0  # for a reload
STATES = {"enable": "enabled", "drain": "drain", "disable": "disabled"}  # an operator's word → the pool's
API = "/api/v1/"
FILTERS = ("kind", "principal", "upstream", "endpoint", "client", "route")

Does = Callable[[Request, str], Awaitable[Answer | Events]]


class Admin:
    """A part of the control process."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._say = control.messages.say
        self._generation, self._refused = 1, ""
        self._certificates: tuple[float, list[dict[str, Any]]] = (-inf, [])  # when they were looked at, and what was seen
        self._doorman = Doorman()
        self._teaching: set[asyncio.Task[None]] = set()
        self._web: Web | None = None
        self.place: Place | None = None
        self._opening: asyncio.Task[None] | None = None
        self.survey = Survey(control.switchboard, self._family, self._expiring)
        control.switchboard.joined.append(self._joined)
        control.events.append(self._heard)
        self._routes: dict[str, dict[str, Does]] = {
            "status": {"GET": self._status},
            "events": {"GET": self._events},
            "upstreams": {"GET": self._upstreams},
            "endpoint": {"POST": self._endpoint},
            "connections": {"GET": partial(self._pages, "connections")},
            "exchanges": {"GET": partial(self._pages, "exchanges")},
            "close": {"POST": self._close},
            "refusals": {"GET": self._part_of("refusals")},
            "certificates": {"GET": self._part_of("certificates")},
            "workers": {"GET": self._part_of("workers")},
            "config": {"GET": self._config},
            "catalogue": {"GET": self._catalogue},
            "reload": {"POST": self._reload},
            "log": {"POST": self._log},
        }

    # -- its life ------------------------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens its socket, now or as soon as it can be had."""
        config = self._control.config
        address = admin_place(config.admin, config.state_dir)
        if address == OFF:
            return
        try:
            self._doorman = Doorman(secret(config.admin.token) if config.admin.token else "")
        except StartError as error:
            self._say("error", f"admin.token: {error.message}; nobody is let in until a reload")
            return
        shared = config.admin.address is not None or bool(os.environ.get("RUNTIME_DIRECTORY"))
        self.place = Place(address, GROUP if shared else OWNER)
        self._web = Web(self.answer, lambda text: self._say("error", f"admin: {text}"))
        if not await self._open(first=True):
            self._opening = asyncio.ensure_future(self._try_again())

    async def _open(self, *, first: bool = False) -> bool:
        assert self.place is not None and self._web is not None
        try:
            await self._web.start(self.place.open())
        except OSError as error:
            if first:
                self._say("warning", f"no admin listener at {self.place.address} yet: {error.strerror or error}; trying again")
            return False
        return True

    async def _try_again(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            if await self._open():
                assert self.place is not None
                self._say("info", f"the admin listener is at {self.place.address}")
                return

    async def stop(self) -> None:
        """Nobody is let in any more."""
        if self._opening is not None:
            self._opening.cancel()
            with suppress(asyncio.CancelledError):
                await self._opening
        for teaching in self._teaching:
            teaching.cancel()
        if self.place is not None:
            self.place.leave()
        if self._web is not None:
            await self._web.stop()
        await self.survey.stop()

    def _family(self) -> Family:
        return Family(self._generation, dict(self._control.workers), self._control.config.workers, self._refused)

    def _heard(self, event: dict[str, Any]) -> None:
        """The supervisor tells."""
        self._generation = event.get("generation", self._generation)
        if "generation" in event:
            self._refused = event.get("refused", "")
        self.survey.forget()

    def _joined(self, worker: int) -> None:
        """A worker is there (again): it hears what operators said before it came. The others know."""
        teaching = asyncio.ensure_future(self._teach(worker))
        self._teaching.add(teaching)
        teaching.add_done_callback(self._teaching.discard)

    async def _teach(self, worker: int) -> None:
        said = await self._control.switchboard.ask_all("orders")
        for other, orders in said.items():
            if other != worker:
                for topic, data in orders:
                    self._control.switchboard.tell(worker, topic, data)
                return

    def _expiring(self) -> list[dict[str, Any]]:
        looked, seen = self._certificates
        if monotonic() - looked > FRESH_S:
            now = unix()
            known = [each for each in expiries(self._control.config) if each.end or each.source == "acme"]
            seen = [
                {
                    "names": list(each.hosts or (each.name,)),
                    "source": each.source,
                    "name": each.name,
                    "expires": round(each.end) if each.end else None,
                    "days": round((each.end - now) / DAY, 1) if each.end else None,  # nothing: it has not come yet
                    "error": each.error,
                }
                for each in sorted(known, key=lambda each: each.end)
            ]
            self._certificates = (monotonic(), seen)
        return seen

    # -- a request -----------------------------------------------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> Answer | Events:
        """Who it is, may it, what it wants."""
        self._doorman.polite(request)
        path, method = request.path, "GET" if request.method == "HEAD" else request.method
        if path in ("/", "/healthz", "/readyz"):
            _allow(method, ("GET",))
            if path == "/":
                return Answer(200, dashboard.PAGE, HTML, (("Content-Security-Policy", dashboard.POLICY),))
            return await self._probe(path)
        try:
            who = await self._doorman.admit(request)
        except Refusal:
            if "authorization" in request.headers:
                self._say("warning", f"admin: {request.peer}: a wrong token")
            raise
        if path == "/metrics":
            _allow(method, ("GET",))
            content_type, page = await self._control.metrics.scrape(request.headers.get("accept", ""))
            return Answer(200, page, content_type)
        does = self._routes.get(path.removeprefix(API)) if path.startswith(API) else None
        if does is None:
            raise Refusal(404, "there is nothing here")
        _allow(method, tuple(does))
        return await does[method](request, who)

    async def _probe(self, path: str) -> Answer:
        """healthz: we are here. readyz: at least one worker takes requests."""
        if path == "/healthz":
            return Answer(200, as_json({"status": "ok"}))
        states = [each["state"] for each in (await self.survey.look())["workers"]]
        ready = "serving" in states
        return Answer(200 if ready else 503, as_json({"status": "ready" if ready else "not ready", "workers": states}))

    # -- questions -----------------------------------------------------------------------------------------------------------------------------

    async def _status(self, request: Request, who: str) -> Answer:
        return Answer(200, as_json(await self.survey.look()))

    async def _events(self, request: Request, who: str) -> Events:
        return Events(self.survey.watch())

    async def _upstreams(self, request: Request, who: str) -> Answer:
        return Answer(200, as_json((await self.survey.look())["upstreams"]))

    def _part_of(self, name: str) -> Does:
        async def answer(request: Request, who: str) -> Answer:
            return Answer(200, as_json((await self.survey.look())[name]))

        return answer

    async def _pages(self, topic: str, request: Request, who: str) -> Answer:
        """A page over all workers, one after the other. Its cursor is the worker, and the place in that worker's list."""
        query = request.query
        limit = query.get("limit", "100")
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= MOST:
            raise Refusal(400, f"limit is a number from 1 to {MOST}")
        number, _, cursor = query.get("cursor", "").partition("/")
        workers = sorted(self._control.switchboard.workers)
        if number:
            workers = [each for each in workers if number.isascii() and number.isdigit() and each >= int(number)]
        if not workers:
            return Answer(200, as_json({"items": [], "cursor": ""}))
        try:
            said = await self._control.switchboard.ask(workers[0], topic, {"cursor": cursor, "most": int(limit)})
        except Refused as error:
            raise Refusal(409, str(error)) from None
        except (LookupError, TimeoutError):
            raise Refusal(503, f"worker {workers[0]} does not answer", (("Retry-After", "1"),)) from None
        wanted = {name: query[name] for name in FILTERS if name in query}
        items = [
            {"worker": workers[0], **each}
            for each in said["items"]
            if all(str(each.get(name) or "") == value for name, value in wanted.items())
        ]
        more = f"{workers[0]}/{said['cursor']}" if said["cursor"] else f"{workers[1]}/" if len(workers) > 1 else ""
        return Answer(200, as_json({"items": items, "cursor": more}))

    async def _config(self, request: Request, who: str) -> Answer:
        """In force. Secrets are references in the model: nobody here knows more. What msgspec does not know is a number that nobody asked for (Auto)."""
        self._say("info", f"admin: {who}: read the configuration")
        config = self._control.config
        if config.otel is not None:
            config = structs.replace(config, otel=structs.replace(config.otel, endpoint=shown_url(config.otel.endpoint)))
        return Answer(200, as_json(msgspec.to_builtins(config, enc_hook=int)))

    async def _catalogue(self, request: Request, who: str) -> Answer:
        """What a server of the gateway process says that it has, whatever is approved of it."""
        return Answer(200, as_json(await self._ask_gateway("catalogue", {"upstream": request.query.get("upstream", "")})))

    async def _ask_gateway(self, topic: str, data: dict[str, Any]) -> Any:
        try:
            return await self._control.switchboard.ask(GATEWAY, topic, data, ORDER_S)
        except Refused as error:
            raise Refusal(409, str(error)) from None
        except (LookupError, TimeoutError):
            raise Refusal(503, "the gateway process does not answer; its messages say more", (("Retry-After", "1"),)) from None

    # -- orders --------------------------------------------------------------------------------------------------------------------------------

    async def _endpoint(self, request: Request, who: str) -> Answer:
        asked = _object(request)
        upstream, endpoint, state = (str(asked.get(name, "")) for name in ("upstream", "endpoint", "state"))
        if state not in STATES:
            raise Refusal(400, f"state is one of {', '.join(STATES)}")
        if upstream not in self._control.config.upstream:
            raise Refusal(404, f"there is no upstream {upstream!r}")
        known = [each["label"] for each in (await self.survey.look())["upstreams"].get(upstream, {}).get("endpoints", ())]
        if endpoint not in known:
            raise Refusal(404, f"upstream {upstream} has no endpoint {endpoint!r}; it has {', '.join(known)}")
        heard = await self._ask_every("endpoint", {"upstream": upstream, "endpoint": endpoint, "state": state})
        await self._control.order("endpoint", {"upstream": upstream, "endpoint": endpoint, "state": STATES[state]})
        self._say("warning", f"admin: {who}: {state} endpoint {endpoint} of upstream {upstream}")
        return Answer(200, as_json({"ok": True, "workers": heard}))

    async def _close(self, request: Request, who: str) -> Answer:
        name = str(_object(request).get("id", ""))
        heard = await self._control.switchboard.ask_all("close", {"id": name})
        self.survey.forget()
        if not any(heard.values()):
            raise Refusal(404, "there is no such connection or exchange (any more)")
        self._say("warning", f"admin: {who}: closed {name}")
        return Answer(200, as_json({"ok": True}))

    async def _reload(self, request: Request, who: str) -> Answer:
        self._say("info", f"admin: {who}: reload")
        try:
            async with asyncio.timeout(ORDER_S):
                ok, text = await self._control.order("reload")
        except TimeoutError:
            raise Refusal(504, "the supervisor does not answer; its messages say more") from None
        return Answer(200 if ok else 409, as_json({"ok": ok, "text": text}))

    async def _log(self, request: Request, who: str) -> Answer:
        level = str(_object(request).get("level", ""))
        if level not in LEVELS:
            raise Refusal(400, f"level is one of {', '.join(LEVELS)}")
        heard = await self._ask_every("level", {"level": level})
        self._control.messages.least(level)
        self._say("warning", f"admin: {who}: messages from {level} on are written")
        return Answer(200, as_json({"ok": True, "workers": heard}))

    async def _ask_every(self, topic: str, data: dict[str, Any]) -> list[int]:
        """Of the workers that are there; who did what was asked. The first refusal is everybody's."""
        switchboard = self._control.switchboard
        numbers = sorted(switchboard.workers)
        said = await asyncio.gather(*(switchboard.ask(number, topic, data) for number in numbers), return_exceptions=True)
        for each in said:
            if isinstance(each, Refused):
                raise Refusal(409, str(each))
        self.survey.forget()
        return [number for number, each in zip(numbers, said, strict=True) if not isinstance(each, BaseException)]


def _allow(method: str, methods: tuple[str, ...]) -> None:
    if method not in methods:
        raise Refusal(405, f"not by {method}", (("Allow", ", ".join(methods)),))


def _object(request: Request) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(request.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refusal(400, "the body is a JSON object")
    return found
