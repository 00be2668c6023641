"""The authorization server tests lean on does what clients of the MCP SDKs need: registration, PKCE, resource, refresh, rotation."""

import base64
import hashlib
import json
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError
from joserfc.jwk import KeySet

from tests.support.authorization import MACHINE, RESOURCE_SECRET, RESOURCE_SERVER, Authority
from tests.support.certs import Certificate

VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture(params=["https", "http"])
def authority(request, certificate: Certificate):
    with Authority(certificate if request.param == "https" else None, path="/tenant") as running:
        yield running


@pytest.fixture
def client(certificate: Certificate):
    with httpx.Client(verify=certificate.client()) as made:
        yield made


def read(authority: Authority, client: httpx.Client, token: str):
    keys = KeySet.import_key_set(client.get(f"{authority.issuer}/keys").json())
    return jwt.decode(token, keys, algorithms=["RS256", "ES256"])


def test_a_machine_gets_a_token_for_the_resource_it_names(authority, client):
    read_one = read(authority, client, authority.token(resource="https://a.example/mcp", scope="x y"))
    assert ("at+jwt", MACHINE, "https://a.example/mcp", "x y") == (
        read_one.header["typ"],
        read_one.claims["sub"],
        read_one.claims["aud"],
        read_one.claims["scope"],
    )


def test_a_client_registers_and_gets_a_code_and_a_token_and_another(authority, client):
    metadata = client.get(f"{authority.origin}/.well-known/oauth-authorization-server/tenant").json()
    assert authority.issuer == metadata["issuer"]
    registered = client.post(
        metadata["registration_endpoint"],
        json={
            "redirect_uris": ["http://localhost:1/cb"],
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
        },
    ).json()
    query = {
        "response_type": "code",
        "client_id": registered["client_id"],
        "redirect_uri": "http://localhost:1/cb",
        "scope": "x",
        "state": "s",
        "resource": "https://a.example/mcp",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    sent_to = client.get(f"{metadata['authorization_endpoint']}?{urlencode(query)}").headers["location"]
    told = parse_qs(urlsplit(sent_to).query)
    assert ["s"] == told["state"]
    form = {
        "grant_type": "authorization_code",
        "code": told["code"][0],
        "redirect_uri": "http://localhost:1/cb",
        "client_id": registered["client_id"],
    }
    refused = client.post(metadata["token_endpoint"], data={**form, "code_verifier": "w" * 64})
    assert "invalid_grant" == refused.json()["error"]
    granted = client.post(metadata["token_endpoint"], data={**form, "code_verifier": VERIFIER}).json()
    claims = read(authority, client, granted["access_token"]).claims
    assert ("alice", "https://a.example/mcp", "x") == (claims["sub"], claims["aud"], claims["scope"])
    again = {"grant_type": "refresh_token", "refresh_token": granted["refresh_token"], "client_id": registered["client_id"]}
    refreshed = client.post(metadata["token_endpoint"], data=again).json()
    assert "https://a.example/mcp" == read(authority, client, refreshed["access_token"]).claims["aud"]


def test_introspection_is_for_the_resource_server(authority, client):
    authority.opaque = True
    token = authority.token()
    assert "." not in token
    form = {"token": token}
    assert 401 == client.post(f"{authority.issuer}/introspect", data=form).status_code
    mine = httpx.BasicAuth(RESOURCE_SERVER, RESOURCE_SECRET)
    assert client.post(f"{authority.issuer}/introspect", data=form, auth=mine).json()["active"] is True
    authority.revoke(token)
    assert {"active": False} == client.post(f"{authority.issuer}/introspect", data=form, auth=mine).json()


def test_rotation(authority, client):
    old = authority.token()
    authority.rotate("ES256")
    assert ["ES256-1", "RS256-0"] == [key["kid"] for key in client.get(f"{authority.issuer}/keys").json()["keys"]]
    assert "ES256" == json.loads(base64.urlsafe_b64decode(authority.token().partition(".")[0] + "=="))["alg"]
    authority.withdraw()
    with pytest.raises(InvalidKeyIdError):
        read(authority, client, old)
