"""Keys of an issuer: which count, when they are asked for again, and what happens while they cannot be had."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from mcpproxy.net.fetch import FetchError, Response
from mcpproxy.policy.issuer import Issuer
from mcpproxy.policy.jwks import COOL_S, FRESH_S, KEYS, LARGEST, RSA, STALE_S, from_file, from_url, key_source, read
from tests.policy.minting import ISSUER, NOW, Publisher, Said, encoded, key_set, settings, signed_with
from tests.support.authorization import new_key

SIGNED = b"what was signed"


# -- which keys count ---------------------------------------------------------------------------------------------------------------------------


def members(key, **given):
    made = {**key.as_dict(private=False), **given}
    return {name: value for name, value in made.items() if value is not None}


def document(*keys):
    return json.dumps({"keys": keys}).encode()


def usable(*keys):
    try:
        return [key.kid for key in read(document(*keys)).keys]
    except ValueError:
        return []


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"])
def test_every_algorithm_is_verified_with_its_key_and_no_other(algorithm):
    key = new_key(algorithm)
    [ours] = read(key_set(key)).keys
    signature = signed_with(algorithm, SIGNED, key)
    assert ours.verifies(algorithm, SIGNED, signature)
    assert not ours.verifies(algorithm, SIGNED + b"!", signature)
    assert not ours.verifies(algorithm, SIGNED, signature[:-1])
    assert not ours.verifies(algorithm, SIGNED, b"")
    assert not ours.verifies(algorithm, SIGNED, bytes(len(signature)))
    for other in ("RS256", "PS256", "ES256", "ES384", "EdDSA", "HS256", "none"):
        assert other == algorithm or not ours.verifies(other, SIGNED, signature)


def test_a_key_without_an_algorithm_verifies_those_of_its_type():
    assert RSA == read(document(members(new_key("RS256"), alg=None))).keys[0].algorithms
    assert {"ES256"} == read(document(members(new_key("ES256"), alg=None))).keys[0].algorithms
    assert {"EdDSA", "Ed25519"} == read(document(members(new_key("EdDSA"), alg="Ed25519"))).keys[0].algorithms


def weak(bits):
    return RSAKey.generate_key(bits)


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "alg": "HS256"},
        members(new_key("RS256"), use="enc"),
        members(new_key("RS256"), key_ops=["sign"]),
        members(new_key("RS256"), key_ops=7),
        members(new_key("RS256"), key_ops="verify"),
        members(new_key("RS256"), alg="RSA-OAEP"),
        members(new_key("RS256"), alg="HS256"),
        members(new_key("RS256"), alg="none"),
        members(new_key("RS256"), alg=["RS256"]),
        members(new_key("RS256"), kty="EC"),
        members(new_key("RS256"), kty=["RSA"]),
        members(new_key("RS256"), kid=7),
        members(new_key("RS256"), kid="k" * 600),
        members(new_key("RS256"), n=None),
        members(new_key("RS256"), n="AAAA"),
        members(new_key("RS256"), n="-" * 1300),
        members(new_key("RS256"), n=encoded(b"\xff" * 2048).decode()),
        members(new_key("RS256"), e="AQ"),
        members(new_key("RS256"), e=encoded(b"\xff" * 100).decode()),
        members(new_key("RS256"), e=65537),
        members(new_key("ES256"), crv="P-384"),
        members(new_key("ES256"), crv="secp256k1"),
        members(new_key("ES256"), crv=None),
        members(new_key("ES256"), y=members(new_key("ES256"))["x"]),  # not on the curve
        members(new_key("ES256"), x="!!"),
        members(new_key("EdDSA"), x="AAAA"),
        members(OKPKey.generate_key("X25519")),
        members(ECKey.generate_key("secp256k1")),
        {"kty": "RSA"},
        {},
        [],
        "key",
        None,
    ],
)
def test_a_key_that_is_not_good_is_passed_over(key):
    assert [] == usable(key)
    assert ["ES384-0"] == usable(key, members(new_key("ES384"))), "the others count"


def test_short_rsa_keys_are_passed_over():
    with pytest.warns(match="2048"):
        key = weak(1024)
    assert [] == usable(members(key))


def test_private_members_are_not_looked_at():
    [key] = read(json.dumps({"keys": [new_key("ES256").as_dict(private=True)]}).encode()).keys
    assert not key._key.is_private
    assert [] == usable(OctKey.import_key("secret" * 8).as_dict())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b"<html>",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"keys":' * 100_000,
        b'{"keys":[NaN]}',
    ],
    ids=lambda body: body[:12].decode("latin-1"),
)
def test_what_is_no_key_set_is_an_error(body):
    with pytest.raises(ValueError):
        read(body)


anything = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=3), max_size=2) | st.just({"a": 1})
parts = st.sampled_from(["kty", "use", "key_ops", "alg", "kid", "n", "e", "crv", "x", "y"])


@given(st.sampled_from(["RS256", "ES256", "EdDSA"]), st.dictionaries(parts, anything, max_size=4))
def test_whatever_a_key_says_it_is_read_or_passed_over(algorithm, said):
    assert len(usable({**new_key(algorithm).as_dict(private=False), **said})) <= 1


def test_too_much_is_an_error():
    one = members(new_key("ES256"))
    assert KEYS == len(read(document(*[one] * KEYS)).keys)
    with pytest.raises(ValueError, match="keys"):
        read(document(*[one] * (KEYS + 1)))
    with pytest.raises(ValueError, match="bytes"):
        read(document(one) + b" " * LARGEST)


# -- when they are asked for ----------------------------------------------------------------------------------------------------------------------

A, B = new_key("ES256"), new_key("ES256", 1)


async def ask(publisher):
    await publisher.source.question.ask()


def kids(publisher):
    keys = publisher.source.keys(publisher.now)
    return None if keys is None else [key.kid for key in keys.keys]


async def test_keys_are_due_at_the_start_and_every_few_minutes():
    publisher = Publisher(A)
    source = publisher.source
    assert source.keys(NOW) is None
    assert source.due(NOW) is source.question
    await ask(publisher)
    assert ["ES256-0"] == kids(publisher)
    assert source.due(NOW + FRESH_S - 1) is None
    assert source.due(NOW + FRESH_S) is source.question
    assert source.settled(NOW) > NOW + FRESH_S, "there is time for the loading"


async def test_how_often_is_configured():
    asked = []

    async def fetch(url, **_):
        asked.append(url)
        return Response(200, key_set(A))

    source = key_source("corp", settings(jwks="https://login.example/keys", refresh=60.0), fetch, Said())
    await source.question.ask()
    heard = source._loaded
    assert (source.due(heard + 59), source.due(heard + 60)) == (None, source.question)
    assert source.settled(heard) <= heard + 60 + 30, "known tokens are judged again soon after"
    assert settings().refresh == FRESH_S


async def test_a_flood_asks_once_in_ten_seconds():
    publisher = Publisher(A)
    await ask(publisher)
    for second in range(100):
        publisher.now = NOW + second
        for _ in range(50):
            if publisher.source.may_ask(publisher.now):
                await ask(publisher)
    assert 100 / COOL_S == publisher.asked


async def test_a_clock_that_is_behind_or_was_set_back_does_no_harm():
    publisher = Publisher(A)
    await ask(publisher)
    assert not publisher.source.may_ask(NOW - 0.5), "the edge's clock ticks"
    assert publisher.source.keys(NOW - 0.5) is not None
    assert publisher.source.may_ask(NOW - 3600), "an hour back: ask, do not wait for an hour"


async def test_those_who_come_meanwhile_wait_for_the_same_answer_and_one_may_leave():
    publisher = Publisher(A)
    gate = asyncio.Event()
    load = publisher.source._load

    async def slow():
        await gate.wait()
        return await load()

    publisher.source._load = slow
    asking = [asyncio.create_task(publisher.source.question.ask()) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    assert publisher.source.may_ask(NOW), "one can wait for it"
    assert publisher.source.due(NOW) is None, "it is being asked"
    gate.set()
    await asyncio.gather(*asking, return_exceptions=True)
    assert (1, ["ES256-0"]) == (publisher.asked, kids(publisher))


@pytest.mark.parametrize("trouble", [FetchError("timeout", "slow"), b"<html>502</html>", b'{"keys":[]}'])
async def test_older_keys_serve_for_a_day_while_newer_cannot_be_had(trouble):
    publisher = Publisher(A)
    await ask(publisher)
    publisher.body = trouble
    for hour in range(24):
        publisher.now = NOW + hour * 3600 + 600
        await ask(publisher)
        assert ["ES256-0"] == kids(publisher)
        assert publisher.source.settled(publisher.now) > publisher.now
    publisher.now = NOW + STALE_S
    assert kids(publisher) is None
    assert [("warning", True)] == [(level, "auth.corp" in text and "older keys" in text) for level, text in publisher.said.lines], (
        "said once"
    )
    publisher.publish(B)
    await ask(publisher)
    assert ["ES256-1"] == kids(publisher)
    assert "info" == publisher.said.lines[-1][0]


# -- where they come from -------------------------------------------------------------------------------------------------------------------------


async def test_a_file_is_read_again(tmp_path: Path):
    file = tmp_path / "keys.json"
    said = Said()
    source = key_source("corp", settings(jwks=f"file:{file}"), None, said)
    await source.question.ask()
    assert source.keys(source._now()) is None
    assert "keys.json: No such file or directory" in said.lines[0][1]
    file.write_bytes(key_set(A))
    await source.question.ask()
    assert 1 == len(source.keys(source._now()).keys)
    file.write_bytes(b" " * (LARGEST * 4))
    assert LARGEST + 1 == len(await from_file(str(file))()), "no more is read than is needed to refuse it"


class Web:
    """Answers by URL."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    async def __call__(self, url, *, method="GET", body=None, headers=()):
        self.asked.append(url)
        answer = self.answers.get(url.rpartition("/")[2], Response(404, b""))
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_the_issuer_says_where_keys_are_and_is_asked_again_when_they_are_gone():
    metadata = json.dumps({"issuer": ISSUER, "jwks_uri": "https://keys.example/one"}).encode()
    web = Web(tenant=Response(200, metadata), one=Response(200, b"1"), two=Response(200, b"2"))
    load = from_url(None, Issuer(ISSUER, web), web)
    assert (b"1", b"1") == (await load(), await load())
    assert 3 == len(web.asked), "the metadata are believed"
    web.answers["one"] = Response(404, b"")
    web.answers["tenant"] = Response(200, metadata.replace(b"one", b"two"))
    with pytest.raises(FetchError, match="404"):
        await load()
    assert b"2" == await load()


async def test_metadata_that_name_no_keys_are_an_error():
    web = Web(tenant=Response(200, json.dumps({"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"}).encode()))
    with pytest.raises(FetchError, match="name no key set"):
        await from_url(None, Issuer(ISSUER, web), web)()


async def test_a_url_of_the_configuration_needs_no_metadata():
    web = Web(one=Response(200, b"1"))
    assert b"1" == await from_url("https://keys.example/one", Issuer(ISSUER, web), web)()
    assert ["https://keys.example/one"] == web.asked
