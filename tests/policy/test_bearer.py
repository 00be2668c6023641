"""Signed tokens: which are believed, which are not, how often a signature is looked at, and when keys are asked for."""

import base64
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.policy import bearer as module
from mcpproxy.policy.bearer import LONGEST, TOKENS, Bearer, decoded
from mcpproxy.policy.buckets import Buckets
from mcpproxy.policy.failures import Failures
from mcpproxy.policy.jwks import ABOUT, COOL_S, FRESH_S, Key
from mcpproxy.policy.verdict import Accepted, Ask, Credential, Refused
from mcpproxy.units import Rate
from tests.policy.minting import NOW, RESOURCE, Publisher, bearer, encoded, good, mint, settings
from tests.support.authorization import new_key

RSA, RSA2, EC, ED = new_key("RS256"), new_key("RS256", 1), new_key("ES256"), new_key("EdDSA")
EVERY = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


class Gate:
    """An authenticator and its issuer."""

    def __init__(self, *keys, **given):
        self.publisher = Publisher(*(keys or (RSA, EC, ED)))
        self.bearer = Bearer("corp", settings(**given), (RESOURCE,), self.publisher.source)

    async def open(self):
        await self.publisher.source.question.ask()
        return self

    def judge(self, token, now=NOW, payer=None):
        return self.bearer.judge(bearer(token), now, payer)

    def kind(self, token, now=NOW):
        judged = self.judge(token, now)
        return judged.kind if isinstance(judged, Refused) else type(judged).__name__

    async def settle(self, token, now=NOW):
        """As the edge does: ask what is to be asked, once, and judge again."""
        self.publisher.now = now
        judged = self.judge(token, now)
        if isinstance(judged, Ask):
            await judged.question.ask()
            judged = self.judge(token, now)
        return judged.kind if isinstance(judged, Refused) else type(judged).__name__


@pytest.fixture
async def gate():
    return await Gate().open()


@pytest.fixture
def verified(monkeypatch):
    """How often a signature was looked at."""
    count = []
    real = Key.verifies

    def verifies(self, *args):
        count.append(self.kid)
        return real(self, *args)

    monkeypatch.setattr(Key, "verifies", verifies)
    return count


# -- what is believed -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", EVERY)
async def test_every_algorithm_that_is_configured(algorithm):
    key = new_key(algorithm)
    gate = await Gate(key, algorithms=(algorithm,)).open()
    judged = gate.judge(mint(good(), key))
    assert isinstance(judged, Accepted)
    assert "alice" == judged.principal.name
    refused = await Gate(key, algorithms=("RS256" if algorithm != "RS256" else "ES256",)).open()
    assert "token-algorithm" == refused.kind(mint(good(), key))


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "application/jwt"])
async def test_types_of_access_tokens(gate, typ):
    assert "Accepted" == gate.kind(mint(good(), RSA, typ=typ))


async def test_the_newer_name_of_eddsa_is_the_same(gate):
    assert "Accepted" == gate.kind(mint(good(), ED, alg="Ed25519"))


async def test_a_token_without_a_key_id_is_tried_with_the_keys_of_its_type(gate, verified):
    assert "Accepted" == gate.kind(mint(good(), EC, kid=None))
    assert ["ES256-0"] == verified


async def test_what_a_token_brings_along_is_not_looked_at(gate):
    mine = new_key("RS256", 9)
    jwk = mine.as_dict(private=False)
    brought = {
        "jwk": jwk,
        "jku": "https://evil.example/keys",
        "x5u": "https://evil.example/cert",
        "x5c": ["MIIB"],
        "nonce": "x",
        "x5t": "y",
    }
    assert "token-signature" == gate.kind(mint(good(), mine, kid="RS256-0", **brought))
    assert "Accepted" == gate.kind(mint(good(), RSA, **brought)), "nor does it do harm"


# -- what is not ------------------------------------------------------------------------------------------------------------------------------------


