"""The dashboard in a browser (Chromium, headless): it fills itself, live; hostile names stay text; nothing overflows a phone; its token lets in.

The pictures of docs/ are made by the same hands: `python -m tests.real.test_dashboard docs`.
"""

import base64
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.scenarios.test_admin import play
from tests.support.certs import make_certificate
from tests.support.client import RawClient
from tests.support.daemon import Daemon, simple_config
from tests.support.keys import Keys
from tests.support.ports import free_port
from tests.support.software import Program
from tests.support.upstream import ScriptedUpstream
from tests.support.waiting import until

pytestmark = pytest.mark.needs("chromium")
START_S = 60.0  # its first start on a busy machine
WIDE, TABLET, PHONE = (1280, 900), (768, 1024), (375, 812)
CALLERS = ("agent-alpha", "agent-beta", "nightly-report", "<img src=x onerror=alert(1)>")
LOOKS = "Number(document.body.dataset.looks ?? 0)"


class Browser:
    """One page, ordered about over the DevTools protocol."""

    def __init__(self, profile: Path, stack: ExitStack) -> None:
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"]
        words += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
        words += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        stack.enter_context(Program("chromium", *words, env={"HOME": str(profile.parent)}))
        file = profile / "DevToolsActivePort"
        until(lambda: file.exists() and file.read_text().count("\n"), "the browser", deadline_s=START_S)
        port, path = file.read_text().split("\n")[:2]
        self.socket: ClientConnection = stack.enter_context(connect(f"ws://127.0.0.1:{port}{path}", max_size=1 << 26))
        self.number, self.session, self.problems = 0, "", list[str]()
        target = self.order("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.order("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.order(f"{domain}.enable")

    def order(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while True:
            said = json.loads(self.socket.recv(timeout=30))
            if said.get("id") == self.number:
                assert "error" not in said, said
                return dict(said["result"])
            if said.get("method") in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening") or (
                said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error"
            ):
                self.problems.append(json.dumps(said["params"]))

    def ask(self, expression: str) -> Any:
        return self.order("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)["result"].get("value")

    def size(self, width: int, height: int) -> None:
        self.order("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)

    def colours(self, scheme: str) -> None:
        self.order("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def go(self, url: str) -> None:
        self.order("Page.navigate", url=url)

    def becomes(self, expression: str, deadline_s: float = 30.0) -> None:
        until(
            lambda: self.ask(expression), lambda: f"{expression}; the page: {self.ask('document.body.innerText')!r}", deadline_s=deadline_s
        )

    def picture(self, file: Path, *, whole: bool = True) -> None:
        file.write_bytes(base64.b64decode(self.order("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))


@contextmanager
def scene(directory: Path, *, token: bool = False) -> Iterator[tuple[Daemon, str, ExitStack]]:
    """A daemon with callers, streams, calls, refusals and a certificate; the URL of its dashboard."""
    keys = Keys(directory)
    secrets = {name: keys.add(name) for name in CALLERS[:3]} | {CALLERS[3]: ""}
    address = f"127.0.0.1:{free_port()}"
    admin: dict[str, Any] = {"address": address}
    if token:
        (directory / "token").write_text("open sesame".replace(" ", "-"))
        (directory / "token").chmod(0o600)
        admin["token"] = f"file:{directory / 'token'}"
    certificate = make_certificate(directory / "pki")
    with ExitStack() as stack:
        ups = [stack.enter_context(ScriptedUpstream(play)) for _ in range(3)]
        config = simple_config(
            ups[0].url,
            ups[1].url,
            workers=2,
            admin=admin,
            auth={"keys": {"type": "api-key", "file": str(keys.file)}},
            route={"path": "/search", "auth": "keys"},
            more=[{"path": "/files", "upstream": "files"}],
        )
        config["upstream"]["files"] = {"urls": [ups[2].url, "http://127.0.0.1:9"], "host": "upstream"}
        config["upstream"]["search"] = config["upstream"].pop("u")
        config["route"][0]["upstream"] = "search"
        config["listen"].append(
            {"address": f"127.0.0.1:{free_port()}", "tls": {"cert": str(certificate.cert), "key": str(certificate.key)}}
        )
        daemon = stack.enter_context(Daemon(config, directory))
        for number, name in enumerate(CALLERS[:3]):
            for _ in range(7 - 2 * number):
                stack.enter_context(stream(daemon, f"/search/stream{number}", secrets[name]))
        for _ in range(2):
            stack.enter_context(stream(daemon, "/files/stream", ""))
        over = threading.Event()
        work = threading.Thread(target=calls, args=(daemon, secrets["agent-alpha"], over))
        work.start()
        stack.callback(work.join, 10)
        stack.callback(over.set)
        yield daemon, f"http://{address}/", stack


def asking(path: str, key: str, host: str = "mcp.example.com") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{f'X-API-Key: {key}{chr(13)}{chr(10)}' if key else ''}\r\n".encode()


def stream(daemon: Daemon, path: str, key: str) -> RawClient:
    client = daemon.client()
    client.send(asking(path, key))
    client.read_until(b": hi")
    return client


def calls(daemon: Daemon, key: str, over: threading.Event) -> None:
    """Some a second, and now and then one that is refused."""
    number = 0
    with daemon.client() as client:
        while not over.wait(0.02):
            client.exchange(asking("/search/mcp", key))
            number += 1
            if number % 40 == 1:
                with daemon.client() as stranger:
                    stranger.exchange(
                        asking(("/search/mcp", "/search/tools", "/nowhere/%3Cb%3E")[number // 40 % 3], "wrong" if number % 80 == 1 else "")
                    )


@contextmanager
def opened(directory: Path, *, token: bool = False) -> Iterator[tuple[Browser, str]]:
    with scene(directory, token=token) as (_, url, stack):
        yield Browser(directory / "profile", stack), url


def test_it_fills_itself_and_stays_in_its_frame(tmp_path: Path) -> None:
    with opened(tmp_path) as (browser, url):
        browser.size(*WIDE)
        browser.go(url)
        browser.becomes(f"{LOOKS} >= 3")
        browser.becomes("document.querySelector('#who').textContent.includes('agent-alpha')")
        browser.becomes("document.querySelectorAll('#refusals tr').length > 0")
        text = browser.ask("document.body.innerText")
        for words in ("agent-beta", "nightly-report", "search", "files", "serving", "localhost", "no-route"):
            assert words in text, words
        assert browser.ask("document.querySelectorAll('#endpoints tr').length") == 4
        assert browser.ask("document.querySelectorAll('#workers tr').length") == 2
        assert float(browser.ask("document.querySelector('#rate').textContent")) > 0
        assert "p99" in browser.ask("document.querySelector('#p-lat svg').getAttribute('aria-label')")
        for width, height in (WIDE, TABLET, PHONE):
            browser.size(width, height)
            browser.becomes(f"innerWidth === {width}")
            assert browser.ask("document.documentElement.scrollWidth") <= width, width
        for scheme in ("dark", "light"):
            browser.colours(scheme)
            browser.becomes(f"document.documentElement.dataset.theme === '{scheme}'")
        browser.ask("document.querySelector('#theme').click()")
        browser.ask("document.querySelector('#theme').click()")
        assert browser.ask("document.documentElement.dataset.theme") == "dark"
        assert browser.problems == []


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    with opened(tmp_path) as (browser, url):
        browser.go(url)
        browser.becomes(f"{LOOKS} >= 1")
        name = json.dumps('<img src=x onerror="document.title=1">')
        refusal = f"{{...look.refusals[0], worker: 9, principal: {name}, reason: {name}, path: {name}}}"
        change = f"look.open.principals = [{{name: {name}, streams: 1}}]; look.problems = [{name}]; look.refusals = [{refusal}]"
        browser.ask(f"fetch('/api/v1/status').then((answer) => answer.json()).then((look) => {{ {change}; show(look); }})")
        assert browser.ask("document.querySelector('#problems').textContent").startswith("<img")
        assert browser.ask("document.images.length") == 0
        assert browser.ask("document.title") == "mcpproxy"
        assert (
            browser.ask("(() => { try { document.body.innerHTML = '<b>x</b>'; return 'taken'; } catch { return 'refused'; } })()")
            == "refused"
        )


def test_its_token_lets_in_and_out(tmp_path: Path) -> None:
    with opened(tmp_path, token=True) as (browser, url):
        browser.go(url)
        browser.becomes("document.readyState === 'complete' && !document.querySelector('#login').hidden")
        enter = "document.querySelector('#token').value = {}; document.querySelector('#login').requestSubmit()"
        browser.ask(enter.format("'wrong'"))
        browser.becomes("document.querySelector('#wrong').textContent !== ''")
        browser.ask(enter.format("'open-sesame'"))
        browser.becomes(f"{LOOKS} >= 1")
        assert browser.ask("document.cookie") == ""
        browser.go(url)
        browser.becomes(f"{LOOKS} >= 1")
        assert browser.ask("document.querySelector('#login').hidden")
        browser.ask("document.querySelector('#leave').click()")
        browser.becomes("!document.querySelector('#login').hidden")
        assert browser.ask("sessionStorage.length") == 0


def test_an_endpoint_is_drained_by_its_button(tmp_path: Path) -> None:
    with opened(tmp_path) as (browser, url):
        browser.go(url)
        browser.becomes(f"{LOOKS} >= 1")
        browser.ask("confirm = () => true; document.querySelector('#endpoints tr button').click()")
        browser.becomes("document.querySelector('#endpoints tr').textContent.includes('draining')")
        browser.ask("document.querySelector('#endpoints tr button').click()")
        browser.becomes("document.querySelector('#endpoints tr').textContent.includes('up')")


def pictures(folder: Path) -> None:
    """docs/dashboard*.png, after a while of traffic."""
    with tempfile.TemporaryDirectory() as place, opened(Path(place)) as (browser, url):
        for name, (width, height), scheme in (
            ("dashboard", WIDE, "light"),
            ("dashboard-dark", WIDE, "dark"),
            ("dashboard-phone", PHONE, "light"),
        ):
            browser.size(width, height)
            browser.colours(scheme)
            if name == "dashboard":
                browser.go(url)
                browser.becomes(f"{LOOKS} >= 45", 120)
            browser.becomes(f"{LOOKS} >= 2")
            browser.picture(folder / f"{name}.png")


if __name__ == "__main__":
    pictures(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
