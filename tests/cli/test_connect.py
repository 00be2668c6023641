"""mcpproxy connect: its command line, and what is on its stdout."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcpproxy.cli import main

URL = "https://mcp.example/mcp"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        (["mcp.example/mcp"], "is not a URL like https://mcp.example.com/mcp"),
        ([URL, "-H", "no colon"], "Name: value"),
        ([URL, "-H", "Host: x"], "said by mcpproxy itself"),
        ([URL, "-H", "Mcp-Session-Id: x"], "said by mcpproxy itself"),
        ([URL, "-H", "X-Key: env:NOT_THERE_AT_ALL"], "no such variable"),
        ([URL, "-H", "authorization: Bearer x", "--oauth"], "--oauth says Authorization itself"),
        ([URL, "--oauth", "--aws-sigv4", "eu/x"], "one of them"),
        ([URL, "--aws-sigv4", "eu"], "REGION/SERVICE"),
        ([URL, "--client-secret", "hush"], "env:VARIABLE or file:PATH"),
        ([URL, "--oauth", "--redirect", "https://elsewhere/x"], "must be http://127.0.0.1"),
        ([URL, "--oauth", "--client-metadata", "http://elsewhere/x"], "not https"),
        ([URL, "--max-message", "1"], "--max-message"),
        ([URL, "--transport", "pigeon"], "pigeon"),
        ([URL, "--cacert", "/not/there.pem"], "/not/there.pem"),
    ],
)
def test_mistakes_of_the_command_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    assert main.status_of(["connect", *arguments]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == "" and said in err and "hush" not in err


def test_headers_may_be_references(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mcpproxy.cli import connect

    (tmp_path / "key").write_text("filed\n")
    monkeypatch.setenv("KEY", "kept")
    seen: dict[str, Any] = {}

    async def work(url: str, given: dict[str, Any]) -> int:
        seen.update(given)
        return 0

    monkeypatch.setattr(connect, "work", work)
    fields = ["X-A: plain", "X-B: env:KEY", f"Authorization: Bearer file:{tmp_path}/key", "X-C: see env:KEY"]
    assert main.status_of(["connect", URL, *(word for each in fields for word in ("-H", each))]) == 0
    assert dict(seen["headers"]) == {"X-A": "plain", "X-B": "kept", "Authorization": "Bearer filed", "X-C": "see kept"}


def start(*arguments: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-m", "mcpproxy", "connect", *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_it_ends_with_its_input_and_says_nothing_of_its_own() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "mcpproxy", "connect", "http://127.0.0.1:9/mcp"], input="", capture_output=True, text=True, timeout=60
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told_to(number: int) -> None:
    program = start("http://127.0.0.1:9/mcp")
    assert program.stdin is not None and program.stdout is not None and program.stderr is not None
    program.stdin.write("{\n")
    program.stdin.flush()
    assert json.loads(program.stdout.readline())["error"]["code"] == -32700
    os.kill(program.pid, number)
    assert program.wait(30) == 0
    assert "Traceback" not in program.stderr.read()
    for pipe in (program.stdin, program.stdout, program.stderr):
        pipe.close()


def test_plain_http_to_elsewhere_is_warned_of() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "mcpproxy", "connect", "http://mcp.invalid/mcp"], input="", capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0 and "plain http" in said.stderr