def hmac_with_public_key(algorithm, form):
    """The classic: the verifier's public key as the secret of an HMAC. (By hand: libraries refuse to make such a thing.)"""
    secret = {"pem": RSA.as_pem(private=False), "der": RSA.as_der(private=False), "jwk": json.dumps(RSA.as_dict(private=False)).encode()}[
        form
    ]
    data = encoded(json.dumps({"alg": algorithm, "kid": "RS256-0"}).encode()) + b"." + encoded(json.dumps(good()).encode())
    return data + b"." + encoded(hmac.digest(secret, data, "sha" + algorithm[2:]))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("form", ["pem", "der", "jwk"])
async def test_an_hmac_with_the_public_key(algorithm, form):
    for algorithms in (("RS256", "ES256", "EdDSA"), EVERY):
        gate = await Gate(algorithms=algorithms).open()
        assert "token-algorithm" == gate.kind(hmac_with_public_key(algorithm, form))


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS256", "dir", "RSA-OAEP", "RS256 ", "rs256", "ES256K"])
async def test_algorithms_that_are_none(gate, name):
    head = encoded(json.dumps({"alg": name, "kid": "RS256-0"}).encode())
    for signature in (b"AA", encoded(bytes(256))):
        token = head + b"." + encoded(json.dumps(good()).encode()) + b"." + signature
        assert "token-algorithm" == gate.kind(token)


@pytest.mark.parametrize("alg", [None, 7, ["RS256"], {"a": 1}, True])
async def test_an_algorithm_that_is_no_text(gate, alg):
    head = encoded(json.dumps({"alg": alg, "kid": "RS256-0"}).encode())
    assert "token-algorithm" == gate.kind(head + b"." + encoded(json.dumps(good()).encode()) + b".AAAA")


async def test_none_without_a_signature_is_no_token(gate):
    head = encoded(b'{"alg":"none"}')
    assert "token-malformed" == gate.kind(head + b"." + encoded(json.dumps(good()).encode()) + b".")


async def test_a_key_of_another_type_does_not_verify(gate):
    assert "token-algorithm" == gate.kind(mint(good(), EC, kid="RS256-0"))
    assert "token-algorithm" == gate.kind(mint(good(), RSA, kid="ES256-0"))
    assert "token-algorithm" == gate.kind(mint(good(), RSA, alg="PS256")), "the key says what it is for"


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"b64": True}, {"crit": []}, {"zip": "DEF"}, {"enc": "A256GCM"}]
)
async def test_what_must_be_understood_and_is_not(gate, header):
    assert "token-malformed" == gate.kind(mint(good(), RSA, **header))


@pytest.mark.parametrize(
    "typ", ["oauth-id-jag+jwt", "id_token+jwt", "logout+jwt", "dpop+jwt", "entity-statement+jwt", "secevent+jwt", "", 7, ["JWT"]]
)
async def test_other_kinds_of_token(gate, typ):
    assert "token-type" == gate.kind(mint(good(), RSA, typ=typ))


@pytest.mark.parametrize(
    "claims",
    [
        {"at_hash": "x"},
        {"c_hash": "x"},
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"typ": "Offline"},
        {"token_use": "id"},
        {"token_use": "refresh"},
    ],
)
async def test_id_and_refresh_tokens_of_issuers_that_give_them_no_type(gate, claims):
    assert "token-type" == gate.kind(mint(good(**claims), RSA, typ="JWT"))


@pytest.mark.parametrize(
    ("claims", "kind"),
    [
        ({"exp": NOW - 60}, "token-expired"),
        ({"nbf": NOW + 60}, "token-not-yet-valid"),
        ({"aud": "https://other.example/mcp"}, "token-audience"),
        ({"iss": "https://evil.example"}, "token-issuer"),
        ({"exp": None}, "token-claims"),
        ({"cnf": {"jkt": "x"}}, "token-bound"),
    ],
)
async def test_claims_are_judged(gate, claims, kind, verified):
    assert kind == gate.kind(mint(good(**claims), RSA))
    assert [] == verified, "no signature is looked at for a token that is no good anyway"


async def test_a_forged_token(gate):
    token = mint(good(), new_key("RS256", 9), kid="RS256-0")
    assert "token-signature" == gate.kind(token)
    assert "token-signature" == gate.kind(token), "and not remembered as anything else"


