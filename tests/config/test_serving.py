"""Where operators come in: refused where everybody could."""

import pytest

from mcpproxy.config.load import load, serve_config
from mcpproxy.config.serving import Admin, admin_place
from tests.config.samples import GOOD, mistakes, only


@pytest.mark.parametrize("address", ["unix:/run/a.sock", "127.0.0.1:9090", "127.8.8.8:9090", "[::1]:9090", "off"])
def test_this_machine_needs_no_token(address: str) -> None:
    assert load(f'{GOOD}[admin]\naddress = "{address}"\n').admin.address == address


@pytest.mark.parametrize("address", ["0.0.0.0:9090", "[::]:9090", "10.0.0.1:9090", "[2001:db8::1]:9090"])
def test_an_address_of_the_network_needs_one(address: str) -> None:
    text = f'{GOOD}[admin]\naddress = "{address}"\n'
    mistake = only(text)
    assert mistake.path == "admin.address"
    assert "add a token" in mistake.message
    assert mistakes(text + 'token = "env:ADMIN_TOKEN"\n') == []


@pytest.mark.parametrize("line", ['address = "unix:/run/a.sock"', 'address = "off"', ""])
def test_a_token_that_nobody_asks_for_is_refused(line: str) -> None:
    mistake = only(f'{GOOD}[admin]\n{line}\ntoken = "file:/etc/token"\n')
    assert mistake.path == "admin.token"


def test_it_takes_no_clients_address() -> None:
    assert "taken by listen[0]" in only(f'{GOOD}[admin]\naddress = "127.0.0.1:8000"\n').message


def test_the_socket_lies_where_systemd_says_else_with_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    assert admin_place(Admin(), "/var/lib/mcpproxy") == "unix:/var/lib/mcpproxy/admin.sock"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/mcpproxy:/run/more")
    assert admin_place(Admin(), "/var/lib/mcpproxy") == "unix:/run/mcpproxy/admin.sock"
    assert admin_place(Admin(address="off"), "/var/lib/mcpproxy") == "off"


def test_quick_mode_has_none() -> None:
    assert serve_config("http://127.0.0.1:8000").admin.address == "off"
