"""LiteLLM's mcp_servers."""

import pytest

from mcpproxy.migrate import litellm
from mcpproxy.migrate.found import Unusable
from tests.migrate.rig import everything, loaded, notes, refusal

TEXT = """
model_list:
  - model_name: m
    litellm_params: {model: x/m, api_key: sk-hush}
litellm_settings:
  mcp_aliases: {"wiki": "deepwiki"}
mcp_servers:
  deepwiki: {url: "https://wiki.test/mcp"}
  events:
    url: https://events.test/api/sse
    transport: sse
    auth_type: bearer_token
    auth_value: hush
    allowed_tools: ["list_tools", "get_*"]
    access_groups: ["dev"]
  keyed:
    url: https://keyed.test/mcp
    transport: http
    auth_type: api_key
    authentication_token: os.environ/KEYED
    extra_headers: ["x-team"]
    static_headers: {X-Static: "v"}
    disallowed_tools: [drop]
  whole: {url: "https://whole.test/mcp", auth_type: authorization, auth_value: os.environ/WHOLE}
  local:
    transport: stdio
    command: npx
    args: ["-y", "@scope/server", 5]
    env: {LOCAL_TOKEN: hush, OTHER: os.environ/OTHER, PORT: 80, DEBUG: true}
  oauth:
    url: https://oauth.test/mcp
    auth_type: oauth2
    client_id: us
    client_secret: os.environ/OAUTH_SECRET
    token_url: https://login.test/token
    scopes: [read, write]
  visitor: {url: "https://visitor.test/mcp", auth_type: oauth2}
  aws: {url: "https://aws.test/mcp", auth_type: aws_sigv4, aws_region_name: eu}
  odd: 5
  none: {transport: http}
  list: {transport: stdio, command: [x]}
"""


def test_every_kind_of_server() -> None:
    found = litellm.read(TEXT)
    config = loaded(found)
    assert config.upstream["deepwiki"].urls == ("https://wiki.test",)
    events = config.upstream["events"]
    assert (events.transport, events.mcp_path, getattr(events.credential, "value", "")) == ("sse", "/api/sse", "env:EVENTS_AUTHORIZATION")
    keyed = config.upstream["keyed"].credential
    assert keyed is not None
    assert (keyed.header, keyed.value) == ("X-API-Key", "env:KEYED")
    assert getattr(config.upstream["whole"].credential, "value", "") == "env:WHOLE"
    local = config.upstream["local"]
    assert local.command == ("npx", "-y", "@scope/server", "5")
    assert local.env == {"LOCAL_TOKEN": "env:LOCAL_TOKEN", "OTHER": "env:OTHER", "PORT": "80", "DEBUG": "true"}
    oauth = config.upstream["oauth"].credential
    assert oauth is not None
    assert (oauth.type, oauth.client_id, oauth.client_secret, oauth.scope) == ("client-credentials", "us", "env:OAUTH_SECRET", "read write")
    assert config.upstream["all"].member["events"].tools == ("list_tools", "get_*")
    assert config.upstream["all"].member["keyed"].hide == ("drop",)
    assert "hush" not in everything(found)


def test_what_has_no_equivalent_is_told_with_its_place() -> None:
    told = notes(litellm.read(TEXT))
    for what in (
        "events.access_groups", "keyed.extra_headers", "keyed.headers.X-Static", "visitor.auth_type", "aws.auth_type", "aws.aws_region_name",
        "odd: is no table",
        "none: has neither", "list: its command",
    ):  # fmt: skip
        assert f"mcp_servers.{what}" in told, what
    assert "litellm_settings.mcp_aliases" in told


def test_a_master_key_closes_the_routes() -> None:
    assert not any(route.auth for route in loaded(litellm.read(TEXT)).route)
    found = litellm.read(TEXT + "general_settings: {master_key: sk-hush}\n")
    assert all(route.auth == ("keys",) for route in loaded(found).route)
    assert "mcpproxy key add" in notes(found)
    assert "sk-hush" not in everything(found)


@pytest.mark.parametrize(
    "text", ["mcp_servers:", "mcp_servers: []", "mcp_servers: {a: [", "a: 1", "", "mcp_servers: " + "[" * 5000, "mcp_servers: &a {b: *a}",
     "? [x]\n: y", "a: 2001-99-99"]
)  # fmt: skip
def test_what_has_no_servers_is_refused(text: str) -> None:
    assert refusal(litellm.read, text)


def test_no_object_is_made_of_yaml() -> None:
    with pytest.raises(Unusable, match="not YAML"):
        litellm.read("mcp_servers: !!python/object/apply:os.system ['true']")
