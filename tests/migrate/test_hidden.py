"""Secrets are told from what is harmless, and stand nowhere but in variables."""

import pytest

from mcpproxy.migrate import hidden
from mcpproxy.migrate.found import Found


@pytest.mark.parametrize(
    "name", ["API_KEY", "apiKey", "--token", "GITHUB_PERSONAL_ACCESS_TOKEN", "Authorization", "X-Api-Key", "dbPassword", "AUTHTOKEN"]
)
def test_names_of_secrets(name: str) -> None:
    assert hidden.secret_name(name)


@pytest.mark.parametrize("name", ["LOG_LEVEL", "--port", "--key-file", "AUTH_TYPE", "--author", "monkey", "X-Request-Id", "--keyword"])
def test_other_names(name: str) -> None:
    assert not hidden.secret_name(name)


@pytest.mark.parametrize(
    "value",
    [
        "sk-abcdefgh12345",
        "ghp_0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9.e30.x",
        "postgresql://user:pw@db.test/x",
        "https://api.test/mcp?api_key=1",
        "Bearer x",
        "0a1b2c3d4e5f60718293a4b5",
        "3fa85f64-5717-4562-b3fc-2c963f66afa6",
    ],
)
def test_values_that_are_secrets_whatever_they_are_called(value: str) -> None:
    assert hidden.secret_value(value)
    assert not hidden.harmless("MODE", value)


@pytest.mark.parametrize(
    "value",
    ["@modelcontextprotocol/server-filesystem", "ghcr.io/x/y@sha256:" + "0a" * 32, "git+https://git.test/x@" + "1f" * 20, "/srv/data/a1"],
)
def test_values_that_are_none(value: str) -> None:
    assert not hidden.secret_value(value)


def test_an_environment_is_copied_only_where_it_is_harmless() -> None:
    found = Found("a test")
    given = {
        "LOG_LEVEL": "debug",
        "PORT": "80",
        "MODE": "somethingElse",
        "PASSWORD": "true",
        "X": "${env:Y}",
        "Z": "os.environ/Q",
        "W": "a${B}c",
    }
    got = {name: hidden.environment(found, "s", name, value, "p") for name, value in given.items()}
    assert got == {
        "LOG_LEVEL": "debug",
        "PORT": "80",
        "MODE": "env:S_MODE",
        "PASSWORD": "env:S_PASSWORD",
        "X": "env:Y",
        "Z": "env:Q",
        "W": "env:S_W",
    }
    assert "put together" in found.notes[0].text


def test_arguments_with_secrets_come_through_a_shell_from_the_environment() -> None:
    found = Found("a test")
    given = [
        "npx",
        "x y",
        "--api-key",
        "k1",
        "--token=k2",
        "API_SECRET=k3",
        "Authorization: Bearer k4",
        "--url",
        "http://u:k5@h/",
        'a"$`${env:HOME}/d',
    ]
    words, env = hidden.words(found, "s", given, "p")
    assert words[:2] == ["/bin/sh", "-c"]
    assert words[2] == (
        'exec npx \'x y\' --api-key "${S_API_KEY}" "--token=${S_TOKEN}" "API_SECRET=${S_API_SECRET}" "Authorization: Bearer ${S_AUTHORIZATION}" '
        '--url "${S_ARGUMENT}" "a\\"\\$\\`${HOME}/d"'
    )
    assert env == {name: f"env:{name}" for name in ("S_API_KEY", "S_TOKEN", "S_API_SECRET", "S_AUTHORIZATION", "S_ARGUMENT", "HOME")}
    assert not any(secret in " ".join(words) for secret in ("k1", "k2", "k3", "k4", "k5"))


def test_arguments_without_stay_words() -> None:
    found = Found("a test")
    given = ["npx", "-y", "@scope/server@1.2.3", "/srv/a b", "--key-file", "/etc/key", "--verbose"]
    assert hidden.words(found, "s", given, "p") == (given, {})
    assert not found.variables