async def test_every_changed_bit_of_a_signature_or_claim_is_seen(gate):
    token = mint(good(), EC)
    head, payload, signature = token.split(b".")
    raw = bytearray(base64.urlsafe_b64decode(signature + b"=="))
    for position in range(len(raw)):
        raw[position] ^= 1
        assert "token-signature" == gate.kind(b".".join([head, payload, encoded(bytes(raw))]))
        raw[position] ^= 1
    other = encoded(json.dumps(good(sub="mallory")).encode())
    assert "token-signature" == gate.kind(b".".join([head, other, signature]))
    assert "Accepted" == gate.kind(token)


async def test_base64url_has_one_form(gate):
    token = mint(good(), EC)
    assert "Accepted" == gate.kind(token)
    last = token[-1:]
    for other in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if bytes((other,)) != last:
            assert "Accepted" != gate.kind(token[:-1] + bytes((other,)))
    for other in (
        token + b"=",
        token + b"==",
        token + b"\n",
        token.replace(b".", b". ", 1),
        token + b"A",
        token.replace(b"-", b"+", 1) + b"+",
    ):
        assert "Accepted" != gate.kind(other)


@pytest.mark.parametrize(
    "token",
    [
        b"..",
        b"a.b.c",
        b"a..c",
        b".b.c",
        b"e30.e30.e30",
        encoded(b"[]") + b".e30.AAAA",
        encoded(b"{") + b".e30.AAAA",
        encoded(b"\xff") + b".e30.AAAA",
        encoded(b"[" * 3000) + b"." + encoded(b"[" * 3000) + b".AAAA",
        encoded(b'{"alg":' * 1000) + b".e30.AAAA",
        "ü.ü.ü".encode(),
        b"\x00.\x00.\x00",
    ],
)
async def test_garbage(gate, token):
    assert gate.kind(token) in ("token-malformed", "token-algorithm")


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"exp":1e999}', b"[" * 5000, b'{"sub":"\\ud800"}'])
async def test_a_well_signed_payload_that_is_garbage(gate, payload):
    assert "token-malformed" == gate.kind(mint(payload, RSA))


@pytest.mark.parametrize("token", [b"", b"opaque", b"a.b", b"a.b.c.d.e", b"mcp_0123456789abcdef"])
async def test_what_is_no_jwt_is_for_somebody_else(gate, token):
    assert gate.judge(token) is None


async def test_other_credentials_are_for_somebody_else(gate):
    token = mint(good(), RSA)
    assert gate.bearer.judge(Credential("key", token, b"x-api-key"), NOW) is None
    assert gate.bearer.judge(Credential("certificate", token), NOW) is None


async def test_nothing_is_parsed_above_16_kib(gate, monkeypatch):
    large = mint(good(pad="x" * 100_000), RSA)
    fits = mint(good(pad="x" * 11_000), RSA)
    assert len(fits) <= LONGEST
    assert "Accepted" == gate.kind(fits)
    monkeypatch.setattr(module, "taken_apart", lambda _: pytest.fail("it was parsed"))
    for token in (large, b"a" * 100_000, b"." * 100_000, b"a.b." + b"c" * LONGEST):
        assert "token-too-large" == gate.kind(token)


@given(st.binary(max_size=200) | st.from_regex(rb"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}", fullmatch=True))
def test_whatever_is_shown_it_is_judged(token):
    gate = Gate()
    assert isinstance(gate.judge(token), Refused | None)


@given(st.binary())
def test_base64url_is_read_back(data):
    assert data == decoded(encoded(data))


# -- how often ------------------------------------------------------------------------------------------------------------------------------------


async def test_a_token_is_verified_once(gate, verified):
    token = mint(good(), RSA)
    first = gate.judge(token)
    for moment in range(60):
        assert first is gate.judge(token, NOW + moment / 10)
    assert 1 == len(verified)


async def test_a_remembered_token_ends_when_it_ends(gate):
    token = mint(good(exp=NOW + 60), RSA)
    assert NOW + 90 == gate.judge(token).until
    assert "Accepted" == gate.kind(token, NOW + 89)
    assert "token-expired" == gate.kind(token, NOW + 90)
    assert "token-not-yet-valid" == gate.kind(token, NOW - 100), "a clock that was set back"


