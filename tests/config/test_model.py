"""The model as the other rooms and the reference rely on it."""

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcpproxy.config.kinds import Words
from mcpproxy.config.load import keys_of
from mcpproxy.config.model import LATER, TABLES, CertificateFiles, Config, Listen, Route, Tls, Upstream, default_state_dir

FIELDS = [(table, field) for table in TABLES for field in msgspec.structs.fields(table)]


def ident(value: object) -> str:
    return value.__name__ if isinstance(value, type) else getattr(value, "name", "")


@pytest.mark.parametrize(("table", "field"), FIELDS, ids=ident)
def test_every_key_is_documented(table: type, field: msgspec.structs.FieldInfo) -> None:
    about = keys_of(table)[field.name].about
    assert about[0].isupper() or about.startswith("`")
    assert about.endswith(".")
    assert "|" not in about
    assert table.__doc__


@pytest.mark.parametrize(("table", "field"), FIELDS, ids=ident)
def test_every_default_is_what_its_kind_would_read(table: type, field: msgspec.structs.FieldInfo) -> None:
    """Written as TOML and read again, a default is itself: so the reference tells the truth and no default breaks a rule."""
    key = keys_of(table)[field.name]
    if field.required or key.default or field.default in (None, msgspec.NODEFAULT):
        return
    shown = key.kind.show(field.default)
    value = tomllib.loads(f"x = {shown}")["x"]
    read = tuple(key.kind.item.read(each, "") for each in value) if isinstance(key.kind, Words) else key.kind.read(value, "")
    assert (read, type(read)) == (field.default, type(field.default))


def test_nothing_can_be_changed_after_loading() -> None:
    route = Route(upstream="u")
    with pytest.raises(AttributeError):
        route.path = "/x"  # type: ignore[misc]
    assert all(table.__struct_config__.frozen for table in TABLES)  # type: ignore[attr-defined]


def test_the_certificates_of_a_listener_in_order() -> None:
    other = CertificateFiles(cert="b.pem", key="b.key")
    assert Tls(cert="a.pem", key="a.key", certificates=(other,)).files == (CertificateFiles(cert="a.pem", key="a.key"), other)
    assert Tls(hosts=("localhost",)).files == ()


def test_keys_of_later_versions_are_not_keys_of_this_one() -> None:
    for table, names in LATER.items():
        assert not set(names) & set(table.__struct_fields__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("environment", "uid", "directory"),
    [
        ({"STATE_DIRECTORY": "/run/a:/run/b"}, 1000, "/run/a"),
        ({"STATE_DIRECTORY": ""}, 0, "/var/lib/mcpproxy"),
        ({"HOME": "/home/x"}, 1000, "/home/x/.local/state/mcpproxy"),
    ],
)
def test_where_state_is_kept(environment: dict[str, str], uid: int, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert directory == default_state_dir()
    assert directory == Config(listen=()).state_dir


def test_a_user_without_a_home_has_state_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers run as numbers nobody has a name for."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert default_state_dir() == "/var/lib/mcpproxy"


def test_the_promised_names_and_units() -> None:
    """The other rooms are written against these."""
    route, upstream = Route(upstream="u"), Upstream(urls=("http://h",))
    expected: dict[str, Any] = {
        "path": "/",
        "host": (),
        "idle_timeout": 86400.0,
        "max_body": 10485760,
        "sse_keepalive": None,
        "mcp": True,
        "upgrade": True,
    }
    assert expected == {name: getattr(route, name) for name in expected}
    expected = {
        "keepalive": 32,
        "keepalive_idle": 4.0,
        "connect_timeout": 5.0,
        "max_connections": 4096,
        "queue": 256,
        "queue_timeout": 5.0,
        "host": "upstream",
    }
    assert expected == {name: getattr(upstream, name) for name in expected}
    assert Listen(address="127.0.0.1:1").tls is None
    assert Path(Config(listen=()).state_dir).is_absolute()
