"""mcpproxy endpoints: take one out and back."""

import json
from pathlib import Path

import pytest

from mcpproxy.cli.endpoints import label
from mcpproxy.cli.main import status_of
from tests.cli.watched import watched


def test_out_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with watched(tmp_path) as here:
        assert status_of(["endpoints", *here.words]) == 0
        assert capsys.readouterr().out == f"u  {here.endpoint}  up\n"
        assert status_of(["endpoints", "drain", "u", f"http://{here.endpoint}/", *here.words]) == 0
        assert status_of(["endpoints", "--json", *here.words]) == 0
        assert json.loads(capsys.readouterr().out.partition("\n")[2])["u"]["endpoints"][0]["state"] == "draining"
        assert status_of(["endpoints", "enable", "u", here.endpoint, *here.words]) == 0
        assert status_of(["endpoints", "disable", "u", "127.0.0.1:1", *here.words]) == 1
        assert f"it has {here.endpoint}" in capsys.readouterr().err
        assert status_of(["endpoints", "drain", "u", *here.words]) == 2
        assert status_of(["endpoints", "explode", "u", here.endpoint, *here.words]) == 2


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://a.test", "a.test:80"),
        ("https://a.test/", "a.test:443"),
        ("http://[::1]:9", "[::1]:9"),
        ("a.test:80", "a.test:80"),
        ("unix:/x", "unix:/x"),
    ],
)
def test_a_url_is_its_label(given: str, meant: str) -> None:
    assert label(given) == meant