async def test_a_verdict_is_asked_again_when_the_keys_are_loaded_again(gate):
    judged = gate.judge(mint(good(exp=NOW + 86_400), RSA))
    assert NOW + FRESH_S < judged.until <= NOW + FRESH_S + 60


async def test_a_token_is_nothing_any_more_when_its_key_is_withdrawn(gate, verified):
    token, other = mint(good(), RSA), mint(good(), EC)
    assert ["Accepted", "Accepted"] == [gate.kind(token), gate.kind(other)]
    gate.publisher.publish(EC)
    await gate.publisher.source.question.ask()
    assert "token-key-unknown" == await gate.settle(token)
    assert "Accepted" == gate.kind(other)
    assert 2 == len(verified), "the other one is not verified again"


async def test_what_is_remembered_is_bounded_and_refusals_push_nothing_out(gate, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 8)
    tokens = [mint(good(jti=str(number)), ED) for number in range(20)]
    for token in tokens:
        assert "Accepted" == gate.kind(token)
    assert 8 == len(gate.bearer._known)
    forged = mint(good(), new_key("EdDSA", 9), kid="EdDSA-0")
    for number in range(50):
        assert "token-signature" == gate.kind(forged + b"AAAA" * number) or number
    assert 8 == len(gate.bearer._known)
    assert TOKENS == 4096


# -- when keys are asked for -------------------------------------------------------------------------------------------------------------------------


async def test_without_keys_the_issuer_is_asked():
    gate = Gate()
    token = mint(good(), RSA)
    judged = gate.judge(token)
    assert isinstance(judged, Ask)
    assert judged.question == gate.judge(mint(good(), EC)).question, "one question for all"
    assert "Accepted" == await gate.settle(token)


async def test_a_token_that_is_no_good_asks_nobody():
    gate = Gate()
    for claims in ({"iss": "https://evil.example"}, {"aud": "x"}, {"exp": NOW - 60}):
        assert gate.kind(mint(good(**claims), RSA)) != "Ask"


async def test_when_the_issuer_is_down_it_is_503_and_asked_again_later():
    gate = Gate()
    good_keys, gate.publisher.body = gate.publisher.body, b"garbage"
    token = mint(good(), RSA)
    assert "issuer-unreachable" == await gate.settle(token)
    assert 503 == gate.judge(token).status
    assert 1 == gate.publisher.asked
    gate.publisher.body = good_keys
    assert "issuer-unreachable" == await gate.settle(token, NOW + 1), "not yet"
    assert "Accepted" == await gate.settle(token, NOW + COOL_S)


async def test_a_new_key_is_fetched_when_a_token_names_it(gate):
    gate.publisher.publish(RSA2, RSA)
    assert "Accepted" == await gate.settle(mint(good(), RSA2), NOW + 1), "the keys are very young"
    assert "Accepted" == await gate.settle(mint(good(), RSA), NOW + COOL_S), "the old one is still published"
    assert 2 == gate.publisher.asked


async def test_a_made_up_key_id_keeps_no_new_key_waiting(gate):
    forged = mint(good(), ED, kid="made-up")
    for _ in range(5):
        assert "token-key-unknown" == await gate.settle(forged, NOW + 1)
    assert gate.publisher.asked == 2
    gate.publisher.publish(RSA2, RSA)
    assert "Accepted" == await gate.settle(mint(good(), RSA2), NOW + 2)
    assert gate.publisher.asked == 3


async def test_all_who_come_with_a_new_key_at_once_wait_for_the_same_answer(gate):
    assert "token-key-unknown" == await gate.settle(mint(good(), ED, kid="made-up"), NOW + 1)
    gate.publisher.publish(RSA2, RSA)
    tokens = [mint(good(jti=str(number)), RSA2) for number in range(5)]
    assert {"Ask"} == {gate.kind(token, NOW + 2) for token in tokens}
    assert ["Accepted"] * 5 == [await gate.settle(token, NOW + 2) for token in tokens]
    assert gate.publisher.asked == 3


