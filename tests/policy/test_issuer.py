"""An issuer's metadata are found where clients look for them, and believed only under the issuer's own name."""

import json

import pytest

from mcpproxy.net.fetch import FetchError, Response
from mcpproxy.policy.issuer import BELIEVED_S, Issuer, documents, fetcher, json_object, read
from tests.policy.minting import ISSUER, settings

HERE = {"issuer": ISSUER, "jwks_uri": "https://login.example/keys", "introspection_endpoint": "https://login.example/introspect"}


class Web:
    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def __call__(self, url, *, method="GET", body=None, headers=()):
        self.asked.append(url)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def told(**given):
    return Response(200, json.dumps({**HERE, **given}).encode())


@pytest.mark.parametrize(
    ("issuer", "places"),
    [
        (
            ISSUER,
            [
                "https://login.example/.well-known/oauth-authorization-server/tenant",
                "https://login.example/.well-known/openid-configuration/tenant",
                "https://login.example/tenant/.well-known/openid-configuration",
            ],
        ),
        (
            "https://login.example/",
            ["https://login.example/.well-known/oauth-authorization-server", "https://login.example/.well-known/openid-configuration"],
        ),
    ],
)
def test_where_metadata_are_looked_for(issuer, places):
    assert places == list(documents(issuer))


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_the_first_document_that_is_the_issuers_is_believed(before):
    web = Web(*[Response(404, b"")] * before, told())
    metadata = await Issuer(ISSUER, web).metadata()
    assert (HERE["jwks_uri"], HERE["introspection_endpoint"]) == (metadata.jwks_uri, metadata.introspection_endpoint)
    assert before + 1 == len(web.asked)


@pytest.mark.parametrize(
    "said", [None, "", "https://login.example", ISSUER + "/", ISSUER.upper(), "https://evil.example/tenant", [ISSUER], {"a": ISSUER}]
)
async def test_a_document_of_another_issuer_is_not_believed(said):
    web = Web(told(issuer=said), told(issuer=said), told(issuer=said))
    with pytest.raises(FetchError, match="another issuer"):
        await Issuer(ISSUER, web).metadata()
    web = Web(told(issuer=said), told())
    assert (await Issuer(ISSUER, web).metadata()).jwks_uri == HERE["jwks_uri"]


@pytest.mark.parametrize(
    "answer", [FetchError("redirected", ""), FetchError("too-large", ""), Response(500, b""), Response(200, b"<html>")]
)
async def test_one_bad_document_does_not_hide_the_next(answer):
    assert await Issuer(ISSUER, Web(answer, told())).metadata()


@pytest.mark.parametrize("kind", ["connect-failed", "timeout", "address-refused", "name-unknown", "tls-failed"])
async def test_a_server_that_cannot_be_reached_is_asked_once(kind):
    web = Web(FetchError(kind, ""), told())
    with pytest.raises(FetchError, match=kind):
        await Issuer(ISSUER, web).metadata()
    assert 1 == len(web.asked)


async def test_metadata_are_believed_for_a_while_and_older_ones_serve():
    now = 0.0
    web = Web(told(), FetchError("timeout", ""), told(jwks_uri="https://login.example/new"))
    issuer = Issuer(ISSUER, web, lambda: now)
    assert await issuer.metadata() is await issuer.metadata()
    now = BELIEVED_S + 1
    assert (await issuer.metadata()).jwks_uri == HERE["jwks_uri"]
    assert (await issuer.metadata()).jwks_uri == "https://login.example/new"
    issuer.doubt()
    web.answers = [told()]
    assert (await issuer.metadata()).jwks_uri == HERE["jwks_uri"]


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "ftp://x/", 7, ["https://x/"], None, ""])
def test_what_is_no_web_address_counts_as_nothing(uri):
    assert read(json.dumps({**HERE, "jwks_uri": uri}).encode(), ISSUER).jwks_uri is None


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'"x"', b"{", b"\xff", b"[" * 50_000, b'{"a":' * 50_000, b'{"a":NaN}', b'{"a":1e999}', b"1" * 5000]
)
def test_what_is_no_object_is_an_error(body):
    with pytest.raises(ValueError):
        json_object(body)


async def test_the_guard_is_the_configurations():
    with pytest.raises(FetchError, match="address-refused"):
        await fetcher(settings())("https://127.0.0.1:1/")
    with pytest.raises(FetchError, match="connect-failed"):
        await fetcher(settings(private=True))("https://127.0.0.1:1/")
