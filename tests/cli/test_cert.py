"""mcpproxy cert: the development files and how to trust them, and a list of all certificates with their ends."""

import datetime
import json
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.pki import devca
from mcpproxy.pki.acme_files import Place
from tests.cli.test_options import written
from tests.config.samples import GOOD
from tests.support.certs import make_certificate


def test_the_files_are_made_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["cert", "dev", "--state-dir", str(tmp_path), "--host", "mcp.test", "--host", "192.168.1.20"]) == 0
    out = capsys.readouterr().out
    files = devca.files(tmp_path)
    assert all(str(path) in out and path.is_file() for path in files)
    assert f"--cacert {files.ca}" in out
    names = devca.names_of(devca.read_certificate(devca.Store(tmp_path), "cert.pem"))
    assert {devca.general_name("mcp.test"), devca.general_name("192.168.1.20")} <= set(names)


def test_a_configuration_says_where(tmp_path: Path) -> None:
    file = written(tmp_path, f'state_dir = "{tmp_path / "there"}"\n{GOOD}')
    assert status_of(["cert", "dev", "-c", str(file)]) == 0
    assert devca.files(tmp_path / "there").ca.is_file()
    assert status_of(["cert", "dev", "-c", str(file), "--state-dir", str(tmp_path / "here")]) == 0
    assert devca.files(tmp_path / "here").ca.is_file()
    assert status_of(["cert", "dev", "-c", str(tmp_path / "none.toml")]) == 1


def test_the_default_place_is_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    assert status_of(["cert", "dev"]) == 0
    assert devca.files(tmp_path / "state").ca.is_file()


@pytest.mark.parametrize(("host", "status"), [("mcp.example.com", 1), ("not a host", 2)])
def test_names_it_cannot_vouch_for_are_refused(tmp_path: Path, host: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["cert", "dev", "--state-dir", str(tmp_path), "--host", host]) == status
    assert host in capsys.readouterr().err.splitlines()[0]


def test_a_directory_that_cannot_be_made_is_one_line_and_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert status_of(["cert", "dev", "--state-dir", str(tmp_path / "file" / "below")]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"mcpproxy: state directory {tmp_path}/file/below: Not a directory",
        "  name another one with --state-dir or state_dir",
    ]


# -- cert list -----------------------------------------------------------------------------------------------------------------------------


def test_every_certificate_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = make_certificate(tmp_path / "given", "given.example.com")
    file = tmp_path / "mcpproxy.toml"
    file.write_text(
        f"""
        state_dir = "{tmp_path / "state"}"
        [[listen]]
        address = "127.0.0.1:443"
        [listen.tls]
        acme = "ops@example.com"
        hosts = ["new.example.com"]
        certificates = [{{ hosts = ["old.example.com"] }}, {{ cert = "{given.cert}", key = "{given.key}" }}, {{ cert = "/no/such", key = "/no/key" }}]
        [upstream.u]
        urls = ["http://127.0.0.1:9"]
        [[route]]
        upstream = "u"
        """
    )
    old = make_certificate(tmp_path / "issued", "old.example.com")
    place = Place.of(str(tmp_path / "state"), ["old.example.com"])
    place.store().write_secret("pair.pem", old.cert.read_bytes() + old.key.read_bytes())
    new = Place.of(str(tmp_path / "state"), ["new.example.com"]).store()
    new.write("story.json", b'{"failures": 2, "error": "the authority finds no address", "not_before": 4000000000.0}')
    assert status_of(["cert", "list", "-c", str(file), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["source"], row["not_after"] is not None) for row in rows] == [
        ("new.example.com", "acme", False),
        ("old.example.com", "acme", True),
        (str(given.cert), "file", True),
        ("/no/such", "file", False),
    ]
    assert rows[0]["last_error"] == "the authority finds no address"
    assert [row["failures"] for row in rows] == [2, 0, 0, 0]
    assert rows[1]["days_left"] > 0
    assert rows[1]["renewal"] < rows[1]["not_after"]
    assert rows[2]["hosts"] == ["given.example.com"] and rows[2]["renewal"] is None
    assert status_of(["cert", "list", "-c", str(file)]) == 0
    said = capsys.readouterr().out
    for text in (
        "new.example.com",
        "self-made",
        "the last time: the authority finds no address (2 times in a row)",
        "days left",
        "cannot be read",
        "renewed from",
    ):
        assert text in said
    assert not (tmp_path / "state" / "acme" / "challenges").exists(), "it only looks"


def test_a_certificate_that_has_ended_is_said_to_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = 'tls = { hosts = ["a.example.com"], acme = "ops@example.com" }\n'
    file = tmp_path / "mcpproxy.toml"
    file.write_text(f'state_dir = "{tmp_path / "state"}"\n' + GOOD.replace("[upstream", f"{hosts}[upstream", 1))
    old = make_certificate(tmp_path / "issued", "a.example.com", begin=datetime.timedelta(days=-90), end=datetime.timedelta(days=-2))
    Place.of(str(tmp_path / "state"), ["a.example.com"]).store().write_secret("pair.pem", old.cert.read_bytes() + old.key.read_bytes())
    assert status_of(["cert", "list", "-c", str(file)]) == 0
    said = capsys.readouterr().out
    assert "ENDED 20" in said and "clients refuse it; by ACME, renewed from" in said
    assert status_of(["cert", "list", "-c", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["days_left"] == -2


def test_no_certificates_are_said_to_be_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mcpproxy.toml"
    file.write_text(GOOD)
    assert status_of(["cert", "list", "-c", str(file)]) == 0
    assert "no certificates" in capsys.readouterr().out


def test_the_development_certificate_is_listed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mcpproxy.toml"
    file.write_text(f'state_dir = "{tmp_path / "state"}"\n' + GOOD.replace("[upstream", 'tls = "dev"\n[upstream', 1))
    assert status_of(["cert", "list", "-c", str(file)]) == 0
    assert "is made at the start" in capsys.readouterr().out
    made = devca.ensure(tmp_path / "state")
    assert status_of(["cert", "list", "-c", str(file), "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["name"], row["source"], row["renewal"]) == (str(made.cert), "dev", None)
    assert "localhost" in row["hosts"]
    assert 390 < row["days_left"] <= 397