async def test_a_flood_of_made_up_key_ids_costs_a_few_fetches_a_minute(gate):
    for number in range(600):
        assert "token-key-unknown" == await gate.settle(mint(good(), ED, kid=f"made-up-{number}"), NOW + number / 10)
    assert ABOUT < gate.publisher.asked <= 1 + ABOUT + 60 / COOL_S
    for _ in range(20):
        assert "token-key-unknown" == await gate.settle(mint(good(), ED, kid="made-up"), NOW + 61)
    assert gate.publisher.asked <= 2 + ABOUT + 60 / COOL_S
    assert "Accepted" == await gate.settle(mint(good(), RSA), NOW + 30), "the known ones go on"


async def test_a_rotation_without_key_ids_is_noticed(gate):
    gate.publisher.publish(RSA2)
    assert "Accepted" == await gate.settle(mint(good(), RSA2, kid=None), NOW + COOL_S)


async def test_a_token_without_a_key_id_costs_a_few_verifications_at_most(verified):
    gate = await Gate(*[new_key("ES256", number) for number in range(9)]).open()
    forged = mint(good(), new_key("ES256", 20), kid=None)
    assert "token-signature" == await gate.settle(forged, NOW + 1)
    assert 4 == len(verified)


async def test_two_keys_of_one_name_are_both_tried():
    twin = new_key("RS256", 5)
    gate = Gate()
    keys = [{**key.as_dict(private=False), "kid": "same"} for key in (RSA, EC, twin)]
    gate.publisher.body = json.dumps({"keys": keys}).encode()
    await gate.open()
    for key in (RSA, EC, twin):
        assert "Accepted" == gate.kind(mint(good(), key, kid="same"))


async def test_the_same_keys_serve_several_audiences():
    gate = await Gate().open()
    other = Bearer("corp", settings(), ("https://other.example/mcp",), gate.publisher.source)
    token = mint(good(), RSA)
    assert "Accepted" == gate.kind(token)
    assert "token-audience" == other.judge(bearer(token), NOW).kind


# -- who pays -------------------------------------------------------------------------------------------------------------------------------------


async def test_what_fails_is_paid_for_and_beyond_the_budget_no_signature_is_looked_at(monkeypatch):
    gate = await Gate(EC).open()
    looked = []
    verifies = Key.verifies
    monkeypatch.setattr(Key, "verifies", lambda self, *args: looked.append(args) or verifies(self, *args))
    account = Failures(Rate(1, 10.0, burst=4), Buckets()).payer(b"\x7f\0\0\1")
    known, fresh = mint(good(), EC), mint(good(sub="bob"), EC)
    assert isinstance(gate.judge(known, payer=account), Accepted)
    kinds = [gate.judge(mint(good(jti=str(number)), new_key("ES256", 9), kid=EC.kid), payer=account).kind for number in range(40)]
    assert kinds == ["token-signature"] * 5 + ["too-many-failed-credentials"] * 35
    assert len(looked) == 6
    assert isinstance(gate.judge(known, payer=account), Accepted), "who is known is served"
    refused = gate.judge(fresh, payer=account)
    assert (refused.status, refused.retry_after) == (429, 10)
    assert isinstance(gate.judge(fresh, NOW + 10, account), Accepted), "the budget comes back"
    assert isinstance(gate.judge(mint(good(sub="eve"), EC), NOW + 10, account), Accepted), "what is good costs nothing"


async def test_each_key_that_was_tried_is_paid_for_and_what_costs_nothing_is_not():
    gate = await Gate(*(new_key("ES256", number) for number in range(6))).open()
    failures = Failures(Rate(1, 10.0, burst=99), Buckets())
    account = failures.payer(b"\x7f\0\0\1")
    forged = new_key("ES256", 9)
    gate.judge(mint(good(), forged, kid=None), payer=account)
    assert failures.failed == 4
    for token in (b"a.b.c", mint(good(exp=1), forged), mint(good(aud="x"), forged), mint(good(), forged, kid="made-up"), b"opaque"):
        gate.judge(token, payer=account)
    assert failures.failed == 4
