"""A secret in a revealed argument is never in the log, wherever it stands, and no text keeps the pattern busy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.observe.redact import CUT, REDACTED, SHOWN, WINDOW, Redactor
from mcpproxy.policy.apikey import new_key

DASHES, WORDS = "-" * 5, " ".join(("PRIVATE", "KEY"))  # apart: whoever looks for keys in this repository finds none

SECRETS = {
    "our key": new_key(()).text,
    "jwt": "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9.MEUCIQDx8Zr0J3m2bq9o5tZ0c1d2e3f4",
    "jwe": "eyJhbGciOiJSU0EifQ.OKOawDo13gRp2ojaHV7LFpZcgV7T6DVZKTyKOMTYUmKoTCVJ.48V1_ALb6US04U3b.5eym8TW_c8SuK0lt.XFBoMYUZodetZdvTiFvSkQ",
    "openai": "sk-proj-abcdefghijklmnop1234",
    "github": "ghp_abcdefghijklmnopqrstuvwxyz012345",
    "github app": "github_pat_11ABCDEFG0abcdefghijkl",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "google": "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "slack": "xoxb-123456789012-abcdefghijkl",
    "card": "4111111111111111",
    "spaced card": "4111 1111 1111 1111",
    "card with dashes": "5500-0000-0000-0004",
    "address": "ada.lovelace+tools@mail.example.com",
    "unicode address": "añil@exämple.de",
    "phone": "+49 170 1234567",
}
SPOKEN = {
    "bearer": "Authorization: Bearer 0123456789abcdef",
    "basic": "Basic dXNlcjpwYXNzd29yZA==",
    "password": "password=hunter2",
    "quoted password": '"password": "correct horse battery"',
    "client secret": "client_secret: 'a b c'",
    "token in a query": "https://example.com/a?x=1&access_token=abc123&y=2",
    "URL": "postgres://root:toor@db.internal/x",
    "private key": f"{DASHES}BEGIN {WORDS}{DASHES}\nMC4CAQAwBQYDK2VwBCIEIH\n{DASHES}END {WORDS}{DASHES}",
}
HIDDEN = {  # what of those above must not be seen
    "bearer": "0123456789abcdef",
    "basic": "dXNlcjpwYXNzd29yZA",
    "password": "hunter2",
    "quoted password": "horse",
    "client secret": "a b c",
    "token in a query": "abc123",
    "URL": "toor",
    "private key": "MC4CAQAwBQYDK2VwBCIEIH",
}
REDACTOR = Redactor()
AROUND = st.text(max_size=40)


@pytest.mark.parametrize("name", SECRETS)
@given(before=AROUND, after=AROUND)
def test_a_secret_is_not_shown_wherever_it_stands(name: str, before: str, after: str) -> None:
    assert SECRETS[name] not in REDACTOR.shown(before + SECRETS[name] + after)


@pytest.mark.parametrize("name", SPOKEN)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("call it with ", " please"), ('{"a":1,"b":"', '"}'), ("x\n", "\ny")])
def test_what_a_word_announces_is_not_shown(name: str, before: str, after: str) -> None:
    assert HIDDEN[name] not in REDACTOR.shown(before + SPOKEN[name] + after)


@pytest.mark.parametrize("name", SECRETS)
@given(place=st.integers(0, 2 * WINDOW), filler=st.sampled_from(["x ", "word\n", "ab@example.com ", "4111111111111111 ", "12 34 "]))
def test_not_even_half_of_one_where_the_text_is_cut(name: str, place: int, filler: str) -> None:
    text = (filler * WINDOW)[:place] + " " + SECRETS[name] + " " + filler * WINDOW
    shown = REDACTOR.shown(text)
    assert len(shown) <= SHOWN
    assert SECRETS[name][:12] not in shown.replace("4111111111111111"[:12] if filler.startswith("4") else "\0", "")


@given(st.text(max_size=3 * WINDOW))
def test_what_is_shown_is_short(text: str) -> None:
    assert len(REDACTOR.shown(text)) <= SHOWN


@pytest.mark.parametrize(
    "text", ["", "/srv/data/report.txt", "weather in Paris tomorrow at 10:30", '{"a":[1,2,3]}', "2026-11-21", "naïve café"]
)
def test_harmless_texts_stay_as_they_are(text: str) -> None:
    assert text == REDACTOR.shown(text)


def test_a_long_text_is_shortened() -> None:
    shown = REDACTOR.shown("word " * 100)
    assert len(shown) == SHOWN and shown.endswith(CUT) and shown.startswith("word word")


def test_a_long_word_is_not_cut_open() -> None:
    assert REDACTOR.shown("x" * (WINDOW + 1)) == REDACTED + CUT


def test_the_operators_own_patterns_each_for_itself() -> None:
    redactor = Redactor((r"(?i)project (\w+)", r"(a|b)c"))
    assert redactor.shown("the Project Zeus, ac, PROJECT x") == f"the {REDACTED}, {REDACTED}, {REDACTED}"


@pytest.mark.parametrize("pattern", [r"(a+)+b", r"(?i)(A+)+B", r"a+a+a+a+b", r"(a|aa)*b$"])
def test_a_pattern_that_may_take_forever_hides_the_whole_text(pattern: str) -> None:
    redactor = Redactor((pattern,))
    assert redactor.shown("a" * 1000).startswith("aaa")
    assert redactor.shown("here: " + "a" * 900 + "b") == REDACTED


@pytest.mark.parametrize("name", ["password", "API_KEY", "apiKey", "x-session-id", "clientSecret", "refresh_token", "Cookie"])
def test_arguments_whose_name_says_secret(name: str) -> None:
    assert Redactor.secretive(name)
    assert not Redactor.secretive("path")


PIECES = [
    "a",
    "1",
    "1 ",
    "@",
    ".",
    "a@",
    "a.",
    "eyJ",
    "eyJaaaa.",
    "-----BEGIN A",
    "-----BEGIN AAA-----",
    "password",
    "password=",
    "'",
    '"',
    '\\"',
    "+1",
    "://",
    "sk-",
]


@pytest.mark.parametrize("first", PIECES)
def test_no_text_is_too_hard(first: str) -> None:
    """The unkindest texts we know of: a pattern that fits in too many ways would never come back from them."""
    for second in PIECES:
        half = WINDOW // 2
        for unkind in ((first + second) * half, first * half + second * half):
            assert len(REDACTOR.shown(unkind[:WINDOW])) <= SHOWN
