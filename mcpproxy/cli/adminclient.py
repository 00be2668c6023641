"""Asks the admin listener of a running daemon (control/admin), for commands: one request, one answer.

Where it listens is in the configuration. By default that is a socket in the state directory, or in systemd's runtime directory, which only the daemon is
told of: both are looked for. A configuration with mistakes tells, too: the daemon goes on with the one before, and must be found. `MCPPROXY_ADMIN_TOKEN`
holds the token, where one is needed and the configuration's own reference to it cannot be read here.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import click
import msgspec

from mcpproxy.cli.options import DEFAULT_CONFIG, unchecked
from mcpproxy.config.secrets import secret
from mcpproxy.config.serving import OFF, SOCKET, admin_address, admin_place
from mcpproxy.control.place import dial
from mcpproxy.errors import StartError
from mcpproxy.observe.messages import priority

if TYPE_CHECKING:
    from mcpproxy.config.model import Config

WAIT_S = 15.0
RUNTIME = "/run/mcpproxy"  # RuntimeDirectory= of the unit
TOKEN = "MCPPROXY_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
HINT = "is it running? `[admin] address` says where; --admin ADDRESS asks elsewhere"

admin_option = click.option(
    "--admin",
    metavar="ADDRESS",
    help="Where the daemon's admin listener is: unix:PATH or HOST:PORT; its token in MCPPROXY_ADMIN_TOKEN.  [default: what the configuration says]",
)
config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, readable=False),
    default=None,
    envvar="MCPPROXY_CONFIG",
    show_envvar=True,
    help=f"The configuration file that says so.  [default: {DEFAULT_CONFIG}, if it is there]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs: what the daemon said, as it said it.")


class Unsaid(StartError):
    """The daemon's answer is a refusal; `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnixConnection(http.client.HTTPConnection):
    """To a socket's path."""

    def __init__(self, path: str, wait_s: float) -> None:
        super().__init__("localhost", timeout=wait_s)
        self._path = path

    def connect(self) -> None:
        self.sock = dial(self._path)
        self.sock.settimeout(self.timeout)


@dataclass(frozen=True, slots=True)
class AdminClient:
    """`address` as in `[admin]`."""

    address: str
    token: str = ""
    wait_s: float = WAIT_S  # for an answer

    def get(self, path: str, **query: str) -> Any:
        """The answer. Raises StartError when there is none, Unsaid for a refusal."""
        return self._ask("GET", f"{path}?{urlencode(query, quote_via=quote)}" if query else path, None)

    def post(self, path: str, data: dict[str, Any]) -> Any:
        """The same, for an order."""
        return self._ask("POST", path, data)

    def pages(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """The items of all pages."""
        cursor = ""
        while True:
            page = self.get(path, **query, limit="500", cursor=cursor)
            yield from page["items"]
            cursor = page["cursor"]
            if not cursor:
                return

    def _ask(self, method: str, path: str, data: dict[str, Any] | None) -> Any:
        connection = self._connection()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request(method, f"/api/v1/{path}", msgspec.json.encode(data) if data is not None else None, headers)
            answer = connection.getresponse()
            said = msgspec.json.decode(answer.read())
        except PermissionError:
            raise StartError(f"{self.address}: no permission", "only its owner (and group) may open it: sudo?") from None
        except (OSError, http.client.HTTPException) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
            raise StartError(f"no daemon answers at {self.address}: {why}", HINT) from None
        except ValueError:
            raise StartError(f"{self.address}: who answers there is no mcpproxy", HINT) from None
        finally:
            connection.close()
        if answer.status >= 400:
            text = said.get("error") or said.get("text") or answer.reason if isinstance(said, dict) else answer.reason
            raise Unsaid(str(text), answer.status)
        return said

    def _connection(self) -> http.client.HTTPConnection:
        if self.address.startswith("unix:"):
            return UnixConnection(self.address[5:], self.wait_s)
        host, _, port = self.address.rpartition(":")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
        return http.client.HTTPConnection(host, int(port), timeout=self.wait_s)


def find(config: Path | None, admin: str | None) -> AdminClient:
    """The daemon that the command line, or the configuration, means. Raises StartError."""
    token = os.environ.get(TOKEN, "")
    if admin is not None:
        return AdminClient(_address(admin), token)
    if config is None and not DEFAULT_CONFIG.exists():
        from mcpproxy.config.model import default_state_dir
        from mcpproxy.config.serving import Admin

        return AdminClient(_first(Admin(), default_state_dir()), token)
    loaded = _told_by(config or DEFAULT_CONFIG)
    if loaded.admin.address == OFF:
        raise StartError("there is no admin listener", f'{config or DEFAULT_CONFIG} says address = "off" in [admin]')
    if not token and loaded.admin.token is not None:
        try:
            token = secret(loaded.admin.token)
        except StartError as error:
            raise StartError(error.message, f"{TOKEN} may hold it, too") from None
    return AdminClient(_first(loaded.admin, loaded.state_dir), token)


def _told_by(file: Path) -> Config:
    """The configuration in `file`, also one that could not be served: the daemon has the one before. Raises StartError where it is not TOML."""
    from mcpproxy.config.load import ConfigErrors, sketch

    hint = "-c FILE names another one; --admin ADDRESS needs none"
    try:
        return unchecked(file, hint).config
    except ConfigErrors as errors:
        try:
            found = sketch(file)
        except ConfigErrors:
            raise StartError(errors.message, f"{errors.hint}\n--admin ADDRESS needs no configuration") from None
        said = f"mcpproxy: warning: {errors.message} (`mcpproxy check` names them); the daemon goes on with what it read before"
        print(f"{priority('warning')}{said}", file=sys.stderr)
        return found


def _address(text: str) -> str:
    from mcpproxy.config.mistakes import Wrong

    try:
        return admin_address(f"unix:{text}" if text.startswith("/") else text)
    except Wrong as wrong:
        raise StartError(f"--admin {text}: {wrong.message}", code=2) from None


def _first(admin: Any, state_dir: str) -> str:
    """Where it should be; else where systemd has it."""
    place = admin_place(admin, state_dir)
    runtime = os.path.join(RUNTIME, SOCKET)
    if admin.address is None and not _answers(place[5:]) and _answers(runtime):
        return f"unix:{runtime}"
    return place


def _answers(path: str) -> bool:
    try:
        dial(path).close()
    except PermissionError:
        return True
    except OSError:
        return False
    return True
