"""The key file of sealed session ids: what is taken for a key, and how a new one is put in front."""

import base64
import re
import subprocess

import pytest

from mcpproxy.config.sealfile import HOW, KEY, KEYS, LARGEST, Broken, new_file, new_key, parse, rotated


def test_a_new_file_holds_one_key() -> None:
    (key,) = parse(new_file())
    assert len(key) == KEY
    assert parse(new_file()) != [key]


def test_either_alphabet_is_read_with_and_without_padding_and_remarks() -> None:
    key = bytes(range(190, 254))
    for text in (base64.b64encode(key), base64.urlsafe_b64encode(key), base64.b64encode(key).rstrip(b"=")):
        assert parse(b"# mine\n\n  " + text + b"  # since May\r\n") == [key]


def test_what_the_recipe_prints_is_a_key() -> None:
    printed = subprocess.run(["sh", "-c", HOW], check=True, capture_output=True).stdout
    assert len(parse(printed)) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no key in it"),
        (b"# only words\n", "no key in it"),
        (b"short\n", "line 1 is no key"),
        (b"# x\n\xff\xfe\n", "line 2 is no key"),
        (base64.b64encode(bytes(63)), "line 1 is no key"),
        (base64.b64encode(bytes(64))[:-6], "line 1 is no key"),
        (b"\n".join([base64.b64encode(bytes(64))] * 2), "line 2: this key is there twice"),
        (b"\n".join(new_key().encode() for _ in range(KEYS + 1)), f"at most {KEYS}"),
        (b"#" * (LARGEST + 1), "larger than"),
    ],
)
def test_what_is_no_key_file_is_refused_and_not_repeated(data: bytes, said: str) -> None:
    with pytest.raises(Broken, match=re.escape(said)) as error:
        parse(data)
    assert "short" not in str(error.value)


def test_a_new_key_comes_in_front_and_the_oldest_go() -> None:
    data = new_file()
    for _ in range(4):
        before, data = parse(data), rotated(data, 2)
        assert parse(data)[1:] == before[:2]
        assert parse(data)[0] not in before
    with pytest.raises(Broken):
        rotated(b"", 2)
